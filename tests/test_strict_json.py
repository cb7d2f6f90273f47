"""JSON of another party: read as everybody reads it, or refused with ValueError, which is the only exception."""

from typing import Any

import pytest

from fedbank.strict_json import MAX_DEPTH, MAX_INTEGER, read_json, read_object

REFUSED = {
    "nothing": b"",
    "NaN": b'{"a":NaN}',
    "infinity": b'{"a":-Infinity}',
    "a float beyond all": b'{"a":1e400}',
    "the same, negative": b'{"a":-1e999999999}',
    "a whole number of 401 digits": b'{"a":1' + b"0" * 400 + b"}",
    "a whole number of 5000 digits": b'{"a":' + b"9" * 5000 + b"}",
    "2^63": b'{"a":9223372036854775808}',
    "-2^63": b'{"a":-9223372036854775808}',
    "a name twice": b'{"a":1,"a":2}',
    "a name twice, deeper": b'[{"b":{"a":1,"\\u0061":2}}]',
    "half a character": b'{"a":"\\ud800"}',
    "half a character as a name": b'{"\\udfff":1}',
    "half a character in a list": b'[["\\ud800\\ud800"]]',
    "half a character in raw bytes": b'{"a":"\xed\xa0\x80"}',
    "no UTF-8": b'{"a":"\xff"}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"a":1}',
    "a comma too many": b"[1,]",
    "two documents": b"{} {}",
    "33 lists": b"[" * 33 + b"]" * 33,
    "33 objects": b'{"a":' * 33 + b"1" + b"}" * 33,
    "a million lists": b"[" * 1_000_000,
    "a control character": b'"\x00"',
    "more bytes than asked for": b'"' + b"a" * 2_000_000 + b'"',
}
READ = {
    "a pair of surrogates": (b'"\\ud83d\\ude00"', "😀"),
    "the largest number": (b"9223372036854775807", MAX_INTEGER),
    "the smallest": (b"-9223372036854775807", -MAX_INTEGER),
    "a tiny float": (b"1e-400", 0.0),
    "the largest float": (b"1.7976931348623157e308", 1.7976931348623157e308),
    "deep enough": (b"[" * 32 + b"]" * 32, None),
    "spaces": (b' {"a" : [1, 2.5, null, true, "x"] } \n', {"a": [1, 2.5, None, True, "x"]}),
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED.keys())
def test_what_two_readers_could_understand_differently_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError) as refused:
        read_json(content, 1_500_000)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(("content", "value"), READ.values(), ids=READ.keys())
def test_what_everybody_reads_is_read(content: bytes, value: Any) -> None:
    found = read_json(content, 1000)
    assert value is None or (found, type(found)) == (value, type(value))
    assert MAX_DEPTH == 32


@pytest.mark.parametrize("content", [b"[]", b"1", b"null", b'"{}"'])
def test_where_an_object_is_due_another_value_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="not an object"):
        read_object(content, 100)
    assert read_object("{}", 2) == {}
