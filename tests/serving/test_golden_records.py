"""Sealed bytes and key files of docs/formats/records.md that were once written open for ever."""

import json
from pathlib import Path

from bank_records import KEY, exchange, open_records

from fedbank.serving.store.conversations import Conversations
from fedbank.serving.store.vault import RecordsKey, open_sealed

MARK = "e33390e4d677364d70904f6f2c8f928f"
CUSTOMER = "ae16a933e22c57357eca7289e58c5958"
WRAPPED = bytes.fromhex(
    "b7d6ea067c367fae6ab37ac6d7e62c187de868607c5ca9116e9c7f64a9753d8ee5772a39aa7d6b98700a198255d25569d0e3721ba501eb58635ec1b2"
)
SEALED = bytes.fromhex(
    "5f285f227768025f0ad9a1eadd8fac26f748d04325e25c2a857881fc874834619e0f73008b396b3d3b6739dfb6607d58"
)
PLACE = f'["fedbank-record/1", "{CUSTOMER}", "answer", "r-1", 1772366400.0]'
PLAIN = "fedbank-records-key/1 plain 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n"
LOCKED = (
    "fedbank-records-key/1 scrypt AES-256-GCM 9882dff512dbb1efd0b7bfa0c85e9209 "
    "3aa347a199f632c21ef273d80b17a087a13ee8e0aacbcb5aa1e95e60d78cf67d03ceec49fc75892f8693664ae32333019290de83412329e654cbc7f9\n"
)


def test_names_are_the_same_for_ever() -> None:
    assert KEY.pseudonym("store") == MARK
    assert KEY.pseudonym("customer", "客户-10023") == CUSTOMER


def test_a_row_that_was_once_written_opens() -> None:
    key = KEY.unwrap(CUSTOMER, WRAPPED)
    assert open_sealed(key, PLACE, SEALED) == '{"answer": "保本"}'.encode()


def test_a_row_of_today_opens_by_what_the_document_says(tmp_path: Path) -> None:
    records = open_records(tmp_path)
    Conversations(records).add(exchange(customer="客户-10023"))
    with records.reading() as store:
        wrapped = store.connection.exec_driver_sql("SELECT wrapped_key FROM fedbank_customers").scalar_one()
        sealed = store.connection.exec_driver_sql("SELECT sealed FROM fedbank_answers").scalar_one()
    text = json.loads(open_sealed(KEY.unwrap(CUSTOMER, wrapped), PLACE, sealed))
    assert text["answer"] == exchange().answer


def test_key_files_that_were_once_written_open(tmp_path: Path) -> None:
    for number, (line, passphrase) in enumerate(((PLAIN, None), (LOCKED, b"passphrase"))):
        path = tmp_path / str(number)
        path.touch(mode=0o600)
        path.write_text(line)
        assert RecordsKey.load(path, passphrase).pseudonym("store") == MARK
    KEY.save(tmp_path / "again")
    assert (tmp_path / "again").read_text() == PLAIN
