"""What a fine-tune computes in, so that it comes out the same again; and what a signal may not cut.

Torch chooses by the number of threads in what order it adds, and some of its operations add in any
order unless they are told not to.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def fixed(threads: int) -> Iterator[None]:
    """So many threads, and only operations that always give the same; as before afterwards.

    Torch's fill of new memory stays off: it helps nobody who writes before reading, and costs a
    twentieth of a step.
    """
    import torch

    memory = torch.utils.deterministic
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fill = memory.fill_uninitialized_memory
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        memory.fill_uninitialized_memory = fill


@contextmanager
def ended_as_stopped() -> Iterator[None]:
    """SIGTERM is a KeyboardInterrupt as Ctrl-C is, as long as this lasts in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def undivided() -> Iterator[None]:
    """A Ctrl-C or SIGTERM within comes at the end; for moments alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    kinds = (signal.SIGINT, signal.SIGTERM)
    before: dict[int, Any] = {}
    try:
        for kind in kinds:
            before[kind] = signal.signal(kind, lambda number, frame: came.append((number, frame)))
        yield
    finally:
        for number, handler in before.items():
            # None: a handler that Python did not set, and cannot set again
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    for number, frame in came[:1]:
        handler = before[number]
        if callable(handler):
            handler(number, frame)
        elif handler != signal.SIG_IGN:
            signal.raise_signal(number)
