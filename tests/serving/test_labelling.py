"""Every answer says that a machine wrote it: to people in both languages, and in the field AIGC."""

import asyncio

from fedbank.serving.engines.interface import Turn
from fedbank.serving.labelling import AI_GENERATED, AiNotice, aigc
from fedbank.serving.pipeline import Passage, Pipeline


def test_the_notice_is_there_once_in_both_languages_whatever_other_stages_add() -> None:
    passage = Passage("r1", "zh", (Turn("user", "你好"),)).noted(AI_GENERATED)
    found = asyncio.run(Pipeline((AiNotice(),)).incoming(passage))
    assert isinstance(found, Passage)
    assert [notice.code for notice in found.notices] == ["ai-generated"]
    assert "人工智能" in found.notices[0].zh and "artificial intelligence" in found.notices[0].en


def test_the_field_aigc_has_the_seven_keys_of_the_standard() -> None:
    assert dict(aigc("bank-a", "r1")) == {
        "Label": "1",
        "ContentProducer": "bank-a",
        "ProduceID": "r1",
        "ReservedCode1": "",
        "ContentPropagator": "bank-a",
        "PropagateID": "r1",
        "ReservedCode2": "",
    }
