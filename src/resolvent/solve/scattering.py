"""Sound scattered by an obstacle in the plane: boundary integral equations for any wavenumber and impedance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.special
import torch
from torch import Tensor

_EULER = 0.5772156649015329


class Scattering:
    r"""The total pressure on an ellipse in a plane wave, by a combined-field boundary integral equation.

    .. math:: \Delta u + k^2 u = 0 \text{ outside}, \qquad \partial_\nu u + i k \lambda u = 0 \text{ on the boundary},
        \qquad u - e^{i k d \cdot x} \text{ outgoing}

    Parameters
    ----------
    n : points on the boundary, even and at least 8
    radii : half axes of the ellipse
    angle : of the direction d of the incoming wave

    Raises
    ------
    ValueError : n is odd or small, a half axis is not positive; a wavenumber that is not positive, an absorption
        lambda with a negative real part.

    Notes
    -----
    With the layer operators S, K, K', T of the Helmholtz equation, Green's formula and i / k times its normal derivative
    (Burton and Miller), which together have a solution at every wavenumber:

    .. math:: \left[\tfrac12 - K - i k \lambda S - \tfrac{i}{k} \left(T + i k \lambda (\tfrac12 + K')\right)\right] u
        = u_{in} + \tfrac{i}{k} \partial_\nu u_{in}

    Trapezoidal sums at equal steps of the parameter; logarithmic singularities are split off and integrated with their
    trigonometric interpolants, and T is its Laplace part, from a differentiation matrix, and a logarithmic rest (Kress).
    The error falls faster than any power of n once there are a few points a wavelength. An entry of the matrix costs O(1):
    four Bessel functions. SciPy computes these in double precision on the host; there is no gradient.

    References
    ----------
    "A nonintrusive Reduced Basis Method applied to aeroacoustic simulations"

    Examples
    --------
    >>> disk = Scattering(64)
    >>> mu = (3.0, 0.5)
    >>> u = torch.linalg.solve(disk.matrix(mu), disk.rhs(mu))
    >>> bool((u - disk.series(mu)).abs().max() < 1e-12)
    True
    """

    def __init__(self, n: int, radii: tuple[float, float] = (1.0, 1.0), angle: float = 0.0) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or n < 8 or n % 2:
            raise ValueError(f"n must be an even number of points, at least 8, got {n!r}")
        a, b = (float(r) for r in radii)
        if not (a > 0 and b > 0 and math.isfinite(a * b)):
            raise ValueError(f"radii must be two positive numbers, got {radii}")
        self.n, self.radii, self.angle = n, (a, b), float(angle)
        t = 2 * np.pi * np.arange(n) / n
        self.points = np.stack([a * np.cos(t), b * np.sin(t)], axis=1)
        slope = np.stack([-a * np.sin(t), b * np.cos(t)], axis=1)
        self.speed = np.hypot(slope[:, 0], slope[:, 1])
        self.normals = np.stack([slope[:, 1], -slope[:, 0]], axis=1) / self.speed[:, None]
        # The limit of r . nu / r^2 at equal points, twice: minus the curvature
        self._bend = -(self.points * self.normals).sum(1) / self.speed**2
        self._log_weights, self._log = _logarithm(n)
        self._laplace = self._hypersingular()

    def matrix(self, mu: tuple[float, float]) -> Tensor:
        """(n, n) complex128 the matrix of the equation at mu = (wavenumber k, absorption lambda)."""
        i, j = np.divmod(np.arange(self.n**2), self.n)
        return torch.from_numpy(self._entries(mu, i, j).reshape(self.n, self.n))

    def entries(self, mu: tuple[float, float], rows: Any, columns: Any) -> Tensor:
        """Entries of `matrix` at places, without the others."""
        return torch.from_numpy(self._entries(mu, np.asarray(rows), np.asarray(columns)))

    def rhs(self, mu: tuple[float, float], rows: Any = None) -> Tensor:
        """(n,) complex128 the right side at mu, or its entries `rows`."""
        k, _ = _checked(mu)
        index = slice(None) if rows is None else np.asarray(rows)
        d = np.array([math.cos(self.angle), math.sin(self.angle)])
        wave = np.exp(1j * k * (self.points[index] @ d))
        return torch.from_numpy(wave * (1 - self.normals[index] @ d))

    def far_field(self, mu: tuple[float, float], angle: float) -> Tensor:
        r"""(n,) complex128 the functional l with ``l.conj() @ u`` the amplitude of the scattered wave far away, in a direction.

        .. math:: u_{scattered}(r \hat x) \approx \frac{e^{i \pi / 4}}{\sqrt{8 \pi k}} \frac{e^{i k r}}{\sqrt r}
            \langle l, u \rangle
        """
        k, absorption = _checked(mu)
        x = np.array([math.cos(angle), math.sin(angle)])
        weights = 2 * np.pi / self.n * self.speed * np.exp(-1j * k * (self.points @ x))
        # u d_nu e^{-ik x.y} - e^{-ik x.y} d_nu u, and d_nu u = - i k lambda u
        return torch.from_numpy((weights * 1j * k * (absorption - self.normals @ x)).conj())

    def series(self, mu: tuple[float, float]) -> Tensor:
        """(n,) complex128 the solution on a disk by separation of variables.

        Raises
        ------
        ValueError : the ellipse is no disk.
        """
        a, b = self.radii
        if a != b:
            raise ValueError(f"only a disk has a series; the radii are {self.radii}")
        k, absorption = _checked(mu)
        z = k * a
        m = np.arange(int(z + 20 + 6 * z ** (1 / 3)) + 1)
        # With the Wronskian of J and H = J + i Y: the pressure on the boundary has no J
        c = 2j / (np.pi * z) / (scipy.special.h1vp(m, z) + 1j * absorption * scipy.special.hankel1(m, z))
        t = 2 * np.pi * np.arange(self.n) / self.n - self.angle
        terms = np.where(m == 0, 1, 2) * 1j**m * c
        return torch.from_numpy(np.cos(np.outer(t, m)) @ terms)

    def _entries(self, mu: tuple[float, float], i: np.ndarray, j: np.ndarray) -> np.ndarray:
        k, absorption = _checked(mu)
        gap = self.points[i] - self.points[j]
        same = i == j
        r = np.where(same, 1.0, np.hypot(gap[:, 0], gap[:, 1]))
        # cosines of the normals at either end with r, and with each other
        at_x = (gap * self.normals[i]).sum(1) / r
        at_y = (gap * self.normals[j]).sum(1) / r
        both = (self.normals[i] * self.normals[j]).sum(1)
        z = k * r
        J0, J1, Y0, Y1 = (f(z) for f in (scipy.special.j0, scipy.special.j1, scipy.special.y0, scipy.special.y1))
        H0, H1 = J0 + 1j * Y0, J1 + 1j * Y1
        c = 1j / 4 - (_EULER + math.log(k / 2)) / (2 * math.pi)
        log_speed = np.log(self.speed[i])
        bend = -self._bend[i] / (4 * math.pi)
        # Each kernel: coefficient of ln(4 sin^2), whole kernel, and the diagonal limits of the coefficient and the rest
        S = (-J0 / (4 * math.pi), 0.25j * H0, -1 / (4 * math.pi), c - log_speed / (2 * math.pi))
        K = (-k * J1 * at_y / (4 * math.pi), 0.25j * k * H1 * at_y, 0.0, -bend)
        L = (k * J1 * at_x / (4 * math.pi), -0.25j * k * H1 * at_x, 0.0, -bend)
        twist = at_x * at_y
        rest = both - twist

        def second(f1: np.ndarray, f2: np.ndarray) -> np.ndarray:
            return -(f2 * twist + f1 / r * rest)

        log_T = second(k * J1, k**2 * (J0 - J1 / z)) / (4 * math.pi)
        T = second(-0.25j * k * H1, -0.25j * k**2 * (H0 - H1 / z))
        T = T - second(-1 / (2 * math.pi * r), 1 / (2 * math.pi * r**2))
        limit = k**2 * (c / 2 + 1 / (8 * math.pi) - log_speed / (4 * math.pi))
        N = (log_T, T, -(k**2) / (8 * math.pi), limit)
        by = [self._quadrature(kernel, i, j, same) for kernel in (S, K, L, N)]
        identity = 0.5 * same
        hyper = self._laplace[i, j] + by[3]
        first = identity - by[1] - 1j * k * absorption * by[0]
        return first - 1j / k * (hyper + 1j * k * absorption * (identity + by[2]))

    def _quadrature(
        self, kernel: tuple[Any, Any, Any, Any], i: np.ndarray, j: np.ndarray, same: np.ndarray
    ) -> np.ndarray:
        log, whole, log_limit, limit = kernel
        lag = (i - j) % self.n
        smooth = np.where(same, limit, whole - log * self._log[lag])
        return (self._log_weights[lag] * np.where(same, log_limit, log) + 2 * np.pi / self.n * smooth) * self.speed[j]

    def _hypersingular(self) -> np.ndarray:
        """T of the Laplace equation: the derivative along the boundary of S applied to that of u."""
        n = self.n
        i, j = np.divmod(np.arange(n**2), n)
        same = i == j
        gap = self.points[i] - self.points[j]
        r = np.where(same, 1.0, np.hypot(gap[:, 0], gap[:, 1]))
        rest = np.where(same, np.log(self.speed[i]), np.log(r) - 0.5 * self._log[(i - j) % n])
        lag = (i - j) % n
        single = -(self._log_weights[lag] / 2 + 2 * np.pi / n * rest) / (2 * math.pi)
        half = np.arange(n // 2)
        frequency = 1j * np.concatenate([half, [0], -half[:0:-1]])
        D = np.fft.ifft(frequency[:, None] * np.fft.fft(np.eye(n), axis=0), axis=0).real
        return D @ single.reshape(n, n) @ D / self.speed[:, None]


def _logarithm(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights that integrate ln(4 sin^2(t/2)) times a trigonometric polynomial, and its values (0 at 0), by lag."""
    t = 2 * np.pi * np.arange(n) / n
    m = np.arange(1, n // 2)
    weights = -(4 * np.pi / n) * (np.cos(np.outer(t, m)) / m).sum(1) - (4 * np.pi / n**2) * (-1.0) ** np.arange(n)
    values = np.zeros(n)
    values[1:] = np.log(4 * np.sin(t[1:] / 2) ** 2)
    return weights, values


def _checked(mu: tuple[float, float]) -> tuple[float, complex]:
    k, absorption = mu
    if not (k > 0 and math.isfinite(k)):
        raise ValueError(f"the wavenumber must be positive, got {k}")
    if complex(absorption).real < 0:
        raise ValueError(f"the absorption must have a real part of at least 0, got {absorption}")
    return float(k), complex(absorption)
