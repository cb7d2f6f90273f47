"""Inquiries as token arrays, grouped by customer: compact, so that hundreds of banks fit in one process."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedbank.data.units import Unit
from fedbank.errors import ModelError

_MIN_TEXT_TOKENS = 1
_PLACE = "\x00question\x00"


@dataclass(frozen=True, slots=True, eq=False)
class EncodedUnits:
    """Customers' records as tokens: U units, R records, N tokens in all.

    Record j is ``tokens[record_starts[j] : record_starts[j + 1]]``, its answer (with the end token) begins
    ``answer_offsets[j]`` tokens into it; unit u owns the records ``unit_starts[u] : unit_starts[u + 1]``.
    """

    tokens: NDArray[np.int32]
    record_starts: NDArray[np.int64]
    answer_offsets: NDArray[np.int32]
    unit_starts: NDArray[np.int64]
    end_token: int | None = None

    @property
    def num_units(self) -> int:
        """Number of customers U."""
        return len(self.unit_starts) - 1

    @property
    def num_records(self) -> int:
        """Number of records R."""
        return len(self.record_starts) - 1

    def digest(self) -> bytes:
        """SHA-256 over all of it: equal for equal customers in equal order. It must not leave the bank."""
        sha = hashlib.sha256(b"fedbank-encoded-units/1")
        for array in (self.tokens, self.record_starts, self.answer_offsets, self.unit_starts):
            sha.update(len(array).to_bytes(8, "big") + np.ascontiguousarray(array).tobytes())
        return sha.digest()

    def by_record(self) -> "EncodedUnits":
        """The same records, each as a unit of its own."""
        return replace(self, unit_starts=np.arange(self.num_records + 1, dtype=np.int64))

    def records_per_unit(self) -> NDArray[np.int64]:
        """(U,) number of records of every customer."""
        return np.diff(self.unit_starts)

    def complete(self) -> NDArray[np.bool_]:
        """(R,) whether a record ends with ``end_token``: an answer that was cut to fit does not."""
        if self.end_token is None:
            return np.ones(self.num_records, bool)
        complete: NDArray[np.bool_] = self.tokens[self.record_starts[1:] - 1] == self.end_token
        return complete

    def record(self, index: int) -> NDArray[np.int32]:
        """The tokens of one record."""
        return self.tokens[self.record_starts[index] : self.record_starts[index + 1]]


class Encoder:
    """Turns questions and answers into tokens with a model's own tokenizer and chat template.

    Customer text is tokenised apart from the template, with special tokens disabled: a question that
    contains ``<|im_end|>`` stays text and cannot end its own turn.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        before, after = self._template()
        self._before = self._control_tokens(before)
        self._after = self._control_tokens(after)
        self._end = [int(tokenizer.eos_token_id)]
        frame = len(self._before) + len(self._after)
        if frame == 0:
            raise ModelError(
                "Expected a chat template that puts something around a question, got one that adds nothing: an answer "
                "could begin a record, with nothing of its own before it. Use a Qwen model with its own template."
            )
        if max_length < frame + _MIN_TEXT_TOKENS:
            raise ModelError(
                f"Expected model.max_length of at least {frame + _MIN_TEXT_TOKENS} tokens, {frame} of which are this "
                f"model's chat template, got {max_length}. Raise model.max_length."
            )

    def encode(self, units: Sequence[Unit]) -> EncodedUnits:
        """All records of ``units``, each at most ``max_length`` tokens long.

        A longer record loses the end of its question first, down to nothing; a longer answer is cut.
        """
        inquiries = [inquiry for unit in units for inquiry in unit.inquiries]
        questions = self._text_tokens([inquiry.question for inquiry in inquiries])
        answers = self._text_tokens([inquiry.answer for inquiry in inquiries])
        records, offsets = [], []
        for question, answer in zip(questions, answers, strict=True):
            prompt, completion = self._fit(question, answer + self._end)
            records.append(prompt + completion)
            offsets.append(len(prompt))
        lengths = [len(record) for record in records]
        return EncodedUnits(
            np.fromiter((token for record in records for token in record), np.int32, count=sum(lengths)),
            np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
            np.asarray(offsets, np.int32),
            np.concatenate([[0], np.cumsum([len(unit.inquiries) for unit in units], dtype=np.int64)]),
            self._end[0],
        )

    def prompt(self, question: str, answer: str = "") -> list[int]:
        """The tokens that ask ``question`` and open the answer, cut as in a record with this reference ``answer``."""
        prompt, _ = self._fit(self._text_tokens([question])[0], self._text_tokens([answer])[0] + self._end)
        return prompt

    def _fit(self, question: list[int], completion: list[int]) -> tuple[list[int], list[int]]:
        frame = len(self._before) + len(self._after)
        completion = completion[: max(1, self._max_length - frame)]
        room = max(0, self._max_length - frame - len(completion))
        return self._before + question[:room] + self._after, completion

    def _template(self) -> tuple[str, str]:
        if not self._tokenizer.chat_template:
            return "Question: ", "\nAnswer: "
        rendered = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": _PLACE}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        before, _, after = rendered.partition(_PLACE)
        return before, after

    def _control_tokens(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def _text_tokens(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        return list(self._tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"])
