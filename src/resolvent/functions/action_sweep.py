"""The sweeps behind `expm_multiply`: closed forms, the choice of the method, and the way back of the gradients."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from resolvent.errors import AccuracyWarning, ConvergenceError
from resolvent.functions.action_field import estimated_field, proved_field, surely_unsymmetric
from resolvent.functions.action_gradient import Joined, nodes
from resolvent.functions.action_krylov import Swept, krylov_sweep
from resolvent.functions.action_polynomial import polynomial_sweep
from resolvent.functions.exponential import EXP
from resolvent.functions.lift import lift
from resolvent.functions.structure import of_structure
from resolvent.info import Info
from resolvent.operators.algebra import Scaled
from resolvent.operators.arrays import Kind
from resolvent.operators.blocks import BlockDiagonal
from resolvent.operators.elementary import Dense, Diagonal, Identity, Zero
from resolvent.operators.gradient import records
from resolvent.operators.kronecker import KroneckerSum
from resolvent.operators.operator import Operator
from resolvent.operators.toeplitz import Circulant

Method = Literal["auto", "krylov", "chebyshev", "taylor"]

# Multiplications of a product per row, beyond which orthogonalisation is cheap next to it.
DEAR = 100
# Sides up to which the exponential itself is formed: of anything, of a matrix in memory, of a part of a structure.
_TINY, _SMALL, _PART = 32, 128, 256
_SPACE = {True: 40, False: 60}


@dataclass
class Task:
    """The request: ``e^{phase s A} B`` at the real times s; `columns` and `several` say what shape goes out."""

    A: Operator
    B: Tensor
    phase: complex
    times: np.ndarray
    t: Tensor | None
    rtol: float
    method: Method
    limit: int
    kind: Kind
    columns: bool
    several: bool
    rows: int


def closed_form(task: Task) -> tuple[Tensor | None, Info | None]:
    """By the exponential itself where it is cheap, recorded by autograd."""
    A = task.A
    if not A.batch_shape and A.shape[-1] > _TINY and not cheap(A):
        return None, None
    if A.batch_shape and not isinstance(A, Dense):
        raise ValueError(f"A must be one matrix unless it is dense, got a batch {tuple(A.batch_shape)}")
    return exponentiated(task)


def exponentiated(task: Task) -> tuple[Tensor, Info]:
    """By the exponential itself: of every part where A is made of cheap ones, else of A as a dense matrix."""
    A = task.A
    complex_ = task.phase.imag != 0 or complex_times(task)
    factors = task.t if task.t is not None else torch.from_numpy(task.phase * task.times if complex_ else task.times)
    wide = A.dtype.to_complex() if complex_ else A.dtype
    factors = factors.reshape(-1).to(device=A.device, dtype=wide)
    B = task.B
    while isinstance(A, Scaled) and A.factor.ndim == 0:
        factors, A = factors * A.factor, A._parts[1]
    out = []
    for factor in factors:
        if A.batch_shape or not cheap(A) or isinstance(A, Dense):
            E = lift(EXP, factor * A._dense().to(wide))
            out.append(E @ B.to(torch.promote_types(wide, B.dtype)) if not B.is_complex() else E.to(B.dtype) @ B)
        else:
            out.append(of_structure(Scaled(factor, A), EXP)._apply(B, "torch"))
    value = torch.stack(out)
    if not bool(torch.isfinite(value.detach().abs().sum())):
        raise OverflowError(f"e^(tA) B has entries beyond the range of {value.dtype}")
    return value, Info("closed form", 0, 1, torch.finfo(A.dtype).eps, True)


def complex_times(task: Task) -> bool:
    return isinstance(task.phase, complex)


def cheap(A: Operator) -> bool:
    if isinstance(A, Scaled):
        return cheap(A._parts[1])
    if isinstance(A, Dense):
        return A.shape[-1] <= _SMALL and not A.batch_shape
    if isinstance(A, KroneckerSum | BlockDiagonal):
        return all(
            P.shape[-1] == P.shape[-2] and (cheap(P) or (isinstance(P, Dense) and P.shape[-1] <= _PART))
            for P in A._parts
        )
    return isinstance(A, Diagonal | Identity | Zero | Circulant) and not A.batch_shape


def swept(task: Task) -> tuple[Tensor, Info]:
    if task.A.batch_shape:
        raise ValueError(f"A must be one matrix for method={task.method!r}, got a batch {tuple(task.A.batch_shape)}")
    task = _bare(task)
    A, B = task.A, task.B
    gradient_A = records(A)
    if B.numel() == 0:
        return B.new_zeros(len(task.times), *B.shape), Info("none")
    run = _Run(task, gradient_A)
    value, info = run.forward()
    if not gradient_A and not (torch.is_grad_enabled() and (B.requires_grad or task.t is not None)):
        return value, info
    product = None
    if gradient_A:
        columns = run.at_nodes.movedim(0, 1).reshape(B.shape[0], -1)
        product = A._apply(columns, "torch")
    return Joined.apply(lambda: value, B, product, task.t, run.backward), info


def _bare(task: Task) -> Task:
    """Factors of A go to the times, so that what is left may be a sparse matrix; a Hermitian A is declared so."""
    A = task.A
    while isinstance(A, Scaled) and A.factor.ndim == 0 and not A.factor.requires_grad and task.t is None:
        factor = complex(A.factor)
        if factor.imag != 0:
            break
        task.times = task.times * factor.real
        A = A._parts[1]
    task.A = declared(A)
    return task


def declared(A: Operator) -> Operator:
    """The operator, declared Hermitian if a pair of random vectors says so.

    Comparing the entries of a sparse matrix may take as long as all products of an action.
    """
    if A.hermitian or surely_unsymmetric(A):
        return A
    try:
        Operator.check_hermitian(A, "A")
    except ValueError:
        return A
    return A.declare(hermitian=True)


class _Run:
    """The sweeps of one task, forward and back."""

    def __init__(self, task: Task, gradient_A: bool) -> None:
        self.task, self.gradient_A = task, gradient_A
        self.A = task.A.detach()
        self.products = self.steps = 0
        self.method = ""
        self.rounding = 0.0
        self.at_nodes: Tensor = task.B.new_zeros(0)
        self.groups: list[tuple[complex, np.ndarray]] = []
        for sign in (1, -1):
            here = np.flatnonzero(np.sign(task.times) == sign)
            self.groups.append((sign * task.phase, here[np.argsort(np.abs(task.times[here]), kind="stable")]))
        self.rules: list[list[tuple[np.ndarray, np.ndarray]]] = [[], []]
        self.complex = complex_times(task) or task.B.is_complex()
        self.value: Tensor = task.B.new_zeros(0)

    def forward(self) -> tuple[Tensor, Info]:
        task, B = self.task, self.task.B.detach()
        X = B.to(self.A.dtype) if self.A.is_complex else B
        dtype = X.dtype.to_complex() if self.complex else X.dtype
        out = torch.empty(len(task.times), *X.shape, dtype=dtype, device=X.device)
        out[np.flatnonzero(task.times == 0)] = X.to(dtype)
        worst, seen = 0.0, []
        for g, (phase, order) in enumerate(self.groups):
            if not len(order):
                continue
            ends = np.abs(task.times[order])
            self.rules[g] = self._rules(phase, ends) if self.gradient_A else []
            inner = (
                np.concatenate([start + s for start, (s, _) in zip(self._starts(ends), self.rules[g], strict=True)])
                if self.gradient_A
                else ends[:0]
            )
            every, back = np.unique(np.concatenate([ends, inner]), return_inverse=True)
            values, bad = self._sweep(self.A, X, every, phase)
            worst = max(worst, bad)
            if len(every) == len(task.times) == len(order) and (order == back).all():
                out = values.to(dtype)
            else:
                out[torch.from_numpy(order)] = values[torch.from_numpy(back[: len(ends)])].to(dtype)
            seen.append(values[torch.from_numpy(back[len(ends) :])])
        if self.gradient_A:
            self.at_nodes = torch.cat(seen) if seen else X[None][:0]
        self.value = out
        if worst <= task.rtol < self.rounding:
            # No method can tell A from its neighbours, whose exponentials differ by as much.
            warnings.warn(
                f"rounding A alone changes e^(tA) B by up to eps t|A| = {self.rounding:.2g} of its size, more than "
                f"rtol = {task.rtol:.2g}",
                AccuracyWarning,
                stacklevel=5,
            )
        return out, Info(self.method or "none", self.products, self.steps, worst, worst <= task.rtol)

    @staticmethod
    def _starts(ends: np.ndarray) -> np.ndarray:
        return np.concatenate([[0.0], ends[:-1]])

    def _rules(self, phase: complex, ends: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        proved = proved_field(self.A)
        field = proved if proved is not None else estimated_field(self.A, None)
        _, a, b = field.ellipse
        # Differences of two points of the box, turned by the phase.
        a, b = 2 * math.hypot(a * phase.real, b * phase.imag), 2 * math.hypot(a * phase.imag, b * phase.real)
        return [
            nodes(float(end - start), a, b, self.task.rtol) for start, end in zip(self._starts(ends), ends, strict=True)
        ]

    def _sweep(self, A: Operator, X: Tensor, times: np.ndarray, phase: complex) -> tuple[Tensor, float]:
        """Values (T, n, k) at ascending positive times, and the largest error of a column."""
        task, n = self.task, X.shape[0]
        method = task.method
        if method == "auto":
            method = "krylov" if A.cost > DEAR * n else "chebyshev"
        with torch.no_grad():
            X, size = _normalised(X)
            phase = complex(phase)
            if method == "krylov":
                found = krylov_sweep(A, X, times, phase, task.rtol, task.rows, _SPACE[A.hermitian], task.limit)
            else:
                found = polynomial_sweep(A, X, times, phase, task.rtol, task.rows, method == "taylor", task.limit)
            self.products, self.steps = self.products + found.products, self.steps + found.steps
            self.method = found.method
            self.rounding = max(self.rounding, torch.finfo(X.dtype).eps * float(times[-1]) * found.size)
            return _scaled_back(found, size), float(found.errors.max()) if found.errors.numel() else 0.0

    def backward(self, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of B, of the product with the values at the nodes, and of t."""
        task = self.task
        B_bar = grad[np.flatnonzero(task.times == 0)].sum(0)
        weights: list[Tensor] = []
        A = self.A.H
        for (phase, order), rules in zip(self.groups, self.rules, strict=True):
            ends = np.abs(task.times[order])
            starts = self._starts(ends)
            Y = torch.zeros_like(grad[0])
            pieces: list[Tensor] = []
            for i in range(len(order) - 1, -1, -1):
                Y = Y + grad[int(order[i])]
                s, w = rules[i] if rules else (np.zeros(0), np.zeros(0))
                length = ends[i] - starts[i]
                if length == 0:
                    pieces.append(Y[None][:0])
                    continue
                values = self._back(A, Y, np.append((length - s)[::-1], length), complex(phase).conjugate())
                Y = values[-1]
                factors = torch.from_numpy(w * complex(phase).conjugate()).to(device=Y.device)
                part = values[:-1].flip(0)
                factors = factors.to(part.dtype) if part.is_complex() else factors.real.to(part.dtype)
                pieces.append(part * factors[:, None, None])
            weights += pieces[::-1]
            B_bar = B_bar + Y
        product = torch.cat(weights).movedim(0, 1).reshape(B_bar.shape[0], -1) if self.gradient_A else None
        t_bar = None
        if task.t is not None:
            with torch.no_grad():
                slope = torch.stack([self.A._apply(v, "torch") for v in self.value])
            t_bar = (slope.conj() * grad).sum((1, 2)).reshape(task.t.shape).to(task.t.device)
            t_bar = t_bar.to(task.t.dtype) if task.t.is_complex() else t_bar.real.to(task.t.dtype)
        return B_bar, product, t_bar

    def _back(self, A: Operator, Y: Tensor, times: np.ndarray, phase: complex) -> Tensor:
        every, back = np.unique(times, return_inverse=True)
        values, bad = self._sweep(A, Y, every, phase)
        if bad > self.task.rtol:
            raise ConvergenceError(
                f"gradient of expm_multiply: the error is {bad:.3g}, {self.task.rtol:.3g} was asked for"
            )
        return values[torch.from_numpy(back)]


def _normalised(X: Tensor) -> tuple[Tensor, Tensor]:
    """Columns of norm 1 (or 0) and their norms, so that no square over- or underflows."""
    top = X.abs().amax(0) if X.numel() else X.new_zeros(X.shape[1]).abs()
    top = torch.where(top > 0, top, torch.ones_like(top))
    Y = X / top
    norms = torch.linalg.vector_norm(Y, dim=0)
    norms = torch.where(norms > 0, norms, torch.ones_like(norms))
    return Y / norms, top * norms


def _scaled_back(found: Swept, size: Tensor) -> Tensor:
    values = found.values
    with np.errstate(over="ignore"):
        factors = torch.from_numpy(np.exp(np.asarray(found.logs))).to(values.device)
    if not values.is_complex():
        factors = factors.real
    if bool((factors != 1).any()):
        values = values * factors.to(values.dtype)[:, None, None]
    values = values * size
    if not bool(torch.isfinite(found.errors).all()):
        return values.nan_to_num()
    if not bool(torch.isfinite(values.abs().sum())):
        raise OverflowError(f"e^(tA) B has entries beyond the range of {values.dtype}")
    return values
