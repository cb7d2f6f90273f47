"""Trials in several processes, and their progress."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

import torch
from rich.console import Console
from rich.progress import Progress

from fedbank.audit.bounds import Scores


@contextmanager
def processes(workers: int) -> Iterator[Callable[..., Iterable[Scores]]]:
    """``map`` over this many processes, each with one thread; one needs no process of its own."""
    if workers == 1:
        yield map
        return
    # spawn: a fork would copy PyTorch's threads in an unusable state.
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_one_thread) as pool:
        yield pool.map


def _one_thread() -> None:
    torch.set_num_threads(1)


@contextmanager
def counted(console: Console, total: int, what: str = "trials") -> Iterator[Callable[[int], Callable[[int], None]]]:
    """Progress over several audits, in ``what``: a bar on a terminal, a line for each quarter otherwise."""
    done: dict[int, int] = {}

    def counter(show: Callable[[int], None]) -> Callable[[int], Callable[[int], None]]:
        def of(audit: int) -> Callable[[int], None]:
            def count(trials: int) -> None:
                done[audit] = trials
                show(sum(done.values()))

            return count

        return of

    if console.is_terminal:
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield counter(lambda trials: bar.update(task, completed=trials))
        return
    shown = [0]

    def show(trials: int) -> None:
        if 4 * trials // total > shown[0]:
            shown[0] = 4 * trials // total
            console.print(f"{trials} of {total} {what}", highlight=False)

    yield counter(show)
