"""Errors of commands and the filter of TensorFlow's log messages."""
from __future__ import annotations

import os
import signal
import threading

import pytest

from mrcnn_tf.cli.command import deferred_end
from mrcnn_tf.training.callbacks import StoppedBySignal, TrainingError
from tests.cli.runner import Recorder, mrcnn, python


@pytest.mark.parametrize(('error', 'line', 'code'), [
    (TrainingError('step 7: loss is nan; lower\nsolver.learning_rate'),
     r'error: step 7: loss is nan; lower\nsolver.learning_rate', 1),
    (OSError(28, 'No space left on device', '/full/disk'), 'error: /full/disk: No space left on device', 1),
    (FileExistsError('saved/1: a directory of this name exists'), 'error: saved/1: a directory of this name exists', 1),
    (StoppedBySignal('stopped by SIGTERM'), 'error: stopped by SIGTERM', 75),
    (KeyboardInterrupt(), 'interrupted', 130)], ids=['ours', 'system', 'file', 'saved after a signal', 'ctrl-c'])
def test_an_error_that_the_user_can_fix_is_one_line(
        error: BaseException, line: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mrcnn_tf.training.trainer.train', Recorder(error=error))
    result = mrcnn('train', 'base')
    assert (result.exit_code, result.stderr) == (code, f'mrcnn: {line}\n')


@pytest.mark.parametrize('error', [ValueError('shapes differ'), TypeError('no float'), RuntimeError('x')], ids=repr)
def test_a_defect_keeps_its_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mrcnn_tf.training.trainer.train', Recorder(error=error))
    result = mrcnn('train', 'base')
    assert result.exception is error and result.stderr == ''


NOISE = """
W0000 00:00:1795396227.898610   16053 op_level_cost_estimator.cc:699] Error in PredictCost() for the op
2026-11-23 01:11:53.184821: E external/local_xla/xla/cuda_blas.cc:1515] Unable to register cuBLAS factory
E0000 00:00:1795396309.677255   19003 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
2026-11-23 01:11:53.1: I tensorflow/core/platform/cpu_feature_guard.cc:182] This binary is optimized
E0000 00:00:1795395996.34   8513 base_collective_executor.cc:252] BaseCollectiveExecutor::StartAbort UNAVAILABLE:
Additional GRPC error information from remote target /job:worker/replica:0/task:0 while calling /tensorflow.Worker:
:UNKNOWN:Error received from peer  {grpc_status:14, grpc_message:"recvmsg:Connection reset by peer"}
The error could be from a previous operation. Restart your program to reset.
\t [[{{node sgd/CollectiveReduceV2}}]] [type.googleapis.com/tensorflow.DerivedStatus='']
""".strip()
KEPT = 'F0000 00:00:1.2 3 x.cc:4] Check failed\nW0000 is not always a log line\n2026-11-23: a date\nno last newline'


@pytest.mark.parametrize('end', ['', 'os.abort()', '1 / 0'], ids=['success', 'abort', 'exception'])
def test_only_log_messages_of_tensorflow_are_dropped(end: str) -> None:
    code = ('import os, sys; from mrcnn_tf.cli import command\nwith command.quiet_tensorflow():\n'
            '    print("from python", file=sys.stderr)\n    os.write(2, sys.argv[1].encode())\n    ' + (end or 'pass'))
    result = python(code, f'{NOISE}\n{KEPT}' + ('\n' if end else ''))
    assert result.returncode == {'': 0, 'os.abort()': -signal.SIGABRT, '1 / 0': 1}[end]
    printed = result.stderr.splitlines()
    assert {*KEPT.splitlines(), 'from python'} <= set(printed) and not set(printed) & set(NOISE.splitlines())
    assert bool(end) or len(printed) == 5    # an abort or a traceback adds lines
    assert ('ZeroDivisionError: division by zero' in printed) == (end == '1 / 0')


def test_a_helper_process_that_is_still_running_does_not_block_the_command() -> None:
    # As the resource tracker of multiprocessing, which inherits stderr.
    result = python("""if True:
        import subprocess, sys, time
        from mrcnn_tf.cli.command import quiet_tensorflow
        start = time.monotonic()
        with quiet_tensorflow():
            helper = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], stdout=subprocess.DEVNULL)
            subprocess.run([sys.executable, '-c', 'import os; os.write(2, b"last words")'])
        took = time.monotonic() - start
        helper.kill()
        assert took < 30, took""")
    assert (result.returncode, result.stderr) == (0, 'last words')


def test_the_filter_is_off_if_the_user_sets_the_log_level() -> None:
    code = ('import os; from mrcnn_tf.cli import command\n'
            'with command.quiet_tensorflow(): os.write(2, b"W0000 00:00:1 3 x] y")')
    assert python(code, TF_CPP_MIN_LOG_LEVEL='0').stderr == 'W0000 00:00:1 3 x] y'


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT], ids=['SIGTERM', 'Ctrl-C'])
def test_a_signal_ends_the_wait_and_nothing_else(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with deferred_end() as wait:
        threading.Timer(.2, os.kill, (os.getpid(), number)).start()
        wait()
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
