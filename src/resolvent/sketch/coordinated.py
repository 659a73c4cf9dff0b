"""Sketches of matrices made apart that still know which rows they share: coordinated sampling by a common hash."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.info import Info
from resolvent.operators.arrays import Kind, as_tensor, check_finite, give_back
from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.operators.elementary import Dense
from resolvent.operators.operator import Operator
from resolvent.operators.pattern import row_pointers
from resolvent.operators.sparse import Sparse

Method = Literal["priority", "threshold"]
# Below this sum of squares the shorter rows have lost their lengths.
_LEAST = 1e-280


class MatrixSketch:
    r"""About k rows of a matrix, chosen by their length and a hash of their key, for products with other such sketches.

    Parameters
    ----------
    A : (n, d) matrix or anything `as_operator` takes, or a vector (n,)
    k : number of rows kept, at least 2: exactly ("priority") or in expectation ("threshold")
    seed : int, the same for all sketches that are to meet
    method : "priority" keeps the k smallest ranks :math:`u_i / \|A_i\|^2`; "threshold" the rows with
        :math:`u_i \le k \|A_i\|^2 / \|A\|_F^2`, where :math:`u_i` is the hash of key i, uniform in (0, 1]
    keys : (n,) different int64 numbers that say which row of one matrix belongs to which of another; default 0 to n - 1

    Attributes
    ----------
    keys : (k,) int64 tensor, increasing
    rows : `Operator`, the rows kept (sparse if A is)
    lengths : (k,) their squared lengths
    threshold : :math:`\tau`; row i was kept with probability :math:`\min(1, \tau \|A_i\|^2)`
    frobenius : :math:`\|A\|_F`
    words : numbers stored, the indices of sparse rows and the keys included

    Raises
    ------
    ValueError : k below 2, keys that repeat or do not fit, NaN or infinity in A, entries whose squares leave float64.

    Notes
    -----
    One pass over A; O(n log n) for the ranks. Sparse rows stay sparse, so that k rows with s entries each take about
    2 k s words whatever the number of columns, where a linear sketch stores dense rows. Rows of zeros are never kept;
    with at most k others a "priority" sketch is exact. `merge` joins the sketches of different rows of one matrix: so a stream
    is sketched block by block. Gradients flow to the rows kept, with the probabilities held fixed.

    References
    ----------
    "Matrix Product Sketching via Coordinated Sampling"

    Examples
    --------
    >>> A = torch.arange(12.0).view(6, 2)
    >>> sketch = MatrixSketch(A, 3, seed=0)
    >>> sketch.rows.shape, sketch.words
    (torch.Size([3, 2]), 10)
    """

    def __init__(
        self, A: OperatorLike, k: int, *, seed: int = 0, method: Method = "priority", keys: Any = None
    ) -> None:
        if method not in ("priority", "threshold"):
            raise ValueError(f"method must be 'priority' or 'threshold', got {method!r}")
        for name, value, least in (("k", k, 2), ("seed", seed, -(2**63))):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
                raise ValueError(f"{name} must be an int of at least {least}, got {value!r}")
        self.k, self.seed, self.method = k, seed, method
        operator, self.vector = _matrix(A)
        n = operator.shape[0]
        self.kind: Kind = operator.kind
        found = torch.arange(n) if keys is None else torch.as_tensor(keys)
        if tuple(found.shape) != (n,) or found.is_floating_point() or found.is_complex():
            raise ValueError(f"keys must be integers of shape ({n},), got shape {tuple(found.shape)} of {found.dtype}")
        found = found.to(operator.device, torch.int64)
        if keys is not None and len(torch.unique(found)) < n:
            raise ValueError("keys must differ from each other")
        lengths = _squared_lengths(operator)
        self.frobenius = math.sqrt(float(lengths.sum()))
        ranks = torch.where(lengths > 0, hash_uniform(found, seed) / lengths, torch.inf)
        self._keep(operator, found, lengths, ranks, torch.inf)

    def _keep(self, rows: Dense | Sparse, keys: Tensor, lengths: Tensor, ranks: Tensor, beyond: float) -> None:
        """The rows that a sketch of all these holds; `beyond` is the smallest rank that has no row here."""
        k = self.k
        if self.method == "threshold":
            self.threshold = k / self.frobenius**2 if self.frobenius > 0 else math.inf
            kept = (ranks <= self.threshold) & (lengths > 0)
        else:
            alive = int((lengths > 0).sum())
            self.threshold = beyond
            if alive > k:
                self.threshold = min(beyond, float(ranks.kthvalue(k + 1).values))
            kept = (ranks < self.threshold) & (lengths > 0)
        index = kept.nonzero()[:, 0]
        index = index[keys[index].argsort()]
        self.keys, self.lengths = keys[index], lengths[index]
        self.rows = _take(rows, index)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the rows kept."""
        return tuple(self.rows.shape)  # type: ignore[return-value]

    @property
    def words(self) -> int:
        """Numbers stored."""
        entries = 2 * self.rows.nnz if isinstance(self.rows, Sparse) else math.prod(self.rows.shape)
        return entries + len(self.keys) + 1

    def merge(self, other: MatrixSketch) -> MatrixSketch:
        """The sketch of both matrices' rows together, equal to one made in a single pass; the keys must differ.

        Examples
        --------
        >>> A = torch.arange(12.0).view(6, 2)
        >>> parts = [MatrixSketch(A[i : i + 3], 2, keys=torch.arange(i, i + 3)) for i in (0, 3)]
        >>> bool((parts[0].merge(parts[1]).keys == MatrixSketch(A, 2).keys).all())
        True
        """
        _compatible(self, other)
        if (self.k, self.rows.shape[1]) != (other.k, other.rows.shape[1]):
            raise ValueError(f"the sketches differ in k or width: {self.k}, {self.shape} and {other.k}, {other.shape}")
        keys = torch.cat([self.keys, other.keys])
        if len(torch.unique(keys)) < len(keys):
            raise ValueError("other must be of rows with other keys")
        out = object.__new__(MatrixSketch)
        out.__dict__.update(self.__dict__)
        out.frobenius = math.hypot(self.frobenius, other.frobenius)
        lengths = torch.cat([self.lengths, other.lengths])
        rows = _stack(self.rows, other.rows)
        out._keep(rows, keys, lengths, hash_uniform(keys, self.seed) / lengths, min(self.threshold, other.threshold))
        return out


