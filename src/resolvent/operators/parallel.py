"""Numba for kernels that run on several threads, without its effect on the threads of torch.

Numba and torch share one OpenMP runtime. When Numba starts its threads, with the first parallel kernel of a process, it sets the
number of threads of whoever called it: a program that asked torch for one thread would find it on all of them from then on.
Files with parallel kernels import Numba's names from here.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import numba
from numba import get_num_threads, njit, prange
from numba.np.ufunc import parallel

from resolvent.operators.threads import set_threads

__all__ = ["get_num_threads", "njit", "numba", "prange"]


def _keep_threads(launch: Any) -> Any:
    # Under its own name and module, since kernels that Numba keeps on disk refer to it by them.
    @functools.wraps(launch)
    def launch_threads() -> None:
        torch = sys.modules["torch"]
        before = torch.get_num_threads()
        launch()
        if torch.get_num_threads() != before:
            set_threads(before)

    return launch_threads


if not hasattr(parallel._launch_threads, "__wrapped__"):
    parallel._launch_threads = _keep_threads(parallel._launch_threads)
