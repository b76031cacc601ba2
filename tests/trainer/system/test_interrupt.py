import os
import signal
import threading
import time

import pytest

from trainer.system import interrupt
from trainer.system.interrupt import StopRequest, deferred


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_kept(number, capfd):
    before = signal.getsignal(number)
    with StopRequest() as request:
        assert request.signal_number is None
        os.kill(os.getpid(), number)
        assert request.signal_number == number
    assert signal.getsignal(number) is before
    assert "stopping after this step" in capfd.readouterr().err


def test_the_second_ctrl_c_stops_at_once():
    with StopRequest(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_nobody_listening_is_no_failure(monkeypatch):
    def closed(*_):
        raise BrokenPipeError

    with StopRequest() as request:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", closed)
            os.kill(os.getpid(), signal.SIGTERM)
        assert request.signal_number == signal.SIGTERM


def test_a_signal_that_the_shell_ignores_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as request:
            os.kill(os.getpid(), signal.SIGINT)
            assert request.signal_number is None
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_it_is_asked():
    begun, found, handlers = threading.Event(), [], [signal.getsignal(number) for number in interrupt.SIGNALS]

    def train():
        with StopRequest() as request:
            found.append(request)
            begun.set()
            while request.signal_number is None:
                time.sleep(0.001)
            with deferred():
                found.append("saved")

    thread = threading.Thread(target=train)
    thread.start()
    assert begun.wait(900)
    assert [signal.getsignal(number) for number in interrupt.SIGNALS] == handlers
    found[0].ask()
    thread.join(900)
    assert found[0].signal_number == signal.SIGTERM
    assert found[1:] == ["saved"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_deferred_signal_comes_afterwards(number):
    with StopRequest() as request:
        with deferred():
            os.kill(os.getpid(), number)
            assert request.signal_number is None
        assert request.signal_number == number


def test_without_a_request_it_comes_afterwards_too():
    done = []
    with pytest.raises(KeyboardInterrupt):  # noqa: SIM117 - the order is what is tested
        with deferred():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("the whole")
    assert done == ["the whole"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
