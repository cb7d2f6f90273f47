"""What a release costs whoever verifies, serves, syncs and rolls it back, with real signatures and real files.

``verify``: the release's folder with an adapter of 161 MB (Qwen2.5-7B's, every linear layer) against SHA-256 of the
same file, turn by turn; the ratio is the median of the turns'. ``growth``: bytes of the repository beyond the adapters'
own, from one release to the next, each published and then named by the channel, as three banks sign them. ``sync``:
from a TLS connection with the bank's certificate to the end, against the public listener of a SuperLink in its own
process, turn by turn with 1 to 500 releases in the repository; scoring on a bank's customers is left out, since it is
the model's. ``command``: a whole process, what of it is an interpreter that does nothing, and what its imports are.
``rollback``: between two releases of 161 MB.
``python -m simulations.benchmarks.release [--releases 500] [--turns 7] [--json]``; two minutes. Exit code 1 if a target
is missed.
"""

import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from tuf.api.exceptions import DownloadError

from fedbank.release.contents import WEIGHTS
from fedbank.release.offline import ADAPTER, verify_release
from fedbank_client.adoption import Adoption
from fedbank_client.home import read_home
from fedbank_client.policy import read_policy
from fedbank_client.release_home import ReleaseHome
from fedbank_client.repository_client import RepositoryFetcher
from simulations.benchmarks.commanded import Commanded, command, wait_for
from simulations.benchmarks.released import CHANNEL, LARGE, SMALL, Members
from simulations.benchmarks.reporting import argument_parser, write_lines

BANK = "bank-a"
VERIFY_RATIO, SYNC_S, GROWTH_BYTES, ROLLBACK_S, COMMAND_S, FLAT = 2.0, 0.3, 30_000, 5.0, 1.0, 1.5
"""The targets; ``FLAT``: the most that ``fedbank client sync`` with all releases may take over that with one."""
_SYNC_IMPORTS = (
    "import fedbank.cli, fedbank_client.adoption_commands, fedbank_client.adoption, fedbank_client.repository_client"
)
_VERIFY_IMPORTS = "import fedbank.cli, fedbank.release.command"
Line = dict[str, Any]


def verification(folder: Path, turns: int) -> Iterator[Line]:
    """A release's folder against hashing it, by dtype."""
    layouts = {"F32": LARGE, "BF16": replace(LARGE, rank=2 * LARGE.rank)}
    members = Members(folder / "verified")
    for dtype, layout in layouts.items():
        name = dtype.lower()
        members.release(name, layout, dtype)
        kept = members.folder_of(name, folder / name)
        weights = kept / ADAPTER / WEIGHTS
        hashing = partial(_hash, weights)
        verifying = partial(verify_release, kept, members.root, datetime.now(UTC))
        pairs = [(seconds(hashing), seconds(verifying)) for _ in range(turns)]
        hashed, verified = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(two / one for one, two in pairs)
        yield {
            "case": "verify",
            "dtype": dtype,
            "adapter_bytes": weights.stat().st_size,
            "hash_s": round(hashed, 4),
            "verify_s": round(verified, 4),
            "ratio": round(ratio, 3),
            "target": VERIFY_RATIO,
            "ok": ratio <= VERIFY_RATIO,
        }
        shutil.rmtree(kept)
    shutil.rmtree(folder / "verified")


