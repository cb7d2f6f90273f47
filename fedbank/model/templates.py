"""Chat templates are programs that come with a model: tried in a child process with limits, rendered with a deadline.

Both times transformers' sandbox renders, which keeps a template from files and from Python's insides, but not from
running for ever. The trial knows a few conversations only. Afterwards ``limit_templates`` ends a template's loops,
whatever the text; it cannot interrupt one single operation, such as repeating a text a billion times.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import lru_cache, partial
from types import FrameType
from typing import Any

from fedbank.errors import ModelError

_CHANGES = re.compile(r"\b(strftime_now|random)\b")
"""A template that says these renders by date or by chance: what was reviewed would not be what answers."""
_TRIAL_S = 60.0
"""With the child's own start; its limit on processor time is what counts."""
_RENDER_S = 2.0
_TEMPLATE = "<template>"
"""What Jinja calls the source of a template that is no file."""


class TemplateTimeError(ModelError):
    """A chat template did not end in time."""


def check_template(tokenizer: Any) -> None:
    """Render sample conversations with every chat template of ``tokenizer``, in a child process with limits.

    Takes about a second for a template, once in a process.

    Raises:
        ModelError: a template fails, does not end, or takes too much memory or room.
    """
    found = tokenizer.chat_template
    for text in found.values() if isinstance(found, dict) else [found]:
        if text is not None:
            _check(str(text))


def limit_templates(tokenizer: Any, most_s: float = _RENDER_S) -> None:
    """Let every ``apply_chat_template`` of ``tokenizer`` raise ``TemplateTimeError`` after ``most_s`` seconds.

    They are seconds of processor time, so that a busy machine ends nothing.
    """
    tokenizer.apply_chat_template = partial(_limited, tokenizer.apply_chat_template, most_s)


def _limited(render: Callable[..., Any], most_s: float, *words: Any, **named: Any) -> Any:
    """Call ``render``, and look at the clock at every line that this thread executes of a template."""
    end, before = time.thread_time() + most_s, sys.gettrace()

    def look(frame: FrameType, event: str, argument: Any) -> Any:
        if time.thread_time() > end:
            raise TemplateTimeError(
                f"Expected the model's chat template to end within {most_s:g} s, got no end. Use a model with its "
                "publisher's template."
            )
        return look

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        return look(frame, event, argument) if frame.f_code.co_filename == _TEMPLATE else None

    sys.settrace(enter)
    try:
        return render(*words, **named)
    finally:
        sys.settrace(before)


@lru_cache(maxsize=64)
def _check(text: str) -> None:
    if found := _CHANGES.search(text):
        raise ModelError(_refused(f"{found[0]}, which renders one conversation in several ways"))
    command = [sys.executable, "-m", "fedbank.model.trial"]
    content = json.dumps(text).encode("utf-8")
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=_TRIAL_S, check=False)
    except subprocess.TimeoutExpired:
        raise ModelError(_refused("no end")) from None
    if done.returncode != 0:
        said = done.stdout.decode("utf-8", "replace").strip()
        raise ModelError(_refused(said[:200] if said else "no end, or no end of memory"))


def _refused(found: str) -> str:
    return (
        "Expected the model's chat template to render a short conversation within seconds and a few hundred MiB, got: "
        f"{found}. Use a model with its publisher's template."
    )
