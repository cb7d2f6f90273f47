import json

import pytest

from fedbank.sealing.canonical import canonical, read_canonical

VALUES: dict[str, tuple[dict[str, object], bytes]] = {
    "empty": ({}, b"{}"),
    "sorted-and-compact": ({"b": 1, "a": [None, True, -2]}, b'{"a":[null,true,-2],"b":1}'),
    "nested": ({"a": {"z": {}, "b": ""}}, b'{"a":{"b":"","z":{}}}'),
    "utf-8": ({"a": "Zürich – 銀行"}, '{"a":"Zürich – 銀行"}'.encode()),
    "escapes": ({"a": '"\\\n\x01\x7f'}, b'{"a":"\\"\\\\\\n\\u0001\x7f"}'),
    "largest": ({"a": 2**53 - 1, "b": -(2**53 - 1)}, b'{"a":9007199254740991,"b":-9007199254740991}'),
}


@pytest.mark.parametrize(("value", "content"), VALUES.values(), ids=VALUES.keys())
def test_a_value_has_one_form_and_is_read_from_it(value: dict[str, object], content: bytes) -> None:
    assert canonical(value) == content
    assert read_canonical(content) == value == json.loads(content)


UNREADABLE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "Expecting value"),
    "text": (b"hello", "Expecting value"),
    "list": (b"[]", "canonical form"),
    "number": (b"7", "canonical form"),
    "null": (b"null", "canonical form"),
    "not-utf8": (b'{"a":"\xff"}', "utf-8"),
    "byte-order-mark": (b"\xef\xbb\xbf{}", "BOM"),
    "space": (b'{"a": 1}', "canonical form"),
    "line-break": (b"{}\n", "canonical form"),
    "more-behind": (b"{}{}", "Extra data"),
    "unsorted": (b'{"b":1,"a":2}', "canonical form"),
    "name-twice": (b'{"a":1,"a":1}', "a name twice"),
    "name-twice-inside": (b'{"b":{"a":1,"a":2}}', "a name twice"),
    "name-not-ascii": ('{"ä":1}'.encode(), "not in ASCII"),
    "float": (b'{"a":0.1}', "floating-point number 0.1"),
    "whole-float": (b'{"a":1.0}', "floating-point number 1.0"),
    "exponent": (b'{"a":1e3}', "floating-point number 1e3"),
    "not-a-number": (b'{"a":NaN}', "floating-point number NaN"),
    "infinity": (b'{"a":-Infinity}', "floating-point number -Infinity"),
    "negative-zero": (b'{"a":-0}', "canonical form"),
    "beyond-2^53": (b'{"a":9007199254740992}', "beyond"),
    "10000-digits": (b'{"a":' + b"9" * 10_000 + b"}", "digits"),
    "needless-escape": (b'{"a":"\\u0041"}', "canonical form"),
    "escape-in-capitals": (b'{"a":"\\u001F"}', "canonical form"),
    "half-a-surrogate": (b'{"a":"\\ud800"}', "surrogates not allowed"),
    "too-deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
}


@pytest.mark.parametrize(("content", "match"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_any_other_form_is_refused(content: bytes, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        read_canonical(content)


@pytest.mark.parametrize("value", [{"a": 0.5}, {"a": b""}, {"a": {1}}, {1: "a"}, {"a": [object()]}], ids=str)
def test_what_has_no_canonical_form_is_not_written(value: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="it holds"):
        canonical(value)
