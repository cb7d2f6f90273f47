"""From a template and values to one self-contained page.

Every value is escaped (a customer's question is hostile text), and an unknown name in a template is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedbank_simulations.report import words

_CHINESE = re.compile("[\u3400-\u9fff\uf900-\ufaff]")


def render(template: str, values: Mapping[str, object]) -> str:
    """The page ``template`` (a name under ``templates/``) filled with ``values``."""
    environment = Environment(
        loader=PackageLoader("fedbank_simulations.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "at_most": words.at_most,
        "decimal": words.decimal,
        "duration": words.duration,
        "language": language,
        "literal": literal,
        "percent": words.percent,
        "significant": words.significant,
        "points": words.points,
        "signed": words.signed,
        "size": words.size,
        "whole": words.whole,
    }
    return environment.get_template(template).render(**values)


def language(text: str) -> str:
    """``zh`` for a text with Chinese characters, else ``en``: screen readers and fonts follow it."""
    return "zh" if _CHINESE.search(text) else "en"


def literal(text: str) -> str:
    """``text`` as a string literal of Python, for code that a reader copies."""
    return json.dumps(text, ensure_ascii=False)
