"""What can leave a bank: three kinds of things, by type and at run time, and no text of an exception."""

import ast
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

import fedbank_client
from fedbank.adapter.update import PAYLOAD, RECORD, Update
from fedbank.errors import FedBankError, PrivacyError, RunError, UpdateError
from fedbank_client.app import make_client_app
from fedbank_client.egress import Enrolment, Refusal, reply
from fedbank_simulations.inline import InlineGrid

SECRET = "customer Li Wei asked about a loan of 230000 yuan"


@pytest.fixture(autouse=True)
def _a_task_of_flower() -> None:
    """Messages can be made inside a task only; a grid declares one."""
    InlineGrid(ClientApp(), {})


def _message(kind: str = "train") -> Message:
    return Message(RecordDict({RECORD: ConfigRecord({PAYLOAD: b"request"})}), 7, kind)


def _mypy(*files: Path) -> str:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "mypy", "--config-file", str(root / "pyproject.toml"), *map(str, files)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True).stdout


def _context() -> Context:
    return Context(1, 7, {}, RecordDict(), {})


@dataclass(frozen=True, slots=True)
class _Talkative(Enrolment):
    loss: float = 0.3


@pytest.mark.parametrize(
    "thing", [{"loss": 0.3}, 0.3, b"bytes", "text", None, _Talkative("bank-a"), ValueError(SECRET)], ids=repr
)
def test_nothing_else_can_be_sent(thing: Any) -> None:
    with pytest.raises(TypeError, match="nothing was sent"):
        reply(_message(), thing)


SNIPPETS = {
    "loss": "reply(message, 0.3)",
    "metrics": 'reply(message, {"loss": 0.3})',
    "bytes": 'reply(message, b"anything")',
    "exception": "reply(message, ValueError('text'))",
}


@pytest.mark.slow
def test_the_type_checker_refuses_it_too(tmp_path: Path) -> None:
    head = "from flwr.app import Message\nfrom fedbank_client.egress import Enrolment, reply\n"
    for name, line in SNIPPETS.items():
        (tmp_path / f"{name}.py").write_text(f"{head}def send(message: Message) -> Message:\n    return {line}\n")
    (tmp_path / "allowed.py").write_text(
        f"{head}def send(message: Message) -> Message:\n    return reply(message, Enrolment('bank-a'))\n"
    )
    shown = _mypy(*sorted(tmp_path.glob("*.py")))
    wrong = {line.split(":")[0].rsplit("/", 1)[-1] for line in shown.splitlines() if "[arg-type]" in line}
    assert wrong == {f"{name}.py" for name in SNIPPETS}, shown


def test_only_the_egress_makes_messages() -> None:
    """Whoever constructs a ``Message`` elsewhere in the client has opened a second way out."""
    folder = Path(next(iter(fedbank_client.__path__)))
    makers = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in (
                "Message",
                "RecordDict",
                "MetricRecord",
                "ArrayRecord",
                "ConfigRecord",
            ):
                makers.add(path.name)
    assert makers == {"egress.py"}


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (PrivacyError(SECRET), Refusal.PRIVACY),
        (UpdateError(SECRET), Refusal.REQUEST),
        (RunError(SECRET), Refusal.FAILURE),
        (FedBankError(SECRET), Refusal.FAILURE),
        (ValueError(SECRET), Refusal.FAILURE),
        (MemoryError(SECRET), Refusal.FAILURE),
        (KeyError(SECRET), Refusal.FAILURE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
@pytest.mark.parametrize("kind", ["train", "query.enrol"])
def test_an_exception_leaves_as_one_of_three_texts_and_is_kept_inside(
    error: Exception, refusal: Refusal, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    inside: list[Exception] = []

    def fail(context: Context) -> Any:
        raise error

    answer = make_client_app(fail, inside.append)(_message(kind), _context())
    assert answer.has_error() and answer.error.reason == refusal.value
    assert inside == [error]
    assert SECRET not in repr(answer) + repr(vars(answer)) + "".join(capsys.readouterr())


def test_a_request_that_is_no_request_is_refused(tmp_path: Path) -> None:
    strange = Message(RecordDict({"other": ConfigRecord({"x": 1})}), 7, "train")
    inside: list[Exception] = []
    answer = make_client_app(lambda context: None, inside.append)(strange, _context())  # type: ignore[arg-type,return-value]
    assert answer.has_error() and len(inside) == 1


def test_an_update_leaves_with_its_agreed_fields_only(make_bank_update: Callable[[], Update]) -> None:
    update = make_bank_update()
    content = reply(_message(), update).content
    assert set(content) == {RECORD} and set(content[RECORD]) == {PAYLOAD}
    assert content.config_records[RECORD][PAYLOAD] == update.to_bytes()


@pytest.fixture
def make_bank_update(small_spec: Any) -> Callable[[], Update]:
    import numpy as np

    shapes = small_spec.trainable_shapes()
    return lambda: Update(
        "spring",
        1,
        "bank-a",
        "0" * 64,
        "1" * 64,
        5,
        {name: np.ones(shape, np.float32) for name, shape in shapes.items()},
    )


RAW = """import numpy as np
import torch
from fedbank.adapter.update import Update
from fedbank.aggregation.rules import average

def send(gradients: dict[str, torch.Tensor]) -> Update:
    raw = {name: gradient.numpy() for name, gradient in gradients.items()}
    return Update("spring", 1, "bank-a", "0", "1", 5, raw)

def add(gradient: torch.Tensor) -> object:
    return average([{"w": gradient.numpy()}], [1.0])
"""


@pytest.mark.slow
def test_gradients_that_no_plan_released_fit_in_no_update_and_in_no_average(tmp_path: Path) -> None:
    (tmp_path / "raw.py").write_text(RAW)
    shown = _mypy(tmp_path / "raw.py")
    lines = {int(line.split(":")[1]) for line in shown.splitlines() if "Released" in line}
    assert lines == {8, 11}, shown
