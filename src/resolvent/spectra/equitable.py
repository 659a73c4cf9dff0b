"""Equitable partitions: the small quotient of a matrix whose rows repeat, and the rest of its spectrum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import give_back, positions
from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.operators.elementary import Dense
from resolvent.operators.gradient import records
from resolvent.operators.operator import Operator
from resolvent.operators.sparse import Sparse
from resolvent.random import as_generator
from resolvent.spectra.uniform import uniform_blocks

# Cells beyond which a quotient saves nothing worth its bookkeeping of all pairs.
_MOST_CELLS = 1024


class Spectrum(NamedTuple):
    """Eigenvalues with their multiplicities: `values` (p,), descending, and `multiplicities` (p,), integers."""

    values: Any
    multiplicities: Any

    def energy(self) -> Any:
        """The sum of the absolute values of all eigenvalues."""
        total = (abs(self.values) * self.multiplicities).sum()
        return total if isinstance(total, Tensor) else float(total)

    def expanded(self) -> Any:
        """All eigenvalues (n,), each as often as it occurs."""
        if isinstance(self.values, Tensor):
            return self.values.repeat_interleave(self.multiplicities)
        return np.repeat(self.values, self.multiplicities)


def equitable_partition(A: OperatorLike) -> Any:
    """The coarsest partition in which rows of one cell have equal sums over each cell.

    Parameters
    ----------
    A : (n, n) Hermitian matrix, dense or sparse, or anything `as_operator` takes

    Returns
    -------
    (n,) integers of the kind of A: the cell of each row, cells numbered in the order of their first rows.

    Raises
    ------
    ValueError : A is not square, not Hermitian, or a batch.

    Notes
    -----
    Colour refinement: cells get random numbers, rows of one cell whose products with them differ are parted, until two
    rounds part none. One product and two sorts a round, as many rounds as there are refinements (at most n: paths take
    n / 2). Sums are compared up to 1e3 eps of the largest row sum of absolute values. There is no gradient.

    References
    ----------
    "On the Characteristic polynomial of ABS Matrix and ABS-Energy of Some Graphs"

    Examples
    --------
    >>> star = torch.zeros(4, 4)
    >>> star[0, 1:] = star[1:, 0] = 1
    >>> equitable_partition(star)
    tensor([0, 1, 1, 1])
    """
    M = _stored(A)
    with torch.no_grad():
        return give_back(_refined(M), M.kind)


def quotient_matrix(A: OperatorLike, partition: Any = "equitable") -> Any:
    """The quotient of a matrix by an equitable partition: ``B_ij`` is the sum over cell j of any row of cell i.

    Parameters
    ----------
    A : (n, n) Hermitian matrix, dense or sparse, or anything `as_operator` takes
    partition : (n,) integer labels, or a sequence of cells (sequences of row numbers); "equitable" finds
        the coarsest equitable one

    Returns
    -------
    (k, k) of the kind and dtype of A. Its eigenvalues are eigenvalues of A.

    Raises
    ------
    ValueError : A is not square, not Hermitian, or a batch; the partition does not fit, or is not equitable.

    Notes
    -----
    A product with the k indicators of the cells. Gradients flow to A, as to the mean of the rows of each cell.

    References
    ----------
    "On the Characteristic polynomial of ABS Matrix and ABS-Energy of Some Graphs"

    Examples
    --------
    >>> star = torch.zeros(4, 4)
    >>> star[0, 1:] = star[1:, 0] = 1
    >>> quotient_matrix(star, [[0], [1, 2, 3]])
    tensor([[0., 3.],
            [1., 0.]])
    """
    M = _stored(A)
    with torch.no_grad():
        labels, sizes = _cells(M, partition)
    return give_back(_row_sums(M, labels, sizes), M.kind)


def partitioned_spectrum(A: OperatorLike, partition: Any = "equitable") -> Spectrum:
    """All eigenvalues of a matrix by an equitable partition: those of the quotient, and the rest.

    Parameters
    ----------
    A : (n, n) Hermitian matrix, dense or sparse, or anything `as_operator` takes
    partition : (n,) integer labels, or a sequence of cells (sequences of row numbers); "equitable" finds
        the coarsest equitable one

    Returns
    -------
    Spectrum
        Of the kind and dtype of A; equal values from different cells are listed apart.

    Raises
    ------
    ValueError : A is not square, not Hermitian, or a batch; the partition does not fit, or is not equitable; a tensor
        that requires a gradient, as there is none.

    Notes
    -----
    The rest lives on vectors that add up to zero on every cell. There a block with equal entries is zero and a diagonal
    block ``c (J - I) + d I`` is ``d - c``, n_i - 1 times: one pass over the entries of A, and a k x k eigenproblem.
    Cells with other blocks are decomposed densely with their neighbours, after the quotient has been taken out.

    References
    ----------
    "On the Characteristic polynomial of ABS Matrix and ABS-Energy of Some Graphs"

    Examples
    --------
    >>> K = torch.ones(5, 5, dtype=torch.float64) - torch.eye(5, dtype=torch.float64)
    >>> values, often = partitioned_spectrum(K)
    >>> values.round(decimals=9), often
    (tensor([ 4., -1.], dtype=torch.float64), tensor([1, 4]))
    """
    M = _stored(A, check=False)
    if records(M):
        raise ValueError(
            "A requires a gradient, and a spectrum by a partition has none: detach it, or leave partition out"
        )
    with torch.no_grad():
        found, often = _split(M, partition)
    order = found.argsort(descending=True)
    values, counts = give_back(found[order], M.kind), give_back(often[order], M.kind)
    return Spectrum(values, counts)


def _stored(A: OperatorLike, check: bool = True) -> Dense | Sparse:
    M = as_operator(A, name="A")
    if M.shape[-1] != M.shape[-2]:
        raise ValueError(f"A must be square, got shape {tuple(M.shape)}")
    if check:
        M.check_hermitian("A")
    if M.batch_shape:
        raise ValueError(f"A must be one matrix, got a batch {tuple(M.batch_shape)}")
    if isinstance(M, Dense | Sparse):
        return M
    out = Dense(M._dense())
    out.kind = M.kind
    return out


def _refined(M: Operator) -> Tensor:
    n = M.shape[-1]
    labels = torch.zeros(n, dtype=torch.int64, device=M.device)
    if n == 0:
        return labels
    tolerance = 1e3 * torch.finfo(M.dtype).eps * _largest_row(M)
    g = as_generator(0, M.device)
    cells, quiet = 1, 0
    while quiet < 2 and cells < n:
        numbers = torch.rand(cells, generator=g, device=M.device, dtype=torch.float64)
        sums = M._matmul((0.5 + numbers)[labels].to(M.dtype)[:, None])[:, 0]
        for part in (sums.real, sums.imag) if sums.is_complex() else (sums,):
            # Sorted within each cell, a gap parts it.
            order = part.argsort(stable=True)
            order = order[labels[order].argsort(stable=True)]
            ordered, kept = part[order], labels[order]
            new = (ordered[1:] - ordered[:-1] > tolerance) | (kept[1:] != kept[:-1])
            labels[order[1:]] = new.cumsum(0)
            labels[order[0]] = 0
        before, cells = cells, int(labels.max()) + 1
        quiet = quiet + 1 if cells == before else 0
    return _by_first_row(labels)


def _by_first_row(labels: Tensor) -> Tensor:
    _, label = torch.unique(labels, return_inverse=True)
    n = len(labels)
    first = torch.full((int(label.max()) + 1,), n, device=labels.device)
    first.scatter_reduce_(0, label, torch.arange(n, device=labels.device), "amin")
    return first.argsort().argsort()[label]


def _largest_row(M: Operator) -> float:
    if isinstance(M, Sparse):
        sums = torch.zeros(M.shape[0], dtype=torch.float64, device=M.device)
        return float(sums.index_add_(0, M._pattern.rows.long(), M.values.detach().abs().double()).max())
    return float(torch.linalg.vector_norm(M._dense().detach(), 1, dim=1).max())


def _cells(M: Operator, partition: Any) -> tuple[Tensor, Tensor]:
    """The cell of each row and the sizes of the cells."""
    n = M.shape[-1]
    if n == 0:
        raise ValueError("A must have at least one row")
    if isinstance(partition, str):
        if partition != "equitable":
            raise ValueError(f"partition must be 'equitable', labels or cells, got {partition!r}")
        labels = _refined(M)
    elif isinstance(partition, Sequence) and partition and not isinstance(partition[0], int | np.integer):
        labels = torch.full((n,), -1, device=M.device)
        for number, cell in enumerate(partition):
            rows = positions(cell, n, "row", M.device)[0]
            if not len(rows) or bool((labels[rows] >= 0).any()) or len(rows.unique()) < len(rows):
                raise ValueError(f"partition: cell {number} is empty or has a row that was in a cell before")
            labels[rows] = number
        if bool((labels < 0).any()):
            raise ValueError(f"partition must have all {n} rows, row {int((labels < 0).nonzero()[0])} is in no cell")
    else:
        given = torch.as_tensor(partition, device=M.device)
        if given.shape != (n,) or given.is_floating_point() or given.is_complex():
            shape = tuple(given.shape)
            raise ValueError(f"partition must be {n} integer labels or a sequence of cells, got {given.dtype} {shape}")
        labels = torch.unique(given, return_inverse=True)[1]
    return labels, torch.bincount(labels)


def _row_sums(M: Operator, labels: Tensor, sizes: Tensor) -> Tensor:
    """The quotient (k, k), after a look at every row."""
    k = len(sizes)
    tolerance = 1e3 * torch.finfo(M.dtype).eps * _largest_row(M)
    B = torch.empty(k, k, dtype=M.dtype, device=M.device)
    for start in range(0, k, 64):
        cells = torch.arange(start, min(start + 64, k), device=M.device)
        sums = M._matmul((labels[:, None] == cells).to(M.dtype))
        mean = torch.zeros(k, len(cells), dtype=M.dtype, device=M.device).index_add_(0, labels, sums)
        B[:, cells] = mean / sizes[:, None]
        gap = (sums - B[:, cells][labels]).detach().abs()
        if bool((gap > tolerance).any()):
            row, j = divmod(int(gap.argmax()), len(cells))
            raise ValueError(
                f"partition is not equitable: in cell {int(labels[row])} sums over cell {start + j} "
                f"differ by {float(gap[row, j]):.3g} from their mean, in row {row}"
            )
    return B


def _split(M: Dense | Sparse, partition: Any) -> tuple[Tensor, Tensor]:
    labels, sizes = _cells(M, partition)
    k = len(sizes)
    if k > _MOST_CELLS:
        M.check_hermitian("A")
        if not isinstance(partition, str):
            _row_sums(M, labels, sizes)
        values = torch.linalg.eigvalsh(M._dense())
        return values, torch.ones_like(values, dtype=torch.int64)
    entry, diagonal, uniform = uniform_blocks(M, labels, sizes)
    # Uniform blocks show a Hermitian matrix at once; to compare all entries with their mirrors takes far longer.
    if not bool((uniform & (entry == entry.mH)).all()) or bool((diagonal != diagonal.conj()).any()):
        M.check_hermitian("A")
    if bool(uniform.all()):
        B = entry * sizes
        B.diagonal().copy_(diagonal + entry.diagonal() * (sizes - 1))
    else:
        B = _row_sums(M, labels, sizes)
    root = sizes.to(B.real.dtype).sqrt()
    S = root[:, None] * B / root
    found = [torch.linalg.eigvalsh((S + S.mH) / 2)]
    often = [torch.ones(k, dtype=torch.int64, device=M.device)]
    closed = uniform.all(0) & uniform.all(1)
    many = closed & (sizes > 1)
    found.append((diagonal - entry.diagonal()).real[many])
    often.append(sizes[many] - 1)
    for group in _groups(uniform, closed):
        rows = torch.isin(labels, group).nonzero()[:, 0]
        P = (labels[rows][:, None] == group).to(M.dtype) / root[group].to(M.dtype)
        # The quotient's part has been listed: without it, as many zeros are left, which are dropped.
        rest = M._entries(rows, rows) - P @ S[group[:, None], group] @ P.mH
        values = torch.linalg.eigvalsh((rest + rest.mH) / 2)
        found.append(values[values.abs().argsort()[len(group) :]])
        often.append(torch.ones(len(rows) - len(group), dtype=torch.int64, device=M.device))
    return torch.cat(found), torch.cat(often)


def _groups(uniform: Tensor, closed: Tensor) -> list[Tensor]:
    """Cells that are not closed, those joined by a block that is not uniform together."""
    left = set((~closed).nonzero()[:, 0].tolist())
    joined = (~uniform).cpu()
    out = []
    while left:
        group, todo = set(), [left.pop()]
        while todo:
            i = todo.pop()
            group.add(i)
            near = left.intersection((joined[i] | joined[:, i]).nonzero()[:, 0].tolist())
            left -= near
            todo.extend(near)
        out.append(torch.tensor(sorted(group), device=uniform.device))
    return out
