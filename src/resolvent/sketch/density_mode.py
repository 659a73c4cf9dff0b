"""The highest point of a kernel density in many dimensions, found after a random projection to few."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.info import Info
from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.random import GeneratorLike, as_generator, gaussian
from resolvent.sketch.coreset_line import point_weights
from resolvent.sketch.density_profile import Profile, climb, distinct, profile
from resolvent.sketch.seeding import draw

Kernel = Literal["gaussian", "logistic", "sigmoid", "generalized_gaussian"]
_KERNELS = ("gaussian", "logistic", "sigmoid", "generalized_gaussian")
# Modes of the projected density that are lifted and compared in full dimension.
_CANDIDATES = 5


class Mode(NamedTuple):
    """The highest point that was found.

    Attributes
    ----------
    point : (d,)
    density : K(point), a number
    """

    point: Any
    density: Any


def kde_mode(
    X: Any,
    bandwidth: Any = 1.0,
    kernel: Kernel = "gaussian",
    weights: Any = None,
    *,
    exponent: float = 1.0,
    dim: int | None = None,
    restarts: int | None = None,
    lift: Literal["mean_shift", "kirszbraun"] = "mean_shift",
    rtol: float | None = None,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    r"""A maximum of a kernel density :math:`K(x) = \sum_i w_i\, k(\|x - x_i\| / h) / \sum_i w_i`.

    Parameters
    ----------
    X : (n, d) points
    bandwidth : h, positive
    kernel : k(r): "gaussian" exp(-r^2 / 2), "logistic" 1 / (e^r + 2 + e^-r), "sigmoid" 1 / (e^r + e^-r) or
        "generalized_gaussian" exp(-r^exponent)
    weights : (n,) nonnegative; None means equal ones
    exponent : of the generalized Gaussian, above 0 and at most 2
    dim : dimension of the projection; None takes 4 ln(n), and no projection where that is not below d
    restarts : points of the data from which the search starts, drawn if they are not all; None takes 300. A mode to which
        a share p of the points leads is missed with probability (1 - p)^restarts
    lift : how a point of the projection becomes one of the whole space, before it is polished there
    rtol : gain in density, relative, that further steps may still bring; default 1e-8, 1e-6 in float32
    generator : of the projection and of the restarts
    return_info : also an `Info`; its error is the estimated gain that is left

    Returns
    -------
    Mode of the kind, dtype and device of X. The density has first-order gradients with respect to X, the weights and
    the bandwidth, with the point held fixed, as is right at a maximum. The point has none.

    Raises
    ------
    ValueError : shapes that do not fit, numbers out of their range, an unknown kernel. The box kernel is refused: its mode is
        NP-hard to find, and no projection helps.
    ConvergenceError : steps did not settle; carries the best point.

    Notes
    -----
    A Gaussian projection to `dim` dimensions keeps the density at the best point within the profile's change over relative
    errors of distances. Mean shift with weights -k'(r) / r climbs from all restarts there, in products of matrices, merging
    those that meet. The five best ends are lifted: by one mean shift step with the projection's weights on the full
    points, or by the point of Kirszbraun's theorem, which is not further from any x_i than the projections are,
    up to a factor. Mean shift in d dimensions then polishes them, which never lowers the density; the best is
    returned. n restarts (dim + 10) flops a step, and 5 n d in full dimension. Which maximum is found is not certain:
    with the projection, densities within (1 - eps) of the best may change places.

    References
    ----------
    "Dimensionality Reduction for General KDE Mode Finding"

    Examples
    --------
    >>> import torch
    >>> g = torch.Generator().manual_seed(0)
    >>> X = torch.cat([torch.randn(300, 200, generator=g), 4 + torch.randn(100, 200, generator=g)])
    >>> mode = kde_mode(X, bandwidth=10.0, generator=0)
    >>> bool(mode.point.abs().mean() < 0.3), round(float(mode.density), 2)
    (True, 0.28)
    """
    t, kind = as_tensor(X, "X")
    if t.ndim != 2 or t.is_complex() or 0 in t.shape:
        raise ValueError(f"X must be real of shape (n, d), not empty, got {tuple(t.shape)} of {t.dtype}")
    check_finite(t, "X")
    k = _checked_profile(kernel, exponent)
    h = _bandwidth(bandwidth, t)
    n, d = t.shape
    to = min(d, math.ceil(4 * math.log(n + 1))) if dim is None else _count(dim, "dim", d)
    starts = min(n, 300) if restarts is None else _count(restarts, "restarts", n)
    if lift not in ("mean_shift", "kirszbraun"):
        raise ValueError(f"lift must be mean_shift or kirszbraun, got {lift!r}")
    low_precision = torch.finfo(t.dtype).eps > 1e-10
    rtol = (1e-6 if low_precision else 1e-8) if rtol is None else rtol
    if not rtol > 0:
        raise ValueError(f"rtol must be positive, got {rtol!r}")
    w = point_weights(weights, t)
    g = as_generator(generator, t.device)
    with torch.no_grad():
        point, steps, left = _search(t, w, h, k, to, starts, lift, rtol, g)
    mode = _mode(point, t, w, h, k)
    info = Info("mean shift" if to >= d else "projected mean shift", iterations=steps, error=left)
    found = Mode(give_back(mode.point, kind), give_back(mode.density, kind))
    if left > rtol:
        message = f"kde_mode: a further gain of {left:.1e} of the density is expected, asked for {rtol:.1e}"
        raise ConvergenceError(message, best=found, error=left, info=info)
    return (found, info) if return_info else found


def _mode(point: Tensor, t: Tensor, w: Tensor, h: Tensor, k: Profile) -> Mode:
    """The density at the point, by differences in float64, with gradients."""
    s = (torch.linalg.vector_norm(t.to(torch.float64) - point, dim=1) / h).square()
    density = (k.log(s).exp() @ w) / w.sum()
    return Mode(point.to(t.dtype), density.to(t.dtype))


def _search(
    t: Tensor, w: Tensor, h: Tensor, k: Profile, to: int, starts: int, lift: str, rtol: float, g: torch.Generator
) -> tuple[Tensor, int, float]:
    """The best point in float64, the steps taken, and the gain that is left."""
    used = w > 0
    whole = bool(used.all())
    full = (t.detach() if whole else t.detach()[used]).to(torch.float64)
    mass = w.detach()[used]
    origin = full.mean(0)
    full = (full - origin).div_(h.detach())
    log_w = (mass / mass.sum()).log()
    n, d = full.shape
    rows = torch.arange(n, device=t.device) if starts >= n else draw(mass, starts, g).unique()
    low = full
    if to < d:
        low = full @ gaussian((d, to), torch.float64, t.device, g) / math.sqrt(to)
    # The search needs two digits of the exponents, which single precision gives unless the data is spread very wide.
    dtype = torch.float32 if float(torch.linalg.vector_norm(low, dim=1).max()) < 100 else torch.float64
    low = low.to(dtype)
    # The end need not be sharp before it is polished.
    found = climb(low, log_w.to(dtype), low[rows], k, 1e-3, 300, merge=True)
    best = distinct(found.points, found.log_density, near=0.1)[:_CANDIDATES]
    tops = found.points[best].to(torch.float64)
    if to < d:
        tops = _lifted(full, low.to(torch.float64), log_w, tops, k, lift)
    coarse = climb(full, log_w, tops, k, 1e-4, 300, merge=False)
    top = coarse.points[coarse.log_density.argmax()][None]
    fine = climb(full, log_w, top, k, rtol, 5000, merge=False, exact=True)
    return fine.points[0] * h.detach() + origin, found.steps + coarse.steps + fine.steps, fine.left


def _lifted(full: Tensor, low: Tensor, log_w: Tensor, tops: Tensor, k: Profile, lift: str) -> Tensor:
    """Points of the whole space for points of the projection."""
    s = torch.cdist(tops, low, compute_mode="donot_use_mm_for_euclid_dist").square()
    if lift == "mean_shift":
        pull = k.log_pull(s) + log_w
        return torch.softmax(pull, 1) @ full
    from resolvent.sketch.density_lift import nearest_lift

    return torch.stack([nearest_lift(full, row.sqrt())[0] for row in s])


def _checked_profile(kernel: str, exponent: float) -> Profile:
    if kernel == "box":
        raise ValueError(
            "kernel 'box' is not offered: the mode of its density is NP-hard to find, for any projection; "
            f"take one of {', '.join(_KERNELS)}"
        )
    if kernel not in _KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(_KERNELS)}, got {kernel!r}")
    if not 0 < exponent <= 2:
        raise ValueError(f"exponent must be above 0 and at most 2, got {exponent!r}")
    return profile(kernel, exponent)


def _bandwidth(bandwidth: Any, like: Tensor) -> Tensor:
    h = bandwidth if isinstance(bandwidth, Tensor) else torch.as_tensor(bandwidth, dtype=torch.float64)
    if h.ndim != 0 or h.is_complex() or not bool(torch.isfinite(h)) or not float(h.detach()) > 0:
        raise ValueError(f"bandwidth must be a positive number, got {bandwidth!r}")
    return h.to(device=like.device, dtype=torch.float64)


def _count(value: Any, name: str, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
    return min(value, most)
