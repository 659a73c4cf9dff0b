"""What every iteration for A x = b begins and ends with: checks of the input, restarts, the residual that is measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.info import Info
from resolvent.operators.arrays import Kind, as_tensor, check_finite, give_back_array, real_dtype
from resolvent.operators.convert import as_operator
from resolvent.operators.operator import Operator
from resolvent.spectra.recurrence import column_dots

# Corrections with the measured residual after which a method has shown all that it can do.
_ROUNDS = 6


@dataclass(frozen=True)
class SolveInfo(Info):
    """Report of a linear solver: `Info` and the residual after every step.

    Attributes
    ----------
    history : the largest relative residual of all columns, as the iteration knows it: first that of the start, then
        that after each step. Empty for direct methods.

    Examples
    --------
    >>> SolveInfo("cg", iterations=1, history=(1.0, 1e-12)).history[-1]
    1e-12
    """

    history: tuple[float, ...] = ()


class Run(NamedTuple):
    """What one run of an iteration from a zero start brings back."""

    X: Tensor
    history: list[Tensor]
    steps: int
    matvecs: int


class System(NamedTuple):
    """Checked input of a solver: A X = B with X, B as blocks of columns."""

    name: str
    A: Operator
    B: Tensor
    M: Callable[[Tensor], Tensor] | None
    X0: Tensor | None
    rtol: float
    maxiter: int
    callback: Callable[[Tensor], Any] | None
    kind: Kind
    single: bool

    def multiply(self, X: Tensor) -> Tensor:
        """A X, also for complex columns and a real A."""
        return self.A._matmul(X) if X.dtype == self.A.dtype else self.A._apply(X, "torch")

    def precondition(self, R: Tensor) -> Tensor:
        """M R; R itself without a preconditioner."""
        return R if self.M is None else self.M(R)

    def result(self, X: Tensor) -> Any:
        """X in the shape and kind of b."""
        return give_back_array(X[..., 0] if self.single else X, self.kind)


# A run of a method: (system, residual (n, k), goal of its norms (k,), steps left) -> Run
Method = Callable[[System, Tensor, Tensor, int], Run]


def default_rtol(dtype: torch.dtype) -> float:
    """What an iteration reaches without trouble: 1e-10 in float64, 1e-5 in float32."""
    return 1e-10 if torch.finfo(dtype).bits == 64 else 1e-5


def right_sides(A: Operator, b: Any, name: str = "b") -> tuple[Operator, Tensor, Kind, bool]:
    """A and b in one precision, b as a block (..., m, k), its kind and whether it was one vector."""
    B, kind = as_tensor(b, name)
    single = B.ndim == 1
    if single:
        B = B[:, None]
    if B.ndim < 2 or B.shape[-2] != A.shape[-2]:
        given = tuple(B.shape[:-1]) if single else tuple(B.shape)
        raise ValueError(f"{name} must have shape (m,) or (..., m, k) with m = {A.shape[-2]}, got {given}")
    if B.device != A.device:
        raise ValueError(f"{name} is on {B.device}, A on {A.device}; move one of them")
    check_finite(B, name)
    bits = torch.finfo(A.dtype).bits
    if torch.finfo(B.dtype).bits != bits:
        if kind == "torch":
            raise TypeError(f"{name} has dtype {B.dtype}, A {A.dtype}; convert one of them")
        # NumPy users expect promotion, as in a product.
        common = torch.promote_types(A.dtype, B.dtype)
        A = A.to(common if common.is_complex == A.is_complex else torch.empty(0, dtype=common).real.dtype)
        B = B.to(torch.promote_types(B.dtype, A.dtype) if not B.is_complex() else common)
    if A.is_complex and not B.is_complex():
        B = B.to(A.dtype)
    return A, B, kind, single


def prepare(
    name: str,
    A: Any,
    b: Any,
    *,
    rtol: float | None,
    M: Any,
    x0: Any,
    maxiter: int | None,
    callback: Callable[[Any], Any] | None,
    square: bool = True,
    hermitian: bool = False,
    flexible: bool = False,
) -> System:
    """Check the arguments of a public iteration; see `System`."""
    A = as_operator(A)
    if A.batch_shape:
        raise ValueError(f"{name} takes one matrix, got a batch {tuple(A.batch_shape)}: use solve")
    if square and A.shape[0] != A.shape[1]:
        raise ValueError(f"A must be square, got shape {tuple(A.shape)}: use lsmr or lstsq")
    if hermitian:
        A.check_hermitian("A")
    A, B, kind, single = right_sides(A, b)
    if B.ndim > 2:
        raise ValueError(f"b must have shape (m,) or (m, k), got {tuple(B.shape)}")
    if rtol is None:
        rtol = default_rtol(A.dtype)
    if not 0 < rtol < 1:
        raise ValueError(f"rtol must lie between 0 and 1, got {rtol!r}")
    n = A.shape[1]
    if maxiter is None:
        maxiter = min(10 * n + 50, 20_000)
    if isinstance(maxiter, bool) or not isinstance(maxiter, int) or maxiter < 1:
        raise ValueError(f"maxiter must be an int of at least 1, got {maxiter!r}")
    X0 = None if x0 is None else _start(x0, n, B, single)
    return System(name, A, B, _preconditioner(M, n, B, flexible), X0, rtol, maxiter, callback, kind, single)


def _start(x0: Any, n: int, B: Tensor, single: bool) -> Tensor:
    X0, _ = as_tensor(x0, "x0")
    X0 = X0[:, None] if single and X0.ndim == 1 else X0
    if tuple(X0.shape) != (n, B.shape[1]):
        raise ValueError(f"x0 must have the shape of x, {(n,) if single else (n, B.shape[1])}, got {tuple(X0.shape)}")
    check_finite(X0, "x0")
    return X0.to(B)


def _preconditioner(M: Any, n: int, B: Tensor, flexible: bool) -> Callable[[Tensor], Tensor] | None:
    if M is None:
        return None
    if flexible and callable(M) and not isinstance(M, Operator):
        return M
    P = as_operator(M)
    if tuple(P.shape) != (n, n):
        raise ValueError(f"M must have shape {(n, n)}, got {tuple(P.shape)}")
    if P.is_complex and not B.is_complex():
        raise TypeError(f"M has dtype {P.dtype}, the system {B.dtype}: give a real preconditioner")
    if torch.finfo(P.dtype).bits != torch.finfo(B.dtype).bits:
        P = P.to(B.dtype if P.is_complex or not B.is_complex() else torch.empty(0, dtype=B.dtype).real.dtype)
    return lambda R: P._matmul(R) if R.dtype == P.dtype else P._apply(R, "torch")


def iterate(system: System, method: Method) -> tuple[Tensor, SolveInfo]:
    """Run a method on the residual until the measured one meets the tolerance.

    The recurrences of an iteration lose touch with b - A x by rounding: what it believes in the end is measured, and
    where that is not enough, the method runs again on what is left, as long as a run halves it.

    Raises
    ------
    ConvergenceError : the tolerance was not met; `best` is the best x
    """
    with torch.no_grad():
        B = system.B
        norms = torch.linalg.vector_norm(B, dim=0)
        # A zero column has the solution zero, whatever the start.
        X = torch.zeros(system.A.shape[1], B.shape[1], dtype=B.dtype, device=B.device)
        if system.X0 is not None:
            X = torch.where(norms > 0, system.X0, X)
        goal = system.rtol * norms
        scale = torch.where(norms > 0, norms, 1)
        R = B if system.X0 is None else B - system.multiply(X)
        history, steps, matvecs, error = [_worst(R, scale)], 0, B.shape[1] * (system.X0 is not None), math.inf
        best, best_error = X, float(history[0])
        for _ in range(_ROUNDS):
            error = best_error
            if error <= system.rtol or steps >= system.maxiter:
                break
            run = method(system, R, goal, system.maxiter - steps)
            X = X + run.X
            R = B - system.multiply(X)
            steps, matvecs = steps + run.steps, matvecs + run.matvecs + B.shape[1]
            history += [(h / scale).max() for h in run.history]
            now = float(_worst(R, scale))
            if not now < best_error:
                break
            halved = now <= best_error / 2
            best, best_error = X, now
            if not halved:
                break
    return best, report(system, best, best_error, steps, matvecs, tuple(float(h) for h in history))


def report(
    system: System, X: Tensor, error: float, steps: int, matvecs: int, history: tuple[float, ...] = ()
) -> SolveInfo:
    """The `SolveInfo` of a finished run; raises if the measured error is above the tolerance."""
    met = error <= system.rtol
    info = SolveInfo(system.name, matvecs, steps, error, met, history)
    if not met:
        raise ConvergenceError(
            f"{system.name}: the relative residual is {error:.2g} after {steps} steps, asked for {system.rtol:.2g}; "
            "a preconditioner M, or more steps (maxiter), may help",
            best=system.result(X),
            error=error,
            info=info,
        )
    return info


def _worst(R: Tensor, scale: Tensor) -> Tensor:
    return (torch.linalg.vector_norm(R, dim=0) / scale).amax() if R.shape[1] else R.new_zeros(()).abs()


def dots(X: Tensor, Y: Tensor) -> Tensor:
    """x_j^H y_j of every column, (n, k), (n, k) -> (k,)."""
    return torch.linalg.vecdot(X, Y, dim=0)


def real_dots(X: Tensor, Y: Tensor) -> Tensor:
    """The real parts of x_j^H y_j, (n, k), (n, k) -> (k,), added up in float64."""
    return column_dots(X, Y).to(device=X.device, dtype=real_dtype(X.dtype))


def quotient(a: Tensor, b: Tensor) -> Tensor:
    """a / b, zero where b is."""
    good = b != 0
    return torch.where(good, a / torch.where(good, b, 1), 0)
