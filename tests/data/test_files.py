"""Reading a bank's log: what is accepted, and what each bad file is told."""

import json
from pathlib import Path

import pytest

from fedbank.data.files import Columns, read_inquiries
from fedbank.data.inquiry import Inquiry
from fedbank.errors import ConfigError, DataError

COLUMNS = Columns(question="q", answer="a", customer="id", key="topic")
GOOD = '{"q": "Is my card blocked?", "a": "No.", "id": "c1", "topic": "cards"}\n'
HEADER = "q,a,id,topic\n"
ASK_CFPB = Path(__file__).parents[2].parent / "shared" / "data" / "ask_cfpb" / "questions.jsonl"


def _read(folder: Path, content: str | bytes, format: str, columns: Columns = COLUMNS) -> list[Inquiry]:
    path = folder / f"log.{format}"
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return read_inquiries(path, format, columns)  # type: ignore[arg-type]


def _json(**changes: object) -> str:
    return json.dumps(json.loads(GOOD) | changes) + "\n"


def _without(field: str) -> str:
    return json.dumps({name: value for name, value in json.loads(GOOD).items() if name != field}) + "\n"


BAD_JSONL: dict[str, tuple[str | bytes, list[str]]] = {
    "empty file": (b"", ["log.jsonl", "no inquiry", "at least one row"]),
    "only blank lines": ("\n  \n", ["no inquiry"]),
    "only a byte-order mark": (b"\xef\xbb\xbf", ["no inquiry"]),
    "GB 18030": (
        GOOD.encode() + '{"q": "卡"}'.encode("gb18030"),
        ["line 2", "byte 0xbf", "position 8", "UTF-8"],
    ),
    "UTF-16 with mark": (GOOD.encode("utf-16"), ["line 1", "byte 0xff", "position 1", "UTF-8"]),
    "UTF-16 without mark": (GOOD.encode("utf-16-le"), ["line 1", "NUL byte at position 2"]),
    "NUL byte": (GOOD + '{"q": "\0"}\n', ["line 2", "NUL byte at position 8"]),
    "NUL escape": (_json(q="a\0b"), ["line 1", "question", "'q'", "NUL"]),
    "half a surrogate pair": (_json(a="\ud83d"), ["line 1", "answer", "'a'", "surrogate"]),
    "malformed": (GOOD + "\n" + '{"q": "x",\n', ["line 3", "malformed JSON", "character", "one complete"]),
    "a CSV file": (HEADER, ["line 1", "malformed JSON", "csv"]),
    "pretty-printed list": ("[\n" + GOOD + "]\n", ["line 1", "malformed JSON"]),
    "a list": (GOOD + "[1, 2]\n", ["line 2", "expected a JSON object", "got a list"]),
    "a number": ("3\n", ["line 1", "expected a JSON object", "got a number"]),
    "null": ("null\n", ["line 1", "expected a JSON object", "got null"]),
    "100000 nested brackets": ("[" * 100_000 + "\n", ["line 1", "too deep"]),
    "number of 5000 digits": (GOOD.replace('"c1"', "1" * 5000), ["line 1", "number in it too long"]),
    "no question": (_json(q=""), ["line 1", "question", "'q'", "empty", "data.columns.question=NAME"]),
    "blank answer": (GOOD + _json(a=" \n\u3000"), ["line 2", "answer", "'a'", "data.columns.answer=NAME"]),
    "null answer": (_json(a=None), ["line 1", "answer", "empty"]),
    "NaN customer": (_json(id=float("nan")), ["line 1", "customer", "'id'", "data.columns.customer=NAME"]),
    "blank customer": (_json(id="  "), ["line 1", "customer", "'id'", "empty"]),
    "missing answer": (
        _without("a"),
        ["line 1", "'a' for the answer", "got 'q', 'id', 'topic'", "data.columns.answer=NAME"],
    ),
    "missing key": (GOOD + _without("topic"), ["line 2", "'topic' for the key", "data.columns.key=NAME"]),
    "object with no fields": ("{}\n", ["line 1", "'q' for the question", "got none"]),
    "many other fields": (
        json.dumps({f"field{i}" + "x" * 99: 0 for i in range(99)}),
        ["and 87 more", "field0xxx", "…"],
    ),
    "list as question": (_json(q=["x"]), ["line 1", "expected text", "question", "got a list"]),
    "object as answer": (_json(a={"text": "x"}), ["line 1", "expected text", "answer", "got an object"]),
    "number as answer": (_json(a=3), ["line 1", "expected text", "answer", "got a number"]),
    "list as customer": (_json(id=["c"]), ["text or a number", "customer", "got a list"]),
    "true as customer": (_json(id=True), ["text or a number", "customer", "got true/false"]),
    "object as key": (_json(topic={}), ["text or a number", "key", "got an object"]),
}

