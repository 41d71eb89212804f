from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from entropy_sim.errors import UserError
from nn_experiments.workers import Workers, cores, memory_errors, one_thread

#: A module that worker processes can import (this one they cannot, under pytest's importlib mode).
MODULE = """
import os, signal
import torch
from entropy_sim.errors import UserError
from nn_experiments.objective import generator

def work(seed):
    # the rounding of the product depends on the number of threads
    x = torch.randn(300, 300, generator=generator(seed))
    return float((x @ x).sum()), torch.get_num_threads(), os.getpid()

def fail(value):
    if value == 1:
        raise UserError("value: expected anything else, found 1")
    return value

def lock(_):
    from tqdm import tqdm
    tqdm(disable=True)
    return type(tqdm.get_lock()).__name__

def die(_):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def units_of_work(tmp_path, monkeypatch):
    (tmp_path / "units_of_work.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("units_of_work")
    sys.modules.pop("units_of_work")


def test_processes_do_not_change_results(units_of_work):
    work, fail, die = units_of_work.work, units_of_work.fail, units_of_work.die
    units = list(range(6))
    alone = Workers(1).map(work, units)
    with Workers(2) as workers:
        workers.start()
        pool = workers._executor
        together = workers.map(work, units, "units")
        again = workers.map(work, units[:2])
        assert workers._executor is pool  # one pool for both, whichever of its processes did the work
        with pytest.raises(UserError, match="value: expected anything else, found 1"):
            workers.map(fail, [0, 1, 2, 3])
        assert workers.map(fail, [5, 6]) == [5, 6]  # a new pool after the failure
        with pytest.raises(UserError, match="found one that died"):
            workers.map(die, [0, 1])
    assert [r[0] for r in together] == [r[0] for r in alone]
    assert [r[0] for r in again] == [r[0] for r in alone[:2]]
    assert {r[1] for r in (*alone, *together)} == {1}
    processes = {r[2] for r in together}
    assert os.getpid() not in processes
    assert {r[2] for r in alone} == {os.getpid()}


def test_in_process(units_of_work):
    fail = units_of_work.fail
    workers = Workers(1)
    assert workers.map(fail, [3, 2]) == [3, 2]
    with pytest.raises(UserError, match="value: expected anything else, found 1"):
        workers.map(fail, [1])
    assert workers.map(fail, []) == []


def test_threads_are_put_back():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_number_of_processes():
    assert Workers().processes == cores() >= 1
    with pytest.raises(UserError, match="processes: expected a number >= 1, found 0"):
        Workers(0)


SCRIPT = """
import os, sys, time
from nn_experiments.workers import Workers

def slow(unit):
    print("pid", os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    try:
        with Workers(2) as workers:
            workers.map(slow, [0, 1])
    except KeyboardInterrupt:
        print("stopped", flush=True)
        sys.exit(130)
"""


def _alive(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks processes up in /proc")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_the_program(tmp_path, end):
    script = tmp_path / "program.py"
    script.write_text(SCRIPT)
    program = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # What a shell starts in the background ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert program.stdout is not None
    children = [int(program.stdout.readline().split()[1]) for _ in range(2)]
    if end == signal.SIGINT:
        os.killpg(program.pid, end)  # as a terminal does: the whole group
        out, errors = program.communicate(timeout=20)
        assert "stopped" in out
        assert "Traceback" not in errors
        assert program.returncode == 130
    else:
        program.kill()
        program.wait(timeout=20)
    deadline = time.monotonic() + 20
    while any(map(_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(_alive, children))


def test_bars_of_workers_take_no_semaphore(units_of_work):
    """A killed worker would leave it behind, and Python a warning about it beside the one line of an error."""
    with Workers(2) as workers:
        assert workers.map(units_of_work.lock, [0, 1]) == ["RLock", "RLock"]


def test_only_a_lack_of_memory_becomes_a_line_about_memory() -> None:
    texts = (
        "[x] can't allocate memory: you",
        "CUDA error: out of memory\nCUDA kernel errors might be",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    )
    for error in (torch.OutOfMemoryError("CUDA out of memory. Tried"), *map(RuntimeError, texts), MemoryError()):
        message = "memory: expected enough of it, found .*; lower profile.chunk"
        with pytest.raises(UserError, match=message), memory_errors("profile.chunk"):
            raise error
    with pytest.raises(RuntimeError, match="^shapes$"), memory_errors("profile.chunk"):
        raise RuntimeError("shapes")
    with pytest.raises(RuntimeError, match="^CUDA error: invalid device ordinal$"), memory_errors("profile.chunk"):
        raise RuntimeError("CUDA error: invalid device ordinal")
    with pytest.raises(UserError, match="^chunk: too much memory$"), memory_errors("profile.chunk"):
        raise UserError("chunk: too much memory")
