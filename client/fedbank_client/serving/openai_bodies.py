"""The shapes of OpenAI's chat completions, as far as they are offered here; what is not, is refused by name."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fedbank.serving.answering import Answered
from fedbank.serving.engines.interface import Turn
from fedbank_client.serving.bodies import Body, Customer, Seed, Tokens, answer_shown

MODEL = "fedbank"
"""The one model: which release answers is the bank's rollout, not the caller's choice."""
_MOST_MESSAGES = 200


class TextPart(Body):
    """A part of a message; only text is read."""

    type: Literal["text"]
    text: str


class UserMessage(Body):
    """What the customer said."""

    role: Literal["user"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=100)]
    name: str | None = Field(None, max_length=64)


class AssistantMessage(Body):
    """What was answered before. The bank's own instructions are not the caller's to give: there is no system role."""

    role: Literal["assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=100)]
    name: str | None = Field(None, max_length=64)


Message = Annotated[UserMessage | AssistantMessage, Field(discriminator="role")]


class StreamOptions(Body):
    """What a stream has beside text."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class ChatBody(Body):
    """A conversation that the caller keeps. Parameters that would change nothing are taken with their default only."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": MODEL, "messages": [{"role": "user", "content": "信用卡丢了怎么办？"}]}]
        }
    )
    model: str = Field(max_length=256)
    messages: list[Message] = Field(min_length=1, max_length=_MOST_MESSAGES)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    seed: Seed = 0
    user: Customer | None = Field(None, description="Agents: the customer in whose name. Nobody else says it.")
    n: Literal[1] = 1
    top_p: Annotated[float, Field(ge=1, le=1)] = 1.0
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] = 0.0
    presence_penalty: Annotated[float, Field(ge=0, le=0)] = 0.0

    def turns(self) -> tuple[Turn, ...]:
        """The messages as an engine reads them."""
        return tuple(Turn(one.role, _text(one.content)) for one in self.messages)

    def most_tokens(self) -> int | None:
        """Of the answer; the newer name of the two goes first."""
        return self.max_completion_tokens or self.max_tokens


class Completion(BaseModel):
    """A ``chat.completion`` object; ``fedbank`` is what OpenAI's has no place for."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "chatcmpl-r3f9",
                    "object": "chat.completion",
                    "created": 1772366400,
                    "model": MODEL,
                    "choices": [
                        {
                            "index": 0,
                            "finish_reason": "stop",
                            "message": {"role": "assistant", "content": "请立即挂失。"},
                        }
                    ],
                    "usage": {"prompt_tokens": 21, "completion_tokens": 6, "total_tokens": 27},
                    "fedbank": {"request_id": "r3f9", "release": "release-2026-03-01", "notices": [], "aigc": {}},
                }
            ]
        }
    )
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, int]
    fedbank: dict[str, Any]


class Models(BaseModel):
    """The one model that there is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "list",
                    "data": [
                        {
                            "id": MODEL,
                            "object": "model",
                            "created": 0,
                            "owned_by": "bank",
                            "fedbank": {"release": "release-2026-03-01"},
                        }
                    ],
                }
            ]
        }
    )
    object: Literal["list"] = "list"
    data: list[dict[str, Any]]


def completion(found: Answered, created: int) -> Completion:
    """A whole answer."""
    message = {"role": "assistant", "content": found.text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": found.finish, "logprobs": None}
    return Completion(
        id=f"chatcmpl-{found.request_id}",
        created=created,
        model=MODEL,
        choices=[choice],
        usage=usage(found),
        fedbank=beside(found),
    )


def chunk(request_id: str, created: int, delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
    """A ``chat.completion.chunk`` object."""
    return {
        "id": f"chatcmpl-{request_id}",
        "object": "chat.completion.chunk",
        "created": created,
        "model": MODEL,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}],
    }


def usage(found: Answered) -> dict[str, int]:
    """Tokens read and written."""
    return {
        "prompt_tokens": found.prompt_tokens,
        "completion_tokens": found.answer_tokens,
        "total_tokens": found.prompt_tokens + found.answer_tokens,
    }


def beside(found: Answered) -> dict[str, Any]:
    """What goes with every answer here, and has no place in OpenAI's objects."""
    return answer_shown(found).model_dump(include={"request_id", "release", "notices", "aigc"})


def _text(content: str | list[TextPart]) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content)
