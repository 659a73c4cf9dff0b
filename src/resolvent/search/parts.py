"""Kernels over many queries on several threads of Python."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import torch

# Queries that keep a core busy for longer than it takes to wake another.
_PER_THREAD = 16


def in_parts(kernel: Any, queries: int, *arguments: Any) -> None:
    """Run ``kernel(*arguments, begin, end)`` over all queries, a range of them on each of torch's threads.

    Threads of Python, as the kernels hold no lock: few queries wake nobody, and several callers do not get into each
    other's way, as they would in one team of OpenMP.
    """
    parts = min(torch.get_num_threads(), queries // _PER_THREAD)
    if parts <= 1:
        kernel(*arguments, 0, queries)
        return
    ends = [queries * part // parts for part in range(parts + 1)]
    pool = _threads(parts)
    jobs = [pool.submit(kernel, *(*arguments, a, b)) for a, b in pairwise(ends)]
    for job in jobs:
        job.result()


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="resolvent-search")
