"""Progress of long work: a bar with rate and time left on a terminal, a line every half minute in a log."""
from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from mrcnn_tf.files.text import one_line

LINE_EVERY = 30.0    # seconds between lines where there is no terminal

T = TypeVar('T')
Update = Callable[[int], None]    # takes the number of units done so far


class Bar:
    """A bar on a terminal, and nothing elsewhere. Use it as a context.

    Args:
        description: one or two words in front of the bar.
        total: units to do.
        columns: what is shown behind the bar and the numbers.
        done: units that do not count for the rate.
        console: where to show it; standard output by default.
    """

    def __init__(self, description: str, total: int, *columns: ProgressColumn, done: int = 0,
                 console: Console | None = None) -> None:
        self.console = console or Console()
        self._progress = Progress(
            TextColumn(description, markup=False), BarColumn(), MofNCompleteColumn(), *columns, console=self.console,
            disable=not self.console.is_terminal)
        self._task = self._progress.add_task('', total=total, completed=done)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()    # shows the cursor again

    @property
    def text(self) -> str:
        """What the column TEXT shows."""
        return self._progress.tasks[self._task].description

    @text.setter
    def text(self, text: str) -> None:
        self._progress.update(self._task, description=text)

    def update(self, done: int) -> None:
        """Show how many units are done."""
        self._progress.update(self._task, completed=done)


TEXT = TextColumn('{task.description}', markup=False)    # a column for `Bar.text`


@contextlib.contextmanager
def progress_bar(description: str, total: int, before: int = 0, unit: str = 'images', console: Console | None = None,
                 ) -> Iterator[Update]:
    """Show the progress of a block of code; yields a function that takes the number of units done so far.

    Args:
        description: one or two words in front of the bar.
        total: units to do.
        before: units that an earlier run did; they count as done, not for the rate.
        unit: plural noun, for the rate.
        console: where to print; standard output by default.
    """
    console = console or Console()
    if not console.is_terminal:
        yield _line_printer(console, description, total, before, unit)
        return
    with Bar(description, total, _Rate(unit), TimeRemainingColumn(), done=before, console=console) as bar:
        yield bar.update


def track(items: Iterable[T], total: int, description: str, unit: str = 'images', console: Console | None = None,
          ) -> Iterator[T]:
    """Yield the items and show how many are done; see `progress_bar`."""
    with progress_bar(description, total, unit=unit, console=console) as update:
        for done, item in enumerate(items, 1):
            yield item
            update(done)


def print_line(line: str, console: Console | None = None) -> None:
    """Print one line as it is: not folded at the width of the console, controls escaped."""
    (console or Console()).print(one_line(line), soft_wrap=True, highlight=False, markup=False)


class _Rate(ProgressColumn):
    """The column of the bar that shows units per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(_rate(task.speed, self._unit) if task.speed else '')


def _rate(speed: float, unit: str) -> str:
    return f'{speed:.{2 if speed < 10 else 1 if speed < 100 else 0}f} {unit}/s'


def _line_printer(console: Console, description: str, total: int, before: int, unit: str) -> Update:
    """Return a function that prints a line if the last one is `LINE_EVERY` seconds old, and one at the end."""
    start = last = time.monotonic()
    printed = before

    def update(done: int) -> None:
        nonlocal last, printed
        now = time.monotonic()
        if done > printed and (done == total or now - last >= LINE_EVERY):
            last, printed = now, done
            rate = (done - before) / max(now - start, 1e-9)
            left = f', {datetime.timedelta(seconds=round((total - done) / rate))} left' if done < total else ''
            print_line(f'{description}: {done} of {total} {unit}, {_rate(rate, unit)}{left}', console)

    return update