class Served:
    """A coordinator whose SuperLink serves, one bank that trusts its members, and copies of both at moments."""

    def __init__(self, folder: Path) -> None:
        self.consortium = Commanded(folder, (BANK,), quorum=1)
        self.consortium.allow(BANK, base_model_digests="any")
        self.members = Members(self.consortium.coordinator)
        self.home, self._folder = self.consortium.home(BANK), folder
        self._repository, self._aside = self.members.repository.folder, folder / "repository-aside"
        with self._releases(self.home).exclusive():
            self._releases(self.home).pin(self.members.root)
        self.consortium.start_server()
        wait_for(self._answers, 60, self.consortium.logs)

    def sync(self, home: Path) -> str:
        """What ``fedbank client sync --yes`` does after its imports, without a load; the release adopted then."""
        about = read_home(home)
        fetcher = RepositoryFetcher(about.tls_context(), about.addresses)
        try:
            adopted = self.adoption(home).sync(fetcher, fetcher.url, CHANNEL, datetime.now(UTC)).adopted
        finally:
            fetcher.close()
        return adopted.release if adopted else ""

    def adoption(self, home: Path) -> Adoption:
        """Of the bank in ``home``; every adapter loads, in no time."""
        return Adoption(self._releases(home), read_policy(home / "policy.yaml"), lambda _: None, lambda *_: None)

    def keep(self, name: str, bank: bool) -> None:
        """The repository as it is now, and the bank: later releases replace files and never change one."""
        shutil.copytree(self._repository, self._folder / f"repository-{name}", copy_function=os.link)
        if bank:
            shutil.copytree(self.home, self.bank_at(name))

    def bank_at(self, name: str) -> Path:
        """The bank as it was when that was kept."""
        return self._folder / f"bank-{name}"

    def serve(self, name: str) -> None:
        """From here on the listener serves the repository that was kept."""
        if self._repository.is_symlink():
            self._repository.unlink()
        else:
            self._repository.rename(self._aside)
        self._repository.symlink_to(self._folder / f"repository-{name}")

    def serve_newest(self) -> None:
        """From here on it serves what is published."""
        self._repository.unlink()
        self._aside.rename(self._repository)

    def other_bytes(self) -> int:
        """Of the repository, all but the weights."""
        files = [path for path in self._repository.rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in files if not path.name.endswith(WEIGHTS))

    def metadata_bytes(self) -> int:
        """Of the newest metadata that the banks signed."""
        return max(path.stat().st_size for path in self.members.repository.metadata.glob("*.targets.json"))

    def _answers(self) -> bool:
        about = read_home(self.home)
        fetcher = RepositoryFetcher(about.tls_context(), about.addresses)
        try:
            return bool(fetcher.download_bytes(f"{fetcher.url}/metadata/1.root.json", 1 << 20))
        except DownloadError:
            return False
        finally:
            fetcher.close()

    def _releases(self, home: Path) -> ReleaseHome:
        return ReleaseHome(read_home(home))


def growth(served: Served, moments: Sequence[int]) -> Iterator[Line]:
    """Publish releases up to one after the last moment; the bank syncs at every moment, and both are kept there."""
    before, last, began = served.other_bytes(), 0, time.perf_counter()
    for number in range(1, moments[-1] + 2):
        listed = served.metadata_bytes() if last else 0
        at_one = served.other_bytes() if number in moments else 0
        served.members.release(f"spring-{number:04}", SMALL)
        if number - 1 in moments:
            served.keep(f"{number - 1}-and-one", bank=False)
        if number not in moments:
            continue
        now = served.other_bytes()
        yield growth_line(
            "small", number, now - at_one, round((now - before) / (number - last)), served.metadata_bytes() - listed
        ) | {"publish_s": round((time.perf_counter() - began) / (number - last), 3)}
        assert served.sync(served.home) == served.members.last
        served.keep(str(number), bank=True)
        before, last, began = served.other_bytes(), number, time.perf_counter()


def growth_line(layout: str, number: int, grown: int, mean: int, listed: int) -> Line:
    """``grown``: by this release; ``mean``: of those since the line before; ``listed``: of this in one targets.json."""
    return {
        "case": "growth",
        "layout": layout,
        "releases": number,
        "bytes_of_this_release": grown,
        "bytes_a_release": mean,
        "targets_bytes_of_this_release": listed,
        "target": GROWTH_BYTES,
        "ok": max(grown, mean) <= GROWTH_BYTES,
    }


def syncs(served: Served, moments: Sequence[int], turns: int, folder: Path) -> Iterator[Line]:
    """Of a repository without news, and with one new release, at every moment in turn."""
    unchanged: dict[int, list[float]] = {number: [] for number in moments}
    new: dict[int, list[float]] = {number: [] for number in moments}
    for _ in range(turns):
        for number in moments:
            served.serve(str(number))
            unchanged[number].append(seconds(partial(served.sync, served.bank_at(str(number)))))
            served.serve(f"{number}-and-one")
            shutil.copytree(served.bank_at(str(number)), folder / "bank-new")
            new[number].append(seconds(partial(served.sync, folder / "bank-new")))
            shutil.rmtree(folder / "bank-new")
    served.serve_newest()
    for case, found in (("sync unchanged", unchanged), ("sync one new release", new)):
        first = statistics.median(found[moments[0]])
        for number in moments:
            taken = statistics.median(found[number])
            target = {"target_s": SYNC_S, "ok": taken <= SYNC_S} if found is unchanged else {}
            ratio = {"ratio_to_first": round(taken / first, 2)}
            yield {"case": case, "releases": number, "seconds": round(taken, 4), **ratio, **target}