def estimate_product(SA: MatrixSketch, SB: MatrixSketch, *, return_info: bool = False) -> Any:
    r"""An unbiased estimate of :math:`A^H B = \sum_i \bar a_i b_i^T` from two sketches with one seed.

    Parameters
    ----------
    SA, SB : sketches of A (n, d) and B (n, m), or of vectors (n,), with the same seed and method
    return_info : also return an `Info`, whose error is the bound on the root mean square error

    Returns
    -------
    (d, m) tensor, or array if both sketches are of arrays; a vector or a number for sketches of vectors.

    Raises
    ------
    ValueError : the sketches have different seeds or methods.

    Notes
    -----
    :math:`\sum_i \bar a_i b_i^T / \min(1, \tau_A \|a_i\|^2, \tau_B \|b_i\|^2)` over the keys in both, with
    :math:`E \|error\|_F^2 \le \frac{2}{k-1} \|A\|_F^2 \|B\|_F^2`; only rows that are in both count towards the norms, so
    that it is much less where few rows overlap. At most k d m multiply-adds.

    References
    ----------
    "Matrix Product Sketching via Coordinated Sampling"

    Examples
    --------
    >>> A, B = torch.eye(4)[:, :2], torch.ones(4, 1)
    >>> estimate_product(MatrixSketch(A, 4), MatrixSketch(B, 4))
    tensor([[1.],
            [1.]])
    """
    _compatible(SA, SB)
    dtype = torch.promote_types(SA.rows.dtype, SB.rows.dtype)
    place = torch.searchsorted(SB.keys, SA.keys).clamp(max=max(len(SB.keys) - 1, 0))
    both = SB.keys[place] == SA.keys if len(SB.keys) else torch.zeros_like(SA.keys, dtype=torch.bool)
    left, right = both.nonzero()[:, 0], place[both]
    chance = torch.minimum(_times(SA.threshold, SA.lengths[left]), _times(SB.threshold, SB.lengths[right])).clamp(max=1)
    a, b = (_entries(S.rows, index).to(dtype) for S, index in ((SA, left), (SB, right)))
    found = a.mH @ (b / chance[:, None].to(b.real.dtype))
    if SA.vector:
        found = found[0]
    if SB.vector:
        found = found[..., 0]
    kind: Kind = "numpy" if SA.kind == SB.kind == "numpy" else "torch"
    result = give_back(found, kind)
    if not return_info:
        return result
    bound = math.sqrt(2 / (min(SA.k, SB.k) - 1)) * SA.frobenius * SB.frobenius
    return result, Info(f"coordinated {SA.method}", len(left), 1, bound)


