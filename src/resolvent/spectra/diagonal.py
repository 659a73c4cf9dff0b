"""The diagonal of an operator: exact where it is cheap, else estimated with an error bar."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.info import Info
from resolvent.operators.arrays import give_back
from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.operators.elementary import Dense
from resolvent.operators.gradient import first_order, records
from resolvent.operators.operator import Operator
from resolvent.random import GeneratorLike, as_generator, rademacher
from resolvent.spectra.quadrature import check_confidence, quantile
from resolvent.spectra.sampling import columns_dot, loo_directions
from resolvent.spectra.trace import products_diagonal

# n products in blocks of 64 up to here; entry by entry where the matrix is stored.
EXACT = 4096
_START = 32


def diagonal(
    A: OperatorLike,
    *,
    rtol: float | None = None,
    method: Literal["auto", "exact", "signs", "xdiag"] = "auto",
    confidence: float = 0.95,
    max_matvecs: int = 10_000,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    """The diagonal, ``A_ii``.

    Parameters
    ----------
    A : (*batch, n, n) operator or anything `as_operator` takes
    rtol : bound, at the given confidence, on the 2-norm of the error relative to that of the diagonal; default
        1e-2. An exact method meets any.
    method : "auto" takes the entries where they can be read and n products with unit vectors up to n = 4096, and beyond
        what is measured to be better of "signs" (mean of ``z * A z`` over random signs z) and "xdiag"
    confidence : of the error, between 0 and 1
    max_matvecs : products allowed to an estimate
    generator : of the probes
    return_info : also return an `Info`

    Returns
    -------
    (*batch, n) tensor or array of the dtype of A.

    Raises
    ------
    ConvergenceError : the error stayed above `rtol` after `max_matvecs` products.
    ValueError : A is not square.

    Notes
    -----
    Signs: the variance of entry i is ``sum_{j != i} |A_ij|^2 / m`` after m products. XDiag spends half of its
    products on the range of ``A Z`` and is exact on it; each probe then is a sample of what the range of the others
    leaves. It needs products with A^H. "auto" starts with 32 samples and measures both errors on them; n products
    at most are spent, since these give the diagonal itself. Gradients: exact for exact methods, else those of the
    mean of ``z * A z``.

    References
    ----------
    "XTrace: Making the Most of Every Sample in Stochastic Trace Estimation" (XDiag)

    Examples
    --------
    >>> diagonal(torch.tensor([[1.0, 5.0], [6.0, 2.0]]))
    tensor([1., 2.])
    """
    A = as_operator(A, name="A")
    n = A.shape[-1]
    if A.shape[-2] != n:
        raise ValueError(f"A must be square, got shape {tuple(A.shape)}")
    if method not in ("auto", "exact", "signs", "xdiag"):
        raise ValueError(f"method must be one of auto, exact, signs, xdiag, got {method!r}")
    check_confidence(confidence)
    value = A._diagonal() if method in ("auto", "exact") else None
    if value is not None:
        info = Info("structure")
    elif method == "exact" or (method == "auto" and (n <= EXACT or A.batch_shape or isinstance(A, Dense))):
        value, info = products_diagonal(A), Info("exact", n, 1)
    else:
        if A.batch_shape:
            raise ValueError(f"method {method!r} takes one matrix, got a batch {tuple(A.batch_shape)}; use 'exact'")
        value, info = _sampled(A, method, 1e-2 if rtol is None else rtol, confidence, max_matvecs, generator)
    value = give_back(value, A.kind)
    return (value, info) if return_info else value


def _sampled(
    A: Operator, method: str, rtol: float, confidence: float, max_matvecs: int, generator: GeneratorLike
) -> tuple[Tensor, Info]:
    g = as_generator(generator, A.device)
    n, matvecs, rounds, wanted = A.shape[-1], 0, 0, min(_START, A.shape[-1])
    gradient, automatic = records(A), method == "auto"
    with torch.no_grad():
        Z = torch.empty(n, 0, dtype=A.dtype, device=A.device)
        Y = Z
        while True:
            rounds += 1
            new = rademacher((n, wanted - Z.shape[1]), A.dtype, A.device, g)
            Z, Y = torch.cat([Z, new], 1), torch.cat([Y, A._matmul(new)], 1)
            matvecs += new.shape[1]
            used, found = method, None
            if method in ("auto", "signs"):
                found, used = _signs(Z, Y), "signs"
            if method in ("auto", "xdiag"):
                other = _xdiag(A, Z, Y)
                matvecs += wanted
                # XDiag has spent twice the products: to be as good it must halve the variance.
                if found is None or other[1] * 2**0.5 < found[1]:
                    found, used = other, "xdiag"
            method = used
            value, se = found  # type: ignore[misc]
            size = torch.linalg.vector_norm(value)
            error = float(se / size.clamp_min(torch.finfo(size.dtype).tiny)) * quantile(confidence, wanted)
            # What the next round would have cost in all, and what the square root law says of the last.
            spent = 2 * wanted * (2 if used == "xdiag" else 1)
            hopeless = automatic and spent / 2 * (error / rtol) ** 2 > 2 * n
            if error <= rtol or hopeless or spent > min(max_matvecs, n):
                break
            wanted = 2 * wanted
    info = Info(used, matvecs, rounds, error, error <= rtol)
    if not info.converged:
        if automatic and n <= max_matvecs:
            return products_diagonal(A), Info("exact", matvecs + n, rounds + 1)
        message = f"diagonal: the error is {error:.3g} after {matvecs} products, {rtol:.3g} was asked for"
        raise ConvergenceError(message, best=give_back(value, A.kind), error=error, info=info)
    if gradient:
        value = first_order(value, (Z.conj() * (A @ Z)).mean(-1))
    return value, info


def _total_error(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the columns and the expected 2-norm of its error."""
    m = samples.shape[1]
    mean = samples.mean(1)
    return mean, ((samples - mean[:, None]).abs().square().sum() / (m * (m - 1))).sqrt()


def _signs(Z: Tensor, Y: Tensor) -> tuple[Tensor, Tensor]:
    return _total_error(Z.conj() * Y)


def _xdiag(A: Operator, Z: Tensor, Y: Tensor) -> tuple[Tensor, Tensor]:
    Q, R = torch.linalg.qr(Y)
    AQ = A.H._matmul(Q)
    S = loo_directions(R)
    on_range = (Q * AQ.conj()).sum(1)
    QS = Q @ S
    # Without probe i the range loses the direction Q s_i, and (I - Q_i Q_i^H) A z_i = Q s_i (s_i^H r_i).
    samples = on_range[:, None] - QS * (AQ @ S).conj() + Z.conj() * QS * columns_dot(S, R)
    return _total_error(samples)
