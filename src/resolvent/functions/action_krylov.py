"""Krylov spaces of several vectors at once, and e^{tA} B from them with steps in time whose error is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from resolvent.functions.exponential import EXP
from resolvent.operators.operator import Operator
from resolvent.random import gaussian

# Directions that are lost to rounding.
_BREAKDOWN = 16.0
_GROWTH = 8


class Krylov:
    """Orthonormal bases of the Krylov spaces of the p columns of X, and their Hessenberg matrices; one product with p
    columns per step.

    Parameters
    ----------
    A : (n, n) operator without batch
    X : (n, p), of the dtype of A; a column of zeros has an empty space
    most : steps there is room for

    Attributes
    ----------
    basis : (p, most + 1, n) rows; zero after the end of a space
    H : (p, most + 1, most) float64 or complex128, ``A V_j = V_{j+1} H[: j + 1, : j]``
    norms : (p,) of the columns of X
    """

    def __init__(self, A: Operator, X: Tensor, most: int) -> None:
        self.A, self.size, self.most = A, 0, most
        self.norms = torch.linalg.vector_norm(X, dim=0)
        wide = torch.complex128 if X.is_complex() else torch.float64
        p, n = X.shape[1], X.shape[0]
        self.H = torch.zeros(p, most + 1, most, dtype=wide, device=X.device)
        self.basis = torch.zeros(p, most + 1, n, dtype=X.dtype, device=X.device)
        inverse = torch.where(self.norms > 0, 1 / self.norms, 0)
        self.basis[:, 0] = (X * inverse).mT
        self.scale = torch.zeros_like(self.norms)

    def extend(self, steps: int) -> Krylov:
        """Go on until `steps` steps have been taken."""
        while self.size < steps:
            self._step()
        return self

    def _step(self) -> None:
        j = self.size
        W = self.A._matmul(self.basis[:, j].mT.contiguous()).mT.contiguous()[..., None]
        known = self.basis[:, : j + 1]
        first = known.conj() @ W
        W = torch.baddbmm(W, known.mT, first, alpha=-1)
        second = known.conj() @ W
        W = torch.baddbmm(W, known.mT, second, alpha=-1)[..., 0]
        h = (first + second)[..., 0]
        norm = torch.linalg.vector_norm(W, dim=1)
        self.scale = torch.maximum(self.scale, torch.linalg.vector_norm(h, dim=1) + norm)
        alive = norm > _BREAKDOWN * torch.finfo(W.dtype).eps * self.scale
        self.H[:, : j + 1, j] = h.to(self.H.dtype)
        self.H[:, j + 1, j] = torch.where(alive, norm, 0).to(self.H.dtype)
        self.basis[:, j + 1] = W * torch.where(alive, 1 / norm, 0)[:, None]
        self.size = j + 1

    def small(self, m: int | None = None) -> Tensor:
        """The projected matrices V^H A V (p, m, m)."""
        m = self.size if m is None else m
        return self.H[:, :m, :m]

    def combine(self, y: Tensor) -> Tensor:
        """V y for coordinates (..., p, m): (..., n, p)."""
        V = self.basis[:, : y.shape[-1]]
        y = y.to(V.dtype if not y.is_complex() else V.dtype.to_complex())
        if y.is_complex() and not V.is_complex():
            parts = [torch.einsum("...pm,pmn->...np", part, V) for part in (y.real, y.imag)]
            return torch.complex(*parts)
        return torch.einsum("...pm,pmn->...np", y, V)


@dataclass
class Swept:
    """Values (T, n, k), the natural logarithm of a factor of each (T,), errors (T, k) relative to them, and the work;
    `size` is about the norm of A.

    Without the factor the values would leave the range of floating-point numbers on the way.
    """

    values: Tensor
    logs: np.ndarray
    errors: Tensor
    products: int
    steps: int
    method: str
    size: float


def krylov_sweep(
    A: Operator, X: Tensor, times: np.ndarray, phase: complex, rtol: float, rows: int, most: int, limit: int
) -> Swept:
    """``e^{phase s A} X`` at all times s, ascending and positive, in steps as long as spaces of `most` vectors allow."""
    n, k = X.shape
    most = max(1, min(most, n))
    complex_ = X.is_complex() or phase.imag != 0
    values = torch.zeros(len(times), n, k, dtype=X.dtype.to_complex() if complex_ else X.dtype, device=X.device)
    errors = torch.zeros(len(times), k, dtype=torch.float64, device=X.device)
    logs = np.zeros(len(times))
    total, now, log, done, steps, products, size = float(times[-1]), 0.0, 0.0, 0, 0, 0, 0.0
    carried = torch.zeros(k, dtype=torch.float64, device=X.device)
    guess = total
    while done < len(times) and products < limit:
        split = X.is_complex() and not A.is_complex
        run = Krylov(A, torch.cat([X.real, X.imag], 1) if split else X, most)
        step = _Step(run, phase, rtol / total, rows, split)
        h = step.advance(min(guess, total - now))
        products += run.size * run.basis.shape[0]
        steps += 1
        size = max(size, step.size())
        upto = int(np.searchsorted(times, (now + h) * (1 + 1e-14), side="right"))
        for i in range(done, upto):
            values[i], grown, bad = step.at(float(times[i]) - now)
            logs[i], errors[i] = log + grown, carried + bad
        if upto == done or upto < len(times):
            X, grown, bad = step.at(h)
            log, carried = log + grown, carried + bad
        now, done = now + h, upto
        if upto == len(times):
            break
        guess = min(2 * h, total - now) if total > now else 0.0
    if done < len(times):
        errors[done:] = math.inf
    return Swept(values, logs, errors, products, steps, "krylov", size)


class _Step:
    """One step in time from one Krylov space per column."""

    def __init__(self, run: Krylov, phase: complex, rate: float, rows: int, split: bool) -> None:
        self.run, self.phase, self.rate, self.rows, self.split = run, phase, rate, rows, split
        self.m = 0
        self.M = run.H
        self.shift = 0.0

    def advance(self, h: float) -> float:
        """Grow the space until a step of length h is accurate, or shorten h; returns h."""
        run = self.run
        while True:
            self._space(min(run.most, run.size + _GROWTH))
            if self.shift < 0:
                # Beyond, the exponential is no floating-point number any more, and neither is its error.
                h = min(h, 500 / -self.shift)
            if self._error(h) <= self.rate * h:
                return h
            if run.size >= run.most:
                break
            # A space that is far too small for this step is cheaper to give up than to fill.
        for _ in range(60):
            error = self._error(h)
            if error <= self.rate * h:
                return h
            shrink = (0.5 * self.rate * h / error) ** (1 / self.m) if math.isfinite(error) else 0.25
            h *= min(0.8, max(0.1, shrink))
        return h

    def _space(self, m: int) -> None:
        run = self.run.extend(m)
        self.m = m
        p = run.H.shape[0]
        wide = torch.complex128 if self.phase.imag != 0 or run.H.is_complex() else torch.float64
        M = torch.zeros(p, m + 1, m + 1, dtype=wide, device=run.H.device)
        factor = self.phase if wide.is_complex else self.phase.real
        M[:, :, :m] = factor * run.H[:, : m + 1, :m]
        self.M = M
        self.shift = float(torch.linalg.eigvals(M[:, :m, :m]).real.max())

    def size(self) -> float:
        """The norm of A as this space sees it."""
        return float(torch.linalg.matrix_norm(self.M[:, : self.m, : self.m], 2).max()) if self.m else 0.0

    def _coordinates(self, h: float) -> tuple[Tensor, float]:
        shift = max(self.shift, 0.0)
        M = self.M.clone()
        M.diagonal(dim1=-2, dim2=-1).sub_(shift)
        return EXP.dense(h * M)[..., 0], h * shift

    def _error(self, h: float) -> float:
        """The largest error of a column relative to its norm: the size of the term that leads out of the space."""
        y, _ = self._coordinates(h)
        return float(self._relative(y).max()) if y.numel() else 0.0

    def _relative(self, y: Tensor) -> Tensor:
        outside, norms = y[:, -1].abs(), self.run.norms.double()
        size = torch.linalg.vector_norm(y, dim=1)
        if self.rows < self.run.basis.shape[-1]:
            Y = self.run.combine(y)[: self.rows]
            size = torch.linalg.vector_norm(Y, dim=0).double()
        if self.split:
            k = len(outside) // 2
            outside, size = (torch.hypot((t * norms)[:k], (t * norms)[k:]) for t in (outside, size))
            norms = torch.hypot(norms[:k], norms[k:])
        return torch.where(norms > 0, outside / size.clamp_min(1e-300), 0)

    def at(self, h: float) -> tuple[Tensor, float, Tensor]:
        """The value, the logarithm of its factor and the errors at time h of this step."""
        y, log = self._coordinates(h)
        Y = self.run.combine(y) * self.run.norms
        if self.split:
            k = Y.shape[1] // 2
            Y = torch.complex(Y[:, :k], Y[:, k:]) if not Y.is_complex() else Y[:, :k] + 1j * Y[:, k:]
        return Y, log, self._relative(y) + self._rounding(h, y)

    def _rounding(self, h: float, y: Tensor) -> Tensor:
        """What a rounding error of the projected matrix does to the coordinates: of a normal matrix little, of others
        possibly everything."""
        if self.run.A.hermitian or not y.numel():
            return torch.zeros_like(self._relative(y))
        m = self.m
        noise = gaussian((m, m), torch.float64, self.M.device, 0) / math.sqrt(m)
        size = torch.linalg.matrix_norm(self.M[:, :m, :m]).real
        kept = self.M
        self.M = kept.clone()
        self.M[:, :m, :m] += (torch.finfo(self.run.basis.dtype).eps / 2 * size)[:, None, None] * noise
        moved, _ = self._coordinates(h)
        self.M = kept
        error = torch.linalg.vector_norm(moved - y, dim=1) / torch.linalg.vector_norm(y, dim=1).clamp_min(1e-300)
        error = torch.where(self.run.norms > 0, error, 0).double()
        return torch.maximum(*error.chunk(2)) if self.split else error
