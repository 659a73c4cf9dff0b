"""The leading singular triplets of a matrix that grows or changes: kept up to date for the price of the change.

>>> import torch
>>> from resolvent import factor
>>> A = torch.diag(torch.tensor([3.0, 2.0, 1.0]).double())
>>> svd = factor.TruncatedSVD(A, 2)
>>> svd.append_rows(torch.tensor([[0.0, 0.0, 4.0]]).double()).singular_values
tensor([4., 3.], dtype=torch.float64)
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.factor.truncated_side import Side, residual_basis, rows_of
from resolvent.operators.arrays import Kind, as_tensor, check_finite, give_back_array, positions
from resolvent.operators.convert import as_operator
from resolvent.operators.gradient import records
from resolvent.operators.lowrank import LowRank
from resolvent.operators.operator import Operator
from resolvent.operators.threads import one_thread
from resolvent.random import GeneratorLike, as_generator

Method = Literal["exact", "lanczos", "random"]

# Sides of small matrices that one thread decomposes as fast as two.
_SMALL = 400


class TruncatedSVD:
    r"""The k leading singular triplets :math:`U \operatorname{diag}(s) V^H` of a matrix to which rows, columns and
    low-rank changes are added.

    Parameters
    ----------
    A : (m, n) matrix or operator to start from, or its known triplets ``(U, s, Vh)``
    k : how many, 1 to min(m, n); may be left out for known triplets
    method : how the part of an addition outside of the present subspace is held: "exact"; "lanczos" or "random" by its
        `rank` leading directions only, which is faster for additions of many rows
    rank : of "lanczos" and "random"
    rtol : of the start, as in `spectra.svds`
    generator : randomness of the start and of "lanczos" and "random"

    Raises
    ------
    ValueError : k, `rank` or a shape is out of range, `method` is unknown, an entry is not finite, or a gradient is
        wanted: there is none.
    ConvergenceError : the start did not reach `rtol`.

    Notes
    -----
    An addition of s rows E becomes the SVD of a (k + s) x (k + s) matrix (Zha and Simon). The rows' part outside of the
    present right subspace is never formed: its vectors are pairs of a sparse vector b and c = V^H b with the inner
    product <b, b'> - <c, c'>. Both bases are products U' U'' of a tall factor, in which an addition touches only the
    rows where it is not zero, and a k x k factor, which takes the rotations; they are multiplied out when U'' becomes
    ill conditioned. Cost nnz(E) k + (k + s)^3, independent of m and n. The result is the leading part of the last
    truncated matrix with the addition, so what was cut off earlier is lost; and inner products of pairs lose what lies
    below the root of the rounding error of a row. Small matrices are computed in float64. Not differentiable.

    References
    ----------
    "Fast Updating Truncated SVD for Representation Learning with Sparse Matrices"
    "On Updating Problems in Latent Semantic Indexing"

    Examples
    --------
    >>> A = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> svd = TruncatedSVD(A, 2).append_columns(torch.tensor([[0.0], [1.0]]).double())
    >>> svd.singular_values, svd.shape
    (tensor([2.0000, 1.4142], dtype=torch.float64), (2, 3))
    """

    def __init__(
        self,
        A: Any,
        k: int | None = None,
        *,
        method: Method = "exact",
        rank: int = 10,
        rtol: float | None = None,
        generator: GeneratorLike = None,
    ) -> None:
        if method not in ("exact", "lanczos", "random"):
            raise ValueError(f"method must be exact, lanczos or random, got {method!r}")
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise ValueError(f"rank must be an int of at least 1, got {rank!r}")
        self._method, self._rank = method, rank
        U, s, Vh, self._kind = _start(A, k, rtol, generator)
        self._generator = as_generator(generator, U.device)
        self._dtype = U.dtype
        wide = torch.complex128 if U.is_complex() else torch.float64
        self._left, self._right = Side(U, wide), Side(Vh.mH, wide)
        self._s = s.to(torch.float64)

    # ---- what is known ------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) of the matrix so far."""
        return self._left.size, self._right.size

    @property
    def k(self) -> int:
        """How many triplets are kept."""
        return len(self._s)

    @property
    def singular_values(self) -> Any:
        """(k,) descending."""
        return give_back_array(self._s.to(self._dtype.to_real()), self._kind)

    def left(self, i: Any = slice(None)) -> Any:
        """Rows of U: (k,) for an index i, (r, k) for a slice or vector of r. O(k^2) each."""
        return self._rows(self._left, i)

    def right(self, j: Any = slice(None)) -> Any:
        """Rows of V: (k,) for an index j, (r, k) for a slice or vector of r. O(k^2) each."""
        return self._rows(self._right, j)

    def operator(self) -> LowRank:
        """``U diag(s) V^H`` as it is now.

        Examples
        --------
        >>> TruncatedSVD(torch.eye(3), 1, generator=0).operator()
        LowRank 3x3 rank 1 float32
        """
        out = LowRank(self._left.rows(slice(None)), self._s.to(self._dtype.to_real()), self._right.rows(slice(None)))
        out.kind = self._kind
        return out

    def _rows(self, side: Side, index: Any) -> Any:
        wanted, single = positions(index, side.size, "row", self._s.device)
        rows = side.rows(slice(None) if isinstance(index, slice) and index == slice(None) else wanted)
        return give_back_array(rows[0] if single else rows, self._kind)

    # ---- what changes -------------------------------------------------------------------------------------------

    def append_rows(self, E: Any) -> TruncatedSVD:
        """Triplets of the matrix with the rows E (s, n), sparse or not, below it; returns itself.

        Examples
        --------
        >>> svd = TruncatedSVD(torch.eye(3).double(), 3).append_rows(torch.ones(1, 3).double())
        >>> svd.singular_values.round(decimals=6)
        tensor([2., 1., 1.], dtype=torch.float64)
        """
        E = self._taken(E, "E", (None, self._right.size))
        with one_thread(self.k + E.shape[0] <= _SMALL):
            self._append(self._left, self._right, E)
        return self

    def append_columns(self, E: Any) -> TruncatedSVD:
        """Triplets of the matrix with the columns E (m, s), sparse or not, on its right; returns itself.

        Examples
        --------
        >>> TruncatedSVD(torch.eye(3).double(), 3).append_columns(torch.ones(3, 1).double()).shape
        (3, 4)
        """
        E = self._taken(E, "E", (self._left.size, None))
        with one_thread(self.k + E.shape[1] <= _SMALL):
            self._append(self._right, self._left, rows_of(E.H))
        return self

    def add_lowrank(self, D: Any, E: Any) -> TruncatedSVD:
        r"""Triplets of :math:`A + D E^H` for D (m, s) and E (n, s), sparse or not; returns itself.

        Examples
        --------
        >>> e = torch.tensor([[1.0], [0.0], [0.0]], dtype=torch.float64)
        >>> TruncatedSVD(torch.eye(3).double(), 3).add_lowrank(2 * e, e).singular_values.round(decimals=6)
        tensor([3., 1., 1.], dtype=torch.float64)
        """
        D = self._taken(D, "D", (self._left.size, None))
        E = self._taken(E, "E", (self._right.size, D.shape[1]))
        if D.shape[1]:
            with one_thread(self.k + D.shape[1] <= _SMALL):
                self._add(D, E)
        return self

    def _add(self, D: Operator, E: Operator) -> None:
        k = self.k
        sides, bases = (self._left, self._right), []
        for side, X in zip(sides, (rows_of(D.H), rows_of(E.H)), strict=True):
            C = side.coefficients(X)
            bases.append((X, C, *self._residual(X, C)))
        inner = [torch.cat([C, root[:, None] * Z.mH]) for _, C, Z, root in bases]
        middle = inner[0] @ inner[1].mH
        middle[:k, :k] += torch.diag(self._s.to(middle.dtype))
        F, s, Gh = _svd(middle, k)
        for side, (X, C, Z, root), turn in zip(sides, bases, (F, Gh.mH), strict=True):
            T = (Z / root) @ turn[k:]
            side.turn(turn[:k] - C @ T, X, T)
        self._s = s

    def _append(self, grown: Side, other: Side, X: Operator) -> None:
        """The rows X to the side `grown`."""
        s, k = X.shape[0], self.k
        if s == 0:
            return
        C = other.coefficients(X)
        Z, root = self._residual(X, C)
        middle = torch.zeros(k + s, k + len(root), dtype=C.dtype, device=C.device)
        middle[:k, :k] = torch.diag(self._s.to(C.dtype))
        middle[k:, :k], middle[k:, k:] = C.mH, Z * root
        F, self._s, Gh = _svd(middle, k)
        grown.grow(F[:k], F[k:])
        T = (Z / root) @ Gh.mH[k:]
        other.turn(Gh.mH[:k] - C @ T, X, T)

    def _residual(self, X: Operator, C: Tensor) -> tuple[Tensor, Tensor]:
        return residual_basis(X, C, self._method, self._rank, self._generator)

    def _taken(self, E: Any, name: str, shape: tuple[int | None, int | None]) -> Operator:
        found = as_operator(E, name="E")
        if records(found):
            raise ValueError(f"TruncatedSVD has no gradient: detach {name}")
        if found.batch_shape or any(w is not None and w != d for w, d in zip(shape, found.shape, strict=True)):
            wanted = ", ".join("s" if w is None else str(w) for w in shape)
            raise ValueError(f"{name} must have shape ({wanted}), got {tuple(found.shape)}")
        if found.is_complex and not self._dtype.is_complex:
            raise TypeError(f"{name} is complex and the matrix so far is {self._dtype}")
        return found.to(self._dtype).to(self._s.device)


