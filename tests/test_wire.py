"""Flower's objects as bytes: what FedBank writes is what Flower writes; everything else is refused before decoding."""

import pytest
from flwr.app import ConfigRecord, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from fedbank.errors import UpdateError
from fedbank.wire import read_chain, read_head, read_value, write_chain

OTHER_SHAPES: dict[str, RecordDict] = {
    "two values": RecordDict({"fedbank": ConfigRecord({"payload": b"x", "more": b"y"})}),
    "another key": RecordDict({"fedbank": ConfigRecord({"pay1oad": b"x"})}),
    "another record": RecordDict({"fedb4nk": ConfigRecord({"payload": b"x"})}),
    "two records": RecordDict({"fedbank": ConfigRecord({"payload": b"x"}), "b": ConfigRecord({"payload": b"x"})}),
    "no value": RecordDict({"fedbank": ConfigRecord()}),
    "no record": RecordDict(),
    "text": RecordDict({"fedbank": ConfigRecord({"payload": "x"})}),
    "a list of bytes": RecordDict({"fedbank": ConfigRecord({"payload": [b"x"]})}),
    "a number": RecordDict({"fedbank": ConfigRecord({"payload": 1})}),
}


def message(content: RecordDict) -> Message:
    return make_message(Metadata(1, "", 2, 3, "", "", 1.0, 5.0, "train"), content)


def objects(content: RecordDict) -> dict[str, bytes]:
    """As Flower writes them, outermost first."""
    found = get_all_nested_objects(message(content))
    return {object_id: found[object_id].deflate() for object_id in reversed(list(found))}


@pytest.mark.parametrize("size", [0, 1, 113, 114, 127, 128, 16_381, 16_384, 70_000, 2_097_152])
def test_what_is_written_is_what_flower_writes(size: int) -> None:
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    theirs = objects(RecordDict({"fedbank": ConfigRecord({"payload": payload})}))
    outer = next(iter(theirs.values()))
    assert dict(write_chain(outer, payload, "fedbank", "payload")) == theirs
    read, value = read_chain(list(theirs), theirs.__getitem__, "fedbank", "payload", size)
    assert (read, value) == (outer, payload)


@pytest.mark.parametrize("shape", OTHER_SHAPES)
def test_any_other_shape_is_refused(shape: str) -> None:
    contents = objects(OTHER_SHAPES[shape])
    with pytest.raises(UpdateError):
        read_chain(list(contents), contents.__getitem__, "fedbank", "payload", 1000)


@pytest.mark.parametrize("field", range(3))
def test_a_cut_or_longer_object_is_refused(field: int) -> None:
    contents = objects(RecordDict({"fedbank": ConfigRecord({"payload": b"x" * 100})}))
    ids = list(contents)
    for changed in (contents[ids[field]][:-1], contents[ids[field]] + b"x", b""):
        with pytest.raises(UpdateError):
            read_chain(ids, (contents | {ids[field]: changed}).__getitem__, "fedbank", "payload", 1000)


def test_an_object_above_the_agreed_size_is_refused() -> None:
    contents = objects(RecordDict({"fedbank": ConfigRecord({"payload": b"x" * 40_000})}))
    with pytest.raises(UpdateError, match="at most 16484 bytes"):
        read_chain(list(contents), contents.__getitem__, "fedbank", "payload", 100)


def test_outer_objects_are_refused_before_inner_ones_are_fetched() -> None:
    fetched = []

    def pull(object_id: str) -> bytes:
        fetched.append(object_id)
        return b"RecordDict  0\x00"

    with pytest.raises(UpdateError):
        read_chain(["a", "b", "c"], pull, "fedbank", "payload", 1000)
    assert fetched == ["a"]


@pytest.mark.parametrize(
    "head",
    [b"", b"Message", b"Message  0", b"Message a,b 0\x00", b"Array  0\x00", b"Message  1\x00", b"M" * 300 + b"\x00"],
)
def test_heads_of_another_form_are_refused(head: bytes) -> None:
    with pytest.raises(UpdateError):
        read_head(head)


@pytest.mark.parametrize("body", [b"\x0a", b"\x0a\x80\x80\x80\x80\x80\x80", b"\x12\x00", b"\x0a\x00" * 1_000_000])
def test_hostile_records_are_refused_at_once(body: bytes) -> None:
    with pytest.raises(UpdateError):
        read_value(body, "payload")
