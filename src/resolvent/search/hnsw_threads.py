"""Threads of an index: kernels that release the interpreter, side by side, and one writer among readers."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def thread_count(threads: int | None) -> int:
    """Threads to use: those asked for, or as many as torch uses and the machine has."""
    if threads is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, min(torch.get_num_threads(), cores))
    if isinstance(threads, bool) or not isinstance(threads, int | np.integer) or threads < 1:
        raise ValueError(f"threads must be a positive integer or None, got {threads!r}")
    return int(threads)


def in_threads(work: Callable[..., Any], parts: Iterable[Any], threads: int) -> list[Any]:
    """[work(part) for part in parts], on so many threads; the caller's own if it is one."""
    parts = list(parts)
    if threads == 1 or len(parts) < 2:
        return [work(part) for part in parts]
    return list(_pool(threads).map(work, parts))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="resolvent-search")


def spans(n: int, parts: int) -> list[np.ndarray]:
    """0..n-1 cut into at most so many ranges of nearly equal length."""
    if parts <= 1 or n <= 1:
        return [np.array([0, n])]
    ends = np.linspace(0, n, min(max(parts, 1), max(n, 1)) + 1).astype(np.int64)
    return [ends[i : i + 2] for i in range(len(ends) - 1)]


class Gate:
    """Any number of readers, or one writer.

    Examples
    --------
    >>> gate = Gate()
    >>> with gate.reading(), gate.reading():
    ...     pass
    >>> with gate.writing():
    ...     pass
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._readers = 0
        self._writer = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        with self._condition:
            self._condition.wait_for(lambda: not self._writer)
            self._readers += 1
        try:
            yield
        finally:
            with self._condition:
                self._readers -= 1
                self._condition.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        with self._condition:
            self._condition.wait_for(lambda: not self._writer)
            self._writer = True
            self._condition.wait_for(lambda: not self._readers)
        try:
            yield
        finally:
            with self._condition:
                self._writer = False
                self._condition.notify_all()
