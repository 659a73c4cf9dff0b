"""The largest value of a function on a curve, found with certainty from where it crosses a level."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.operators import lu
from resolvent.operators.arrays import complex_dtype

# Imaginary parts, relative to the largest modulus near, below which a computed crossing may be a real one. What is no
# crossing does no harm: a level is only given up for a value that was computed.
_REAL = 1e-5
_ROUNDS = 60


def maximum_by_levels(
    value: Callable[[Tensor], Tensor], crossings: Callable[[float], Tensor], start: Tensor, rtol: float, name: str
) -> tuple[float, float]:
    """The largest value of a continuous function of a real parameter, and where it is taken.

    Parameters
    ----------
    value : parameters (k,) -> values (k,), positive somewhere
    crossings : level -> candidates (k,) for all the parameters where the function has this value, and maybe more
    start : parameters to begin with
    rtol : no parameter has a value above (1 + rtol) times the one returned
    name : for messages

    Returns
    -------
    The value and the parameter.

    Raises
    ------
    ConvergenceError : 60 levels were not enough.

    Notes
    -----
    Boyd and Balakrishnan, Bruinsma and Steinbuch: raise the level to the best value found times (1 + rtol); between two
    neighbouring crossings the function is above or below it throughout, and the midpoints tell. Quadratic convergence.

    Examples
    --------
    >>> import torch
    >>> best, at = maximum_by_levels(
    ...     lambda x: 1 / (1 + (x - 1) ** 2),
    ...     lambda level: 1 + (1 / level - 1) ** 0.5 * torch.tensor([-1.0, 1.0]) if level < 1 else torch.tensor([]),
    ...     torch.tensor([0.0]), 1e-6, "a bump")
    >>> round(best, 6), round(at, 3)
    (1.0, 1.0)
    """
    found = value(start)
    best, at = float(found.max()), float(start[int(found.argmax())])
    for _ in range(_ROUNDS):
        level = best * (1 + rtol)
        x = crossings(level).sort().values
        if len(x) == 0:
            return best, at
        points = torch.cat([x, (x[1:] + x[:-1]) / 2])
        found = value(points)
        top = float(found.max())
        if not top > level:
            if top > best:
                best, at = top, float(points[int(found.argmax())])
            return best, at
        best, at = top, float(points[int(found.argmax())])
    raise ConvergenceError(f"{name}: {_ROUNDS} levels were not enough for rtol = {rtol:g}", best=best, error=rtol)


def real_eigenvalues(M: Tensor, size: float = 0.0) -> Tensor:
    """Real parts of the eigenvalues of M that may be real but for rounding; `size` is the scale of those of interest."""
    w = torch.linalg.eigvals(M)
    if not bool(torch.isfinite(w).all()):
        return w.real[:0]
    near = w.imag.abs() <= _REAL * (w.abs() + size)
    return w.real[near]


def smallest_singular(A: Tensor, z: Tensor) -> Tensor:
    """The smallest singular values of z_i I - A, (k,) of points (k,), by dense decompositions in pieces."""
    A = A.to(complex_dtype(A.dtype))
    n = A.shape[-1]
    one = torch.eye(n, dtype=A.dtype, device=A.device)
    step = max(1, 2**21 // max(1, n * n))
    pieces = [torch.linalg.svdvals(part[:, None, None] * one - A)[:, -1] for part in z.to(A.dtype).split(step)]
    return torch.cat(pieces) if pieces else z.real


def line_peak(A: Tensor, x: float, rtol: float, name: str) -> tuple[float, float]:
    """sup over y of ||((x + iy) I - A)^-1|| and the y, for an x that is right of all eigenvalues."""
    A = A.to(complex_dtype(A.dtype))
    n, size = A.shape[-1], float(torch.linalg.matrix_norm(A, 2)) + abs(x)
    one = torch.eye(n, dtype=A.dtype, device=A.device)
    shifted = x * one - A

    def crossings(level: float) -> Tensor:
        # s is a singular value of (x + iy) I - A exactly if iy is an eigenvalue of this Hamiltonian matrix.
        s = 1 / level
        H = torch.cat([torch.cat([-shifted, s * one], 1), torch.cat([-s * one, shifted.mH], 1)])
        return real_eigenvalues(H / 1j, 1e-3 * size)

    start = torch.linalg.eigvals(A).imag
    start = torch.cat([start, start.mean()[None]])
    return maximum_by_levels(
        lambda y: 1 / smallest_singular(A, torch.complex(torch.full_like(y, x), y)), crossings, start, rtol, name
    )


def circle_peak(A: Tensor, r: float, rtol: float, name: str) -> tuple[float, float]:
    """sup over theta of ||(r e^{i theta} I - A)^-1|| and the theta, for a circle around all eigenvalues."""
    A = A.to(complex_dtype(A.dtype))
    n = A.shape[-1]
    one = torch.eye(n, dtype=A.dtype, device=A.device)
    grid = torch.arange(8, dtype=A.real.dtype, device=A.device) * (torch.pi / 4)
    start = torch.cat([torch.linalg.eigvals(A).angle(), grid])

    def value(theta: Tensor) -> Tensor:
        return 1 / smallest_singular(A, torch.polar(torch.full_like(theta, r), theta))

    # Angles are tangents of half of them from the angle where the resolvent is smallest, which goes to infinity.
    turn = float(start[int(value(start).argmin())]) + torch.pi
    phase = torch.polar(torch.ones_like(grid[0]), grid.new_tensor(turn))
    turned = A / phase

    def crossings(level: float) -> Tensor:
        # det [[s I, z - A], [conj(z) - A^H, s I]] = 0 with z = r (1 + it) / (1 - it), the rows times 1 - it and 1 + it.
        s = 1 / level
        first = torch.cat([torch.cat([s * one, r * one - turned], 1), torch.cat([r * one - turned.mH, s * one], 1)])
        second = torch.cat([torch.cat([-s * one, r * one + turned], 1), torch.cat([-r * one - turned.mH, s * one], 1)])
        t = real_eigenvalues(lu.solve(1j * second, -first), 1e-3)
        return 2 * t.atan() + turn

    return maximum_by_levels(value, crossings, start, rtol, name)