BAD_CSV: dict[str, tuple[str | bytes, list[str]]] = {
    "empty file": (b"", ["log.csv", "no inquiry"]),
    "only a header": (HEADER, ["no inquiry", "at least one row"]),
    "column missing": (
        "q,answer,id,topic\nx,y,1,t\n",
        ["line 1", "'a' for the answer", "got 'q', 'answer', 'id', 'topic'", "data.columns.answer=NAME"],
    ),
    "semicolons": ("q;a;id;topic\nx;y;1;t\n", ["line 1", "'q;a;id;topic'", "by commas"]),
    "column twice": ("q,a,id,a,topic\n", ["line 1", "one column 'a'", "got 2"]),
    "too many cells": (HEADER + "x,y,1,t\nx,y, and more,1,t\n", ["line 3", "expected 4 cells", "got 5"]),
    "too few cells": (HEADER + '"x\nx",y,1,t\nx,y\n', ["line 4", "expected 4 cells", "got 2"]),
    "empty cells": (HEADER + ",,,\n", ["line 2", "question", "'q'", "empty"]),
    "no customer": (HEADER + "\n\nx,y, ,t\n", ["line 4", "customer", "'id'", "data.columns.customer=NAME"]),
    "open quote": (HEADER + 'x,y,1,t\nx,"y,1,t\nx,y,1,t\n', ["line 3", "not valid CSV", "quote is closed"]),
    "bare quote": (HEADER + 'x,"y" z,1,t\n', ["line 2", "not valid CSV"]),
    "cell too large": (HEADER + "x" * 200_000 + ",y,1,t\n", ["line 2", "not valid CSV"]),
    "carriage returns only": ("q,a,id,topic\rx,y,1,t\r", ["line 1", "not valid CSV"]),
    "NUL byte": (HEADER + "x,y\0,1,t\n", ["line 2", "NUL byte at position 4"]),
    "Latin-1 in a quoted cell": (
        HEADER.encode() + b'"x\ncaf\xe9",y,1,t\n',
        ["line 3", "byte 0xe9", "position 4"],
    ),
}


@pytest.mark.parametrize("case", BAD_JSONL)
def test_bad_jsonl(case: str, tmp_path: Path) -> None:
    _assert_refused(tmp_path, *BAD_JSONL[case], "jsonl")


@pytest.mark.parametrize("case", BAD_CSV)
def test_bad_csv(case: str, tmp_path: Path) -> None:
    _assert_refused(tmp_path, *BAD_CSV[case], "csv")


def _assert_refused(folder: Path, content: str | bytes, fragments: list[str], format: str) -> None:
    with pytest.raises(DataError) as caught:
        _read(folder, content, format)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message and len(message) - len(str(folder)) < 900
    for fragment in fragments:
        assert fragment in message


def test_error_never_quotes_a_row(tmp_path: Path) -> None:
    secret = "IBAN GB33BUKB20201555555555"
    columns = Columns("q", "a", "id", "topic", language="id")
    for row in (
        _json(q=secret, a=""),
        f'{{"q": "{secret}"',
        f'["{secret}"]',
        _json(a=[secret]),
        _json(id=secret),
    ):
        with pytest.raises(DataError) as caught:
            _read(tmp_path, row, "jsonl", columns)
        assert "GB33" not in str(caught.value)
        assert caught.value.__cause__ is None
    for row in (f"{secret},y,1,t,u", f"{secret},,1,t", f'"{secret}" ,y,1,t'):
        with pytest.raises(DataError) as caught:
            _read(tmp_path, HEADER + row, "csv")
        assert "GB33" not in str(caught.value)


