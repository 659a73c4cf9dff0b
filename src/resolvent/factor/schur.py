"""Unitary similarity to triangular form: Schur factors with the eigenvalues in a wanted order, and Hessenberg factors.

>>> import torch
>>> from resolvent import factor
>>> A = torch.tensor([[1.0, 4.0], [1.0, 1.0]], dtype=torch.float64)
>>> factor.schur(A, sort="left").eigenvalues.real.round(decimals=6)
tensor([-1.,  3.], dtype=torch.float64)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.linalg
import torch
from scipy.linalg import lapack
from torch import Tensor
from torch.autograd.function import once_differentiable

from resolvent.errors import ConvergenceError
from resolvent.operators.arrays import as_tensor, check_finite, give_back

Region = Literal["left", "right", "inside", "outside"]
Sort = Region | Callable[[Any], Any] | None

_REGIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "left": lambda w: w.real < 0,
    "right": lambda w: w.real >= 0,
    "inside": lambda w: np.abs(w) <= 1,
    "outside": lambda w: np.abs(w) > 1,
}


class Schur(NamedTuple):
    """Of :func:`schur`: ``A = Z T Z^H``.

    Attributes
    ----------
    T : (*batch, n, n) upper triangular; for a real form with blocks of two for pairs of complex eigenvalues
    Z : (*batch, n, n) unitary
    eigenvalues : (*batch, n) complex, in the order of the diagonal of T
    count : (*batch,) how many of the first eigenvalues are in the wanted region, a Python int without a batch; None
        without a region. The first `count` columns of Z span their invariant subspace.
    """

    T: Any
    Z: Any
    eigenvalues: Any
    count: Any


class Hessenberg(NamedTuple):
    """Of :func:`hessenberg`: ``A = Q H Q^H``, H zero below the diagonal next to its own."""

    H: Any
    Q: Any


def schur(A: Any, *, output: Literal["real", "complex"] | None = None, sort: Sort = None) -> Schur:
    r"""The Schur form :math:`A = Z T Z^H`, the eigenvalues of a region first.

    Parameters
    ----------
    A : (*batch, n, n) tensor or array
    output : "real" for real A: T has blocks of two for pairs of complex eigenvalues; "complex": T is triangular; None as
        A is
    sort : eigenvalues that come first: "left" or "right" half-plane, "inside" or "outside" of the unit circle, the
        imaginary axis counted to the right and the circle to the inside; or a function of the complex NumPy array of eigenvalues that
        gives an array of booleans

    Returns
    -------
    `Schur`

    Raises
    ------
    ValueError : A is not a finite square matrix, an argument is unknown, a complex A with output "real", a function that gives no boolean for
        each eigenvalue, or for a real form another one for an eigenvalue than for its conjugate.
    ConvergenceError : eigenvalues too close to be exchanged, or rounding moved one out of the region while they were;
        carries the factors.

    Notes
    -----
    Hessenberg form and QR iterations of LAPACK, about 25 n^3 flops, then exchanges of neighbours by rotations (trsen); on
    the host, one matrix after the other. Backward stable: the factors are those of a matrix within rounding of A.

    First-order gradients where T is triangular and the eigenvalues are distinct: with :math:`M = Z^H\, dA\, Z`, dZ = Z K
    and dT = M - K T + T K, the lower part of the skew-Hermitian K by Sylvester equations. Columns of a complex Z have
    arbitrary phases: a function that depends on them has no gradient and gets an error. A real form with blocks of two
    has none either: take output "complex".

    References
    ----------
    "Numerical Methods for Computing Angles Between Linear Subspaces"
    "On Swapping Diagonal Blocks in Real Schur Form"

    Examples
    --------
    >>> T, Z, w, count = schur(torch.tensor([[0.5, 1.0], [0.0, 2.0]]), sort="outside")
    >>> w.real, count
    (tensor([2.0000, 0.5000]), 1)
    """
    t, kind = _square(A)
    if output not in (None, "real", "complex"):
        raise ValueError(f"output must be real, complex or None, got {output!r}")
    if output == "real" and t.is_complex():
        raise ValueError("output must be complex for a complex A, got 'real'")
    if not (sort is None or callable(sort) or sort in _REGIONS):
        raise ValueError(f"sort must be one of {', '.join(_REGIONS)}, or a function, got {sort!r}")
    to_complex = output == "complex" or t.is_complex()
    given = t.to(t.dtype.to_complex()) if to_complex else t
    lead, n = t.shape[:-2], t.shape[-1]
    host = t.detach().resolve_conj().resolve_neg().cpu().numpy().reshape(math.prod(lead), n, n)
    found = [_one(each, to_complex, sort) for each in host]
    T, Z = (_stacked([part[i] for part in found], given, (n, n)) for i in (0, 1))
    w = _stacked([part[2] for part in found], given.to(given.dtype.to_complex()), (n,))
    if t.requires_grad and torch.is_grad_enabled():
        T, Z = _Formed.apply(given, T, Z)
        if not bool(T.detach().diagonal(-1, -2, -1).any()):
            w = T.diagonal(dim1=-2, dim2=-1).to(w.dtype)
    count: Any = None
    if sort is not None:
        counts = torch.tensor([part[3] for part in found], dtype=torch.long, device=t.device).reshape(lead)
        count = int(counts) if not lead else give_back(counts, kind)
    T, Z, w = give_back((T, Z, w), kind)
    result = Schur(T, Z, w, count)
    if not all(part[4] for part in found):
        message = "schur: eigenvalues are too close to be exchanged, or leave the region of `sort` by it"
        raise ConvergenceError(message, best=result)
    return result


def hessenberg(A: Any) -> Hessenberg:
    r"""The Hessenberg form :math:`A = Q H Q^H`: H is zero below the first diagonal under its own.

    Parameters
    ----------
    A : (*batch, n, n) tensor or array

    Returns
    -------
    `Hessenberg`; H of a Hermitian A is tridiagonal up to rounding.

    Raises
    ------
    ValueError : A is not a finite square matrix, or a gradient is wanted: there is none.

    Notes
    -----
    Householder reflections of LAPACK, 10/3 n^3 flops for H and 4/3 n^3 for Q, on the host, one matrix after the other.
    Not differentiable.

    References
    ----------
    "Similarity Reduction of a General Matrix to Hessenberg Form"

    Examples
    --------
    >>> H, Q = hessenberg(torch.tensor([[1.0, 0.0, 2.0], [3.0, 1.0, 0.0], [4.0, 0.0, 1.0]]))
    >>> H[2, 0], H[1, 0].abs()
    (tensor(0.), tensor(5.))
    """
    t, kind = _square(A)
    if t.requires_grad and torch.is_grad_enabled():
        raise ValueError("hessenberg has no gradient: detach A")
    n = t.shape[-1]
    host = t.resolve_conj().resolve_neg().detach().cpu().numpy().reshape(math.prod(t.shape[:-2]), n, n)
    found = [scipy.linalg.hessenberg(each, calc_q=True) if n else (each, each) for each in host]
    H, Q = (_stacked([part[i] for part in found], t, (n, n)) for i in (0, 1))
    return Hessenberg(*give_back((H, Q), kind))


def _square(A: Any) -> tuple[Tensor, Any]:
    t, kind = as_tensor(A, "A")
    if t.ndim < 2 or t.shape[-1] != t.shape[-2]:
        raise ValueError(f"A must have shape (..., n, n), got {tuple(t.shape)}")
    if t.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"A has dtype {t.dtype}; convert it to float32")
    check_finite(t, "A")
    return t, kind


def _stacked(parts: list[Any], like: Tensor, shape: tuple[int, ...]) -> Tensor:
    lead = like.shape[:-2]
    if not parts:
        return torch.zeros((*lead, *shape), dtype=like.dtype, device=like.device)
    stacked = torch.from_numpy(np.ascontiguousarray(np.stack(parts)))
    return stacked.to(like.dtype).reshape(*lead, *shape).to(like.device)


def _one(A: np.ndarray, to_complex: bool, sort: Sort) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, bool]:
    """T, Z, eigenvalues, how many are in the region, and whether all of them could be brought to the front."""
    from resolvent.functions.schur import diagonal_eigenvalues, schur_form

    if not A.size:
        return A, A, A.diagonal(), 0, True
    T, Z = schur_form(A, as_complex=to_complex)
    w = diagonal_eigenvalues(T)
    w = w.astype(np.result_type(w.dtype, np.complex64))
    if sort is None:
        return T, Z, w, 0, True
    wanted = _wanted(sort, w)
    if T.dtype.kind != "c":
        pairs = np.flatnonzero(T.diagonal(-1))
        if bool((wanted[pairs] != wanted[pairs + 1]).any()):
            raise ValueError("sort must treat an eigenvalue of a real form as its conjugate: take output='complex'")
    count = int(wanted.sum())
    if bool(wanted[:count].all()):
        return T, Z, w, count, True
    # At unit size, by a power of two, so that no rotation leaves the range.
    unit = T.real.dtype.type(2.0 ** np.floor(np.log2(np.abs(T).max())))
    trsen = lapack.get_lapack_funcs("trsen", (T,))
    T, Z, *_, info = trsen(wanted.astype(np.int32), T / unit, Z, job=b"N")
    if info < 0:
        raise ValueError(f"trsen refused its argument {-info}")
    T = np.triu(T, -1 if T.dtype.kind != "c" else 0) * unit
    w = diagonal_eigenvalues(T)
    w = w.astype(np.result_type(w.dtype, np.complex64))
    again = _wanted(sort, w)
    return T, Z, w, count, info == 0 and bool(again[:count].all()) and not bool(again[count:].any())


def _wanted(sort: Sort, w: np.ndarray) -> np.ndarray:
    chosen = np.asarray(_REGIONS[sort](w) if isinstance(sort, str) else sort(w))  # type: ignore[misc]
    if chosen.shape != w.shape or chosen.dtype != np.bool_:
        raise ValueError(
            f"sort must give booleans of shape {w.shape}, got {chosen.dtype} of shape {chosen.shape} from it"
        )
    return chosen


class _Formed(torch.autograd.Function):
    """T and Z as functions of A."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, T: Tensor, Z: Tensor) -> tuple[Tensor, Tensor]:
        T, Z = T.clone(), Z.clone()
        ctx.save_for_backward(T, Z)
        return T, Z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        T, Z = ctx.saved_tensors
        gT, gZ = grads
        _check_distinct(T)
        outer = gT.triu()
        turning = Z.mH @ gZ
        inner = turning - outer @ T.mH + T.mH @ outer
        if T.is_complex():
            _check_phases(inner, turning, outer, T)
        N = (inner - inner.mH).tril(-1)
        host = [x.resolve_conj().cpu().numpy().reshape(-1, *T.shape[-2:]) for x in (T, N)]
        low = _stacked([_lower(t, x) for t, x in zip(*host, strict=True)], T, T.shape[-2:])
        return Z @ (outer + low) @ Z.mH, None, None


