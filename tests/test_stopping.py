"""Laws of stopping: the first signal lets the step finish, a second Ctrl-C does not, and handlers are put back."""

import os
import signal
import threading
import time

import pytest

from fastsynth.stopping import AGAIN_SECONDS, SIGNALS, gentle_stop, interrupt_on_sigterm


@pytest.fixture(autouse=True)
def usual_handler():
    """A shell that starts the tests in the background has told them to ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_nothing_is_interrupted(number, capfd):
    with gentle_stop() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)  # what a launcher passes on
    assert "stopping after this step" in capfd.readouterr().err


def test_a_second_ctrl_c_stops_at_once():
    with gentle_stop():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(AGAIN_SECONDS + 0.05)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_put_back_and_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        handlers = [signal.getsignal(number) for number in SIGNALS]
        with gentle_stop() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert not stop.requested
        assert [signal.getsignal(number) for number in SIGNALS] == handlers
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_nothing_changes():
    seen = []

    def work():
        with gentle_stop() as stop:
            seen.append((stop.requested, [signal.getsignal(number) for number in SIGNALS]))

    handlers = [signal.getsignal(number) for number in SIGNALS]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, handlers)]


def test_sigterm_is_what_ctrl_c_is():
    before = signal.getsignal(signal.SIGTERM)
    try:
        interrupt_on_sigterm()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
