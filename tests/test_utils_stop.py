"""Stopping: at once where nothing is in hand, after saving where something is."""

import os
import signal
import threading

import pytest

from utils.stop import StoppedError, StopSignals

SIGNALS = [signal.SIGTERM, signal.SIGINT]


def send(number):
    os.kill(os.getpid(), number)


def work(signals, reached):
    """Have work in hand while these signals come; note in `reached` what was seen after each."""
    with StopSignals() as stop, stop.noted():
        for number in signals:
            send(number)
            reached.append(stop.received)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_while_work_is_in_hand(number):
    reached = []
    with pytest.raises(StoppedError, match="--resume") as raised:
        work([number], reached)
    assert reached == [number]
    assert raised.value.exit_status == 128 + number


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_acts_at_once(number):
    reached = []
    with pytest.raises(StoppedError, match="at once"):
        work([number, number], reached)
    assert reached == [number]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_acts_at_once_where_nothing_is_in_hand(number):
    with StopSignals() as stop:
        with pytest.raises(StoppedError):
            send(number)
        with pytest.raises(StoppedError), stop.noted():
            pass  # work that begins all the same, in spite of the signal, is stopped again


def test_an_error_of_the_work_is_not_hidden():
    class Failing(list):
        def append(self, _):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work([signal.SIGTERM], Failing())


def test_handlers_come_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopSignals():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_another_thread_leaves_signals_alone():
    before, seen = [signal.getsignal(number) for number in SIGNALS], []

    def work_there():
        with StopSignals() as stop, stop.noted():
            seen.append([signal.getsignal(number) for number in SIGNALS])

    thread = threading.Thread(target=work_there)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_signal_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        reached = []
        work([signal.SIGHUP], reached)
        assert reached == [0]
    finally:
        signal.signal(signal.SIGHUP, before)
