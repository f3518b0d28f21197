"""A start that is refused says why in one line, not in a traceback, and ends with exit code 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.parametrize("level", ["info", "debug"])
def test_a_worker_without_a_broker(level: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "faust", "-A", "tests.cluster.small_app", "worker", "-l", level, "--without-web"]
    environment = os.environ | {"ROOKERY_BROKER": "127.0.0.1:1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    text = done.stdout + done.stderr
    assert done.returncode == 2, text
    assert "no Kafka answers at 127.0.0.1:1" in text
    assert "ROOKERY_BROKER=host:port" in text
    assert ("Traceback" in text) is (level == "debug")
