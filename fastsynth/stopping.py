"""Stopping in good order: SIGINT (Ctrl-C) and SIGTERM (a scheduler, `kill`) end in the same way.

A loop that works in steps asks for a gentle stop: the first signal lets the step in hand finish, so that it can be
saved; a second Ctrl-C stops at once. Outside such a loop either signal is a KeyboardInterrupt right away.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TELLS = b"\nstopping after this step; Ctrl-C again stops at once\n"
AGAIN_SECONDS = 1.0
"""A second Ctrl-C counts from then on: launchers of several processes pass the first one on a second time."""


class Stop:
    """requested: whether a signal has come."""

    requested = False


@contextmanager
def gentle_stop() -> Iterator[Stop]:
    """Inside, signals only set `requested`; the loop saves what it has and raises KeyboardInterrupt itself.

    Only a process's main thread receives signals; in any other thread nothing changes.
    """
    stop, owner = Stop(), os.getpid()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    first = 0.0

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if os.getpid() != owner:  # a forked worker: Ctrl-C is its parent's business
            if number == signal.SIGTERM:
                os._exit(128 + number)
        elif not stop.requested:
            stop.requested, first = True, time.monotonic()
            if signal.SIGINT in heard:
                os.write(2, TELLS)  # printing is not safe inside a handler
        elif number == signal.SIGINT and time.monotonic() - first > AGAIN_SECONDS:
            raise KeyboardInterrupt

    # what a shell has told us to ignore (nohup) stays ignored
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, ask) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupt_on_sigterm() -> None:
    """From now on SIGTERM is what Ctrl-C is: KeyboardInterrupt."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
