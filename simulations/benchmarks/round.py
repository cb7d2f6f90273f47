"""An exchange between a coordinator and two banks, on loopback with TLS: FedBank's transport against plain Flower's.

Plain Flower: ``flower-superlink``, two ``flower-supernode``, its SuperExec and one process for every message; the app
sends one array and gets it back. FedBank: the coordinator's two listeners with mutual TLS, two resident nodes, one
record with one bytes value. Both echo what they get; the first exchange does not count. ``seconds_*`` are medians.
Targets: ``ratio_trivial`` 6 (aim 10), ``ratio_4m`` (4 million float32 parameters each way) 3.

``security_share``, at most 0.10: of a whole round at 4 million parameters, the part that FedBank's security layer
takes. The round is that of a deployed campaign (``deployed``: store, seals, policies and evidence on disk) whose banks
train nothing, which is the shortest round that there can be. The layer is signing and verifying envelopes with the
SHA-256 of what is in them, digests of adapters, the update's norm, reading and checking the policy, and evidence with
its fsync. What it takes is measured while the rounds run: every call at the coordinator, plus every call at the bank
for which they took longer. Banks and coordinator partly work at the same time, so the share is an upper bound. TLS, and
what Flower hashes by itself, are part of the round and not of the layer. ``seconds_security_*`` say where it goes.
"""

import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab

from fedbank_server.flower_hooks import BUNDLE, pinned_context
from simulations.benchmarks.deployed import Deployment, Meter, run_campaign
from simulations.benchmarks.reporting import publish

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "deployment"))
from consortium import Consortium, exchange, free_port, listens, payload_of, wait_for

ROUNDS = 11
PARAMETERS = {"trivial": 10, "4m": 4_000_000}
REPEATS = {"trivial": 5, "4m": 3}
_BUNDLE = BUNDLE.replace("fedbank_server.nothing", "echo.server").replace("fedbank_client.nothing", "echo.client")
_CLIENT = """
from flwr.app import Message
from flwr.clientapp import ClientApp
app = ClientApp()
@app.query("echo")
def echo(message, context):
    return Message(message.content, reply_to=message)
"""
_SERVER = """
import json, os, time
import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()
@app.main()
def main(grid, context):
    while len(nodes := sorted(grid.get_node_ids())) < 2:
        time.sleep(0.2)
    seconds = {}
    for name, (parameters, repeats) in json.loads(os.environ["FEDBANK_BENCHMARK_PLAN"]).items():
        seconds[name] = []
        for _ in range(repeats + 1):
            content = lambda: RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(parameters, np.float32))})})
            began = time.perf_counter()
            replies = list(grid.send_and_receive([Message(content(), node, "query.echo") for node in nodes]))
            seconds[name].append(time.perf_counter() - began)
            assert len(replies) == 2 and not any(reply.has_error() for reply in replies)
    with open(os.environ["FEDBANK_BENCHMARK_RESULT"] + ".part", "w") as file:
        json.dump(seconds, file)
    os.replace(file.name, os.environ["FEDBANK_BENCHMARK_RESULT"])
"""


def plain_flower(folder: Path) -> dict[str, list[float]]:
    """Seconds of every exchange after the first, by size."""
    pki = Consortium(folder / "keys")
    port, result = free_port(), folder / "seconds.json"
    plan = {name: (PARAMETERS[name], REPEATS[name]) for name in PARAMETERS}
    environment = os.environ | {
        "FLWR_HOME": str(folder / "flwr"),
        "FEDBANK_BENCHMARK_PLAN": json.dumps(plan),
        "FEDBANK_BENCHMARK_RESULT": str(result),
    }
    superlink = ["flower-superlink", "--host", "127.0.0.1", "--port", str(port), "--database", str(folder / "db")]
    superlink += ["--ssl-certfile", str(pki.server.certificate), "--ssl-keyfile", str(pki.server.key)]
    superlink += ["--ssl-ca-certfile", str(pki.authority.ca), "--disable-runtime-dependency-installation"]
    node = ["flower-supernode", "--superlink", f"127.0.0.1:{port}", "--root-certificates", str(pki.authority.ca)]
    with running(folder, environment) as start:
        start(superlink)
        wait_for(lambda: listens(port), 60)
        for _ in range(2):
            start([*node, "--port", str(free_port())])
        files = {"pyproject.toml": _BUNDLE, "LICENSE": "-", "echo/__init__.py": ""}
        files |= {"echo/server.py": _SERVER, "echo/client.py": _CLIENT}
        content = build_fab_from_files({name: text.encode() for name, text in files.items()})[0]
        start_run(f"https://127.0.0.1:{port}", pki.server.certificate, content)
        wait_for(result.exists, 240, lambda: (folder / "log").read_text()[-4000:])
    return {name: seconds[1:] for name, seconds in json.loads(result.read_text()).items()}


