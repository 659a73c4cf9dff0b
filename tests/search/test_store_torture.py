"""`kill -9` at random moments: RESOLVENT_TORTURE=1000 (``make torture``) makes it long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = int(os.environ.get("RESOLVENT_TORTURE", "100"))


@pytest.mark.skipif(not hasattr(os, "fork") or not hasattr(signal, "SIGKILL"), reason="needs fork and SIGKILL")
def test_nothing_is_lost_and_nothing_half_there(tmp_path):
    script = Path(__file__).with_name("torture.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path / "t"), "--kills", str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120 + 5 * KILLS)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing lost" in done.stdout
