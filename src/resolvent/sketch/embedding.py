"""What a sketch keeps: its distortion of a subspace and of a set of points, and how many rows it needs."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.operators.convert import as_operator
from resolvent.operators.magnitude import moderate
from resolvent.sketch.structured import padded_size
from resolvent.sketch.transforms import constructors

# Rules for kinds whose theorems leave their constant open: this many times the rows of a Gaussian sketch.
_LIKE_GAUSSIAN = 2.0
# Rows of distances that are held at a time.
_ROWS = 1024


def distortion(S: Any, A: Any) -> Any:
    r"""The distortion of the range of A: :math:`\max_i |\sigma_i(S Q)^2 - 1|`, Q an orthonormal basis of the range.

    It is the smallest :math:`\varepsilon` with
    :math:`(1 - \varepsilon) \|x\|^2 \le \|S x\|^2 \le (1 + \varepsilon) \|x\|^2` for all x in the range.

    Parameters
    ----------
    S : (m, n) operator or anything `as_operator` takes
    A : (*batch, n, d) tensor or array; columns may be dependent

    Returns
    -------
    (*batch,) tensor, a number or an array where `A` was NumPy's. At least 1 if m is less than the rank of A.

    Raises
    ------
    ValueError : shapes that do not fit, NaN or infinite entries
    RuntimeError : `A` requires a gradient: the range has one, its basis has not

    Notes
    -----
    A singular value decomposition of A (6 n d^2 flops), directions below ``max(n, d) eps`` times the largest singular
    value left out; one product with S; the eigenvalues of the Gram matrix. There is no gradient.

    Examples
    --------
    >>> import torch
    >>> from resolvent.sketch import gaussian
    >>> A = torch.randn(500, 5, generator=torch.Generator().manual_seed(0))
    >>> 0 < float(distortion(gaussian(200, 500, generator=0), A)) < 0.6
    True
    """
    t, kind = as_tensor(A, "A")
    operator = as_operator(S, name="S")
    if t.ndim < 2 or t.shape[-2] != operator.shape[-1]:
        raise ValueError(f"A must have shape (*batch, n, d) with n = {operator.shape[-1]}, got {tuple(t.shape)}")
    check_finite(t, "A")
    _no_gradient(t, "distortion", "A")
    with torch.no_grad():
        U, s, _ = torch.linalg.svd(t, full_matrices=False)
        floor = max(t.shape[-2:]) * torch.finfo(t.dtype).eps * s.amax(-1, keepdim=True) if s.shape[-1] else s
        kept = (s > floor).to(t.dtype)
        SQ = operator._apply(U * kept[..., None, :], kind)
        # A direction that A does not have is given the eigenvalue one.
        gram = SQ.mH @ SQ + torch.diag_embed(1 - kept)
        off = (torch.linalg.eigvalsh(gram) - 1).abs()
        return give_back(off.amax(-1) if off.shape[-1] else off.sum(-1), kind)


def distance_distortion(S: Any, X: Any) -> Any:
    r"""The largest relative error of a distance: :math:`\max_{i<j} |\, \|S(x_i - x_j)\| / \|x_i - x_j\| - 1 |`.

    Parameters
    ----------
    S : (m, n) operator or anything `as_operator` takes
    X : (k, n) tensor or array, one point a row; equal points are left out

    Returns
    -------
    0-d tensor, or a float where `X` was NumPy's; 0 if no two points differ.

    Raises
    ------
    ValueError : shapes that do not fit, NaN or infinite entries
    RuntimeError : `X` requires a gradient

    Notes
    -----
    Distances by inner products in float64, k^2 (n + m) / 2 multiplications in blocks of 1024 points: two points count as
    equal if their distance is below 1e-7 times the largest one from the centre of all. There is no gradient.

    Examples
    --------
    >>> import torch
    >>> distance_distortion(2 * torch.eye(3), torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]))
    tensor(1.)
    """
    t, kind = as_tensor(X, "X")
    operator = as_operator(S, name="S")
    if t.ndim != 2 or t.shape[1] != operator.shape[-1]:
        raise ValueError(f"X must have shape (k, n) with n = {operator.shape[-1]}, got {tuple(t.shape)}")
    check_finite(t, "X")
    _no_gradient(t, "distance_distortion", "X")
    with torch.no_grad():
        # The centre and the scale of the points change no ratio, but digits.
        t = moderate(t - t.mean(0))[0] if len(t) else t
        before, after = _wide(t), _wide(operator._apply(t.mT, kind).mT)
        worst = before.new_zeros((), dtype=torch.float64)
        smallest = 1e-14 * before.abs().square().sum(1).max() if len(t) else 0.0
        for start in range(0, len(t), _ROWS):
            old, new = (_squared_distances(z, start) for z in (before, after))
            apart = old > smallest
            ratio = torch.where(apart, new.clamp_min(0) / torch.where(apart, old, 1), 1)
            worst = torch.maximum(worst, (ratio.sqrt() - 1).abs().max())
        return give_back(worst.to(t.real.dtype), kind)


def recommended_size(
    d: int,
    eps: float = 0.5,
    delta: float = 0.01,
    kind: str = "gaussian",
    *,
    of: Literal["subspace", "points"] = "subspace",
    n: int | None = None,
) -> int:
    r"""How many rows a sketch needs so that ``distortion <= eps`` with probability at least 1 - delta.

    Parameters
    ----------
    d : dimension of the subspace, or number of points
    eps : bound on :math:`|\|Sx\|^2 / \|x\|^2 - 1|`, in (0, 1)
    delta : probability of failure, in (0, 1)
    kind : of `make_sketch`
    of : "subspace": all x in one d-dimensional subspace; "points": all differences of d points
    n : number of columns of the sketch; needed for "srht", else only an upper bound

    Returns
    -------
    int
        Not more than n (for "srht" the power of two that n is padded to), where n is given.

    Raises
    ------
    ValueError : arguments out of range, an unknown kind, "srht" without n

    Notes
    -----
    Proven, with these constants, for the independent entries of four kinds: with :math:`\gamma = \sqrt{1+\varepsilon} - 1`

    * gaussian: :math:`(\sqrt d + \sqrt{2 \ln(2/\delta)})^2 / \gamma^2`
    * rademacher: :math:`(d \ln 9 + \ln(2/\delta)) / (\varepsilon^2/16 - \varepsilon^3/48)`, by a net
    * count_sketch: :math:`(d^2 + d) / (\varepsilon^2 \delta)`, by the second moment
    * srht: :math:`3 (\sqrt d + \sqrt{8 \ln(2 N/\delta)})^2 \ln(4 d/\delta) / \varepsilon^2`, by a matrix Chernoff bound

    For sparse_sign and osnap (8 signs a column), srct and fjlt the theorems leave the constant open; a rule is used that
    measurements confirm: twice the rows of "gaussian", and never more than the second moment asks for where that applies.
    For points gaussian and rademacher take :math:`\ln(k (k - 1)/\delta) / (\varepsilon^2/4 - \varepsilon^3/6)`, the others
    a union over all pairs.

    References
    ----------
    "Improved analysis of the subsampled randomized Hadamard transform"
    "Database-friendly random projections: Johnson-Lindenstrauss with binary coins"

    Examples
    --------
    >>> recommended_size(10, eps=0.5, delta=0.01), recommended_size(1000, eps=0.5, delta=0.01, of="points")
    (816, 443)
    """
    for name, value in (("eps", eps), ("delta", delta)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must lie in (0, 1), got {value!r}")
    if isinstance(d, bool) or not isinstance(d, int | np.integer) or d < 1:
        raise ValueError(f"d must be an int of at least 1, got {d!r}")
    if kind not in constructors():
        raise ValueError(f"kind must be one of {', '.join(constructors())}, got {kind!r}")
    if of not in ("subspace", "points"):
        raise ValueError(f"of must be 'subspace' or 'points', got {of!r}")
    if kind == "srht" and n is None:
        raise ValueError("n must be given for kind 'srht', whose size depends on it")
    pairs = d * (d - 1) // 2 if of == "points" else 1
    rows = _rows(1 if of == "points" else d, eps, delta / max(pairs, 1), kind, of == "points", n)
    most = math.inf if n is None else padded_size(n) if kind == "srht" else n
    return int(min(math.ceil(rows), most))


def _rows(d: int, eps: float, delta: float, kind: str, points: bool, n: int | None) -> float:
    moment = (d * d + d) / (eps**2 * delta)
    if kind == "count_sketch":
        return moment
    if kind == "srht":
        spread = (math.sqrt(d) + math.sqrt(8 * math.log(2 * padded_size(n or 1) / delta))) ** 2
        return 3 * spread * math.log(4 * d / delta) / eps**2
    if kind == "rademacher" and not points:
        return (d * math.log(9) + math.log(2 / delta)) / (eps**2 / 16 - eps**3 / 48)
    if points:
        dense = math.log(2 / delta) / (eps**2 / 4 - eps**3 / 6)
    else:
        dense = ((math.sqrt(d) + math.sqrt(2 * math.log(2 / delta))) / (math.sqrt(1 + eps) - 1)) ** 2
    if kind in ("gaussian", "rademacher"):
        return dense
    proven = moment if kind in ("sparse_sign", "osnap") else math.inf
    return min(proven, _LIKE_GAUSSIAN * dense)


def _wide(t: Tensor) -> Tensor:
    return t.to(torch.complex128 if t.is_complex() else torch.float64)


def _squared_distances(z: Tensor, start: int) -> Tensor:
    """Between the points from `start` on, one block of them, and all points from there on."""
    norms = z.abs().square().sum(1)
    inner = (z[start : start + _ROWS] @ z[start:].mH).real
    return norms[start : start + _ROWS, None] + norms[start:] - 2 * inner


def _no_gradient(t: Tensor, function: str, name: str) -> None:
    if t.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(f"{function} has no gradient, but {name} requires one: give {name}.detach()")


__all__ = ["distance_distortion", "distortion", "recommended_size"]