def _svd(middle: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    F, s, Gh = torch.linalg.svd(middle, full_matrices=False)
    return F[:, :k], s[:k], Gh[:k]


def _start(A: Any, k: int | None, rtol: float | None, generator: GeneratorLike) -> tuple[Tensor, Tensor, Tensor, Kind]:
    if isinstance(A, tuple) and len(A) == 3:
        (U, kind), (s, _), (Vh, _) = (as_tensor(part, "A") for part in A)
        for part in (U, s, Vh):
            check_finite(part, "A")
        if torch.is_grad_enabled() and any(part.requires_grad for part in (U, s, Vh)):
            raise ValueError("TruncatedSVD has no gradient: detach A")
        r = len(s)
        k = r if k is None else k
        if U.ndim != 2 or Vh.ndim != 2 or U.shape[1] != r or Vh.shape[0] != r or not 1 <= k <= r:
            raise ValueError(
                f"A must be (U, s, Vh) of shapes (m, r), (r,), (r, n) with r >= k = {k}, got "
                f"{tuple(U.shape)}, {tuple(s.shape)}, {tuple(Vh.shape)}"
            )
        eye = torch.eye(r, dtype=U.dtype, device=U.device)
        gap = max(float((Q.mH @ Q - eye).abs().max()) for Q in (U, Vh.mH))
        if not gap < 1e4 * torch.finfo(U.dtype).eps:
            raise ValueError(f"A must have orthonormal U and V, their products with themselves are off by {gap:.2g}")
        if bool((s[1:] > s[:-1]).any()) or bool((s < 0).any()):
            raise ValueError("A must have singular values that are nonnegative and descending")
        return U.detach()[:, :k], s.detach()[:k], Vh.detach()[:k], kind
    from resolvent.spectra.singular import svds

    if k is None:
        raise ValueError("k must be given: how many triplets to keep")
    operator = as_operator(A, name="A")
    if records(operator):
        raise ValueError("TruncatedSVD has no gradient: detach A")
    U, s, Vh = (as_tensor(part, "A")[0] for part in svds(operator, k, rtol=rtol, generator=generator))
    return U, s, Vh, operator.kind
