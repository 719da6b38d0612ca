"""Independent pieces of work side by side: processes of one machine that share out its cores.

Those of `fastsynth.parallel` make one training step together; these know nothing of one another.
"""

import pickle
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection, get_context, parent_process
from multiprocessing.queues import SimpleQueue
from multiprocessing.sharedctypes import Synchronized, SynchronizedArray
from os import _exit

import cv2
import torch

from fastsynth.environment import memory_bytes
from fastsynth.errors import one_line_warning
from fastsynth.stopping import gentle_stop, interrupt_on_sigterm

Report = Callable[[int], None]
"""A piece of work calls it with how much it has done so far."""
Piece = Callable[[Report], object]
"""Is pickled on its way to its process: a module's function, or a `partial` of one."""

LOOK_SECONDS = 0.5
_SPAWN = get_context("spawn")  # a fork of a process with threads may wait for ever


def shares(pieces: int, *, bytes_each: int) -> tuple[int, int]:
    """(processes, threads of each) for so many pieces at work: no more than torch has threads and memory holds.

    They depend on all pieces, not on those still missing, so that what is continued is computed as it was begun.
    """
    budget = torch.get_num_threads()
    processes = max(1, min(pieces, budget, memory_bytes() // bytes_each))
    return processes, budget // processes


@dataclass
class _Shared:
    next: "Synchronized[int]"
    done: "SynchronizedArray[int]"
    errors: "SimpleQueue[BaseException]"


def work_side_by_side(pieces: Sequence[Piece], *, processes: int, threads: int, progress: Report) -> None:
    """Do all pieces, `processes` at a time; `progress` is told the sum of what they report.

    The first error ends the others as SIGTERM does, and is raised here. So does Ctrl-C or SIGTERM, which then raises
    KeyboardInterrupt; a second Ctrl-C ends them at once. However this process ends, they end with it.

    Raises ChildProcessError when a process dies.
    """
    shared = _Shared(_SPAWN.Value("q", 0), _SPAWN.Array("q", max(len(pieces), 1)), _SPAWN.SimpleQueue())
    workers = [
        _SPAWN.Process(target=_work, args=(list(pieces), threads, shared)) for _ in range(min(processes, len(pieces)))
    ]
    with gentle_stop() as stop:
        try:
            with _without_main():
                for worker in workers:
                    worker.start()
            told, errors = False, []
            while alive := [worker for worker in workers if worker.is_alive()]:
                connection.wait([worker.sentinel for worker in alive], timeout=LOOK_SECONDS)
                progress(sum(shared.done[:]))
                errors += _drained(shared.errors)  # a full pipe would hold up whoever reports
                if not told and (stop.requested or any(worker.exitcode for worker in workers)):
                    told = True
                    for worker in alive:
                        worker.terminate()
        except BaseException:
            for worker in workers:
                with suppress(AttributeError):  # it has not begun
                    worker.kill()
            raise
    if errors := [*errors, *_drained(shared.errors)]:
        raise errors[0]
    if stop.requested:
        raise KeyboardInterrupt
    for worker in workers:
        if worker.exitcode:
            raise ChildProcessError(
                f"one of {len(workers)} processes was ended (exit code {worker.exitcode}), of too little memory as a "
                "rule; OMP_NUM_THREADS=1 works on one piece at a time, and the same command continues"
            )


def _drained(queue: "SimpleQueue[BaseException]") -> list[BaseException]:
    found = []
    while not queue.empty():
        found.append(queue.get())
    return found


@contextmanager
def _without_main() -> Iterator[None]:
    """New processes would import the program's main module: a script without `if __name__ == "__main__"` would run
    once more in each of them. The pieces do not need it."""
    main = sys.modules["__main__"]
    hidden = [(name, getattr(main, name)) for name in ("__spec__", "__file__") if hasattr(main, name)]
    for name, _ in hidden:
        setattr(main, name, None)
    try:
        yield
    finally:
        for name, value in hidden:
            setattr(main, name, value)


def _work(pieces: list[Piece], threads: int, shared: _Shared) -> None:
    """One process: takes the next piece until there is none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal tells everybody; the parent passes it on as SIGTERM
    interrupt_on_sigterm()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.formatwarning = one_line_warning
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    try:
        while (index := _take(shared)) < len(pieces):
            pieces[index](partial(shared.done.__setitem__, index))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGTERM)
    except BaseException as error:
        shared.errors.put(_portable(error))
        sys.exit(1)


def _take(shared: _Shared) -> int:
    with shared.next.get_lock():
        shared.next.value += 1
        return shared.next.value - 1


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    _exit(1)


def _portable(error: BaseException) -> BaseException:
    """What the parent can raise again; where it came from is in its notes."""
    with suppress(Exception):
        error.add_note("In another process:\n" + "".join(traceback.format_exception(error)))
        copy = pickle.loads(pickle.dumps(error))
        if type(copy) is type(error):
            return error
    return RuntimeError("".join(traceback.format_exception(error)))
