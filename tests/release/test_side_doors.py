"""No pickle, no network, no code of a release and no other process while it is verified, fetched and adopted.

Each path runs in a fresh process in which an audit hook ends everything else at once: what the interpreter itself
reports (PEP 578) cannot be gone around by another name for the same thing.
"""

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from bank_world import MemberBank
from release_world import World

_GUARD = """
import os, sys
LIBRARIES = {"torch", "transformers", "peft", "flwr", "accelerate", "ray", "tokenizers", "huggingface_hub"}
OUTSIDE = ("socket.", "ssl.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system", "urllib.",
           "http.client", "ftplib", "smtplib", "webbrowser", "ctypes.dlopen")
def end(what):
    sys.stderr.write("SIDE DOOR: " + what + chr(10))
    sys.stderr.flush()
    os._exit(99)
def hook(event, words):
    if event == "import" and words[0].partition(".")[0] in LIBRARIES:
        end("import of " + words[0])
    elif guarded and (event == "pickle.find_class" or event.startswith(OUTSIDE)):
        end(event + " " + repr(words)[:200])
    elif guarded and event in ("exec", "compile") and str(FOLDER) in str(getattr(words[0], "co_filename", words)):
        end("code of the release")
    elif guarded and event == "open" and isinstance(words[0], str) and words[0].endswith((".pkl", ".bin", ".pt")):
        end("open " + words[0])
FOLDER, guarded = sys.argv[1], False
sys.addaudithook(hook)
"""
_IMPORTS = """
from datetime import datetime
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import fedbank.cli, fedbank.release.command
from fedbank.release.inspection import inspect
from fedbank_client.adoption import Adoption
import bank_world, release_world
folder, now = Path(FOLDER), datetime.fromisoformat(sys.argv[3])
from fedbank.sealing.keys import SigningKey
from fedbank_client.home import Home
from fedbank_client.release_home import ReleaseHome
home = ReleaseHome(Home(folder / "member", "bank1", "alliance", ("x:1",), SigningKey.derived("coordinator").public))
fetcher = release_world.FolderFetcher(folder / "repository")
adoption = Adoption(home, bank_world.policy(), bank_world.load, lambda *note: None)
"""
PATHS = {
    "inspect": 'inspect(home.of("spring-1") / "adapter")',
    "verify": 'fedbank.cli.main(["verify", str(home.of("spring-1")), "--root", str(folder / "root.json")])',
    "mirror": 'release_world.Mirror(folder / "new", home.pinned_root(), fetcher, bank_world.URL).look()',
    "adopt": 'adoption.sync(fetcher, bank_world.URL, "stable", now)',
    "roll back": "adoption.roll_back(None, now)",
}
SIDE_DOORS = {
    "a pickle": "import pickle; pickle.loads(pickle.dumps(Path('x')))",
    "torch": "import torch",
    "a library of models": "import transformers",
    "a socket": "import socket; socket.create_connection(('127.0.0.1', 9))",
    "a name looked up": "import socket; socket.getaddrinfo('localhost', 80)",
    "a process": "import subprocess; subprocess.run(['true'])",
    "a shell": "os.system('true')",
    "a fork": "os.fork()",
    "code of the release": "exec(compile('1', FOLDER + '/modeling.py', 'exec'))",
}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """bank1 has adopted spring-1 and then spring-2; stable names spring-3."""
    made = World(tmp_path)
    bank = MemberBank(made, tmp_path / "member")
    for number in (1, 2, 3):
        made.add(f"spring-{number}", channel="stable")
        if number < 3:
            bank.sync()
    (tmp_path / "root.json").write_bytes(made.pinned)
    return made


def run(folder: Path, before: str, act: str, moment: str = "") -> subprocess.CompletedProcess[str]:
    script = _GUARD + before + f"guarded = True\n{act}\nprint('through')\n"
    command = [sys.executable, "-c", script, str(folder), str(Path(__file__).parent), moment]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("path", PATHS)
def test_no_side_door_is_opened(path: str, world: World) -> None:
    done = run(world.folder, _IMPORTS, PATHS[path], (world.now + timedelta(seconds=1)).isoformat())
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["through"]), done.stderr[-2000:]


@pytest.mark.parametrize("door", SIDE_DOORS)
def test_the_guard_notices_every_side_door(door: str, tmp_path: Path) -> None:
    done = run(tmp_path, "from pathlib import Path\n", SIDE_DOORS[door])
    assert done.returncode == 99 and "SIDE DOOR" in done.stderr, (done.returncode, done.stderr[-500:])


def test_verifying_imports_no_library_of_models(world: World) -> None:
    """The command itself, as a person runs it, and what the interpreter says it imported."""
    release = world.folder / "member" / "releases" / "spring-1"
    words = ["-X", "importtime", "-m", "fedbank.cli", "verify", str(release), "--root", str(world.folder / "root.json")]
    done = subprocess.run([sys.executable, *words, "--json"], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0 and json.loads(done.stdout)["release"] == "spring-1", done.stderr[-500:]
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "tuf" in imported and "fedbank" in imported
    never = {"torch", "transformers", "peft", "flwr", "safetensors", "requests", "urllib3", "httpx", "pandas", "scipy"}
    assert not imported & never
