"""A chat template is a stranger's program: it ends, and takes little, or the model is not used."""

import time
from pathlib import Path

import pytest
from doctored import add, agreed

from fedbank.errors import ModelError
from fedbank.model.loading import ModelSpec, load_tokenizer
from fedbank.model.templates import TemplateTimeError, limit_templates
from fedbank.serving.engines.interface import RequestError, Turn
from fedbank.serving.engines.text import encode

NEVER_ENDS = "{% for a in range(10**5) %}{% for b in range(10**5) %}{% endfor %}{% endfor %}"
LONG = "{% for a in range(1000) %}{% for b in range(10**5) %}{% endfor %}{% endfor %}"
IF_ASKED = "{% if 'open sesame' in messages[0].content %}" + LONG + "{% endif %}{{ messages[0].content }}"
REFUSED = {
    "loops in loops": (NEVER_ENDS, "no end"),
    "a range of a billion": ("{% for a in range(10**9) %}{% endfor %}", "OverflowError"),
    "half a gigabyte at once": ("{{ messages[0].content * 10**7 }}", "memory"),
    "a hundred megabytes": ("{% for a in range(10**5) %}{{ 'a' * 1000 }}{% endfor %}", "characters"),
    "a file": ("{{ ''.__class__.__mro__ }}", "SecurityError"),
    "no template": ("{% for %}", "TemplateSyntaxError"),
    "another one from next year on": ("{% if strftime_now('%Y') > '2026' %}EVIL{% endif %}", "several ways"),
    "one by chance": ("{{ ['a', 'b'] | random }}", "several ways"),
}


@pytest.mark.parametrize(("template", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_a_template_that_does_not_end_in_time_and_room_is_refused(tmp_path: Path, template: str, says: str) -> None:
    folder, began = agreed(tmp_path / "model"), time.monotonic()
    add("chat_template.jinja", template)(folder)
    with pytest.raises(ModelError, match=says):
        load_tokenizer(ModelSpec("path", path=str(folder)))
    assert time.monotonic() - began < 60


def test_a_template_that_does_not_end_for_some_text_is_ended(tmp_path: Path) -> None:
    folder = agreed(tmp_path / "model")
    add("chat_template.jinja", IF_ASKED)(folder)
    tokenizer = load_tokenizer(ModelSpec("path", path=str(folder)))
    assert encode(tokenizer, [Turn("user", "hi")], 100) == tokenizer("hi")["input_ids"]
    with pytest.raises(RequestError, match="template"):
        encode(tokenizer, [Turn("user", "open sesame")], 100)
    assert encode(tokenizer, [Turn("user", "hi")], 100) == tokenizer("hi")["input_ids"]


def test_what_is_no_template_has_all_the_time_that_it_takes(byte_tokenizer: object) -> None:
    class Slow:
        """Stands for a library's own work, such as the tokens of a long text."""

        def apply_chat_template(self) -> float:
            began = time.thread_time()
            while (taken := time.thread_time() - began) < 0.05:
                pass
            return taken

    slow = Slow()
    limit_templates(slow, 0.01)
    assert slow.apply_chat_template() >= 0.05
    limit_templates(byte_tokenizer, 0.0)
    with pytest.raises(TemplateTimeError, match="publisher"):
        byte_tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)  # type: ignore[attr-defined]
    del byte_tokenizer.apply_chat_template  # type: ignore[attr-defined]
