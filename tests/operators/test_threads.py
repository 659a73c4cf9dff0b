"""The threads of torch stay as the user has set them, whatever kernels run."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import torch
{ask}
before = torch.get_num_threads()
from resolvent.operators import Sparse
from resolvent.operators.gram import gram_vector
import scipy.sparse as sp

A = sp.random_array((3000, 3000), density=0.02, format="csr", random_state=0)
Sparse(A) @ torch.ones(3000, 4, dtype=torch.float64)
gram_vector(torch.ones(600, 500), torch.ones(500))
import numba

assert numba.threading_layer()
assert torch.get_num_threads() == before == 1, (torch.get_num_threads(), before)
"""


@pytest.mark.parametrize(("ask", "threads"), [("", "1"), ("torch.set_num_threads(1)", "2")])
def test_kernels_leave_the_threads_of_torch(ask, threads):
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    environment.pop("NUMBA_NUM_THREADS", None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(ask=ask)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
