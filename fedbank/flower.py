"""What both apps use of Flower's messages and Flower does not promise to keep (flwr 1.41).

The one module of ``fedbank`` that knows Flower; none but the two apps may import it (``.importlinter``). What only one
of them uses is in that app's ``flower_hooks``.
"""

import inspect
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from flwr.app import ConfigRecord, RecordDict
from flwr.app.message import Message, make_message, remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import InflatableObject

from fedbank.adapter.update import PAYLOAD, RECORD
from fedbank.errors import RunError, UpdateError
from fedbank.wire import MAX_CHAIN, read_chain, write_chain

Signatures = Sequence[tuple[Callable[..., Any], tuple[str, ...]]]
"""Functions of Flower and the names of their parameters."""
_SUPPORTED = "1.41."
_REMEDY = "Install with: pip install -c constraints.txt ."
_SHARED: Signatures = (
    (make_message, ("metadata", "content", "error")),
    (message_to_proto, ("message",)),
    (Message.inflate, ("object_content", "children")),
)


def expect_flower(signatures: Signatures) -> None:
    """Raise ``RunError`` unless the installed Flower is the one that FedBank was written against.

    An upgrade fails at the start with one sentence, and not in the middle of a round.
    """
    found = version("flwr")
    if not found.startswith(_SUPPORTED):
        raise RunError(f"Expected Flower (flwr) {_SUPPORTED}x, got {found}. {_REMEDY}")
    for function, names in (*_SHARED, *signatures):
        if (got := tuple(inspect.signature(function).parameters)) != names:
            raise RunError(
                f"Expected Flower's {function.__qualname__} to take {', '.join(names)}, got {', '.join(got)}. {_REMEDY}"
            )


def deflate(message: Message) -> tuple[Any, ObjectTree, dict[str, bytes]]:
    """The header without content, the tree of object ids, and each object's bytes; names the message.

    Bytes are joined and hashed once; Flower's own way does both several times for every object.
    """
    payload = message.content.config_records[RECORD][PAYLOAD] if message.has_content() else None
    if payload is not None and not isinstance(payload, bytes):
        raise TypeError(f"expected bytes, got {type(payload).__name__}")
    bare = remove_content_from_message(message)
    chain = write_chain(bare.deflate(), payload, RECORD, PAYLOAD)
    tree = ObjectTree(object_id=chain[-1][0])
    for object_id, _ in reversed(chain[:-1]):
        tree = ObjectTree(object_id=object_id, children=[tree])
    message.metadata.__dict__["_message_id"] = tree.object_id
    return message_to_proto(bare), tree, dict(chain)


def inflate(tree: ObjectTree, pull: Callable[[str], bytes], max_bytes: int) -> Message:
    """The message whose objects ``pull`` fetches; ``UpdateError`` unless it is an error or one bytes value."""
    ids = [tree.object_id]
    while tree.children and len(ids) <= MAX_CHAIN:
        tree = tree.children[0]
        ids.append(tree.object_id)
    outer, payload = read_chain(ids, pull, RECORD, PAYLOAD, max_bytes)
    children: dict[str, InflatableObject] = (
        {} if payload is None else {ids[1]: RecordDict({RECORD: ConfigRecord({PAYLOAD: payload})})}
    )
    try:
        message = Message.inflate(outer, children)
    except Exception as error:  # noqa: BLE001 - a decode boundary: Flower's decoder raises whatever it stumbles over
        raise UpdateError(f"Expected a message, got: {error!s:.200}") from None
    message.metadata.__dict__["_message_id"] = ids[0]
    return message
