"""The matrix exponential: scaling and squaring of Taylor polynomials in as few products as possible."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resolvent.functions.lift import Lifted, call
from resolvent.functions.panels import product_of
from resolvent.operators.arrays import real_dtype

# Bounds of the norm for the Taylor polynomials of degree 2, 8, 12 and 18: their backward error is a rounding error.
_THETAS = {
    torch.float64: (2.58e-8, 4.99e-2, 2.996e-1, 1.090),
    torch.float32: (5.978e-4, 5.8e-1, 1.461, 3.010),
}
# -log2 of half the unit of rounding
_DIGITS = {torch.float64: 53.0, torch.float32: 24.0}
# Sides up to which BLAS multiplies on the thread that calls it: more would wait for each other in parallel blocks.
_SMALL = {False: 64, True: 32}
# Multiplications that keep one core busy for longer than it takes to wake another.
_PER_THREAD = 100_000
# Side of one complex matrix from which torch's threads gain.
_WIDE = 160

_ROOT = math.sqrt(177)
# T8 = (I + A + y A2) + (x3 A2 + A4) (x4 I + x5 A + x6 A2 + x7 A4), A4 = A2 (x1 A + x2 A2); the last row is x7.
_EIGHT = (
    (0, (1 + _ROOT) / 132, (1 + _ROOT) / 528),
    (0, 0, 2 / 3),
    ((-271 + 29 * _ROOT) / 210, (-11 + 11 * _ROOT) / 840, (-99 + 11 * _ROOT) / 3360),
    (1, 1, (857 - 58 * _ROOT) / 630),
    ((89 - _ROOT) / 2240, 0, 0),
)
# T12 = B0 + (B1 + A6) A6, A6 = B2 + B3 B3, each B a sum of I, A, A2, A3.
_TWELVE = (
    (9.0198e-16, 0.46932117595418237389, -0.20099424927047284052, -0.04623946134063071740),
    (5.31597895759871264183, 1.19926790417132231573, 0.01179296240992997031, 0.01108844528519167989),
    (0.18188869982170434744, 0.05502798439925399070, 0.09351590770535414968, 0.00610700528898058230),
    (-2.0861320e-13, -0.13181061013830184015, -0.02027855540589259079, -0.00675951846863086359),
)
# T18 = B1 + (B2 + A9) A9, A9 = B0 B4 + B3, each B a sum of I, A, A2, A3, A6.
_EIGHTEEN = (
    (0, -1.00365581030144618291e-01, -8.02924648241156932449e-03, -8.92138498045729985177e-04, 0),
    (
        0,
        3.97849749499645077844e-01,
        1.36783778460411720168e00,
        4.98289622525382669416e-01,
        -6.37898194594723280150e-04,
    ),
    (
        -1.09676396052962061844e01,
        1.68015813878906206114e00,
        5.71779846478865511061e-02,
        -6.98210122488052056106e-03,
        3.34975017086070470649e-05,
    ),
    (
        -9.04316832390810593223e-02,
        -6.76404519071381882256e-02,
        6.75961301770459654925e-02,
        2.95552570429315521194e-02,
        -1.39180257516060693404e-05,
    ),
    (0, 0, -9.23364619367118555360e-02, -1.69364939002081722752e-02, -1.40086798182036094347e-05),
)


def expm(A: Any) -> Any:
    r"""The matrix exponential :math:`e^A = \sum_k A^k / k!`.

    Parameters
    ----------
    A : (*batch, n, n) tensor or array, or an operator with a structure that the exponential keeps

    Returns
    -------
    (*batch, n, n), of the kind, dtype and device of `A`; for a structured operator an operator: `Diagonal`,
    `BlockDiagonal`, `Circulant`, `LowRank` plus a multiple of `Identity`, and `KroneckerSum`, whose exponential is the
    `Kronecker` product of those of its terms.

    Raises
    ------
    ValueError : `A` is not square or has a NaN or an infinity.
    TypeError : an operator whose exponential has no structure; `expm_multiply` applies it without forming it.
    OverflowError : an entry of the result is beyond the range of its dtype.

    Notes
    -----
    Taylor polynomials of degree 2, 8, 12 or 18 in 1, 3, 4 or 5 products (the formulas of Bader, Blanes and Casas), of
    :math:`2^{-s} A`, squared s times. The degree and s follow from :math:`\max(\|A^2\|^{1/2}, \|A^3\|^{1/3})` where that
    is smaller than the norm, so that a nilpotent matrix is not scaled for nothing (Al-Mohy and Higham). Small matrices
    on the CPU are computed one by one in the cache. The backward error is a rounding error for the polynomial; squaring
    adds errors of up to eps times the condition number of the exponential, for a normal matrix about :math:`\|A\|`.
    Derivatives of all orders; the first costs three times the value.

    References
    ----------
    "Computing the Matrix Exponential with an Optimized Taylor Polynomial Approximation";
    "A New Scaling and Squaring Algorithm for the Matrix Exponential"

    Examples
    --------
    >>> import torch
    >>> expm(torch.tensor([[0.0, torch.pi], [-torch.pi, 0.0]], dtype=torch.float64)).round(decimals=6)
    tensor([[-1.,  0.],
            [-0., -1.]], dtype=torch.float64)
    """
    return call(EXP, A)


def _value(A: Tensor) -> Tensor:
    if A.numel() == 0:
        return A.clone()
    product = product_of(A)
    if product is not None:
        return _in_range(_large(A[None], lambda X, Y: product(X[0], Y[0])[None])[0])
    return _in_range(_one_by_one(A) if _fits_the_cache(A) else _large(A[None])[0])


def _fits_the_cache(A: Tensor) -> bool:
    """Whether matrix by matrix is faster; complex products are, of what is large or many, on all of torch's threads."""
    n = A.shape[-1]
    count = A.numel() // n**2
    many = n >= 24 and count >= 16 and count * n**3 >= 15 * _PER_THREAD
    return A.device.type == "cpu" and not (A.is_complex() and (n >= _WIDE or many))


