"""The largest singular value of an operator, by Golub-Kahan-Lanczos on the Gram operator of the smaller side."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.info import Info
from resolvent.operators import Operator
from resolvent.random import GeneratorLike, as_generator, gaussian
from resolvent.spectra.orthogonal import project_out

_FIRST_CHECK = 4


def largest_singular(
    A: Operator,
    *,
    rtol: float | None = None,
    generator: GeneratorLike = None,
    max_products: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Info]:
    r"""Largest singular value :math:`\sigma = \|A\|_2` and its vectors, :math:`A v = \sigma u`.

    Parameters
    ----------
    A : (m, n) operator without batch dimensions
    rtol : relative error of sigma; default 1e-10 in float64, 1e-6 in float32
    generator : randomness of the start
    max_products : Gram products before it gives up; default min(m, n) + 20, at most 2000

    Returns
    -------
    sigma : 0-d real tensor
    u, v : (m,), (n,) unit vectors, with an error of about sqrt(rtol): that of sigma is of second order in theirs
    info : matvecs counts products with A and with A^H

    Raises
    ------
    ValueError : the product returns NaN or infinity
    ConvergenceError : `max_products` did not reach `rtol`; `best` is (sigma, u, v)

    Notes
    -----
    Lanczos with full reorthogonalisation on A^H A (or A A^H if that is smaller) from a random vector, one
    pass over the data per step where the operator has a fused Gram product. For a Ritz pair (theta, y) of residual r
    the error of theta is at most r^2 / gap; the gap is taken to the next Ritz value, and the bound must hold with a
    factor of four to spare at two consecutive steps. sigma is the norm of A v, recomputed, so it never exceeds the
    truth by more than rounding. The work vectors are scaled by a power of two, so that A^H A neither overflows nor
    underflows.
    """
    m, n = A.shape[-2:]
    real = torch.zeros((), dtype=A.dtype).real.dtype
    if rtol is None:
        rtol = 1e-10 if real == torch.float64 else 1e-6
    with torch.no_grad():
        if m == 0 or n == 0:
            return _nothing(A, real)
        if m < n:
            sigma, v, u, info = largest_singular(A.H, rtol=rtol, generator=generator, max_products=max_products)
            return sigma, u, v, info
        start = gaussian((n,), A.dtype, A.device, as_generator(generator, A.device))
        start /= torch.linalg.vector_norm(start)
        scale = safe_scale(A, start)
        if scale is None:
            return _zero(A, start, real)
        limit = max_products if max_products is not None else min(n + 20, 2000)
        v, error, steps = _gram_lanczos(A, start, scale, rtol, limit)
        sigma, u, products = _value(A, v, scale, real)
        # What rounding leaves unknown is part of the error.
        error = max(error, 2 * torch.finfo(A.dtype).eps)
    info = Info("golub-kahan", matvecs=2 * steps + products + 1, iterations=steps, error=error, converged=error <= rtol)
    if not info.converged:
        raise ConvergenceError(
            f"largest_singular: error estimate {error:.2g} after {steps} steps, asked for {rtol:.2g}",
            best=(sigma, u, v),
            error=error,
            info=info,
        )
    return sigma, u, v, info


def _gram_lanczos(A: Operator, start: Tensor, scale: float, rtol: float, limit: int) -> tuple[Tensor, float, int]:
    """Ritz vector of the largest eigenvalue of scale^2 A^H A, the estimated relative error of sigma, and the steps."""
    n = len(start)
    capacity = min(limit, n)
    basis = torch.empty(min(capacity, 32), n, dtype=start.dtype, device=start.device)
    basis[0] = start
    alpha: list[Tensor] = []
    beta: list[Tensor] = []
    check, passed, error = min(_FIRST_CHECK, capacity), 0, math.inf
    weights = torch.ones(1, dtype=torch.float64)
    eps = torch.finfo(start.dtype).eps
    for j in range(capacity):
        z = _gram(A, basis[j], scale)[None]
        if j + 1 == len(basis) and j + 1 < capacity:
            basis = torch.cat([basis, torch.empty(min(j + 1, capacity - j - 1), n, dtype=z.dtype, device=z.device)])
        known = basis[: j + 1]
        a = project_out(known, z)[0, j].real
        a = a + project_out(known, z)[0, j].real
        b = torch.linalg.vector_norm(z)
        alpha.append(a)
        beta.append(b)
        if j + 1 >= check or j + 1 == capacity:
            error, weights, ended = _estimate(alpha, beta, eps)
            passed = passed + 1 if error <= rtol / 4 else 0
            if ended or passed == 2:
                break
            check = j + 2 if passed or error < 1e3 * rtol else j + 1 + max(2, (j + 1) // 8)
        if j + 1 < capacity:
            basis[j + 1] = z[0] / b
    steps = len(alpha)
    if steps == n:
        error = min(error, 4 * eps)
    v = weights.to(dtype=basis.dtype, device=basis.device) @ basis[:steps]
    return v / torch.linalg.vector_norm(v), error, steps


def _estimate(alpha: list[Tensor], beta: list[Tensor], eps: float) -> tuple[float, Tensor, bool]:
    """Relative error of sqrt(theta) by r^2 / gap, the Ritz weights, and whether the Krylov space has ended."""
    values = torch.stack([*alpha, *beta]).to(torch.float64).cpu()
    if not bool(torch.isfinite(values).all()):
        raise ValueError("the product with A returned NaN or infinity")
    a, b = values[: len(alpha)], values[len(alpha) :]
    T = torch.diag(a) + torch.diag(b[:-1], 1) + torch.diag(b[:-1], -1)
    theta, S = torch.linalg.eigh(T)
    top = float(theta[-1])
    if top <= 0:
        return 0.0, S[:, -1], True
    residual = float(b[-1] * S[-1, -1].abs())
    ended = float(b[-1]) <= 32 * eps * top
    gap = top - float(theta[-2]) if len(theta) > 1 else 0.0
    bound = residual if gap <= residual else residual**2 / gap
    return bound / (2 * top), S[:, -1], ended


def _gram(A: Operator, x: Tensor, scale: float) -> Tensor:
    # x is scaled by powers of two on both sides, so that neither A x nor A^H A x leaves the range of the dtype.
    if scale == 1.0:
        return A._gram(x[:, None])[:, 0]
    y = A._matmul((scale * x)[:, None])
    return A.H._matmul(scale * y)[:, 0]


def safe_scale(A: Operator, x: Tensor) -> float | None:
    """A power of two near 1 / norm(A), 1 for ordinary sizes, None if A x is zero at every scale."""
    largest = 900.0 if torch.finfo(A.dtype).bits == 64 else 100.0
    spread = 100.0 if torch.finfo(A.dtype).bits == 64 else 20.0
    for exponent in (0.0, -largest, largest):
        y = A._matmul((2.0**exponent * x)[:, None])
        size = float(y.abs().max())
        if math.isnan(size):
            break
        if math.isfinite(size) and size > 0:
            power = math.frexp(size)[1] - exponent
            return 1.0 if abs(power) < spread else 2.0 ** max(-1000.0, min(1000.0, -power))
        if size == 0 and exponent > 0:
            return None
    raise ValueError("the product with A returned NaN or infinity")


def _value(A: Operator, v: Tensor, scale: float, real: torch.dtype) -> tuple[Tensor, Tensor, int]:
    y = A._matmul((scale * v)[:, None])[:, 0]
    wide = y.to(torch.complex128 if y.is_complex() else torch.float64)
    length = torch.linalg.vector_norm(v.to(wide.dtype))
    norm = torch.linalg.vector_norm(wide)
    u = (wide / torch.where(norm > 0, norm, torch.ones_like(norm))).to(y.dtype)
    return (norm / length / scale).to(real), u, 1


def _zero(A: Operator, start: Tensor, real: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Info]:
    u = torch.zeros(A.shape[-2], dtype=A.dtype, device=A.device)
    u[0] = 1
    return torch.zeros((), dtype=real, device=A.device), u, start, Info("golub-kahan", matvecs=3)


def _nothing(A: Operator, real: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Info]:
    u, v = (torch.zeros(size, dtype=A.dtype, device=A.device) for size in A.shape[-2:])
    return torch.zeros((), dtype=real, device=A.device), u, v, Info("golub-kahan")
