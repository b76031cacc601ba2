import os
import signal

import pytest

from trainer.interrupt import StopRequest


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