@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_no_file_and_a_folder(format: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing there"):
        read_inquiries(tmp_path / "none", format, COLUMNS)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="got a folder"):
        read_inquiries(tmp_path, format, COLUMNS)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="cannot be read"):
        read_inquiries(tmp_path / ("x" * 5000), format, COLUMNS)  # type: ignore[arg-type]


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="jsonl or csv, got 'parquet'"):
        _read(tmp_path, GOOD, "parquet")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_good_files_in_both_formats(mark: bytes, end: str, tmp_path: Path) -> None:
    csv_text = HEADER + '我的卡被锁了吗?,"没有,请放心。",客户一,银行卡\n\nIs it?,No.,c2,\n'
    rows = [
        {"q": "我的卡被锁了吗?", "a": "没有,请放心。", "id": "客户一", "topic": "银行卡", "more": [1]},
        {"q": "Is it?", "a": "No.", "id": "c2", "topic": None},
    ]
    jsonl = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n"
    expected = [
        Inquiry("我的卡被锁了吗?", "没有,请放心。", "客户一", "银行卡"),
        Inquiry("Is it?", "No.", "c2", ""),
    ]
    assert _read(tmp_path, mark + csv_text.replace("\n", end).encode(), "csv") == expected
    assert _read(tmp_path, mark + jsonl.replace("\n", end).encode(), "jsonl") == expected


def test_csv_quotes_and_line_breaks_survive(tmp_path: Path) -> None:
    text = HEADER + '"She said ""blocked"",\nand hung up?","Line 1\n\nLine 3",7,cards\nq,a,8,loans'
    first, second = _read(tmp_path, text, "csv")
    assert first.question == 'She said "blocked",\nand hung up?'
    assert first.answer == "Line 1\n\nLine 3"
    assert (second.customer, second.key) == ("8", "loans")


def test_line_of_a_row_is_where_it_starts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 4: the answer"):
        _read(tmp_path, HEADER + '"x\nx",y,1,t\n"x\nx\nx"," \n",1,t\n', "csv")


def test_jsonl_unicode_line_separators_do_not_end_a_line(tmp_path: Path) -> None:
    text = "a\u2028b\u0085c"
    content = json.dumps({"q": text, "a": "y", "id": 1, "topic": "t"}, ensure_ascii=False)
    assert _read(tmp_path, content, "jsonl")[0].question == text


@pytest.mark.parametrize(
    ("value", "customer"),
    [(17, "17"), (17.0, "17"), (1.5, "1.5"), (0, "0"), (" c 1\t", "c 1"), (10**18, f"{10**18}")],
)
def test_customer_becomes_text(value: object, customer: str, tmp_path: Path) -> None:
    assert _read(tmp_path, _json(id=value), "jsonl")[0].customer == customer


@pytest.mark.parametrize(
    ("value", "language"),
    [("zh", "zh"), ("zh-CN", "zh"), ("ZH_hans", "zh"), (" en ", "en"), ("", ""), (None, "")],
)
def test_language(value: object, language: str, tmp_path: Path) -> None:
    columns = Columns("q", "a", "id", "topic", language="lang")
    assert _read(tmp_path, _json(lang=value), "jsonl", columns)[0].language == language


def test_language_is_checked_only_where_mapped(tmp_path: Path) -> None:
    columns = Columns("q", "a", "id", "topic", language="lang")
    assert _read(tmp_path, _json(lang="fr"), "jsonl")[0].language == ""
    with pytest.raises(DataError, match="line 1: expected zh, en or nothing as the language"):
        _read(tmp_path, _json(lang="fr"), "jsonl", columns)
    with pytest.raises(DataError, match="'lang' for the language in the header"):
        _read(tmp_path, HEADER + "x,y,1,t\n", "csv", columns)


def test_one_column_for_two_parts(tmp_path: Path) -> None:
    row = _read(tmp_path, "q,a\nx,y\n", "csv", Columns("q", "a", customer="q", key="q"))[0]
    assert (row.customer, row.key) == ("x", "x")


@pytest.mark.skipif(not ASK_CFPB.exists(), reason="the Ask CFPB questions are not beside this repository")
def test_ask_cfpb() -> None:
    inquiries = read_inquiries(ASK_CFPB, "jsonl", Columns("question", "answer", customer="id", key="topic"))
    assert len(inquiries) == 866
    assert len({inquiry.customer for inquiry in inquiries}) == 866
    assert {"Mortgages", "Credit cards"} <= {inquiry.key for inquiry in inquiries}
