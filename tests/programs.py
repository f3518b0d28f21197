"""Our programs as processes of their own, forked from a server that has imported what they all need.

Importing it took half of the processor time of `make test`. What is forked is a process like any other, with its own
variables, folder, output and signals, and runs the same module as `python -m` would. Chaos, examples, measurements and
the tests of the house start interpreters, as users do.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from unittest import mock

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["faust.cli.faust", "faust.cli.worker", "rookery.streams.kafka.app"])
# Starting and polling read the same pipes, and some tests wait in a thread.
_LOCK = threading.Lock()
_PR_SET_PDEATHSIG = 1


class Program:
    """A running `python -m <words>`, with the methods of a `subprocess.Popen`; both outputs go to the file `log`."""

    def __init__(self, *words: str, cwd: Path, env: Mapping[str, str], log: Path, errors: Path | None = None) -> None:
        self.log = log
        self._words = words
        arguments = (words, str(cwd), dict(env), str(log), str(errors or log))
        self._process = _FORKS.Process(target=_main, args=arguments, daemon=True)
        # Else the child would import the program that runs the tests.
        with _LOCK, mock.patch.dict(sys.modules, {"__main__": ModuleType("__main__")}):
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs, the negative number of the signal that ended it."""
        with _LOCK:
            return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Nothing happens once it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 300.0) -> int:
        """Its exit code; raises subprocess.TimeoutExpired."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self._words, timeout)
            time.sleep(0.01)
        return code


def run(*words: str, cwd: Path, env: Mapping[str, str], timeout: float = 180.0) -> subprocess.CompletedProcess[str]:
    """Run `python -m <words>` to its end; raises subprocess.TimeoutExpired, having killed it."""
    with tempfile.TemporaryDirectory() as folder:
        out, errors = Path(folder, "out"), Path(folder, "errors")
        program = Program(*words, cwd=cwd, env=env, log=out, errors=errors)
        try:
            code = program.wait(timeout)
        finally:
            program.kill()
        return subprocess.CompletedProcess(words, code, out.read_text(), errors.read_text())


def _main(words: tuple[str, ...], cwd: str, env: dict[str, str], log: str, errors: str) -> None:
    """In the child: become that program."""
    if sys.platform == "linux":  # the server ends with the tests
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for number, path in ((1, log), (2, errors)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[:0] = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = list(words)
    # faust puts a module without a spec in its own place once it is imported.
    module = "faust.__main__" if words[0] == "faust" else words[0]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
