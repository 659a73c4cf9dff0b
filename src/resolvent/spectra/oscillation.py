"""Oscillation theory of Jacobi matrices: eigenvalues are counted by nodes, never computed."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.operators.magnitude import power_of_two
from resolvent.spectra.pruefer import (
    Jacobi,
    as_jacobi,
    eigenvalues_below,
    from_the_right,
    path_counts,
    wronskian,
)

Closed = Literal["first", "second", "both", "neither", "left", "right"]


class WeightedNodes(NamedTuple):
    """Weighted nodes of a Wronskian: `signs` (+1 or -1) of those between n and n + 1, for n in `positions`."""

    positions: Any
    signs: Any


class SpectralFlow(NamedTuple):
    """Eigenvalues that have come below lam along a path of matrices.

    Attributes
    ----------
    t : (p,) the places asked for
    count : (p,) how many more eigenvalues lie below lam at t than at the start of the path
    crossings : (c,) where the count jumps, ascending
    jumps : (c,) by how much; positive is downwards through lam
    monotone : +1 where J1 - J0 is negative semidefinite, so that the count never falls, -1 where it is positive
        semidefinite, 0 where neither is known
    """

    t: Any
    count: Any
    crossings: Any
    jumps: Any
    monotone: int


def sturm_count(J: Any, lam: Any, *, closed: bool = False, rtol: float | None = None) -> Any:
    """The number of eigenvalues of a Jacobi matrix below lam: the nodes of one solution, in O(N).

    Parameters
    ----------
    J : a pair (diagonal (N,), offdiagonal (N - 1,)), or a Hermitian `operators.Tridiagonal`
    lam : a number, or (p,) several; infinite ones are allowed
    closed : count eigenvalues equal to lam too
    rtol : an eigenvalue within rtol ||J|| of lam counts as equal to it; default 16 eps of the dtype of J

    Returns
    -------
    int, or (p,) integers of the kind of J.

    Raises
    ------
    ValueError : J is not Hermitian, has shapes that do not fit, a batch, or NaN; lam is NaN; rtol is negative.
    TypeError : J is neither a pair nor a Tridiagonal.

    Notes
    -----
    The solution of ``a(n) u(n+1) + a(n-1) u(n-1) + b(n) u(n) = lam u(n)`` with u(0) = 0 is followed by the cotangents
    ``c(n) = -a(n) u(n+1) / u(n)`` of its Pruefer angles, which neither overflow nor need rescaling:
    ``c(n) = b(n) - lam - a(n-1)^2 / c(n-1)``. The negative ones are the nodes. Two divisions a row; the count is that
    of a matrix within a few eps ||J||. There is no gradient: the value is an integer.

    References
    ----------
    "Relative Oscillation Theory for Jacobi Matrices"

    Examples
    --------
    >>> sturm_count(([2.0, 2.0, 2.0], [1.0, 1.0]), 2.0), sturm_count(([2.0, 2.0, 2.0], [1.0, 1.0]), 2.0, closed=True)
    (1, 2)
    """
    M = as_jacobi(J, "J")
    values = as_tensor(lam, "lam")[0].detach().cpu().double().numpy()
    if values.ndim > 1 or np.isnan(values).any():
        raise ValueError(f"lam must be a number or a vector without NaN, got {lam!r}")
    width = _width(rtol, M)
    found = [eigenvalues_below(M, float(x), width, bool(closed)) for x in values.ravel()]
    if values.ndim == 0:
        return found[0]
    return give_back(torch.tensor(found, dtype=torch.int64), M.kind)


def relative_eigencount(
    J0: Any,
    J1: Any,
    lam: float | tuple[float, float] | None = None,
    *,
    interval: tuple[float, float] | None = None,
    closed: Closed | None = None,
    method: Literal["pruefer", "wronskian"] = "pruefer",
    rtol: float | None = None,
    return_nodes: bool = False,
) -> Any:
    r"""How many more eigenvalues J1 has than J0, counted by the weighted nodes of one Wronskian.

    With `lam`: :math:`\#\{\sigma(J_1) < \lambda_1\} - \#\{\sigma(J_0) \le \lambda_0\}`; with `interval`:
    :math:`\#\{\sigma(J_1) \in [l, r)\} - \#\{\sigma(J_0) \in [l, r)\}`.

    Parameters
    ----------
    J0, J1 : pairs (diagonal (N,), offdiagonal (N - 1,)) or Hermitian `operators.Tridiagonal`, of one size N
    lam : one number for both, or (lam0, lam1)
    interval : (l, r) instead of lam, l <= r; infinite ends are allowed
    closed : of lam: whose half-line contains its end, "first" (J0's: the theorem, default), "second", "both" or
        "neither". Of an interval: "left" (default), "right", "both" or "neither"
    method : "pruefer" takes any two matrices; "wronskian" is the rule of the first paper, which looks only at the signs
        of the Wronskian and of b0 - b1, and needs equal off-diagonals
    rtol : an eigenvalue within rtol max(||J0||, ||J1||) of an end counts as equal to it; default 16 eps
    return_nodes : also return the `WeightedNodes`, with `lam` only

    Returns
    -------
    int, or (int, WeightedNodes). The signs add up to the theorem's count ("first"), less one where lam1 hits an
    eigenvalue of J1 to the last bit.

    Raises
    ------
    ValueError : sizes that differ, both or neither of lam and interval, l > r, NaN, a `closed` that does not fit, unequal
        off-diagonals with method "wronskian".
    TypeError : J0 or J1 is neither a pair nor a Tridiagonal.

    Notes
    -----
    u0 solves J0's equation from the left (u0(0) = 0), u1 solves J1's from the right (u1(N+1) = 0). With
    ``-a_i(n) u_i(n+1) = rho cos(theta_i)``, ``u_i(n) = rho sin(theta_i)`` the Wronskian
    ``W_n = u0(n) a1(n) u1(n+1) - u1(n) a0(n) u0(n+1)`` has the sign of sin(Delta), Delta = theta1 - theta0, and the
    count is ``ceil(Delta(N)/pi) - floor(Delta(0)/pi) - 1``. The angles are carried as whole turns and cotangents: O(N),
    without overflow. Signs of off-diagonals do not matter; a zero decouples.
    Nodes add up to the right count whatever rounding does; where a stretch of the Wronskian vanishes but for rounding,
    their places are not determined. "wronskian" has no such protection. There is no gradient: the value is an integer.

    References
    ----------
    "Relative Oscillation Theory for Jacobi Matrices"
    "Relative Oscillation Theory for Jacobi Matrices Extended"

    Examples
    --------
    >>> J0 = [0.0, 0.0, 0.0], [1.0, 1.0]
    >>> J1 = [-1.0, 0.0, 0.0], [1.0, 2.0]
    >>> relative_eigencount(J0, J1, -1.5), relative_eigencount(J0, J1, interval=(-1.0, 1.0), closed="both")
    (1, 0)
    """
    M0, M1 = as_jacobi(J0, "J0"), as_jacobi(J1, "J1")
    _check_pair(M0, M1, method)
    width = _width(rtol, M0, M1)
    if (lam is None) == (interval is None):
        raise ValueError("exactly one of lam and interval must be given")
    if interval is not None:
        if return_nodes:
            raise ValueError("return_nodes needs lam: an interval has two Wronskians")
        left, right = _two(interval, "interval")
        if left > right:
            raise ValueError(f"interval must be (l, r) with l <= r, got {interval!r}")
        ends = closed or "left"
        if ends not in ("left", "right", "both", "neither"):
            raise ValueError(f"closed must be left, right, both or neither for an interval, got {closed!r}")
        if left == right and ends != "both":
            return 0
        # Below r with or without r, less below l without or with l: the same half-line for both matrices each time.
        up = _half_line(M0, M1, right, right, (ends in ("right", "both"),) * 2, width, method)[0]
        down = _half_line(M0, M1, left, left, (ends in ("right", "neither"),) * 2, width, method)[0]
        return up - down
    lam0, lam1 = _two(lam, "lam") if isinstance(lam, tuple | list) else (_number(lam, "lam"),) * 2
    which = closed or "first"
    if which not in ("first", "second", "both", "neither"):
        raise ValueError(f"closed must be first, second, both or neither for lam, got {closed!r}")
    ends_in = (which in ("first", "both"), which in ("second", "both"))
    count, nodes = _half_line(M0, M1, lam0, lam1, ends_in, width, method, return_nodes)
    return (count, give_back(nodes, M0.kind)) if return_nodes else count


def spectral_flow(
    J0: Any, J1: Any, lam: float, t: Any = None, *, locate: bool = True, rtol: float | None = None
) -> SpectralFlow:
    """The path t -> #{eig(J0 + t (J1 - J0)) < lam} - #{eig(J0) < lam}, and where eigenvalues cross lam.

    Parameters
    ----------
    J0, J1 : pairs (diagonal (N,), offdiagonal (N - 1,)) or Hermitian `operators.Tridiagonal`, of one size N
    lam : number
    t : (p,) ascending places; default 65 from 0 to 1
    locate : find where the count jumps, by bisection to rounding
    rtol : an eigenvalue within rtol max(||J0||, ||J1||) of lam counts as equal to it; default 16 eps

    Returns
    -------
    SpectralFlow
        Arrays of the kind of J0.

    Raises
    ------
    ValueError : sizes that differ, t not ascending, NaN.
    TypeError : J0 or J1 is neither a pair nor a Tridiagonal.

    Notes
    -----
    Each place costs O(N), each crossing about 50 places. By the comparison theorem the count never falls where
    J1 - J0 is negative semidefinite: then no crossing is missed. Else two crossings in opposite directions between
    neighbouring places of t cancel and are not seen: give more places. There is no gradient.

    References
    ----------
    "Relative Oscillation Theory for Jacobi Matrices Extended"

    Examples
    --------
    >>> flow = spectral_flow(([1.0, 2.0], [0.0]), ([-1.0, 0.0], [0.0]), 0.0, [0.0, 0.75, 1.0])
    >>> flow.count, flow.crossings, flow.monotone
    (array([0, 1, 1]), array([0.5]), 1)
    """
    M0, M1 = as_jacobi(J0, "J0"), as_jacobi(J1, "J1")
    _check_pair(M0, M1, "pruefer")
    shift = _number(lam, "lam") - _width(rtol, M0, M1)
    places, _ = as_tensor(np.linspace(0, 1, 65) if t is None else t, "t")
    check_finite(places, "t")
    at = places.detach().cpu().double().numpy()
    if at.ndim != 1 or not len(at) or bool((np.diff(at) <= 0).any()):
        raise ValueError(f"t must be a vector of ascending places, got shape {tuple(places.shape)}")
    scale = power_of_two(max(M0.size, M1.size, abs(shift))) * max(1.0, float(np.abs(at).max()))
    b0, x0, y0 = (part / scale for part in (M0.diagonal, M0.coupling.real, M0.coupling.imag))
    b1, x1, y1 = (part / scale for part in (M1.diagonal, M1.coupling.real, M1.coupling.imag))

    def counts(where: np.ndarray) -> np.ndarray:
        return path_counts(b0, x0, y0, b1, x1, y1, where, shift / scale)

    start = int(counts(np.zeros(1))[0])
    found = counts(at)
    crossings, jumps = _bisected(counts, at, found) if locate else (np.zeros(0), np.zeros(0, dtype=np.int64))
    difference = Jacobi(
        M1.diagonal - M0.diagonal, M1.coupling - M0.coupling, max(M0.eps, M1.eps), "numpy", max(M0.size, M1.size)
    )
    tolerance = 16 * difference.eps * difference.size
    falls = eigenvalues_below(difference, 0.0, tolerance, True) == len(M0.diagonal)
    rises = eigenvalues_below(difference, 0.0, tolerance, False) == 0
    where, count, crossed, by = (give_back(torch.from_numpy(x), M0.kind) for x in (at, found - start, crossings, jumps))
    return SpectralFlow(where, count, crossed, by, int(falls) or -int(rises))


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a real number, got {value!r}") from error
    if math.isnan(number):
        raise ValueError(f"{name} must be a number, got NaN")
    return number


def _two(pair: Any, name: str) -> tuple[float, float]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(f"{name} must have two numbers, got {pair!r}")
    return _number(pair[0], name), _number(pair[1], name)


def _width(rtol: float | None, *matrices: Jacobi) -> float:
    relative = 16 * max(M.eps for M in matrices) if rtol is None else float(rtol)
    if not 0 <= relative < math.inf:
        raise ValueError(f"rtol must be at least 0, got {rtol!r}")
    return relative * max(M.size for M in matrices)


def _check_pair(M0: Jacobi, M1: Jacobi, method: str) -> None:
    if len(M0.diagonal) != len(M1.diagonal):
        raise ValueError(f"J0 and J1 must have one size, got {len(M0.diagonal)} and {len(M1.diagonal)}")
    if method not in ("pruefer", "wronskian"):
        raise ValueError(f"method must be pruefer or wronskian, got {method!r}")
    if method == "wronskian" and not np.array_equal(np.abs(M0.coupling), np.abs(M1.coupling)):
        raise ValueError("method 'wronskian' needs J0 and J1 with equal off-diagonals: use method='pruefer'")


def _half_line(
    M0: Jacobi,
    M1: Jacobi,
    lam0: float,
    lam1: float,
    closed: tuple[bool, bool],
    width: float,
    method: str,
    with_nodes: bool = False,
    *,
    same_coupling: bool = False,
) -> tuple[int, WeightedNodes | None]:
    """Eigenvalues of J1 below lam1 less those of J0 below lam0; `same_coupling` takes a0 in the Wronskian for both."""
    n = len(M0.diagonal)
    # Beyond all eigenvalues everything is counted: an infinite end is any one out there.
    limit = 2 * max(M0.size, M1.size) + width + 1
    lam0, lam1 = (math.copysign(limit, x) if math.isinf(x) else x for x in (lam0, lam1))
    shift0 = lam0 + width if closed[0] else lam0 - width
    shift1 = lam1 + width if closed[1] else lam1 - width
    scale = power_of_two(max(M0.size, M1.size, abs(shift0), abs(shift1)))
    b0, b1 = M0.diagonal / scale, M1.diagonal / scale
    a0, a1 = np.abs(M0.coupling) / scale, np.abs(M1.coupling) / scale
    cot1, hit1 = from_the_right(b1, a1, shift1 / scale)
    if same_coupling:
        cot1[1:n] *= a0 / a1
    turns, signs, last, hit0 = wronskian(b0, a0, shift0 / scale, cot1)
    steps = np.diff(turns)
    if method == "wronskian":
        steps = _signed_changes((b0 - b1) - (shift0 - shift1) / scale, signs)
        count = int(steps.sum()) - int(signs[0] == 0)
    else:
        count = int(turns[n]) - int(last) - 1
    # The theorem counts J0 with its end and J1 without.
    count += (0 if closed[0] else int(hit0)) + (int(hit1) if closed[1] else 0)
    if not with_nodes:
        return count, None
    where = np.flatnonzero(steps)
    return count, WeightedNodes(torch.from_numpy(where), torch.from_numpy(steps[where]))


def _signed_changes(fall: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Weighted nodes by the rule for equal off-diagonals: a change of sign of W counts with the sign of b0 - b1."""
    before, after = signs[:-1], signs[1:]
    crosses = before * after < 0
    up = (fall > 0) & (crosses | ((before == 0) & (after != 0)))
    down = (fall < 0) & (crosses | ((before != 0) & (after == 0)))
    return up.astype(np.int64) - down


def _bisected(counts: Any, at: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where counts that differ at neighbouring places jump."""
    low, high, below, above = at[:-1], at[1:], found[:-1], found[1:]
    done: list[tuple[np.ndarray, np.ndarray]] = []
    while True:
        apart = below != above
        low, high, below, above = low[apart], high[apart], below[apart], above[apart]
        middle = low + (high - low) / 2
        fine = (high - low <= 1e-15 * np.maximum(1, np.abs(high))) | (middle <= low) | (middle >= high)
        done.append((high[fine], (above - below)[fine]))
        low, high, below, above, middle = (x[~fine] for x in (low, high, below, above, middle))
        if not len(low):
            break
        between = counts(middle)
        low, high = np.concatenate([low, middle]), np.concatenate([middle, high])
        below, above = np.concatenate([below, between]), np.concatenate([between, above])
    where, jumps = (np.concatenate(x) for x in zip(*done, strict=True))
    order = np.argsort(where)
    return where[order], jumps[order]