def commands(served: Served, moments: Sequence[int], folder: Path, turns: int) -> Iterator[Line]:
    """Whole processes: a sync without news with few and with many releases, and the verification of a small release."""
    first, last = moments[0], moments[-1]
    parts: dict[int, list[Sequence[float]]] = {first: [], last: []}
    for _ in range(turns):
        for number in parts:
            served.serve(str(number))
            words = ("client", "sync", "--dir", str(served.bank_at(str(number))))
            parts[number].append(process_seconds(_SYNC_IMPORTS, *words))
    served.serve_newest()
    for number, rows in parts.items():
        ratio = statistics.median(row[-1] for row in rows) / statistics.median(row[-1] for row in parts[first])
        flat = {"ratio_to_first": round(ratio, 2), "target_ratio": FLAT, "ok": ratio <= FLAT}
        yield process_line("sync unchanged", rows) | {"releases": number, **flat}
    root, kept = folder / "root.json", served.members.folder_of(served.members.last, folder / "kept")
    root.write_bytes(served.members.root)
    words = ("verify", str(kept), "--root", str(root))
    line = process_line("verify", [process_seconds(_VERIFY_IMPORTS, *words) for _ in range(turns)])
    modules = imported_modules(*words)
    heavy = sum(module.partition(".")[0] in ("torch", "transformers", "peft", "flwr") for module in modules)
    found = {"modules": len(modules), "modules_of_torch_and_its_users": heavy, "target_s": COMMAND_S}
    yield line | found | {"ok": line["seconds"] <= COMMAND_S and not heavy}


def process_seconds(imports: str, *words: str) -> Sequence[float]:
    """Of an interpreter that does nothing, of one that only imports, and of the command ``fedbank WORDS...``."""
    arguments = (["-c", "pass"], ["-c", imports], command(*words)[1:])
    return [
        seconds(partial(subprocess.run, [sys.executable, *one], capture_output=True, check=True)) for one in arguments
    ]


def process_line(case: str, rows: Sequence[Sequence[float]]) -> Line:
    """Medians of what ``process_seconds`` found."""
    interpreter, imported, whole = (statistics.median(column) for column in zip(*rows, strict=True))
    return {
        "case": f"command {case}",
        "seconds": round(whole, 3),
        "interpreter_s": round(interpreter, 3),
        "imports_s": round(imported - interpreter, 3),
    }


def imported_modules(*words: str) -> list[str]:
    """Names of all modules that the command imports."""
    arguments = [sys.executable, "-X", "importtime", *command(*words)[1:]]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]


def rollback(served: Served, turns: int) -> Iterator[Line]:
    """Between two releases of 161 MB, both verified anew each time; and how much one of them adds to the repository."""
    for name in ("large-1", "large-2"):
        before, listed = served.other_bytes(), served.metadata_bytes()
        served.members.release(name, LARGE)
        grown = served.other_bytes() - before
        if name == "large-2":
            yield growth_line("large", served.members.published, grown, grown, served.metadata_bytes() - listed)
        served.sync(served.home)
    adoption, weights = served.adoption(served.home), served.home / "releases" / "large-2" / ADAPTER / WEIGHTS
    taken = statistics.median(seconds(lambda: adoption.roll_back(None, datetime.now(UTC))) for _ in range(turns))
    words = ("client", "rollback", "--dir", str(served.home))
    whole = process_line("rollback", [process_seconds(_SYNC_IMPORTS, *words) for _ in range(turns)])
    for line in ({"case": "rollback", "seconds": round(taken, 3)}, whole):
        ok = line["seconds"] <= ROLLBACK_S
        yield line | {"adapter_bytes": weights.stat().st_size, "target_s": ROLLBACK_S, "ok": ok}


def seconds(run: Callable[[], object]) -> float:
    """How long ``run`` takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _hash(path: Path) -> None:
    with path.open("rb") as file:
        hashlib.file_digest(file, "sha256")


def measure(releases: int, turns: int) -> Iterator[Line]:
    """One line a case."""
    moments = [number for number in (1, 10, 100) if number < releases] + [releases]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        yield from verification(folder, turns)
        served = Served(folder)
        try:
            yield from growth(served, moments)
            yield from syncs(served, moments, turns, folder)
            yield from commands(served, moments, folder, turns)
            yield from rollback(served, turns)
        finally:
            served.consortium.close()


def main() -> int:
    """Print the lines; 1 if a target is missed."""
    parser = argument_parser("release")
    parser.add_argument("--releases", type=int, default=500, help="at most in the repository")
    parser.add_argument("--turns", type=int, default=7, help="of everything that is timed; the median counts")
    chosen = parser.parse_args()
    missed: list[str] = []

    def watched() -> Iterator[Line]:
        for line in measure(chosen.releases, chosen.turns):
            missed.extend([line["case"]] if not line.get("ok", True) else [])
            yield line

    write_lines("release", watched(), as_json=chosen.json)
    if missed:
        sys.stderr.write(f"Missed: {', '.join(missed)}\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