def _tangent(A: Tensor, E: Tensor) -> tuple[Tensor, Tensor]:
    """The value and the derivative, carried together through every product."""
    if A.numel() == 0:
        return A.clone(), E.clone()
    # The derivative is linear in E: at the size of A, its products round no worse than those of A.
    size = E.abs().amax((-2, -1), keepdim=True) * E.shape[-1]
    size = torch.where(size > 0, size, torch.ones_like(size))
    value, derivative = _large(torch.stack([A, E / size]))
    return _in_range(value), _in_range(derivative) * size


def _in_range(F: Tensor) -> Tensor:
    if not bool(torch.isfinite(F.sum())) and not bool(torch.isfinite(F).all()):
        raise OverflowError(f"the exponential of A has entries beyond the range of {F.dtype}")
    return F


@functools.cache
def _coefficients(dtype: torch.dtype) -> tuple[np.ndarray, ...]:
    kind = np.float64 if dtype == torch.float64 else np.float32
    rows = [np.array([list(r) for r in rows], kind) for rows in (_EIGHT, _TWELVE, _EIGHTEEN)]
    return (np.array(_THETAS[dtype]), *rows)


def _one_by_one(A: Tensor) -> Tensor:
    """Matrix by matrix, in compiled code; many small ones on all cores."""
    from resolvent.functions import exponential_kernel as kernel
    from resolvent.operators.parallel import numba

    real = real_dtype(A.dtype)
    stack = A.reshape(-1, *A.shape[-2:]).contiguous().resolve_conj().numpy()
    out = np.empty_like(stack)
    rest = (*_coefficients(real), _DIGITS[real], out)
    n, count = A.shape[-1], len(stack)
    threads = min(numba.get_num_threads(), count, max(1, count * n**3 // _PER_THREAD))
    threads = threads if n <= _SMALL[A.is_complex()] else 1
    if threads == 1:
        kernel.exponentials(stack, *rest)
    else:
        bounds = np.linspace(0, count, 4 * threads + 1 if count >= 16 * threads else threads + 1).astype(np.int64)
        kernel.exponentials_in_parallel(stack, bounds, *rest)
    return torch.from_numpy(out).reshape(A.shape)


def _product(X: Tensor, Y: Tensor) -> Tensor:
    """Of values, or of values with derivatives: (A + tE)(B + tF) = A B + t (A F + E B)."""
    if len(X) == 1:
        return X @ Y
    return torch.stack([X[0] @ Y[0], X[0] @ Y[1] + X[1] @ Y[0]])


def _large(X: Tensor, product: Callable[[Tensor, Tensor], Tensor] = _product) -> Tensor:
    """The exponential of X[0], and with it the derivative in the direction X[1]; (1 or 2, *batch, n, n)."""
    real = real_dtype(X.dtype)
    thetas = _THETAS[real]
    norms = _one_norm(X[0])
    # powers of an enormous matrix would overflow before its norm could be told from theirs
    before = (norms.log2() - 30).ceil().clamp(min=0)
    X = X * torch.exp2(-before)[..., None, None]
    top = float((norms * torch.exp2(-before)).max())
    A2 = product(X, X)
    if top <= thetas[0] and not bool(before.any()):
        return _sums([[1, 1, 0.5]], [X, A2])[0]
    if top <= thetas[1] and not bool(before.any()):
        B = _sums(_EIGHT[:4], [X, A2])
        A4 = product(A2, B[0])
        return B[3] + product(B[1] + A4, B[2] + _EIGHT[4][0] * A4)
    A3 = product(A2, X)
    norms = norms * torch.exp2(-before)
    alpha = torch.minimum(norms, torch.maximum(_one_norm(A2[0]) ** (1 / 2), _one_norm(A3[0]) ** (1 / 3)))
    s = (alpha / thetas[3]).log2().ceil().clamp(min=0)
    # Where A^k is far smaller than |A|^k, the rounding errors are those of the latter.
    spread = bool((2 * alpha < norms).any())
    if spread:
        s = s + _rounding(X[0] * torch.exp2(-s)[..., None, None], 18, math.lgamma(20) / math.log(2) - _DIGITS[real])
    most = int((s + before).max())
    if most == 0 and not spread and float(alpha.max()) <= thetas[2]:
        B = _sums(_TWELVE, [X, A2, A3])
        A6 = B[2] + product(B[3], B[3])
        return B[0] + product(B[1] + A6, A6)
    if most:
        c = torch.exp2(-s)[..., None, None]
        X, A2, A3 = X * c, A2 * c**2, A3 * c**3
    B = _sums(_EIGHTEEN, [X, A2, A3, product(A3, A3)])
    A9 = B[3] + product(B[0], B[4])
    return _squared(B[1] + product(B[2] + A9, A9), s + before, most, product)


def _squared(F: Tensor, times: Tensor, most: int, product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Every matrix squared as often as `times` says."""
    shared = bool((times == most).all())
    for step in range(most):
        if shared:
            F = product(F, F)
        else:
            chosen = times > step
            F[:, chosen] = product(F[:, chosen], F[:, chosen])
    return F


def _sums(rows: Any, powers: list[Tensor]) -> Tensor:
    """All sums of the identity and the powers with the coefficients in `rows`, in one pass: (rows, *powers[0].shape)."""
    S = torch.stack(powers)
    flat = (torch.view_as_real(S) if S.is_complex() else S).flatten(1)
    C = torch.tensor([list(r[1:]) for r in rows], dtype=flat.dtype, device=flat.device)
    out = (C @ flat).view(len(rows), *powers[0].shape, *([2] if S.is_complex() else []))
    out = torch.view_as_complex(out) if S.is_complex() else out
    # The identity has no derivative: it belongs to the values alone.
    for r, row in enumerate(rows):
        if row[0]:
            out[r, 0].diagonal(dim1=-2, dim2=-1).add_(row[0])
    return out


def _one_norm(A: Tensor) -> Tensor:
    return A.abs().sum(-2).amax(-1)


def _rounding(A: Tensor, degree: int, log2_bound: float) -> Tensor:
    """Halvings more so that the powers of |A| are harmless too; `log2_bound` is that of what they may be."""
    size = A.abs()
    x = size.new_ones(*A.shape[:-1])[..., None, :]
    total = first = size.new_zeros(A.shape[:-2])
    for step in range(degree + 1):
        x = x @ size
        top = x.amax((-2, -1))
        if step == 0:
            first = top
        total = total + top.log2()
        x = x / torch.where(top > 0, top, torch.ones_like(top))[..., None, None]
    return ((total - first.log2() - log2_bound) / degree).nan_to_num(nan=0.0, neginf=0.0).ceil().clamp(min=0)


EXP = Lifted("exponential", torch.exp, _value, _tangent)
