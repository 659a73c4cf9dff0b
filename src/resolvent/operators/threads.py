"""One thread for work that comes in thousands of small pieces."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch


@cache
def _runtime() -> ctypes.CDLL | None:
    """OpenMP and MKL as torch itself has loaded them, where they can be reached."""
    lib = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        runtime = ctypes.CDLL(str(lib))
        found = runtime.omp_set_num_threads and runtime.MKL_Set_Num_Threads_Local
    except (OSError, AttributeError):
        return None
    return runtime if found else None


def set_threads(count: int) -> None:
    """Set the threads of torch for the calling thread, below torch where that is possible (see `one_thread`).

    Parameters
    ----------
    count : how many

    Examples
    --------
    >>> set_threads(torch.get_num_threads())
    """
    runtime = _runtime()
    if runtime is None:
        torch.set_num_threads(count)
    else:
        runtime.omp_set_num_threads(count)


@contextmanager
def one_thread(when: bool = True) -> Iterator[None]:
    """Torch on one thread inside the context.

    A second thread gains nothing on a few thousand numbers, and the two wait for each other at the end of every piece:
    ten times as long as the piece as soon as another process wants a core.

    After `torch.set_num_threads`, MKL no longer notices that torch calls it from several threads, and LU
    factorisations of batches go wrong (see `resolvent.operators.lu`). So the threads are set below torch where that
    is possible, which leaves MKL as it was.

    Parameters
    ----------
    when : False changes nothing

    Examples
    --------
    >>> with one_thread():
    ...     torch.get_num_threads()
    1
    """
    if not when:
        yield
        return
    runtime, threads = _runtime(), torch.get_num_threads()
    set_threads(1)
    local = None if runtime is None else runtime.MKL_Set_Num_Threads_Local(1)
    try:
        yield
    finally:
        set_threads(threads)
        if runtime is not None:
            runtime.MKL_Set_Num_Threads_Local(local)
