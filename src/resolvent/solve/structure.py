"""Inverses of structured operators: each structure by what it is made of."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce, singledispatch

import torch
from torch import Tensor

from resolvent.operators.algebra import Conjugate, Power, Product, Scaled, Sum
from resolvent.operators.banded import Triangular, Tridiagonal
from resolvent.operators.blocks import BlockDiagonal
from resolvent.operators.elementary import Dense, Diagonal, Identity, Zero
from resolvent.operators.fast import Hadamard
from resolvent.operators.kronecker import Kronecker, KroneckerSum
from resolvent.operators.lowrank import LowRank
from resolvent.operators.operator import Operator
from resolvent.operators.toeplitz import Circulant, Hankel, Toeplitz
from resolvent.solve.direct import check_no_zero, dense_inverse, sparse_inverse, triangular_inverse, tridiagonal_inverse
from resolvent.solve.implicit import Inverse
from resolvent.spectra.inertia import scipy_matrix, small_fill

# Operators without a structure of their own that are written down and factorised, and dense terms of Kronecker sums.
DENSE = 1024
_TERM = 4096


class Inverted(Operator):
    """The inverse of an operator, known by its solves."""

    def __init__(self, A: Operator, inverse: Inverse, adjoint: bool = False) -> None:
        super().__init__(
            A.shape, dtype=A.dtype, device=A.device, kind=A.kind, hermitian=A.hermitian, positive=A.positive
        )
        self._of, self._inverse, self._flipped = A, inverse, adjoint

    def _matmul(self, X: Tensor) -> Tensor:
        return self._inverse(X, self._flipped)

    def _adjoint(self) -> Operator:
        return Inverted(self._of, self._inverse, not self._flipped)


def inverse_of(A: Operator) -> tuple[Inverse, str] | None:
    """A direct method for A and its name; None if only an iteration is left.

    Raises
    ------
    ValueError : A is singular
    """
    if A.shape[-1] != A.shape[-2]:
        return None
    found = _structured(A)
    if found is not None:
        return found, "structure"
    if isinstance(A, Dense) or A.shape[-1] <= (DENSE if A.batch_shape or scipy_matrix(A) is None else 128):
        return dense_inverse(A._dense(), A.hermitian, A.positive)
    matrix = scipy_matrix(A)
    if matrix is None:
        return None
    pattern = abs(matrix)
    both = (pattern + pattern.T).tocsc()
    if not small_fill(both):
        return None
    return sparse_inverse(matrix, symmetric=both.nnz <= 1.2 * matrix.nnz), "superlu"


@singledispatch
def _structured(A: Operator) -> Inverse | None:
    """The inverse of a structure; None if it has none."""
    if A.unitary:
        return lambda B, adjoint: _times(A if adjoint else A.H, B)
    return None


def _times(A: Operator, B: Tensor) -> Tensor:
    return A._matmul(B) if B.dtype == A.dtype else A._apply(B, "torch")


@_structured.register
def _(A: Dense) -> Inverse | None:
    return (lambda B, adjoint: _times(A if adjoint else A.H, B)) if A.unitary else None


@_structured.register
def _(A: Identity) -> Inverse:
    return lambda B, adjoint: _times(A, B)


@_structured.register
def _(A: Zero) -> Inverse:
    raise ValueError("A is singular: it is zero; lstsq has a solution")


@_structured.register
def _(A: Diagonal) -> Inverse:
    d = A.data[..., None]
    check_no_zero(A.data, "entry of the diagonal")
    return lambda B, adjoint: B / (d.conj() if adjoint else d)


@_structured.register
def _(A: Triangular) -> Inverse:
    return triangular_inverse(A._parts[0], A.upper)


@_structured.register
def _(A: Tridiagonal) -> Inverse:
    return tridiagonal_inverse(*A._parts)


@_structured.register
def _(A: Hadamard) -> Inverse:
    scale = 1.0 if A.normalized else 1.0 / A.shape[-1]
    return lambda B, adjoint: scale * _times(A, B)


@_structured.register
def _(A: Circulant) -> Inverse:
    values = A.eigenvalues()
    size = values.abs().amax(-1, keepdim=True)
    if bool((values.abs() <= torch.finfo(A.dtype).eps * size).any()):
        raise ValueError(
            f"A is singular to working precision: its smallest eigenvalue is {float(values.abs().min()):.2g}; lstsq has a "
            "solution"
        )
    return _in_frequencies(values, real=not A.is_complex)


def _in_frequencies(values: Tensor, real: bool) -> Inverse:
    """Division by the eigenvalues of a circulant matrix."""

    def solve(B: Tensor, adjoint: bool) -> Tensor:
        w = (values.conj() if adjoint else values)[..., None]
        X = torch.fft.ifft(torch.fft.fft(B, dim=-2) / w, dim=-2)
        return X.real if real and not B.is_complex() else X

    return solve


@_structured.register(Toeplitz)
@_structured.register(Hankel)
def _(A: Operator) -> None:
    return None


@_structured.register
def _(A: Scaled) -> Inverse | None:
    check_no_zero(A.factor, "factor")
    found = inverse_of(A._parts[1])
    if found is None:
        return None
    c = A.factor[..., None, None]
    return lambda B, adjoint: found[0](B / (c.conj() if adjoint else c), adjoint)


@_structured.register
def _(A: Conjugate) -> Inverse | None:
    found = inverse_of(A._parts[0])
    if found is None:
        return None
    return lambda B, adjoint: found[0](B.conj().resolve_conj(), adjoint).conj().resolve_conj()


@_structured.register
def _(A: Power) -> Inverse | None:
    found = inverse_of(A._parts[0])
    if found is None:
        return None
    inverse = found[0]

    def solve(B: Tensor, adjoint: bool) -> Tensor:
        for _ in range(A.p):
            B = inverse(B, adjoint)
        return B

    return solve


@_structured.register
def _(A: Product) -> Inverse | None:
    if any(P.shape[-1] != P.shape[-2] for P in A._parts):
        return None
    found = [inverse_of(P) for P in A._parts]
    if any(f is None for f in found):
        return None
    inverses = [f[0] for f in found if f is not None]

    def solve(B: Tensor, adjoint: bool) -> Tensor:
        for inverse in reversed(inverses) if adjoint else inverses:
            B = inverse(B, adjoint)
        return B

    return solve


@_structured.register
def _(A: BlockDiagonal) -> Inverse | None:
    return _of_parts(A, BlockDiagonal)


@_structured.register
def _(A: Kronecker) -> Inverse | None:
    return _of_parts(A, Kronecker)


def _of_parts(A: Operator, build: Callable[..., Operator]) -> Inverse | None:
    """The inverse of a structure that is the same structure of the inverses."""
    if any(P.shape[-1] != P.shape[-2] for P in A._parts):
        return None
    found = [inverse_of(P) for P in A._parts]
    if any(f is None for f in found):
        return None
    inverted = build(*(Inverted(P, f[0]) for P, f in zip(A._parts, found, strict=True) if f is not None))
    mirrored = build(*(P._adjoint() for P in inverted._parts))
    return lambda B, adjoint: _times(mirrored if adjoint else inverted, B)


@_structured.register
def _(A: KroneckerSum) -> Inverse | None:
    sizes = [P.shape[-1] for P in A.terms]
    if len(sizes) == 1:
        found = inverse_of(A.terms[0])
        return None if found is None else found[0]
    if max(sizes) > _TERM or A.batch_shape:
        return None
    terms = [P._dense() for P in A.terms]
    if all(P.hermitian for P in A.terms):
        return _by_eigenvectors(terms)
    if len(terms) > 2:
        return None
    left, right = terms

    def solve(B: Tensor, adjoint: bool) -> Tensor:
        from resolvent.functions.equations import solve_sylvester

        L, R = (left.mH, right.conj()) if adjoint else (left, right.mT)
        C = B.mT.reshape(*B.shape[:-2], B.shape[-1], *sizes)
        return solve_sylvester(L, R, C).flatten(-2).mT

    return solve


def _by_eigenvectors(terms: list[Tensor]) -> Inverse:
    """A Kronecker sum of Hermitian terms in the eigenvectors of each."""
    pairs = [torch.linalg.eigh(T) for T in terms]
    values = reduce(lambda a, b: (a[:, None] + b[None, :]).flatten(), [w for w, _ in pairs])
    scale = sum(float(w.abs().max()) for w, _ in pairs)
    if bool((values.abs() <= torch.finfo(values.dtype).eps * scale).any()):
        raise ValueError(
            f"A is singular to working precision: it has the eigenvalue {float(values.abs().min()):.2g}; lstsq has a "
            "solution"
        )
    V = Kronecker(*(Dense(v) for _, v in pairs))
    return lambda B, adjoint: _times(V, _times(V.H, B) / values[:, None])


@_structured.register
def _(A: Sum) -> Inverse | None:
    """An invertible part plus parts of low rank, by the formula of Sherman, Morrison and Woodbury."""
    low = [P for P in A._parts if _weighted(P) is not None]
    rest = [P for P in A._parts if _weighted(P) is None]
    rank = sum(P.s.shape[-1] for P in map(_weighted, low) if P is not None)
    if not low or not rest or A.batch_shape or 2 * rank >= A.shape[-1]:
        return _diagonal_sum(A)
    base = reduce(lambda a, b: a + b, rest)
    found = _diagonal_sum(base) if isinstance(base, Sum) else None
    found = found or (inverse_of(base) or (None,))[0]
    if found is None:
        return None
    parts = [P for P in map(_weighted, low) if P is not None]
    U = torch.cat([P.U * P.s[None, :] for P in parts], 1)
    V = torch.cat([P.V for P in parts], 1)
    small = torch.eye(rank, dtype=U.dtype, device=U.device) + V.mH @ found(U, False)
    inner, _ = dense_inverse(small, False, False)

    def solve(B: Tensor, adjoint: bool) -> Tensor:
        left, right = (V, U) if adjoint else (U, V)
        X = found(B, adjoint)
        return X - found(_mixed(left, inner(_mixed(right.mH, X), adjoint)), adjoint)

    return solve


def _mixed(M: Tensor, X: Tensor) -> Tensor:
    return M.to(torch.promote_types(M.dtype, X.dtype)) @ X.to(torch.promote_types(M.dtype, X.dtype))


def _weighted(P: Operator) -> LowRank | None:
    if isinstance(P, Scaled) and isinstance(P._parts[1], LowRank):
        inner = P._parts[1]
        return LowRank(inner.U, P.factor * inner.s, inner.V)
    return P if isinstance(P, LowRank) else None


def _diagonal_sum(A: Operator) -> Inverse | None:
    """Sums of nothing but diagonal parts."""
    kinds = Diagonal | Identity
    if not all(
        isinstance(P, kinds) or (isinstance(P, Scaled) and isinstance(P._parts[1], kinds)) for P in A._parts
    ) or not isinstance(A, Sum):
        return None
    return _structured(Diagonal(A._diagonal().expand(*A.batch_shape, A.shape[-1])))


def circulant_near(A: Toeplitz) -> Operator:
    """The inverse of the circulant matrix nearest to a square Toeplitz matrix (T. Chan), as a preconditioner.

    Hermitian A: its eigenvalues are made positive, as conjugate gradients need them. Small ones are raised.
    """
    c, r = A._parts
    n = A.shape[-1]
    j = torch.arange(n, device=A.device, dtype=torch.zeros((), dtype=A.dtype).real.dtype)
    mirrored = torch.cat([c[..., :1], r[..., 1:].flip(-1)], -1)
    column = ((n - j) * c + j * mirrored) / n
    values = torch.fft.fft(column)
    least = 1e-6 * values.abs().amax(-1, keepdim=True)
    if A.hermitian:
        values = torch.maximum(values.real.abs(), least).to(values.dtype)
    values = torch.where(values.abs() < least, least.to(values.dtype), values)
    out = Inverted(A, _in_frequencies(values, real=not A.is_complex))
    return out.declare(positive=True) if A.hermitian else out
