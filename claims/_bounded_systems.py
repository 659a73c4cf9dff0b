"""Square systems with bounds from the literature. Every F works on columns: (n, ...) -> (n, ...), complex numbers too."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Bounded:
    """F(x) = 0 with l <= x <= u; `regular` where the Jacobian matrix at every root inside is invertible."""

    F: Callable[[np.ndarray], np.ndarray]
    low: np.ndarray
    high: np.ndarray
    regular: bool = True

    def jacobian(self, x: np.ndarray) -> np.ndarray:
        """By complex steps, exact to rounding."""
        return self.F(x[:, None] + 1e-30j * np.eye(len(x))).imag / 1e-30

    def start(self, v: float) -> np.ndarray:
        """l + v/4 (u - l)."""
        return self.low + v / 4 * (self.high - self.low)


Array = np.ndarray


def himmelblau(x: Array) -> Array:
    a, b = x
    return np.stack([4 * a**3 + 4 * a * b + 2 * b**2 - 42 * a - 14, 4 * b**3 + 2 * a**2 + 4 * a * b - 26 * b - 22])


def combustion(pressure: float, ratio: float) -> Callable[[Array], Array]:
    root = pressure**0.5
    r5, r6, r7 = 0.193, 0.002597 / root, 0.003448 / root
    r8, r9, r10 = 1.799e-5 / pressure, 2.155e-4 / root, 3.846e-5 / pressure

    def F(x: Array) -> Array:
        a, b, c, d, e = x
        return np.stack(
            [
                a * b + a - 3 * e,
                2 * a * b + a + 3 * r10 * b**2 + b * c**2 + r7 * b * c + r9 * b * d + r8 * b - ratio * e,
                2 * b * c**2 + r7 * b * c + 2 * r5 * c**2 + r6 * c - 8 * e,
                r9 * b * d + 2 * d**2 - 4 * ratio * e,
                a * b + a + r10 * b**2 + b * c**2 + r7 * b * c + r9 * b * d + r8 * b + r5 * c**2 + r6 * c + d**2 - 1,
            ]
        )

    return F


def bullard_biegler(x: Array) -> Array:
    return np.stack([1e4 * x[0] * x[1] - 1, np.exp(-x[0]) + np.exp(-x[1]) - 1.001])


def ferraris_tronconi(x: Array) -> Array:
    a, b = x
    first = 0.5 * np.sin(a * b) - 0.25 * b / np.pi - 0.5 * a
    return np.stack([first, (1 - 0.25 / np.pi) * (np.exp(2 * a) - np.e) + np.e * b / np.pi - 2 * np.e * a])


def brown(x: Array) -> Array:
    n = len(x)
    return np.concatenate([x[:-1] + x.sum(0) - (n + 1), [x.prod(0) - 1]])


def robot(x: Array) -> Array:
    a, b, c, d, e, f, g, h = x
    return np.stack(
        [
            4.731e-3 * a * c - 0.3578 * b * c - 0.1238 * a + g - 1.637e-3 * b - 0.9338 * d - 0.3571,
            0.2238 * a * c + 0.7623 * b * c + 0.2638 * a - g - 0.07745 * b - 0.6734 * d - 0.6022,
            f * h + 0.3578 * a + 4.731e-3 * b,
            -0.7623 * a + 0.2238 * b + 0.3461,
            a**2 + b**2 - 1,
            c**2 + d**2 - 1,
            e**2 + f**2 - 1,
            g**2 + h**2 - 1,
        ]
    )


def chandrasekhar(x: Array, c: float = 0.99) -> Array:
    n = len(x)
    mu = (np.arange(n) + 0.5) / n
    return x * (1 - c / (2 * n) * np.tensordot(mu[:, None] / (mu[:, None] + mu), x, 1)) - 1


def boundary_value(x: Array) -> Array:
    h = 1 / (len(x) + 1)
    t = (h * np.arange(1, len(x) + 1)).reshape(-1, *[1] * (x.ndim - 1))
    edge = np.zeros_like(x[:1])
    y = np.concatenate([edge, x, edge])
    return 2 * x - y[:-2] - y[2:] + h**2 * (x + t + 1) ** 3 / 2


def reactors(x: Array, recycle: float = 0.96, gamma: float = 1000.0, D: float = 22.0) -> Array:
    a, b = x
    first = (1 - recycle) * (D / 30 - a) * np.exp(10 * a / (1 + 10 * a / gamma)) - a
    return np.stack(
        [first, (1 - recycle) * (D / 10 - 2 * a - 3 * b) * np.exp(10 * b / (1 + 10 * b / gamma)) + a - 3 * b]
    )


def rosenbrock(x: Array) -> Array:
    return np.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def powell_singular(x: Array) -> Array:
    a, b, c, d = x
    return np.stack([a + 10 * b, 5**0.5 * (c - d), (b - 2 * c) ** 2, 10**0.5 * (a - d) ** 2])


def broyden(x: Array) -> Array:
    edge = np.zeros_like(x[:1])
    y = np.concatenate([edge, x, edge])
    return (3 - 2 * x) * x - y[:-2] - 2 * y[2:] + 1


def trigonometric(x: Array) -> Array:
    i = np.arange(1, len(x) + 1).reshape(-1, *[1] * (x.ndim - 1))
    return len(x) - np.cos(x).sum(0) + i * (1 - np.cos(x)) - np.sin(x)


def integral_equation(x: Array) -> Array:
    h = 1 / (len(x) + 1)
    t = h * np.arange(1, len(x) + 1)
    kernel = np.minimum(t[:, None] * (1 - t), t * (1 - t[:, None]))
    return x + h / 2 * np.tensordot(kernel, (x + t.reshape(-1, *[1] * (x.ndim - 1)) + 1) ** 3, 1)


def at_a_bound(x: Array) -> Array:
    return np.stack([x[0] * np.exp(x[1]), x[1] - 1 + x[0] ** 2])


def freudenstein_roth(x: Array) -> Array:
    a, b = x
    return np.stack([-13 + a + ((5 - b) * b - 2) * b, -29 + a + ((b + 1) * b - 14) * b])


def boggs(x: Array) -> Array:
    return np.stack([x[0] ** 2 - x[1] + 1, x[0] - np.cos(np.pi * x[1] / 2)])


def systems() -> dict[str, Bounded]:
    """The eighteen."""

    def in_box(F: Callable[[Array], Array], n: int, low: float, high: float, regular: bool = True) -> Bounded:
        return Bounded(F, np.full(n, low), np.full(n, high), regular)

    biegler = Bounded(bullard_biegler, np.array([5.49e-6, 2.196e-3]), np.array([4.553, 18.21]))
    tronconi = Bounded(ferraris_tronconi, np.array([0.25, 1.5]), np.array([1.0, 2 * np.pi]))
    return {
        "Himmelblau": in_box(himmelblau, 2, -5.0, 5.0),
        "combustion": in_box(combustion(40.0, 10.0), 5, 1e-4, 100.0),
        "combustion at 100": in_box(combustion(100.0, 10.0), 5, 1e-4, 100.0),
        "Bullard and Biegler": biegler,
        "Ferraris and Tronconi": tronconi,
        "Brown almost linear": in_box(brown, 5, -2.0, 2.0),
        "robot": in_box(robot, 8, -1.0, 1.0),
        "Chandrasekhar H": in_box(chandrasekhar, 40, 0.0, 5.0),
        "boundary value": in_box(boundary_value, 30, -4.0, 4.5),
        "two reactors": in_box(reactors, 2, 0.0, 1.0),
        "Rosenbrock": in_box(rosenbrock, 2, -2.0, 3.0),
        "Powell singular": in_box(powell_singular, 4, -2.0, 3.0, regular=False),
        "Broyden tridiagonal": in_box(broyden, 20, -2.0, 1.0),
        "trigonometric": in_box(trigonometric, 10, -0.5, 1.0, regular=False),
        "integral equation": in_box(integral_equation, 20, -3.0, 4.0),
        "root at a bound": in_box(at_a_bound, 2, 0.0, 3.0),
        "Freudenstein and Roth": in_box(freudenstein_roth, 2, 0.0, 10.0),
        "Boggs": Bounded(boggs, np.array([-2.0, 0.0]), np.array([1.5, 3.0])),
    }
