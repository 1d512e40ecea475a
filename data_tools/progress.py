"""Progress of long work: a bar with rate and time left on a terminal, a line now and then in a log."""
from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from mrcnn_tf.files.text import one_line

LINE_EVERY = 30.0    # seconds between lines where there is no terminal

Show = Callable[[int], None]    # takes the images done so far


@contextlib.contextmanager
def shown(what: str, total: int, before: int = 0, unit: str = 'images') -> Iterator[Show]:
    """Gives a function that is told how much is done so far.

    Args:
        what: is done, one or two words.
        total: that there is to do.
        before: done by an earlier run; it counts as done and not for the rate.
    """
    console = Console()
    if not console.is_terminal:
        yield _lines(console, what, total, before, unit)
        return
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), _Rate(unit), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total, completed=before)
        yield lambda done: progress.update(task, completed=done)


def say(line: str) -> None:
    """Prints a line without folding it."""
    Console().print(one_line(line), soft_wrap=True, highlight=False, markup=False)


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(_rate(task.speed, self._unit) if task.speed else '')


def _rate(speed: float, unit: str) -> str:
    return f'{speed:.{0 if speed >= 10 else 1}f} {unit}/s'


def _lines(console: Console, what: str, total: int, before: int, unit: str) -> Show:
    start = last = time.monotonic()
    shown = before

    def show(done: int) -> None:
        nonlocal last, shown
        now = time.monotonic()
        if done > shown and (done == total or now - last >= LINE_EVERY):
            last, shown = now, done
            rate = (done - before) / max(now - start, 1e-9)
            left = f', {(total - done) / rate:.0f} s left' if done < total else ''
            line = f'{what}: {done} of {total} {unit}, {_rate(rate, unit)}{left}'
            console.print(one_line(line), soft_wrap=True, highlight=False)

    return show
