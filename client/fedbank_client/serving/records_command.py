"""``fedbank client records``: what customers asked, from the bank's own store: for training, erased, purged."""

import argparse
import asyncio
import getpass
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from fedbank.cli import EXIT_OK, dispatch
from fedbank.command_line import add_folder, add_json, now, print_json, say
from fedbank.config import ServeConfig, load_serve
from fedbank.data.inquiry import Inquiry
from fedbank.durable import is_held, write_atomic
from fedbank.errors import ConfigError, DataError
from fedbank.passphrases import add_passphrase, read_passphrase
from fedbank.serving.store.audit import AnswerAudit
from fedbank.serving.store.feedback import FeedbackDesk
from fedbank.serving.store.records import Records
from fedbank.serving.store.vault import RecordsKey
from fedbank_client.home import find_home
from fedbank_client.serving.folder import PURGED, ServiceFolder
from fedbank_client.serving.shared_stores import shared_stores

_HERE = "fedbank_client.serving.records_command"
COMMANDS: dict[str, tuple[str, str]] = {
    "feedback": (f"{_HERE}:feedback_command", "approved feedback as JSON lines, for the next training"),
    "erase": (f"{_HERE}:erase_command", "everything of one customer, for ever"),
    "purge": (f"{_HERE}:purge_command", "what is older than the retention period, now"),
}
"""Every command with where it lives and what it does."""
_MOST_NAME = 1024


def records_command(words: Sequence[str]) -> int:
    """``fedbank client records COMMAND``"""
    return dispatch("fedbank client records", COMMANDS, words)


@dataclass(frozen=True, slots=True)
class _Store:
    """The bank's records, open, whether or not a service runs on them."""

    folder: ServiceFolder
    config: ServeConfig
    records: Records
    key: RecordsKey

    def operator(self) -> str:
        """The pseudonym of whoever gives the command."""
        return self.key.pseudonym("principal", "command line", getpass.getuser())


def feedback_command(words: Sequence[str]) -> int:
    """``fedbank client records feedback -o FILE``"""
    parser = _parser(
        "feedback",
        "Write the feedback that was approved as JSON lines, as data=jsonl data.path=FILE reads them. They hold what "
        "customers wrote, with tokens for personal data, under their own names: a customer is one unit of privacy, "
        "wherever a row comes from. An erasure does not reach files that were written before.",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="made its owner's only")
    chosen = parser.parse_intermixed_args(list(words))
    with _opened(chosen) as store:
        inquiries = FeedbackDesk(store.records).approved_inquiries()
    if not inquiries:
        raise DataError("Expected approved feedback, got none. Agents approve it in the service; nothing was written.")
    write_atomic(chosen.output, "".join(map(_line, inquiries)).encode(), mode=0o600)
    customers = len({one.customer for one in inquiries})
    if chosen.json:
        print_json({"records": len(inquiries), "customers": customers})
    else:
        say(f"Wrote {len(inquiries)} rows, by {customers} of the customers, to {chosen.output}.")
        say(f"Train on them with data=jsonl data.path={chosen.output}")
    return EXIT_OK


def erase_command(words: Sequence[str]) -> int:
    """``fedbank client records erase [--customer-file FILE]``"""
    parser = _parser(
        "erase",
        "Erase everything of one customer: questions, answers, feedback, jobs and their key. The name is read from "
        "standard input, or from a file: not from the command line, which others can read and shells remember. What "
        "is left is a hash in the evidence.",
    )
    parser.add_argument("--customer-file", type=Path, metavar="FILE", help="which holds the customer's name")
    chosen = parser.parse_intermixed_args(list(words))
    customer = _customer(chosen.customer_file)
    with _opened(chosen) as store:
        name = store.records.customer(customer)
        sessions = asyncio.run(_forget(store, name))
        removed = store.records.erase(customer, now())
        with store.folder.open_evidence() as evidence:
            AnswerAudit(evidence).erased(name, removed.rows, store.operator())
        runs = is_held(store.folder.lock)
    if chosen.json:
        print_json({"rows": removed.rows, "keys": removed.keys, "sessions": sessions, "service_runs": runs})
        return EXIT_OK
    say(f"Erased {removed.rows} rows and {removed.keys} keys. The evidence names the customer as {name}.")
    if not removed.rows and not removed.keys:
        say("Nothing was kept under that name, now or since it was erased: see that it is written as in the tokens.")
    if runs:
        say(
            "A service runs in this folder. What it holds in memory of the conversation ends when that is idle: erase "
            "on the operator's side (POST /v1/operator/erase) to end it at once."
        )
    return EXIT_OK


def purge_command(words: Sequence[str]) -> int:
    """``fedbank client records purge``"""
    parser = _parser("purge", "Remove what is older than records.retention_days. The service does so every night.")
    chosen = parser.parse_intermixed_args(list(words))
    with _opened(chosen) as store:
        days = store.config.records.retention_days
        removed = store.records.purge(now(), timedelta(days=days))
        if removed.rows:
            with store.folder.open_evidence() as evidence:
                evidence.append(PURGED, "records", f"{removed.rows} rows, {removed.keys} keys", store.operator())
    if chosen.json:
        print_json({"rows": removed.rows, "keys": removed.keys})
    else:
        say(f"Removed {removed.rows} rows older than {days:g} days, and {removed.keys} customers' keys.")
    return EXIT_OK


async def _forget(store: _Store, name: str) -> int:
    """Sessions and answers of the customer in Redis, if the service shares it; those in memory end by themselves."""
    async with AsyncExitStack() as stack:
        sessions, cache = await shared_stores(store.config, store.key, stack)
        if cache is not None:
            await cache.forget(name, now())
        return await sessions.forget(name)


@contextmanager
def _opened(chosen: argparse.Namespace) -> Iterator[_Store]:
    config = load_serve(chosen.overrides)
    folder = ServiceFolder(find_home(chosen.dir))
    records, key = folder.open_records(config.records, read_passphrase(chosen), make=False)
    try:
        yield _Store(folder, config, records, key)
    finally:
        records.close()


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"fedbank client records {name}", description=description)
    parser.add_argument(
        "overrides", nargs="*", metavar="NAME=VALUE", help="as of fedbank client serve, such as records.database=FILE"
    )
    add_folder(parser)
    add_passphrase(parser)
    add_json(parser)
    return parser


def _customer(path: Path | None) -> str:
    """One line; never repeated in an error."""
    try:
        if path is None:
            content = sys.stdin.read(_MOST_NAME + 1)
        else:
            with path.open(encoding="utf-8") as file:
                content = file.read(_MOST_NAME + 1)
    except UnicodeDecodeError:
        content = ""
    except OSError as error:
        raise ConfigError(
            f"Expected a customer's name in {path}, got: {error.strerror}. Name the right file."
        ) from None
    name = content.removeprefix("\ufeff").rstrip("\r\n")  # what some editors begin a file with
    if not name.isprintable() or name != name.strip() or not name or len(content) > _MOST_NAME:
        raise ConfigError(
            f"Expected one customer's name of at most {_MOST_NAME} characters in one line without blanks around it, "
            "got none or something else. Nothing was erased."
        )
    return name


def _line(inquiry: Inquiry) -> str:
    row = {
        "question": inquiry.question,
        "answer": inquiry.answer,
        "customer": inquiry.customer,
        "key": inquiry.key,
        "language": inquiry.language,
    }
    return json.dumps(row, ensure_ascii=False) + "\n"
