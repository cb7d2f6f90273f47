"""Stages around the model: each sees a question on its way in, and may put a filter on the answer's way out.

Redaction is the first of them; retrieval, intents and compliance rules plug in behind it. Stages run in order on the
way in; their filters run in reverse on the way out, sentence by sentence, so that what the first stage took out of the
question is put back last, and nothing that a filter has not seen is ever shown.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from fedbank.errors import FedBankError
from fedbank.serving.engines.interface import Turn

Language = Literal["zh", "en"]
_CHINESE = re.compile("[\u4e00-\u9fff]")
_LONGEST_SENTENCE = 240
"""Characters that are held back at most: text without any end still streams."""
_END = re.compile(r"[。！？!?；;\n]+[”’」』）)\"']*|(?<![0-9])\.(?=\s)")


@dataclass(frozen=True, slots=True)
class Notice:
    """What a customer is told beside an answer, in both languages; ``code`` is for programs."""

    code: str
    zh: str
    en: str


class WithheldError(FedBankError):
    """Raised by a filter: no more of this answer is shown. ``notice`` tells the customer.

    ``shown``: what came before it in the same piece and passed every filter.
    """

    def __init__(self, notice: Notice) -> None:
        super().__init__(f"The rest of an answer was withheld ({notice.code}).")
        self.notice = notice
        self.shown = ""


class Filter(Protocol):
    """One answer's way out of one stage; ``WithheldError`` ends the answer here."""

    async def feed(self, sentence: str) -> str:
        """What may be shown of ``sentence``, or of what was held back before it."""
        ...

    async def end(self) -> str:
        """The rest."""
        ...


@dataclass(frozen=True, slots=True)
class Passage:
    """One question on its way to the model. ``turns``: the conversation, the question last.

    ``personal``: whether personal data were taken out of it: such an answer is nobody else's.
    """

    request_id: str
    language: Language
    turns: tuple[Turn, ...] = field(repr=False)
    personal: bool = False
    notices: tuple[Notice, ...] = ()
    filters: tuple[Filter, ...] = ()

    def noted(self, *notices: Notice) -> "Passage":
        """With ``notices``, each once."""
        return replace(self, notices=tuple(dict.fromkeys((*self.notices, *notices))))

    def filtered(self, added: Filter) -> "Passage":
        """With ``added`` before the filters that are there: it sees the model's words first."""
        return replace(self, filters=(added, *self.filters))


@dataclass(frozen=True, slots=True)
class Settled:
    """A stage knows the answer (a standard script, a handover to a person): the model is not asked.

    The filters of the stages before it still apply.
    """

    passage: Passage
    text: str = field(repr=False)


class Stage(Protocol):
    """``name`` and ``version`` stand in the audit entry of every answer as NAME/VERSION."""

    @property
    def name(self) -> str:
        """Small letters, digits and dashes, at most 12."""
        ...

    @property
    def version(self) -> str:
        """Digits, small letters and points, at most 6."""
        ...

    async def incoming(self, passage: Passage) -> Passage | Settled:
        """The passage for the next stage; any ``FedBankError`` refuses the question."""
        ...


class Pipeline:
    """The bank's stages in order."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = tuple(stages)
        names = [stage.name for stage in stages]
        if len(set(names)) != len(names):
            raise ValueError("stages have different names")

    @property
    def policies(self) -> Mapping[str, str]:
        """Version by name."""
        return {stage.name: stage.version for stage in self._stages}

    async def incoming(self, passage: Passage) -> Passage | Settled:
        """Through every stage, or to the first that settles it."""
        for stage in self._stages:
            found = await stage.incoming(passage)
            if isinstance(found, Settled):
                return found
            passage = found
        return passage


class Outgoing:
    """An answer's way out: pieces of the model in, text that may be shown out."""

    def __init__(self, filters: Sequence[Filter]) -> None:
        self._filters = tuple(filters)
        self._waiting = ""

    async def feed(self, piece: str) -> str:
        """What can be shown now: the sentences that ``piece`` completed, after every filter."""
        self._waiting += piece
        shown = list[str]()
        with _telling(shown):
            while (cut := sentence_end(self._waiting)) > 0:
                sentence, self._waiting = self._waiting[:cut], self._waiting[cut:]
                shown.append(await self._through(0, sentence))
        return "".join(shown)

    async def end(self) -> str:
        """The rest, once the model has ended."""
        rest, self._waiting = self._waiting, ""
        shown = list[str]()
        with _telling(shown):
            if rest:
                shown.append(await self._through(0, rest))
            for number, one in enumerate(self._filters):
                if held := await one.end():
                    shown.append(await self._through(number + 1, held))
        return "".join(shown)

    async def _through(self, first: int, text: str) -> str:
        for one in self._filters[first:]:
            text = await one.feed(text)
        return text


@contextmanager
def _telling(shown: Sequence[str]) -> Iterator[None]:
    """What is shown of an answer must not depend on how its pieces are cut: whoever withholds the rest knows it."""
    try:
        yield
    except WithheldError as error:
        error.shown = "".join(shown)
        raise


def sentence_end(text: str) -> int:
    """Where the first sentence of ``text`` ends (its length so far), 0 if it may go on.

    One that is too long is cut at a blank or a comma, or anywhere: a filter that needs more of it holds it back.
    """
    found = _END.search(text, 0, _LONGEST_SENTENCE)
    if found is not None and found.end() < len(text):  # at the very end a quotation mark may still follow
        return found.end()
    if len(text) <= _LONGEST_SENTENCE:
        return 0
    blank = max(text.rfind(mark, 1, _LONGEST_SENTENCE) for mark in " ，、,")
    return blank + 1 if blank > 0 else _LONGEST_SENTENCE


def language_of(text: str) -> Language:
    """Chinese if one character is."""
    return "zh" if _CHINESE.search(text) else "en"
