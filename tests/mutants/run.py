"""Applies every fault of the ``*.toml`` files beside it to a copy of the source and expects the named test to notice.

``python tests/mutants/run.py [--pitfalls | NAME...]`` applies all of them, those of the privacy pitfalls, or those that
are named. It exits with 1 if a fault survives or cannot be applied, if its test fails already without it, or (unless
names were given) if one of the pitfalls of docs/pitfalls.md has no fault.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"fedbank": "", "fedbank_server": "server", "fedbank_client": "client", "fedbank_simulations": "simulations"}
_TESTS_FAILED, _TIMEOUT_S = 1, 600
PITFALLS = {str(number) for number in range(1, 32)}
"""The numbers of docs/pitfalls.md."""
OWN = "own"
"""Marks a guarantee of ours that is not one of them."""
ONLY_PITFALLS = "--pitfalls"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault: ``find`` occurs exactly once in ``file`` and becomes ``replace``; ``test`` must then fail."""

    name: str
    pitfall: str
    file: str
    find: str
    replace: str
    test: str


def read_mutants(names: list[str]) -> list[Mutant]:
    """All mutants, or those named."""
    files = sorted((ROOT / "tests" / "mutants").glob("*.toml"))
    mutants = [Mutant(**row) for file in files for row in tomllib.loads(file.read_text("utf-8")).get("mutant", [])]
    if names == [ONLY_PITFALLS]:
        names = [mutant.name for mutant in mutants if mutant.pitfall != OWN]
    unknown = set(names) - {mutant.name for mutant in mutants}
    if unknown:
        sys.exit(f"Expected names of mutants, got {sorted(unknown)}.")
    chosen = [mutant for mutant in mutants if not names or mutant.name in names]
    return sorted(chosen, key=lambda mutant: (mutant.pitfall == OWN, mutant.pitfall.zfill(2), mutant.name))


def copy_source(target: Path) -> None:
    """Everything that git tracks or would track, as it is now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)


def environment(copy: Path) -> dict[str, str]:
    """Imports come from ``copy``; no byte code, so that a changed file is never taken for the one before."""
    paths = os.pathsep.join(str(copy / folder) for folder in PACKAGES.values())
    return os.environ | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}


def check_imports(copy: Path) -> None:
    """Refuse to go on if an installed package would be tested instead of the copy."""
    script = f"import {', '.join(PACKAGES)}\n"
    script += "\n".join(f"print({name}.__file__)" for name in PACKAGES)
    shown = subprocess.run(
        [sys.executable, "-c", script], cwd=copy, env=environment(copy), check=True, capture_output=True, text=True
    )
    for line in shown.stdout.split():
        if not Path(line).resolve().is_relative_to(copy.resolve()):
            sys.exit(f"Expected imports from the copy, got {line}.")


def run_tests(copy: Path, tests: list[str]) -> tuple[int, str]:
    """Exit code of pytest (1: tests ran and failed) and the end of what it said."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider", "--tb=line", *tests]
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment(copy), capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return -1, f"no end after {_TIMEOUT_S} s"
    return done.returncode, done.stdout[-1500:]


def verdict(copy: Path, mutant: Mutant) -> str:
    """``killed``, or why not."""
    path = copy / mutant.file
    original = path.read_text("utf-8")
    if original.count(mutant.find) != 1:
        return f"NOT APPLIED: its text occurs {original.count(mutant.find)} times in {mutant.file}"
    path.write_text(original.replace(mutant.find, mutant.replace), "utf-8")
    try:
        code, said = run_tests(copy, [mutant.test])
    finally:
        path.write_text(original, "utf-8")
    if code == _TESTS_FAILED:
        return "killed"
    return "SURVIVED" if code == 0 else f"BROKEN (pytest exit {code}): {said.strip().splitlines()[-1:]}"


def fails_already(copy: Path, tests: list[str]) -> str:
    """What is wrong with ``tests`` before any fault is seeded; empty if they pass."""
    code, said = run_tests(copy, tests) if tests else (0, "")
    return "" if code == 0 else f"A named test fails without any fault (pytest exit {code}):\n{said}\n"


def main(names: list[str]) -> int:
    """Print one line per mutant; as many at once as there are CPUs, each in a copy of its own."""
    mutants = read_mutants(names)
    workers = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(workers) as pool:
        copies: Queue[Path] = Queue()
        for number in range(workers):
            copy_source(Path(folder) / str(number))
            check_imports(Path(folder) / str(number))
            copies.put(Path(folder) / str(number))

        def in_a_copy(act: Callable[..., str], subject: object) -> str:
            copy = copies.get()
            try:
                return act(copy, subject)
            finally:
                copies.put(copy)

        tests = sorted({mutant.test for mutant in mutants})
        shares = [tests[number::workers] for number in range(workers)]
        if wrong := "".join(pool.map(partial(in_a_copy, fails_already), shares)):
            sys.stdout.write(wrong)
            return 1
        failures, caught = 0, set()
        sys.stdout.write("pitfall | mutant | test | killed\n--- | --- | --- | ---\n")
        for mutant, result in zip(mutants, pool.map(partial(in_a_copy, verdict), mutants), strict=True):
            failures += result != "killed"
            caught |= {mutant.pitfall} if result == "killed" else set()
            sys.stdout.write(f"{mutant.pitfall} | {mutant.name} | {mutant.test.removeprefix('tests/')} | {result}\n")
            sys.stdout.flush()
        sys.stdout.write(f"{len(mutants) - failures} of {len(mutants)} killed\n")
    if names and names != [ONLY_PITFALLS]:
        return 1 if failures else 0
    missing = sorted(PITFALLS - caught, key=int)
    sys.stdout.write(f"{len(PITFALLS & caught)} of {len(PITFALLS)} pitfalls caught; missing: {missing or 'none'}\n")
    return 1 if failures or missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
