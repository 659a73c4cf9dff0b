"""How far a matrix is from normal, and how large its powers and exponentials become before they decay."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.functions.exponential import EXP
from resolvent.functions.level_set import circle_peak, line_peak
from resolvent.functions.lift import lift
from resolvent.functions.pseudospectrum import _matrix, _recorded, _schur, _touching
from resolvent.operators import lu
from resolvent.operators.arrays import complex_dtype, give_back, real_dtype

Time = Literal["continuous", "discrete"]

# Curves, times or powers that are examined before a search gives up.
_MOST = 4000


class Bounds(NamedTuple):
    """A supremum between two bounds.

    Attributes
    ----------
    lower : a value that is taken, or a limit; it has gradients
    upper : no value is larger
    at : where `lower` is taken: a complex point for `kreiss_constant`, a time for `transient_growth`
    """

    lower: Any
    upper: Any
    at: Any


def departure_from_normality(A: Any) -> Any:
    r"""Henrici's departure from normality :math:`(\|A\|_F^2 - \sum_i |\lambda_i|^2)^{1/2}`, 0 for normal matrices.

    Parameters
    ----------
    A : (*batch, n, n) matrices or an operator; it is made dense

    Returns
    -------
    (*batch,) real tensor; a float for NumPy without a batch.

    Raises
    ------
    ValueError : A is not square and finite.

    Notes
    -----
    The Frobenius norm of the strictly upper triangle of a Schur form, O(n^3), with an error of eps ||A||; the
    difference in the formula would only have sqrt(eps) ||A||. The gradient :math:`(A - X^{-H} \Lambda X^H) / d` needs
    eigenvectors X: a defective matrix has none, and an error says so. It is 0 where the departure is 0.

    References
    ----------
    "Bounds for iterates, inverses, spectral variation and fields of values of non-normal matrices"

    Examples
    --------
    >>> import torch
    >>> departure_from_normality(torch.tensor([[1.0, 3.0], [0.0, 2.0]]))
    tensor(3.)
    """
    M, kind = _matrix(A)
    return give_back(_Departure.apply(M), kind)


def kreiss_constant(A: Any, time: Time = "continuous", *, rtol: float = 1e-3) -> Bounds:
    r"""The Kreiss constant :math:`\sup_{\mathrm{Re} z > 0} \mathrm{Re} z \, \|(zI - A)^{-1}\|`, or for powers
    :math:`\sup_{|z| > 1} (|z| - 1) \|(zI - A)^{-1}\|`.

    Parameters
    ----------
    A : (n, n) matrix or operator; it is made dense
    time : "continuous" for exponentials, "discrete" for powers
    rtol : the bounds differ by at most this factor; at least 1e-8, in float32 1e-3

    Returns
    -------
    `Bounds`: ``lower, upper, at``. Both are infinite if an eigenvalue is outside; only `upper` is if one is on the
    boundary to rounding, where a supremum cannot be told.

    Raises
    ------
    ValueError : A is not one finite square matrix; `time` or `rtol` is not as above.
    ConvergenceError : 4000 lines did not bring the bounds together; carries them.

    Notes
    -----
    On every line Re z = x the largest resolvent norm N(x) is found with certainty from Hamiltonian eigenvalues (for
    circles: of a pencil); between two lines, log N is convex (Hadamard's three lines), which bounds x N(x). Intervals
    are halved where that bound is too high; beyond the last line x N(x) is at most x / (x - omega), omega the numerical
    abscissa (the numerical radius in discrete time). Some 30 to 100 lines at O(n^3) each. By Kreiss' theorem the
    supremum of ||exp(tA)|| or ||A^k|| lies between K and e n K. The gradient is that at the point found.

    References
    ----------
    "Computing the Kreiss Constant of a Matrix"

    Examples
    --------
    >>> import torch
    >>> found = kreiss_constant(torch.tensor([[-1.0, 10.0], [0.0, -1.0]]).double())
    >>> 2.5 < found.lower <= found.upper < 1.001 * found.lower
    tensor(True)
    """
    M, kind = _one(A)
    least = 1e-8 if real_dtype(M.dtype) == torch.float64 else 1e-3
    _check(time, rtol, least)
    one = M.real.new_ones(())
    if len(M) == 0:
        raise ValueError("A must have at least one row")
    T, scale = M.detach(), float(torch.linalg.matrix_norm(M.detach(), 2))
    w = torch.linalg.eigvals(T)
    edge = float(w.real.max()) if time == "continuous" else float(w.abs().max()) - 1
    unit = torch.finfo(one.dtype).eps * len(M) * max(scale, 1.0 if time == "discrete" else 0.0)
    if edge > math.sqrt(unit * max(scale, 1.0)):
        return _given(one * math.inf, one * math.inf, one * complex(math.nan, math.nan), kind)
    if time == "continuous":
        omega = float(_touching(T, one[None] * 0)[1][0])
        peak: Callable[[float], tuple[float, float]] = lambda x: line_peak(T, x, 0.1 * rtol, "kreiss_constant")  # noqa: E731
    else:
        from resolvent.functions.pseudospectrum import numerical_radius

        omega = float(numerical_radius(T)) * (1 + 1e-4 if least > 1e-4 else 1 + 1e-8) - 1
        peak = lambda x: circle_peak(T, 1 + x, 0.1 * rtol, "kreiss_constant")  # noqa: E731
    if omega <= unit:
        # A contraction: x N(x) increases to its limit 1.
        return _given(one.clone(), one * (1 + 2 * unit), one * complex(math.inf, 0), kind)
    best, upper, x, y = _lines(peak, omega, rtol, edge < -unit, time == "discrete")
    if best <= 1:
        return _given(one.clone(), one * max(upper, 1.0), one * complex(math.inf, 0), kind)
    z = complex(x, y) if time == "continuous" else (1 + x) * complex(math.cos(y), math.sin(y))
    point = torch.tensor([z], dtype=complex_dtype(M.dtype), device=M.device)
    lower = (x / _recorded(M, point))[0]
    upper = max(upper, float(lower.detach()))
    return _given(lower, one * upper, point[0], kind)


def transient_growth(A: Any, time: Time = "continuous", *, rtol: float = 1e-2) -> Bounds:
    r"""The largest transient :math:`\sup_{t \ge 0} \|e^{tA}\|_2`, or :math:`\max_k \|A^k\|_2`.

    Parameters
    ----------
    A : (n, n) matrix or operator; it is made dense
    time : "continuous" for exponentials, "discrete" for powers
    rtol : the bounds differ by at most this factor; powers are exact

    Returns
    -------
    `Bounds`: ``lower, upper, at``; infinite if A has an eigenvalue outside.

    Raises
    ------
    ValueError : A is not one finite square matrix; `time` or `rtol` is not as above.
    ConvergenceError : the bounds did not meet, as with an eigenvalue on the boundary; carries them.

    Notes
    -----
    Once ||exp(TA)|| <= 1, only times up to T count. Between two times,
    :math:`\|e^{(t+s)A}\| \le \|e^{tA}\| e^{\omega s}` with the numerical abscissa omega of A, and the same backwards
    with that of -A: intervals whose bound is too high are halved. Some 100 to 1000 exponentials, O(n^3) each. The
    gradient is that of the norm at the time found.

    References
    ----------
    "Spectra and Pseudospectra: The Behavior of Nonnormal Matrices and Operators"

    Examples
    --------
    >>> import torch
    >>> A = torch.tensor([[-1.0, 10.0], [0.0, -1.0]]).double()
    >>> transient_growth(A).lower.round(decimals=1)
    tensor(3.7000, dtype=torch.float64)
    """
    M, kind = _one(A)
    _check(time, rtol, 1e-6)
    one = M.real.new_ones(())
    if len(M) == 0:
        raise ValueError("A must have at least one row")
    T = M.detach()
    w = torch.linalg.eigvals(T)
    scale = float(torch.linalg.matrix_norm(T, 2))
    slack = math.sqrt(torch.finfo(one.dtype).eps * len(M)) * max(scale, 1.0)
    if (float(w.real.max()) if time == "continuous" else float(w.abs().max()) - 1) > slack:
        return _given(one * math.inf, one * math.inf, one * math.inf, kind)
    if time == "discrete":
        return _powers(M, kind)
    forward, backward = (float(_touching(sign * T, one[None] * 0)[1][0]) for sign in (1, -1))
    if forward <= slack * slack:
        return _given(one.clone(), one.clone(), one * 0, kind)
    # Later, the rounding errors of exp(tA), eps t ||A||, are no longer small.
    latest = 1e-3 / (torch.finfo(one.dtype).eps * scale)

    def size(t: float) -> float:
        return float(torch.linalg.matrix_norm(lift(EXP, t * T), 2))

    _, upper, t = _times(size, (forward, backward), latest, rtol)
    value = one.clone() if t == 0 else _norm(lift(EXP, t * M))
    return _given(value, one * max(upper, float(value.detach())), one * t, kind)


def _one(A: Any) -> tuple[Tensor, Any]:
    M, kind = _matrix(A)
    if M.ndim != 2:
        raise ValueError(f"A must have shape (n, n), got {tuple(M.shape)}")
    return M, kind


def _check(time: str, rtol: float, least: float) -> None:
    if time not in ("continuous", "discrete"):
        raise ValueError(f"time must be 'continuous' or 'discrete', got {time!r}")
    if not least <= rtol < 1:
        raise ValueError(f"rtol must be between {least:g} and 1, got {rtol}")


def _given(lower: Tensor, upper: Tensor, at: Tensor, kind: Any) -> Bounds:
    return Bounds(*(give_back(t, kind) for t in (lower, upper, at)))


def _norm(E: Tensor) -> Tensor:
    """The 2-norm, with the derivative Re u^H dE v."""
    with torch.no_grad():
        U, _, Vh = torch.linalg.svd(E)
    return (U[:, 0].conj() @ (E @ Vh[0].conj())).real


def _lines(
    peak: Callable[[float], tuple[float, float]], omega: float, rtol: float, inside: bool, circles: bool
) -> tuple[float, float, float, float]:
    """Bounds of sup x N(x), x > 0, N with a convex logarithm and at most 1 / (x - omega); the best x and y."""
    last = omega * (1 + 1 / rtol)
    found = {x: peak(x) for x in (last * 4.0**-j for j in range(8 + round(math.log(1 / rtol, 4))))}
    if inside:
        # At the boundary itself N is finite: left of a line so near, x N(x) cannot matter.
        found[0.0] = peak(0.0)
    best, x, y = max((v[0] * x, x, v[1]) for x, v in found.items())
    best = max(best, 1.0)
    order = sorted(found)
    queue = [(-_between(a, b, found, circles), a, b) for a, b in itertools.pairwise(order)]
    heapq.heapify(queue)
    outside = last / (last - omega)
    for _ in range(_MOST):
        top = -queue[0][0] if queue else 0.0
        if top <= best * (1 + 0.9 * rtol):
            upper = max(top, outside if best < outside else 0.0, best)
            return best, upper * (1 + 0.1 * rtol) if inside else math.inf, x, y
        _, a, b = heapq.heappop(queue)
        middle = math.sqrt(a * b) if a > 0 else b / 8
        found[middle] = peak(middle)
        value = found[middle][0] * middle
        if value > best:
            best, x, y = value, middle, found[middle][1]
        for left, right in ((a, middle), (middle, b)):
            heapq.heappush(queue, (-_between(left, right, found, circles), left, right))
    bounds = (best, -queue[0][0])
    raise ConvergenceError(
        f"kreiss_constant: {_MOST} lines leave it between {bounds[0]:.6g} and {bounds[1]:.6g}",
        best=bounds,
        error=bounds[1] / best - 1,
    )


def _between(a: float, b: float, found: dict[float, tuple[float, float]], circles: bool) -> float:
    """An upper bound of x N(x) for a <= x <= b: log N lies below the line through its ends, in log(1 + x) for circles."""
    low, high = math.log(found[a][0]), math.log(found[b][0])
    if not circles:
        slope = (high - low) / (b - a)
        x = min(b, max(a, -1 / slope)) if slope < 0 else b
        return x * math.exp(low + slope * (x - a))
    slope = (high - low) / math.log((1 + b) / (1 + a))
    x = min(b, max(a, 1 / (-slope - 1))) if slope < -1 else b
    return x * math.exp(low + slope * math.log((1 + x) / (1 + a)))


def _times(
    size: Callable[[float], float], rates: tuple[float, float], latest: float, rtol: float
) -> tuple[float, float, float]:
    """Bounds of sup ||exp(tA)|| and the best t, from growth rates forward and backward in time."""
    forward, backward = rates
    logs = {0.0: 0.0}
    t = 1 / forward
    while True:
        value = size(t)
        logs[t] = math.log(value) if value > 0 else -math.inf
        if value <= 1:
            break
        if t > latest:
            best = math.exp(max(logs.values()))
            raise ConvergenceError(
                f"transient_growth: the norm is still {value:.3g} at time {t:.3g}: A has an eigenvalue on the boundary "
                "or too near to it",
                best=(best, math.inf),
                error=math.inf,
            )
        t *= 2

    def bound(a: float, b: float) -> float:
        if logs[b] == -math.inf:
            return logs[a] + forward * (b - a)
        s = (logs[b] - logs[a] + backward * (b - a)) / (forward + backward)
        return logs[a] + forward * min(b - a, max(0.0, s))

    order = sorted(logs)
    queue = [(-bound(a, b), a, b) for a, b in itertools.pairwise(order)]
    heapq.heapify(queue)
    best, at = max((value, t) for t, value in logs.items())
    for _ in range(_MOST):
        if -queue[0][0] <= best + math.log1p(rtol):
            return math.exp(best), math.exp(max(-queue[0][0], best)), at
        _, a, b = heapq.heappop(queue)
        middle = (a + b) / 2
        value = size(middle)
        logs[middle] = math.log(value) if value > 0 else -math.inf
        if logs[middle] > best:
            best, at = logs[middle], middle
        for left, right in ((a, middle), (middle, b)):
            heapq.heappush(queue, (-bound(left, right), left, right))
    bounds = (math.exp(best), math.exp(-queue[0][0]))
    raise ConvergenceError(
        f"transient_growth: {_MOST} times leave it between {bounds[0]:.6g} and {bounds[1]:.6g}",
        best=bounds,
        error=bounds[1] / bounds[0] - 1,
    )


def _powers(M: Tensor, kind: Any) -> Bounds:
    """max ||A^k||: once a power is a contraction, no later one is larger than those before it."""
    power, best, at = M.detach(), 1.0, 0
    for k in range(1, _MOST + 1):
        size = float(torch.linalg.matrix_norm(power, 2))
        if size > best:
            best, at = size, k
        if size <= 1:
            lower = _norm(torch.linalg.matrix_power(M, at)) if at else M.real.new_ones(())
            rounding = 1 + 4 * torch.finfo(lower.dtype).eps * len(M) * max(at, 1)
            return _given(lower, lower.detach() * rounding, lower.new_tensor(float(at)), kind)
        power = power @ M.detach()
    raise ConvergenceError(
        f"transient_growth: the norm of power {_MOST} is still {size:.3g}: A has an eigenvalue on the boundary or too "
        "near to it",
        best=(best, math.inf),
        error=math.inf,
    )


class _Departure(torch.autograd.Function):
    """The norm of the strictly upper triangle of Schur forms."""

    @staticmethod
    def forward(ctx: Any, M: Tensor) -> Tensor:
        n = M.shape[-1]
        flat = [torch.linalg.matrix_norm(_schur(one).triu(1)) for one in M.reshape(-1, n, n)] if n else []
        out = torch.stack(flat) if flat else M.real.new_zeros(math.prod(M.shape[:-2]))
        out = out.reshape(M.shape[:-2]).to(real_dtype(M.dtype))
        ctx.save_for_backward(M, out)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        M, d = ctx.saved_tensors
        w, X = torch.linalg.eig(M)
        XH = X.mH
        # tr(conj(Lambda) X^-1 dA X) has the gradient X^-H Lambda X^H.
        G = lu.solve(XH, w[..., :, None] * XH)
        if not bool(torch.isfinite(torch.view_as_real(G)).all()) or float(torch.linalg.cond(X).max()) > 1e12:
            raise ValueError("departure_from_normality has no gradient at a defective matrix (its eigenvectors fail)")
        G = M - (G if M.is_complex() else G.real)
        flat = d > torch.finfo(d.dtype).eps * M.shape[-1] * torch.linalg.matrix_norm(M)
        scale = torch.where(flat, grad / torch.where(flat, d, torch.ones_like(d)), torch.zeros_like(d))
        return scale[..., None, None] * G
