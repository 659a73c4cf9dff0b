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
from resolvent.operators.algebra import Scaled
from resolvent.operators.arrays import Kind, as_tensor, check_finite, give_back_array, real_dtype
from resolvent.operators.convert import as_operator
from resolvent.operators.operator import Operator
from resolvent.random import gaussian
from resolvent.spectra.recurrence import column_dots

# Corrections with the measured residual after which a method has shown all that it can do.
_ROUNDS = 6
# Part of the exponents of a dtype within which the squares of all that a method computes are numbers, too.
_COMFORT = 4


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
    """Checked input of a solver: A X = B with X, B as blocks of columns.

    Where the user's numbers are so large or small that their squares would leave the range of the dtype, A is the user's
    over `scale`, column j of B the user's over `sizes[j]`, and M fits this A; `own` turns X back. Powers of two round
    nothing.
    """

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
    scale: float = 1.0
    sizes: Tensor | None = None

    def multiply(self, X: Tensor) -> Tensor:
        """A X, also for complex columns and a real A."""
        return self.A._matmul(X) if X.dtype == self.A.dtype else self.A._apply(X, "torch")

    def precondition(self, R: Tensor) -> Tensor:
        """M R; R itself without a preconditioner."""
        return R if self.M is None else self.M(R)

    def own(self, X: Tensor, column: int | None = None) -> Tensor:
        """X, or a column of it (n, 1), in the user's units."""
        if self.sizes is None:
            return X
        units = self.sizes if column is None else self.sizes[column]
        wide = torch.promote_types(X.dtype, torch.float64)
        found = (X.to(wide) * (units / self.scale)).to(X.dtype)
        if not bool(torch.isfinite(found).all()):
            raise ValueError(f"the entries of x are beyond the range of {X.dtype}")
        return found

    def show(self, X: Tensor, column: int | None = None) -> None:
        """Call the user's function with the start plus X, or plus a column of it (n, 1)."""
        if self.callback is None:
            return
        # A copy: iterations change theirs in place.
        X = X.clone() if self.X0 is None else X + (self.X0 if column is None else self.X0[:, column, None])
        self.callback(self.result(self.own(X, column)))

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
    balance: bool = True,
) -> System:
    """Check the arguments of a public iteration; see `System`. Without `balance`, A is left as it is."""
    A = as_operator(A, name="A")
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
    system = System(name, A, B, _preconditioner(M, n, B, flexible), X0, rtol, maxiter, callback, kind, single)
    return in_range(system, balance and torch.finfo(A.dtype).bits < 64)


def in_range(system: System, balance: bool) -> System:
    """The system in units in which squares neither overflow nor vanish; see `System`.

    Parameters
    ----------
    system : as given by the user
    balance : look at the size of A, too, which costs one product with one column
    """
    A, B, M, X0 = system.A, system.B, system.M, system.X0
    comfort = 2.0 ** (-math.log2(torch.finfo(B.dtype).tiny) / _COMFORT)

    def unit(size: Tensor) -> Tensor:
        """The power of two next to a size that is out of the comfortable range, else 1."""
        far = (size > 0) & torch.isfinite(size) & ((size > comfort) | (size < 1 / comfort))
        most = 3.9 * math.log2(comfort)
        return torch.where(far, torch.exp2(size.log2().clamp(-most, most).round()), 1.0)

    with torch.no_grad():
        sizes, scale = unit(_largest(B)), 1.0
        if balance and A.shape[1] and A.shape[0]:
            # The image of a random vector is as large as A; that of b may be small.
            probe = gaussian((A.shape[1], 1), A.dtype, A.device, 0)
            scale = float(unit(_largest(A._matmul(probe)))[0])
        if scale == 1.0 and bool((sizes == 1).all()):
            return system
    if scale != 1.0:
        A = Scaled(1 / scale, A)
        M = None if M is None else lambda R: scale * system.precondition(R)
    B = (B / sizes).to(B.dtype)
    if X0 is not None:
        X0 = (X0 * (scale / sizes)).to(X0.dtype)
    before = 1.0 if system.sizes is None else system.sizes
    return system._replace(A=A, B=B, M=M, X0=X0, scale=system.scale * scale, sizes=before * sizes)


def _largest(X: Tensor) -> Tensor:
    """The largest absolute value in each column, in float64; of complex numbers of either part."""
    parts = torch.view_as_real(X.resolve_conj()).flatten(1) if X.is_complex() else X
    if not X.shape[0]:
        return torch.zeros(X.shape[1], dtype=torch.float64, device=X.device)
    top = parts.abs().amax(0)
    return (top.reshape(-1, 2).amax(1) if X.is_complex() else top).double()


def _start(x0: Any, n: int, B: Tensor, single: bool) -> Tensor:
    X0, _ = as_tensor(x0, "x0")
    X0 = X0[:, None] if single and X0.ndim == 1 else X0
    if tuple(X0.shape) != (n, B.shape[1]):
        raise ValueError(f"x0 must have the shape of x, {(n,) if single else (n, B.shape[1])}, got {tuple(X0.shape)}")
    check_finite(X0, "x0")
    if X0.is_complex() and not B.is_complex():
        raise TypeError(f"x0 has dtype {X0.dtype}, the system {B.dtype}: give a real start")
    return X0.to(B)


def _preconditioner(M: Any, n: int, B: Tensor, flexible: bool) -> Callable[[Tensor], Tensor] | None:
    if M is None:
        return None
    if flexible and callable(M) and not isinstance(M, Operator):
        return M
    P = as_operator(M, name="M")
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
            # Callbacks see the run on top of what is there.
            run = method(system._replace(X0=X), R, goal, system.maxiter - steps)
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
    best = system.own(best)
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


def lengths(X: Tensor) -> Tensor:
    """The 2-norms of the columns (..., n, k) -> (..., k), in double precision, where squares of float32 have room."""
    return torch.linalg.vector_norm(X, dim=-2, dtype=torch.promote_types(X.dtype, torch.float64))


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