def inner_product(sa: MatrixSketch, sb: MatrixSketch) -> Any:
    r"""An unbiased estimate of the inner product :math:`a^H b` from the sketches of two vectors.

    Parameters
    ----------
    sa, sb : sketches of vectors (n,) with the same seed and method

    Returns
    -------
    0-d tensor; a Python number if both are of arrays.

    Raises
    ------
    ValueError : a sketch of a matrix, or seeds or methods that differ.

    Notes
    -----
    As `estimate_product`.

    References
    ----------
    "Matrix Product Sketching via Coordinated Sampling"

    Examples
    --------
    >>> a = torch.tensor([0.0, 2.0, 0.0, 1.0])
    >>> inner_product(MatrixSketch(a, 2), MatrixSketch(torch.ones(4), 4))
    tensor(3.)
    """
    for name, sketch in (("sa", sa), ("sb", sb)):
        if not sketch.vector:
            raise ValueError(f"{name} must be the sketch of a vector (n,), got one of a matrix; use estimate_product")
    return estimate_product(sa, sb)


def hash_uniform(keys: Tensor, seed: int) -> Tensor:
    """A number in (0, 1] for every key, the same on every device: the finalizer of SplitMix64 over 53 bits."""

    def shifted(z: Tensor, by: int) -> Tensor:
        return (z >> by) & ((1 << (64 - by)) - 1)

    def mixed(z: Tensor) -> Tensor:
        # Products of int64 wrap, as the generator wants them to.
        z = (z ^ shifted(z, 30)) * (0xBF58476D1CE4E5B9 - (1 << 64))
        z = (z ^ shifted(z, 27)) * (0x94D049BB133111EB - (1 << 64))
        return z ^ shifted(z, 31)

    step = 0x9E3779B97F4A7C15 - (1 << 64)
    start = mixed(torch.tensor([seed], dtype=torch.int64, device=keys.device) * step)
    # Twice, so that neighbouring seeds and neighbouring keys have nothing in common.
    return (shifted(mixed(mixed((keys + 1) * step) ^ start), 11) + 1).double() * 2.0**-53


def _matrix(A: Any) -> tuple[Dense | Sparse, bool]:
    """A matrix with rows to read, and whether a vector came in."""
    if not isinstance(A, Operator) and getattr(A, "ndim", 0) == 1:
        t, kind = as_tensor(A, "A")
        column = Dense(t[:, None])
        column.kind = kind
        check_finite(t, "A")
        return column, True
    operator = as_operator(A, name="A")
    if operator.batch_shape:
        raise ValueError(f"A must be one matrix, got a batch {tuple(operator.batch_shape)}")
    if isinstance(operator, Dense | Sparse):
        return operator, False
    dense = Dense(operator._dense())
    dense.kind = operator.kind
    return dense, False


def _squared_lengths(A: Dense | Sparse) -> Tensor:
    values = (A.data if isinstance(A, Dense) else A.values).detach()
    squares = values.abs().double().square()
    if isinstance(A, Dense):
        lengths = squares.sum(-1)
    else:
        lengths = torch.zeros(A.shape[0], dtype=torch.float64, device=A.device).index_add_(0, A._pattern.rows, squares)
    total = float(lengths.sum())
    if math.isinf(total) or (total < _LEAST and bool((values != 0).any())):
        raise ValueError(f"A must have entries whose squares are within float64, got a sum of {total:.3g}: scale it")
    return lengths


def _take(A: Dense | Sparse, index: Tensor) -> Dense | Sparse:
    """Rows of a matrix; sparse ones stay sparse."""
    if isinstance(A, Dense):
        return Dense(A.data[index])
    starts, counts = A.indptr[index].long(), A.indptr.diff()[index].long()
    pointers = row_pointers(counts)
    within = torch.arange(int(pointers[-1]), device=index.device) - torch.repeat_interleave(pointers[:-1], counts)
    found = torch.repeat_interleave(starts, counts) + within
    return Sparse((pointers, A.indices[found], A.values[found], (len(index), A.shape[1])))


def _stack(A: Dense | Sparse, B: Dense | Sparse) -> Dense | Sparse:
    if isinstance(A, Dense) or isinstance(B, Dense):
        return Dense(torch.cat([A._dense(), B._dense()]))
    pointers = torch.cat([A.indptr.long(), B.indptr[1:].long() + A.nnz])
    shape = (A.shape[0] + B.shape[0], A.shape[1])
    return Sparse((pointers, torch.cat([A.indices, B.indices]), torch.cat([A.values, B.values]), shape))


def _entries(A: Dense | Sparse, index: Tensor) -> Tensor:
    return A.data[index] if isinstance(A, Dense) else A._entries(index, torch.arange(A.shape[1], device=index.device))


def _times(threshold: float, lengths: Tensor) -> Tensor:
    return torch.full_like(lengths, torch.inf) if math.isinf(threshold) else threshold * lengths


def _compatible(a: MatrixSketch, b: MatrixSketch) -> None:
    for name in ("seed", "method"):
        if getattr(a, name) != getattr(b, name):
            raise ValueError(f"the sketches must have one {name}, got {getattr(a, name)!r} and {getattr(b, name)!r}")