def _check_distinct(T: Tensor) -> None:
    if bool(T.diagonal(-1, -2, -1).any()):
        raise ValueError("a real Schur form with complex eigenvalues has no gradient: take output='complex'")
    d = T.diagonal(dim1=-2, dim2=-1)
    gaps = (d[..., :, None] - d[..., None, :]).abs()
    gaps.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    size = T.abs().amax((-1, -2)) if T.numel() else gaps.sum((-1, -2))
    if gaps.numel() and bool((gaps.amin((-1, -2)) <= T.shape[-1] * torch.finfo(T.dtype).eps * size).any()):
        raise ValueError("a Schur form has no gradient where two eigenvalues are the same to rounding")


def _check_phases(inner: Tensor, turning: Tensor, outer: Tensor, T: Tensor) -> None:
    """What a phase of a column of Z would do to the value has to be nothing."""
    moved = inner.diagonal(dim1=-2, dim2=-1).imag.abs()
    size = turning.abs().sum() + (outer @ T.mH).abs().sum()
    if moved.numel() and bool(moved.max() > 1e3 * torch.finfo(T.dtype).eps * size):
        raise ValueError("the value depends on the phases of the columns of Z, which are arbitrary: no gradient")


def _lower(T: np.ndarray, N: np.ndarray) -> np.ndarray:
    """Strictly lower Y with ``low(Y T^H - T^H Y) = N``: the halves, then what is between them by a Sylvester equation."""
    from resolvent.functions.schur import triangular_sylvester

    n = len(T)
    if n == 1:
        return np.zeros_like(N)
    k = n // 2
    Y = np.zeros_like(N)
    Y[:k, :k], Y[k:, k:] = _lower(T[:k, :k], N[:k, :k]), _lower(T[k:, k:], N[k:, k:])
    beside = T[:k, k:].conj().T
    C = N[k:, :k] - Y[k:, k:] @ beside + beside @ Y[:k, :k]
    Y[k:, :k] = triangular_sylvester(T[:k, :k], -T[k:, k:], C.conj().T).conj().T
    return Y
