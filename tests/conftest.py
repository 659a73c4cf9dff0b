"""What every test starts from: few threads, fixed seeds."""

from __future__ import annotations

import os

# The workers of pytest-xdist share the cores: with a full pool of threads each they would only push one another out.
# It has to be said before torch, NumPy and Numba are loaded.
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, "1")

import random

import numpy as np
import pytest
import torch

# A script of its own extra: it instruments what it imports.
collect_ignore = ["search/fuzz_readers.py"]


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (what a peer package draws comes from the global state)
    torch.manual_seed(0)
