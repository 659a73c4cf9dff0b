"""Soft ranks: how many directions a matrix uses, by its spectrum's entropy, energy or cut-off.

>>> import torch
>>> from resolvent.spectra import effective_rank, numerical_rank, stable_rank
>>> A = torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0]))
>>> round(float(effective_rank(A)), 5), round(float(stable_rank(A)), 5), int(numerical_rank(A))
(3.0, 3.0, 3)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.info import Info
from resolvent.operators import Operator, as_operator
from resolvent.operators.arrays import give_back
from resolvent.random import GeneratorLike
from resolvent.spectra.entrywise import entry_norm, vector_norm
from resolvent.spectra.quadrature import Integrand, trace_of_function
from resolvent.spectra.schatten import formable, gram, require_convergence, spectral_norm, spectrum, unit_scaled


def effective_rank(
    A: Any,
    *,
    power: float = 1.0,
    rtol: float | None = None,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    r"""Exponential of the entropy of the normalised singular values.

    .. math:: \exp\Big(-\sum_i p_i \log p_i\Big), \qquad p_i = \sigma_i^a / \sum_j \sigma_j^a

    with the exponent a = `power`: 1 is the definition of Roy and Vetterli; 2 takes the von Neumann entropy of
    :math:`A^H A / \mathrm{tr} A^H A`, the share of the energy in each direction (what the spectral report prints).

    Parameters
    ----------
    A : (*batch, m, n) operator or anything `as_operator` takes
    power : exponent of the singular values, positive
    rtol : half-width of the 95 percent interval relative to the value where it is estimated; default 1e-2
    generator : randomness of the estimate
    return_info : also return an `Info`

    Returns
    -------
    (*batch,) values in [1, min(m, n)]; a Python float or an array where `A` was NumPy's. Zero for a zero matrix.

    Raises
    ------
    ValueError : `power` is not positive, or A has NaN.
    ConvergenceError : the interval of an estimate stayed wider than `rtol`.

    Notes
    -----
    From all singular values where the matrix is stored, structured, or at most 4096 on its shorter side; else by
    stochastic Lanczos quadrature. Differentiable: exactly in the first case, first order in the second.

    References
    ----------
    "The effective rank: A measure of effective dimensionality"

    Examples
    --------
    >>> import numpy as np
    >>> round(effective_rank(np.eye(5)), 10)
    5.0
    """
    if not power > 0:
        raise ValueError(f"power must be positive, got {power!r}")
    op = unit_scaled(as_operator(A, name="A"))
    if formable(op) or op.batch_shape:
        value, info = _entropic(spectrum(op), power), Info("dense")
    else:
        value, info = _estimated(op, _entropy_integrand(power / 2), "effective_rank", rtol, generator)
    return _finish(value, info, op, return_info)


def stable_rank(
    A: Any, *, rtol: float | None = None, generator: GeneratorLike = None, return_info: bool = False
) -> Any:
    r"""Ratio of the squared Frobenius and spectral norms, :math:`\|A\|_F^2 / \|A\|_2^2`.

    Parameters
    ----------
    A : (*batch, m, n) operator or anything `as_operator` takes
    rtol : relative error of the spectral norm
    generator : randomness of its starting vector
    return_info : also return the `Info` of the spectral norm

    Returns
    -------
    (*batch,) values in [1, rank]; a Python float or an array where `A` was NumPy's. Zero for a zero matrix.

    Raises
    ------
    ValueError : A has NaN.
    ConvergenceError : the spectral norm did not converge; `best` is the ratio with its best value.

    Notes
    -----
    No decomposition: one pass for the Frobenius norm (n products of an operator that stores no entries) and a few
    tens of products for the spectral one. Differentiable to first order.

    References
    ----------
    "Sampling from large matrices: an approach through geometric functional analysis"

    Examples
    --------
    >>> import torch
    >>> stable_rank(torch.diag(torch.tensor([2.0, 1.0])))
    tensor(1.2500)
    """
    op = unit_scaled(as_operator(A, name="A"))
    if 0 in op.shape[-2:]:
        return _finish(_zeros(op), Info("empty"), op, return_info)
    sigma, info = spectral_norm(op, rtol, generator)
    positive = sigma > 0
    ratio = entry_norm(op, 2.0) / torch.where(positive, sigma, torch.ones_like(sigma))
    value = torch.where(positive, ratio**2, torch.zeros_like(ratio))
    require_convergence("stable_rank", value, info, op)
    return _finish(value, info, op, return_info)


def numerical_rank(A: Any, rtol: float | None = None, *, atol: float = 0.0) -> Any:
    r"""Number of singular values above a tolerance, :math:`\#\{i : \sigma_i > \max(atol, rtol\,\sigma_1)\}`.

    Parameters
    ----------
    A : (*batch, m, n) operator or anything `as_operator` takes
    rtol : relative tolerance; default max(m, n) times the machine precision of the dtype, as `torch.linalg.matrix_rank`
    atol : absolute tolerance

    Returns
    -------
    (*batch,) int64 tensor; a Python int or an array where `A` was NumPy's. It is a count and has no gradient.

    Raises
    ------
    ValueError : a negative tolerance, NaN in A, or an operator too large for all its singular values.

    Notes
    -----
    All singular values by LAPACK, or a structure's closed form. A value within rounding (machine precision times
    :math:`\sigma_1`) of the tolerance may fall on either side.

    Examples
    --------
    >>> import torch
    >>> numerical_rank(torch.diag(torch.tensor([1.0, 1e-3, 1e-9])), rtol=1e-6)
    tensor(2)
    """
    op = as_operator(A, name="A")
    if (rtol is not None and not rtol >= 0) or not atol >= 0:
        raise ValueError(f"rtol and atol must not be negative, got {rtol!r} and {atol!r}")
    with torch.no_grad():
        s = spectrum(op)
        if rtol is None:
            rtol = max(op.shape[-2:]) * torch.finfo(s.dtype).eps
        _check_nan(s)
        if s.shape[-1] == 0:
            return give_back(torch.zeros(op.batch_shape, dtype=torch.int64, device=op.device), op.kind)
        return give_back((s > (rtol * s[..., :1]).clamp_min(atol)).sum(-1), op.kind)


def participation_ratio(
    A: Any, *, rtol: float | None = None, generator: GeneratorLike = None, return_info: bool = False
) -> Any:
    r"""Participation ratio of the squared singular values, :math:`(\sum \lambda_i)^2 / \sum \lambda_i^2`, with
    :math:`\lambda_i = \sigma_i^2`.

    Parameters
    ----------
    A : (*batch, m, n) operator or anything `as_operator` takes
    rtol : half-width of the 95 percent interval relative to the value where it is estimated; default 1e-2
    generator : randomness of the estimate
    return_info : also return an `Info`

    Returns
    -------
    (*batch,) values in [1, rank]; a Python float or an array where `A` was NumPy's. Zero for a zero matrix.

    Raises
    ------
    ValueError : A has NaN.
    ConvergenceError : the interval of an estimate stayed wider than `rtol`.

    Notes
    -----
    Equal to :math:`\|A\|_F^4 / \|A^H A\|_F^2`: one Gram product of the smaller side and no decomposition; a large
    operator that is not stored is estimated by stochastic Lanczos quadrature. Differentiable.

    Examples
    --------
    >>> import torch
    >>> round(float(participation_ratio(torch.diag(torch.tensor([1.0, 1.0, 0.0])))), 6)
    2.0
    """
    op = unit_scaled(as_operator(A, name="A"))
    if 0 in op.shape[-2:]:
        return _finish(_zeros(op), Info("empty"), op, return_info)
    if formable(op) or op.batch_shape:
        value, info = _participation(op), Info("gram")
    else:
        value, info = _estimated(op, _MOMENTS, "participation_ratio", rtol, generator)
    return _finish(value, info, op, return_info)


def _participation(A: Operator) -> Tensor:
    if spectrum.dispatch(type(A)) is spectrum.dispatch(Operator) or hasattr(A, "data"):
        a = A._dense()
        # by the Frobenius norm the trace of the Gram matrix is one, whatever the scale of A
        size = vector_norm(a, 2, dim=(-2, -1))
        zero = size == 0
        a = a / torch.where(zero, torch.ones_like(size), size)[..., None, None]
        g = a @ a.mH if a.shape[-2] < a.shape[-1] else a.mH @ a
        square = vector_norm(g, 2, dim=(-2, -1))
        return torch.where(zero, torch.zeros_like(size), 1 / torch.where(zero, torch.ones_like(size), square) ** 2)
    s = spectrum(A)
    top = s.amax(-1, keepdim=True)
    shares = (s / torch.where(top > 0, top, torch.ones_like(top))) ** 2
    total, energy = shares.sum(-1), shares.square().sum(-1)
    return torch.where(energy > 0, total**2 / torch.where(energy > 0, energy, torch.ones_like(energy)), energy)


def _entropic(s: Tensor, power: float) -> Tensor:
    if s.shape[-1] == 0:
        return s.sum(-1)
    top = s.amax(-1, keepdim=True)
    weights = (s / torch.where(top > 0, top, torch.ones_like(top))) ** power
    total = weights.sum(-1, keepdim=True)
    p = weights / torch.where(total > 0, total, torch.ones_like(total))
    # p log p has an infinite slope at zero, but a zero singular value carries no first-order entropy here
    p = torch.where(p > 0, p, torch.ones_like(p))
    entropy = torch.special.entr(p).sum(-1)
    return torch.where(top[..., 0] > 0, entropy.exp(), torch.zeros_like(entropy))


def _entropy_integrand(half: float) -> Integrand:
    def f(theta: Tensor) -> Tensor:
        w = theta.clamp_min(0) ** half
        return torch.stack([w, -torch.special.entr(w)])

    def derivative(theta: Tensor) -> Tensor:
        theta = theta.clamp_min(torch.finfo(theta.dtype).eps * theta.abs().amax())
        slope = half * theta ** (half - 1)
        return torch.stack([slope, slope * (1 + half * theta.log())])

    return Integrand(f, derivative, lambda t: (t[..., 0].log() - t[..., 1] / t[..., 0]).exp())


_MOMENTS = Integrand(
    lambda theta: torch.stack([theta, theta**2]),
    lambda theta: torch.stack([torch.ones_like(theta), 2 * theta]),
    lambda t: t[..., 0] ** 2 / t[..., 1],
)


def _estimated(
    A: Operator, integrand: Integrand, name: str, rtol: float | None, generator: GeneratorLike
) -> tuple[Tensor, Info]:
    try:
        return trace_of_function(gram(A), integrand, name=name, rtol=rtol or 1e-2, generator=generator)
    except ConvergenceError as error:
        error.best = give_back(error.best, A.kind)
        raise


def _zeros(A: Operator) -> Tensor:
    return torch.zeros(A.batch_shape, dtype=torch.empty(0, dtype=A.dtype).real.dtype, device=A.device)


def _check_nan(value: Tensor) -> None:
    if bool(torch.isnan(value.detach()).any()):
        raise ValueError("A has NaN entries, or its product returned NaN")


def _finish(value: Tensor, info: Info, A: Operator, return_info: bool) -> Any:
    _check_nan(value)
    result = give_back(value, A.kind)
    return (result, info) if return_info else result
