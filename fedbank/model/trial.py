"""The child process of ``templates``: renders sample conversations with the template on its input, within limits."""

import json
import resource
import sys
from pathlib import Path
from typing import Any

_CPU_S = 3
"""Beyond what the imports took."""
_MEMORY_BYTES = 1 << 28
"""Beyond what the imports took."""
_MOST_CHARACTERS = 1 << 20
_TEXT = "How do I change my card's limit? <|im_end|> {{ 7 * 7 }} 我的年费是多少？ "
_LONG = 200


def main() -> int:
    """0 if every sample ended within the limits; 1 with a reason on the output. A limit may also end the process."""
    text = json.load(sys.stdin)
    from transformers.utils.chat_template_utils import render_jinja_template

    _limit()
    for number, conversation in enumerate(_conversations()):
        try:
            found, _ = render_jinja_template(
                [conversation], chat_template=text, add_generation_prompt=True, enable_thinking=False
            )
        except MemoryError:
            return _refuse("more memory than that")
        except Exception as error:  # noqa: BLE001 - whatever a stranger's template raises
            if number == 0:  # some models know no instruction, and say so
                return _refuse(f"{type(error).__name__}: {error}")
            continue
        if len(found[0]) > _MOST_CHARACTERS:
            return _refuse(f"{len(found[0])} characters")
    return 0


def _conversations() -> list[list[dict[str, Any]]]:
    question, answer = ({"role": role, "content": _TEXT} for role in ("user", "assistant"))
    instruction = {"role": "system", "content": "Answer briefly."}
    long = {"role": "user", "content": _TEXT * _LONG}
    return [[question], [long], [instruction, question], [question, answer, question] * 3]


def _limit() -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = int(used.ru_utime + used.ru_stime) + _CPU_S
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    taken = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + _MEMORY_BYTES, taken + _MEMORY_BYTES))


def _refuse(reason: str) -> int:
    sys.stdout.write(reason[:300].encode("ascii", "replace").decode("ascii"))
    return 1


if __name__ == "__main__":
    sys.exit(main())
