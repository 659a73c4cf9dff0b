"""From a projection back to the whole space: a point as near to all points as its image is to theirs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.operators.arrays import as_tensor, check_finite, give_back


def kirszbraun_lift(X: Any, low: Any, y: Any, eps: float = 0.1) -> Any:
    r"""A point x of the whole space with :math:`\|x - x_i\| \le (1 + \varepsilon) \|y - \pi_i\|` for all i.

    Parameters
    ----------
    X : (n, d) points
    low : (n, m) their projections
    y : (m,) a point among the projections
    eps : how much longer distances may become, at least 0

    Returns
    -------
    (d,) of the kind and dtype of X, in the convex hull of X. No gradient.

    Raises
    ------
    ValueError : shapes that do not fit, or numbers that are not finite.
    ConvergenceError : there is no such point, to working precision; carries the point whose largest stretch is about
        the least, and that stretch less one as the error.

    Notes
    -----
    Kirszbraun: x exists where no distance between two projections is more than 1 + eps times too short. It minimises
    max_i |x - x_i|^2 - (1 + eps)^2 |y - pi_i|^2, over convex combinations by steps of Frank and Wolfe on the dual, with
    steps away from points that are not needed: n d flops a step.

    References
    ----------
    "Dimensionality Reduction for General KDE Mode Finding"

    Examples
    --------
    >>> import torch
    >>> X = torch.eye(3, dtype=torch.float64)
    >>> x = kirszbraun_lift(X, X[:, :2], torch.tensor([0.3, 0.3], dtype=torch.float64), eps=0.6)
    >>> bool(((x - X).norm(dim=1) <= 1.6 * (torch.tensor([0.3, 0.3]) - X[:, :2]).norm(dim=1)).all())
    True
    """
    t, kind = as_tensor(X, "X")
    p, _ = as_tensor(low, "low")
    q, _ = as_tensor(y, "y")
    if t.ndim != 2 or 0 in t.shape or p.ndim != 2 or len(p) != len(t) or q.shape != p.shape[1:]:
        raise ValueError(
            f"X, low and y must have shapes (n, d), (n, m) and (m,), got {tuple(t.shape)}, {tuple(p.shape)}, {tuple(q.shape)}"
        )
    for value, name in ((t, "X"), (p, "low"), (q, "y")):
        check_finite(value, name)
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, got {eps!r}")
    full = t.detach().to(torch.float64)
    far = torch.linalg.vector_norm(p.detach().to(torch.float64) - q.detach().to(torch.float64), dim=1)
    origin = full.mean(0)
    x, _ = nearest_lift(full - origin, far, 1 + eps)
    point = give_back((x + origin).to(t.dtype), kind)
    lengths = torch.linalg.vector_norm(full - origin - x, dim=1)
    slack = 1e-9 * float(lengths.max())
    if bool((lengths > (1 + eps) * far + slack).any()):
        stretch = float((lengths / far.clamp(min=slack)).max())
        raise ConvergenceError(
            f"kirszbraun_lift: distances grow by a factor {stretch:.4g}, asked for at most {1 + eps:.4g}",
            best=point,
            error=stretch - 1,
        )
    return point


def nearest_lift(X: Tensor, far: Tensor, stretch: float = 1.0, steps: int = 2000) -> tuple[Tensor, float]:
    """The point that minimises max_i |x - x_i|^2 - (stretch far_i)^2, or makes it negative, and that value."""
    limit = (stretch * far).square()
    share = torch.zeros(len(X), dtype=X.dtype, device=X.device)
    first = int(limit.argmin())
    share[first] = 1.0
    x = X[first].clone()
    scale = float(limit.max()) + float((X * X).sum(1).max())
    value = float("inf")
    for _ in range(steps):
        excess = (X - x).square().sum(1) - limit
        top = int(excess.argmax())
        value = float(excess[top])
        middle = float(share @ excess)
        if value <= 0 or value - middle <= 1e-13 * scale:
            break
        used = share > 0
        low = int(torch.where(used, excess, torch.full_like(excess, torch.inf)).argmin())
        toward, away = value - middle, middle - float(excess[low])
        held = float(share[low])
        if toward >= away or held >= 1:
            step = X[top] - x
            size = min(1.0, toward / (2 * float(step @ step)))
            share *= 1 - size
            share[top] += size
            x = x + size * step
        else:
            step = x - X[low]
            most = held / (1 - held)
            size = min(most, away / (2 * max(float(step @ step), 1e-300)))
            share *= 1 + size
            share[low] = 0.0 if size >= most else float(share[low]) - size
            x = x + size * step
    return x, value
