"""Settings of what is traced within a context, in the thread that traces it: replicas trace in threads of their own."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar('T')
# Whether the forward and the backward pass are programs of their own: what the second needs are results of the first.
apart = ContextVar('apart', default=False)


@contextlib.contextmanager
def within(variable: ContextVar[T], value: T) -> Iterator[None]:
    """Set a variable, and restore it afterwards.

    Example:
        >>> from contextvars import ContextVar
        >>> fast = ContextVar('fast', default=False)
        >>> with within(fast, True):
        ...     fast.get()
        True
        >>> fast.get()
        False
    """
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
