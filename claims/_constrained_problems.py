"""Problems with equality constraints: of Hock and Schittkowski, on data, and of control."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from resolvent.random import gaussian


@dataclass(frozen=True)
class Constrained:
    """min f subject to c = 0 from a start."""

    f: Callable[[Tensor], Tensor]
    c: Callable[[Tensor], Tensor]
    start: Tensor


def _problem(f: Callable[..., Tensor], c: Callable[..., tuple[Tensor, ...]], start: tuple[float, ...]) -> Constrained:
    return Constrained(
        lambda x: f(*x.unbind()), lambda x: torch.stack(c(*x.unbind())), torch.tensor(start, dtype=torch.float64)
    )


def hock_schittkowski() -> dict[str, Constrained]:
    """Thirteen by their numbers."""
    return {
        "6": _problem(lambda a, b: (1 - a) ** 2, lambda a, b: (10 * (b - a**2),), (-1.2, 1)),
        "7": _problem(lambda a, b: (1 + a**2).log() - b, lambda a, b: ((1 + a**2) ** 2 + b**2 - 4,), (2, 2)),
        "26": _problem(
            lambda a, b, c: (a - b) ** 2 + (b - c) ** 4, lambda a, b, c: ((1 + b**2) * a + c**4 - 3,), (-2.6, 2, 2)
        ),
        "27": _problem(
            lambda a, b, c: 0.01 * (a - 1) ** 2 + (b - a**2) ** 2, lambda a, b, c: (a + c**2 + 1,), (2, 2, 2)
        ),
        "28": _problem(
            lambda a, b, c: (a + b) ** 2 + (b + c) ** 2, lambda a, b, c: (a + 2 * b + 3 * c - 1,), (-4, 1, 1)
        ),
        "39": _problem(lambda a, b, c, d: -a, lambda a, b, c, d: (b - a**3 - c**2, a**2 - b - d**2), (2, 2, 2, 2)),
        "40": _problem(
            lambda a, b, c, d: -a * b * c * d,
            lambda a, b, c, d: (a**3 + b**2 - 1, a**2 * d - c, d**2 - b),
            (0.8, 0.8, 0.8, 0.8),
        ),
        "42": _problem(
            lambda a, b, c, d: (a - 1) ** 2 + (b - 2) ** 2 + (c - 3) ** 2 + (d - 4) ** 2,
            lambda a, b, c, d: (a - 2, c**2 + d**2 - 2),
            (1, 1, 1, 1),
        ),
        "48": _problem(
            lambda a, b, c, d, e: (a - 1) ** 2 + (b - c) ** 2 + (d - e) ** 2,
            lambda a, b, c, d, e: (a + b + c + d + e - 5, c - 2 * (d + e) + 3),
            (3, 5, -3, 2, -2),
        ),
        "49": _problem(
            lambda a, b, c, d, e: (a - b) ** 2 + (c - 1) ** 2 + (d - 1) ** 4 + (e - 1) ** 6,
            lambda a, b, c, d, e: (a + b + c + 4 * d - 7, c + 5 * e - 6),
            (10, 7, 2, -3, 0.8),
        ),
        "50": _problem(
            lambda a, b, c, d, e: (a - b) ** 2 + (b - c) ** 2 + (c - d) ** 4 + (d - e) ** 2,
            lambda a, b, c, d, e: (a + 2 * b + 3 * c - 6, b + 2 * c + 3 * d - 6, c + 2 * d + 3 * e - 6),
            (35, -31, 11, 5, -5),
        ),
        "51": _problem(
            lambda a, b, c, d, e: (a - b) ** 2 + (b + c - 2) ** 2 + (d - 1) ** 2 + (e - 1) ** 2,
            lambda a, b, c, d, e: (a + 3 * b - 4, c + d - 2 * e, b - e),
            (2.5, 0.5, 2, -1, 0.5),
        ),
        "77": _problem(
            lambda a, b, c, d, e: (a - 1) ** 2 + (a - b) ** 2 + (c - 1) ** 2 + (d - 1) ** 4 + (e - 1) ** 6,
            lambda a, b, c, d, e: (a**2 * d + (d - e).sin() - 8**0.5, b + c**4 * d**2 - 8 - 2**0.5),
            (2, 2, 2, 2, 2),
        ),
    }


@functools.cache
def logistic() -> Constrained:
    """Logistic regression on the breast cancer data with five linear constraints and a norm."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    X = torch.from_numpy(data.data)
    X = (X - X.mean(0)) / X.std(0)
    signs = torch.from_numpy(2.0 * data.target - 1)
    A, b = gaussian((5, 30), generator=0), gaussian((5,), generator=1)
    return Constrained(
        lambda x: torch.nn.functional.softplus(-signs * (X @ x)).mean(),
        lambda x: torch.cat([A @ x - b, (x @ x - 1)[None]]),
        torch.full((30,), 30**-0.5, dtype=torch.float64),
    )


def control(points: int = 100) -> Constrained:
    """Steer -y'' + y^3 = u on (0, 1) towards sin(pi t): unknowns y and u, `points` of each."""
    h = 1 / (points + 1)
    t = h * torch.arange(1, points + 1, dtype=torch.float64)
    goal = (torch.pi * t).sin()

    def f(x: Tensor) -> Tensor:
        y, u = x.split(points)
        return h / 2 * ((y - goal) ** 2).sum() + h * 1e-2 / 2 * (u**2).sum()

    def c(x: Tensor) -> Tensor:
        y, u = x.split(points)
        edge = y.new_zeros(1)
        wide = torch.cat([edge, y, edge])
        return (2 * y - wide[:-2] - wide[2:]) / h + h * (y**3 - u)

    return Constrained(f, c, torch.zeros(2 * points, dtype=torch.float64))