def start_run(address: str, certificate: Path, content: bytes) -> None:
    """What ``flwr run`` asks of the SuperLink."""
    with ControlHttpClient(address, verify=pinned_context(str(certificate))) as client:
        fab = fab_to_proto(Fab(hashlib.sha256(content).hexdigest(), content, {}))
        client.StartRun(StartRunRequest(fab=fab))


@contextmanager
def running(folder: Path, environment: dict[str, str]) -> Iterator[Callable[[list[str]], None]]:
    """Starts programs of this environment and ends them, and what they started, afterwards."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(command: list[str]) -> None:
        with (folder / "log").open("ab") as log:
            program = [str(Path(sys.executable).parent / command[0]), *command[1:]]
            processes.append(subprocess.Popen(program, env=environment, stdout=log, stderr=log, start_new_session=True))

    try:
        yield start
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGTERM)
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def fedbank(folder: Path) -> dict[str, list[float]]:
    """Seconds of every exchange after the first, by size."""
    consortium = Consortium(folder)
    seconds: dict[str, list[float]] = {name: [] for name in PARAMETERS}
    try:
        consortium.start_server()
        consortium.start_banks()
        with consortium.grid() as grid:
            wait_for(lambda: len(grid.banks()) == 2, 60, consortium.log_of("bank1"))
            for name, parameters in PARAMETERS.items():
                payload = bytes(4 * parameters)
                for _ in range(REPEATS[name] + 1):
                    began = time.perf_counter()
                    replies = exchange(grid, dict.fromkeys(grid.banks().values(), payload))
                    seconds[name].append(time.perf_counter() - began)
                    if any(payload_of(reply) != payload for reply in replies.values()):
                        raise RuntimeError("a bank answered with other bytes")
    finally:
        consortium.stop()
    return {name: found[1:] for name, found in seconds.items()}


def security(folder: Path) -> dict[str, Any]:
    """``security_share`` and what it is made of, seconds a round; the first round is not part of a round's time."""
    folder.mkdir()
    deployment, meter = Deployment(folder, 2, PARAMETERS["4m"], processes=2), Meter().watch()
    with deployment.running() as grid:
        moments = run_campaign(deployment, grid, ROUNDS)
    round_s = statistics.median(after - before for before, after in pairwise(moments))
    slowest = max(deployment.meters().values(), key=lambda seconds: sum(seconds.values()))
    layer_s = (sum(meter.seconds.values()) + sum(slowest.values())) / ROUNDS
    return {
        "seconds_round_4m": round(round_s, 3),
        "seconds_security_coordinator": {part: round(s / ROUNDS, 4) for part, s in sorted(meter.seconds.items())},
        "seconds_security_bank": {part: round(s / ROUNDS, 4) for part, s in sorted(slowest.items())},
        "security_share": round(layer_s / round_s, 3),
    }


def compare() -> Iterator[dict[str, Any]]:
    """One line."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("flower", "fedbank"):
            (Path(folder) / name / "keys").mkdir(parents=True)
        flower, ours = plain_flower(Path(folder) / "flower"), fedbank(Path(folder) / "fedbank")
        layer = security(Path(folder) / "security")
    line: dict[str, Any] = {}
    for name in PARAMETERS:
        theirs, own = statistics.median(flower[name]), statistics.median(ours[name])
        line |= {f"seconds_flower_{name}": round(theirs, 3), f"seconds_{name}": round(own, 3)}
        line |= {f"ratio_{name}": round(theirs / own, 2)}
    yield line | layer


if __name__ == "__main__":
    publish("round", compare())
