"""Diagonal scalings of interior Newton methods in a box, and their convex combinations."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite, give_back_array

Scaling = Literal["combined", "coleman_li", "kanzow_klug", "hager", "heinkenschloss"]
PARTS: tuple[Scaling, ...] = ("coleman_li", "kanzow_klug", "hager", "heinkenschloss")
_POWER = 2.0  # of Heinkenschloss, Ulbrich and Ulbrich, above 1


def affine_scaling(x: Any, gradient: Any, bounds: Any, scaling: Scaling = "combined", weights: Any = None) -> Any:
    r"""The diagonal of a scaling matrix D(x) for a merit function with this gradient in the box l <= x <= u.

    Parameters
    ----------
    x : (n,) strictly inside the box
    gradient : (n,) g of the merit function
    bounds : (l, u), numbers or (n,), infinite where there is no bound
    scaling : "coleman_li", "kanzow_klug", "hager" (Hager, Mair and Zhang), "heinkenschloss" (Heinkenschloss, Ulbrich and
        Ulbrich), or "combined", a convex combination of these four
    weights : (4,) of the combination, at least 0; scaled to the sum 1, default equal

    Returns
    -------
    (n,) of the kind of x, positive.

    Raises
    ------
    ValueError : x not strictly inside, unknown scaling, bad weights

    Notes
    -----
    All four go to zero only where x goes to a bound that the descent direction -g points out of, and so does a
    combination: with d = u - x where g < 0 and x - l where g > 0 (1 without a bound), they are d;
    min(x - l + max(0, -g), u - x + max(0, g)); d / (d + \|g\|); and d or 1, d where \|g\| < m^2 or m < \|g\|^2 for the
    distance m to the next bound.

    References
    ----------
    "A New Class of Scaling Matrices for Scaled Trust Region Algorithms"

    Examples
    --------
    >>> affine_scaling(torch.tensor([0.5, 0.5]), torch.tensor([2.0, -2.0]), (0.0, 3.0), "coleman_li")
    tensor([0.5000, 2.5000])
    """
    point, kind = as_tensor(x, "x")
    g, _ = as_tensor(gradient, "gradient")
    if point.ndim != 1 or g.shape != point.shape:
        raise ValueError(f"x and gradient must have shape (n,), got {tuple(point.shape)} and {tuple(g.shape)}")
    low, high = box(bounds, point)
    if not bool(((low < point) & (point < high)).all()):
        raise ValueError("x must lie strictly between its bounds")
    w = combination(scaling, weights)
    return give_back_array(diagonal(point, g.to(point), low, high, w), kind)


def box(bounds: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds as vectors like x."""
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise ValueError(f"bounds must be a pair (l, u), got {bounds!r}")
    sides = []
    for side, name in zip(bounds, ("bounds[0]", "bounds[1]"), strict=True):
        t = as_tensor(side, name)[0].to(like)
        if tuple(t.shape) not in ((), tuple(like.shape)) or bool(t.isnan().any()):
            raise ValueError(f"{name} must be a number or have shape {tuple(like.shape)}, without NaN, got {side!r}")
        sides.append(t.expand_as(like))
    if not bool((sides[0] < sides[1]).all()):
        where = int((~(sides[0] < sides[1])).nonzero()[0])
        raise ValueError(
            f"bounds must leave an interior, but at {where}: {float(sides[0][where])}, {float(sides[1][where])}"
        )
    return sides[0], sides[1]


def combination(scaling: Scaling, weights: Any) -> tuple[float, ...]:
    """Weights of the four scalings."""
    if scaling not in get_args(Scaling):
        raise ValueError(f"scaling must be one of {', '.join(get_args(Scaling))}, got {scaling!r}")
    if scaling != "combined":
        if weights is not None:
            raise ValueError(f"weights belong to the scaling 'combined', got them with {scaling!r}")
        return tuple(float(name == scaling) for name in PARTS)
    if weights is None:
        return (0.25,) * 4
    w = as_tensor(weights, "weights")[0].double()
    if tuple(w.shape) != (4,) or not bool((w >= 0).all()) or not float(w.sum()) > 0:
        raise ValueError(f"weights must be 4 numbers of at least 0 that are not all 0, got {weights!r}")
    check_finite(w, "weights")
    return tuple((w / w.sum()).tolist())


def diagonal(x: Tensor, g: Tensor, low: Tensor, high: Tensor, weights: tuple[float, ...]) -> Tensor:
    """The combination of the four scalings at a point strictly inside."""
    below, above = x - low, high - x
    nearest = torch.minimum(below, above)
    distance = torch.where(g < 0, above, torch.where(g > 0, below, nearest))
    d = torch.where(distance.isinf(), 1, distance)
    found = torch.zeros_like(x)
    coleman, kanzow, hager, heinkenschloss = weights
    if coleman:
        found += coleman * d
    if kanzow:
        both = torch.minimum(below + (-g).clamp(min=0), above + g.clamp(min=0))
        found += kanzow * torch.where(both.isinf(), 1, both)
    if hager:
        found += hager * d / (d + g.abs())
    if heinkenschloss:
        close = (g.abs() < nearest**_POWER) | (nearest < g.abs() ** _POWER)
        found += heinkenschloss * torch.where(close, d, 1)
    return found
