"""`report`: read a checkpoint, an array or a sparse matrix one tensor at a time and measure what is in it."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from resolvent.report.compare import Comparison, compare, findings_of_changes, name_matches
from resolvent.report.document import Report, Row
from resolvent.report.embedding import embedding_of, is_embedding
from resolvent.report.facts import facts_of
from resolvent.report.findings import SEVERITIES, Finding, find
from resolvent.report.layout import Layout, Part, not_a_matrix
from resolvent.report.measure import measured
from resolvent.report.readers import stored_state, stored_tensors
from resolvent.report.sparse_facts import sparse_facts_of
from resolvent.report.spectrum import NotFiniteError
from resolvent.report.stored import Stored, check_memory, sentence

Source = str | os.PathLike[str] | Mapping[str, Any] | torch.nn.Module
Progress = Callable[[str, int, int], None]


def report(
    source: Source,
    other: Source | None = None,
    *,
    quick: bool = False,
    only: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Measure every matrix of a file, a state dict or a module, one tensor at a time, and say what is odd.

    Parameters
    ----------
    source : path of a .safetensors file, a folder or an index of shards, .pt, .pth, .npy, .npz, Matrix Market .mtx, .csv,
        .parquet or an edge list; the directory of an index of `resolvent.search`; or a state dict, or a module
    other : a second one to compare it with, of the same kinds
    quick : no bootstrap of the tails and no shuffled spectra; of matrices with a shorter side of 1024 or more only the
        norms, stable rank and participation ratio, which need no spectrum
    only : measure the tensors whose name matches this pattern (`fnmatch`; several with commas)
    progress : called with the name of the tensor that is next, how many entries are done, and how many there are

    Returns
    -------
    Report

    Raises
    ------
    ValueError : a file is missing, empty, truncated, of an unknown kind, or its header is wrong; `only` matches nothing.
    OSError : the system does not let us read it.
    TypeError : `source` is none of these.

    Notes
    -----
    Fused and grouped weights are measured part by part, kernels as (out, everything else), tied weights once, LoRA
    pairs and the halves of weight-normalised layers as their product; each says so in its notes. A tensor that cannot be measured is a row with its reason, and the
    rest goes on. Memory is one tensor, a float64 block of it and its smaller Gram matrix (two tensors in a comparison).
    Shuffles, samples and bootstraps have a fixed seed.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/a.npz", weight=np.diag([3.0, 4.0]), bias=np.zeros(3))
    ...     result = report(f"{folder}/a.npz")
    >>> result["weight"].measured.frobenius_norm, result["bias"].reason
    (5.0, 'it has one axis (a vector)')
    """
    began = time.perf_counter()
    rows: list[Row] = []
    with _opened(source, "source") as every, _opened(other, "other") as second:
        layout = Layout(every)
        tensors = [stored for stored in every if only is None or name_matches(stored.name, only)]
        if only is not None and not tensors:
            raise ValueError(f"only={only!r} matches none of the {len(every)} tensors; the first is {every[0].name!r}")
        sizes = [_size(stored) for stored in tensors]
        done, total = 0, sum(sizes)
        for stored, size in zip(tensors, sizes, strict=True):
            if progress is not None:
                progress(stored.name, done, total)
            rows.extend(_rows(stored, layout, quick, only))
            done += size
        comparison: Comparison | None = None
        changes: tuple[Finding, ...] = ()
        if other is not None:
            comparison = compare(every, second, only=only, progress=progress)
            changes = findings_of_changes(comparison)
        if progress is not None:
            progress("", total, total)
    return Report(
        _label(source),
        tuple(rows),
        quick,
        time.perf_counter() - began,
        findings=_sorted((*find(rows), *changes)),
        only=only,
        left_out=len(every) - len(tensors),
        file2=None if other is None else _label(other),
        comparison=comparison,
    )


def _sorted(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: -SEVERITIES.index(finding.severity)))


def _opened(source: Source | None, name: str) -> AbstractContextManager[Sequence[Stored]]:
    if source is None:
        return nullcontext(())
    if isinstance(source, torch.nn.Module):
        return nullcontext(stored_state(source.state_dict()))
    if isinstance(source, Mapping):
        return nullcontext(stored_state(source))
    if isinstance(source, str | os.PathLike):
        return stored_tensors(source)
    raise TypeError(f"{name} must be a path, a state dict or a torch module, got {type(source).__name__}")


def _label(source: Source) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return "state dict" if isinstance(source, Mapping) else type(source).__name__


def _size(stored: Stored) -> int:
    size = 1
    for extent in stored.shape:
        size *= extent
    return size


def _rows(stored: Stored, layout: Layout, quick: bool, only: str | None) -> Iterator[Row]:
    """The rows of one tensor."""
    blank = Row(stored.name, stored.shape, stored.dtype, stored.shape)
    reason = stored.reason or not_a_matrix(stored)
    if reason:
        unreadable = bool(stored.reason) and stored.dtype == "unknown"
        yield dataclasses.replace(blank, status="failed" if unreadable else "skipped", reason=reason)
        return
    try:
        first = layout.tied(stored)
        if first is not None and (only is None or name_matches(first, only)):
            yield dataclasses.replace(blank, status="skipped", reason=f"it is tied to {first}, which is measured")
            return
        product = layout.factor_of(stored)
        if product is not None:
            yield dataclasses.replace(blank, status="skipped", reason=f"it is a factor of {product}, which is measured")
            return
        for part in layout.parts(stored, stored.load()):
            yield _row(blank, part, stored, quick)
    except (ValueError, OSError, MemoryError) as error:
        yield dataclasses.replace(blank, status="failed", reason=_why(error))


def _row(blank: Row, part: Part, stored: Stored, quick: bool) -> Row:
    matrix = part.matrix
    row = dataclasses.replace(
        blank,
        name=part.named(stored),
        shape=tuple(matrix.shape),
        read_as=part.read_as,
        notes=part.notes,
        facts=facts_of(matrix) if isinstance(matrix, Tensor) else None,
    )
    try:
        check_memory(8.0 * min(matrix.shape) ** 2, "its Gram matrix")
        quantities, curve = measured(matrix, quick=quick)
        embedding = sparse = None
        if isinstance(matrix, Tensor):
            if is_embedding(row.name, row.shape, stored.role):
                embedding = embedding_of(matrix, quick=quick, facts=row.facts)
        else:
            sparse = sparse_facts_of(matrix, quick=quick, graph=stored.role == "graph")
        return dataclasses.replace(row, measured=quantities, curve=curve, embedding=embedding, sparse=sparse)
    except (NotFiniteError, ValueError, ArithmeticError, MemoryError, RuntimeError) as error:
        return dataclasses.replace(row, status="failed", reason=_why(error))


def _why(error: BaseException) -> str:
    return "it does not fit in memory" if isinstance(error, MemoryError) else sentence(error)
