"""Between turns and tokens: a conversation as a prompt that nobody breaks out of, and tokens as a stream of text."""

from collections.abc import Sequence
from typing import Any

from fedbank.model.templates import TemplateTimeError
from fedbank.serving.engines.interface import RequestError, Turn

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
_LONGEST_HELD = 16
"""Tokens. A character takes at most four, but one of them may begin the next character."""
_LONGEST_TOKEN = 256
"""Characters; Qwen's longest are runs of blanks."""


def neutral(text: str) -> str:
    """``text`` in which no Qwen control token can be read: ``<|im_start|>`` in a question must not begin a turn."""
    return text.replace("<|", "< |")


def messages(turns: Sequence[Turn]) -> list[dict[str, str]]:
    """The turns as chat templates and OpenAI-compatible servers take them."""
    return [{"role": one.role, "content": neutral(one.text)} for one in turns]


def encode(tokenizer: Any, turns: Sequence[Turn], most: int) -> list[int]:
    """The prompt's tokens, up to where the answer begins.

    Raises:
        RequestError: they are more than ``most``, there is no question, or the chat template does not end.
    """
    if not turns or turns[-1].role == "assistant":
        raise RequestError("Expected a conversation that ends with a question, got none. Send a question.")
    characters = sum(len(one.text) for one in turns)
    if characters > most * _LONGEST_TOKEN:  # before any work on a megabyte of text
        raise RequestError(_too_long(most, f"{characters} characters"))
    try:
        encoded = tokenizer.apply_chat_template(
            messages(turns), add_generation_prompt=True, tokenize=True, return_dict=True
        )
    except TemplateTimeError as error:
        raise RequestError(
            "Expected the model's chat template to end with these turns, got no end. Ask otherwise."
        ) from error
    tokens: list[int] = encoded["input_ids"]
    if len(tokens) > most:
        raise RequestError(_too_long(most, str(len(tokens))))
    return tokens


class Detokeniser:
    """Text from tokens as they come. A piece never ends inside a character: Chinese ones often take several tokens.

    Qwen's tokens are bytes (byte-level BPE), so that whole characters can be decoded without those before them.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._new: list[int] = []

    def push(self, token: int) -> str:
        """The text that is certain now; empty while a character is incomplete."""
        self._new.append(token)
        text = self._text()
        if text.endswith(_UNFINISHED) and len(self._new) < _LONGEST_HELD:
            return ""
        self._new = []
        return text

    def rest(self) -> str:
        """What is left at the end, a character that never came complete as U+FFFD."""
        text = self._text() if self._new else ""
        self._new = []
        return text

    def _text(self) -> str:
        text: str = self._tokenizer.decode(self._new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def _too_long(most: int, found: str) -> str:
    return f"Expected a conversation of at most {most} tokens, got {found}. Ask a shorter question or begin a new one."
