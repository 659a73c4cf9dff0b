"""Timing that is fair on a noisy machine: interleaved medians, and the machine's own limits beside them.

Every benchmark script here prints one table. The competitors run in turn (ours, scipy, torch, ours, scipy, ...), so
that a slow second hits all of them, and the median of each is reported. `machine()` says what the hardware can do.
"""

from __future__ import annotations

import functools
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

_PAUSE = 0.1


def interleaved(callables: Mapping[str, Callable[[], object]], repeats: int = 7, warmup: int = 1) -> dict[str, float]:
    """Median seconds of each callable, run in turn `repeats` times after `warmup` untimed rounds."""
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else _nothing
    times: dict[str, list[float]] = {name: [] for name in callables}
    for round_ in range(warmup + repeats):
        for name, function in callables.items():
            synchronize()
            # The threads of one library spin on for a while after its last call, in the way of the next library's.
            time.sleep(_PAUSE)
            start = time.perf_counter()
            result = function()
            synchronize()
            elapsed = time.perf_counter() - start
            del result
            if round_ >= warmup:
                times[name].append(elapsed)
    return {name: statistics.median(values) for name, values in times.items()}


def _nothing() -> None:
    return None


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


@functools.cache
def stream() -> dict[str, float]:
    """Bytes per second of three long loops over both cores: `sum` (reads), `copy` (read, write) and `triad`.

    Bytes are counted as in STREAM: what the loop names, without the read that a write to an uncached line costs.
    """
    import numba

    @numba.njit(parallel=True, fastmath=True)
    def total(a):
        s = 0.0
        for i in numba.prange(a.size):
            s += a[i]
        return s

    @numba.njit(parallel=True, fastmath=True)
    def copy(a, b):
        for i in numba.prange(a.size):
            b[i] = a[i]

    @numba.njit(parallel=True, fastmath=True)
    def triad(a, b, c):
        for i in numba.prange(a.size):
            c[i] = a[i] + 3.0 * b[i]

    n = 8_000_000
    a, b, c = np.ones(n), np.ones(n), np.ones(n)
    seconds = interleaved(
        {"sum": lambda: total(a), "copy": lambda: copy(a, b), "triad": lambda: triad(a, b, c)}, repeats=9, warmup=2
    )
    words = {"sum": 1, "copy": 2, "triad": 3}
    return {name: 8.0 * n * words[name] / seconds[name] for name in words}


@functools.cache
def gemm(dtype: torch.dtype = torch.float64) -> float:
    """Flops per second of a 1500 x 1500 matrix product."""
    n = 1500
    a = torch.ones(n, n, dtype=dtype)
    return 2.0 * n**3 / interleaved({"gemm": lambda: a @ a}, repeats=5)["gemm"]


@functools.cache
def machine() -> str:
    """One line: cores, stream bandwidth, gemm speed."""
    rates = stream()
    gigabytes = ", ".join(f"{name} {rate / 1e9:.1f}" for name, rate in rates.items())
    return (
        f"{platform.machine()}, {cores()} cores, {torch.get_num_threads()} torch threads; stream GB/s: {gigabytes}; "
        f"gemm Gflop/s: float64 {gemm(torch.float64) / 1e9:.0f}, float32 {gemm(torch.float32) / 1e9:.0f}"
    )


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print one table (rich on a terminal, aligned plain text into a file); floats get three significant digits."""
    text = [[_cell(value) for value in row] for row in rows]
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        console = None
    else:
        console = Console()
    if console is not None and console.is_terminal:
        shown = Table(*header, title=title)
        for row in text:
            shown.add_row(*row)
        console.print(shown)
        return
    widths = [max(len(line[j]) for line in [list(header), *text]) for j in range(len(header))]
    print(title)
    for line in [list(header), *text]:
        print("  ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)).rstrip())
    print()


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
