"""Objects of Flower that lie about themselves, as both sides fetch them: an UpdateError, and nothing else."""

from collections import Counter

from flwr.app import Error, Message
from fuzz_replies import content
from mutator import Mutator

from fedbank.errors import UpdateError
from fedbank.flower import deflate, inflate
from fedbank_server.flower_hooks import set_identity

_MOST_BYTES = 10_000


def fuzz_wire(messages: int, seed: int, outcomes: Counter[tuple[str, str]]) -> None:
    """``messages`` chains of objects, one object of each changed, by its own account of the right length or not."""
    set_identity(1, 1)
    mutator = Mutator(seed)
    asked = Message(content(b"payload" * 50), 5, "train")
    asked.metadata.__dict__["_message_id"] = "0" * 64
    for number in range(messages):
        message = asked if number % 2 else Message(Error(100, "refused"), reply_to=asked)
        _, tree, objects = deflate(message)
        changed = mutator.random.choice(list(objects))
        head, _, body = objects[changed].partition(b"\0")
        body = mutator.blob(body)
        if mutator.random.random() < 0.8:
            head = b" ".join([*head.split(b" ")[:2], str(len(body)).encode()])
        objects[changed] = head + b"\0" + body
        try:
            found = inflate(tree, objects.__getitem__, _MOST_BYTES)
        except UpdateError as error:
            assert str(error).startswith("Expected")
            outcomes["objects", "refused"] += 1
        else:
            assert found.has_content() or found.has_error()
            outcomes["objects", "read"] += 1
