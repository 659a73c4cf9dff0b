"""Krylov-Schur: restarted Arnoldi for eigenvalues of a general operator.

The basis is kept as orthonormal rows; with Q the matrix of these rows as columns, A Q = Q H + q b^H. A restart turns
H into Schur form with the wanted eigenvalues first and keeps that part, which leaves the relation as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import lapack, schur
from torch import Tensor

from resolvent.random import gaussian
from resolvent.spectra.orthogonal import project_out

Multiply = Callable[[Tensor], Tensor]


@dataclass
class GeneralProblem:
    """k eigenpairs of the product, the first in the order of `which`, to a residual of `tolerance(norm)`."""

    multiply: Multiply
    n: int
    k: int
    which: str
    rtol: float
    dtype: torch.dtype
    device: torch.device
    generator: torch.Generator
    limit: int
    start: Tensor | None = None


def pick(w: np.ndarray, which: str) -> np.ndarray:
    """Positions of the values, the most wanted first; members of a conjugate pair stay together."""
    keys = {
        "LM": np.abs(w),
        "SM": -np.abs(w),
        "LR": w.real,
        "SR": -w.real,
        "LI": np.abs(w.imag),
        "SI": -np.abs(w.imag),
    }
    # Keys of a pair may differ in the last bits: 44 bits of the mantissa make the tie a tie, at any size.
    mantissa, exponent = np.frexp(keys[which])
    key = np.ldexp(np.round(mantissa * 2.0**44) / 2.0**44, exponent)
    return np.lexsort((-w.imag, -w.real * (w.imag != 0), -key))


class _Space:
    def __init__(self, problem: GeneralProblem, dim: int) -> None:
        self.p, self.dim = problem, dim
        self.basis = torch.empty(dim + 1, problem.n, dtype=problem.dtype, device=problem.device)
        self.H = np.zeros((dim + 1, dim), dtype=complex if problem.dtype.is_complex else float)
        self.size, self.products, self.scale = 0, 0, 0.0
        self.eps = torch.finfo(problem.dtype).eps

    def fresh(self) -> None:
        """Go on with a random direction, uncoupled to the basis."""
        row = gaussian((1, self.p.n), self.p.dtype, self.p.device, self.p.generator)
        self.seed(row)

    def seed(self, row: Tensor) -> None:
        for _ in range(2):
            row = row / torch.linalg.vector_norm(row)
            if self.size:
                project_out(self.basis[: self.size], row)
        self.basis[self.size] = row[0] / torch.linalg.vector_norm(row)

    def expand(self) -> None:
        while self.size < self.dim:
            j = self.size
            row = self.p.multiply(self.basis[j][:, None]).mT
            row = row.clone() if row.data_ptr() == self.basis[j].data_ptr() else row.contiguous()
            self.products += 1
            known = self.basis[: j + 1]
            before = torch.linalg.vector_norm(row)
            h = project_out(known, row)
            h = h + project_out(known, row)
            after = torch.linalg.vector_norm(row)
            column = torch.cat([h[0], torch.stack([before, after]).to(h.dtype)]).cpu().numpy()
            if not np.isfinite(column).all():
                raise ValueError("the product with A returned NaN or infinity")
            self.H[: j + 1, j] = column[:-2]
            self.scale = max(self.scale, abs(column[-2]))
            self.size = j + 1
            if abs(column[-1]) > 8 * self.eps * self.scale:
                self.H[j + 1, j] = abs(column[-1])
                self.basis[j + 1] = row[0] / after
            else:
                self.H[j + 1, j] = 0
                self.fresh_at(j + 1)

    def fresh_at(self, position: int) -> None:
        if self.p.n > position:
            self.fresh()
        else:
            self.basis[position] = 0

    def compress(self, which: str, keep: int) -> int:
        """Keep the leading `keep` (one more where a conjugate pair would be cut) Schur vectors; returns how many."""
        j = self.size
        T, Z = schur(self.H[:j, :j], output="complex" if np.iscomplexobj(self.H) else "real")
        w = np.diag(T).astype(complex) if np.iscomplexobj(T) else _real_schur_values(T)
        best = pick(w, which)
        chosen = np.zeros(j, dtype=np.int32)
        chosen[best[:keep]] = 1
        if not np.iscomplexobj(T):
            for i in range(j - 1):
                if T[i + 1, i] != 0 and chosen[i] != chosen[i + 1]:
                    chosen[i] = chosen[i + 1] = 1
        trsen = lapack.ztrsen if np.iscomplexobj(T) else lapack.dtrsen
        T, Z, *_, _info = trsen(chosen, T, Z, job="N", lwork=max(1, j))
        p = int(chosen.sum())
        border = self.H[j, :j] @ Z[:, :p]
        rotate = torch.from_numpy(np.ascontiguousarray(Z[:, :p].T)).to(self.basis)
        self.basis[:p] = rotate @ self.basis[:j]
        self.basis[p] = self.basis[j].clone()
        self.H[:] = 0
        self.H[:p, :p] = T[:p, :p]
        self.H[p, :p] = border
        self.size = p
        return p


def _real_schur_values(T: np.ndarray) -> np.ndarray:
    n = len(T)
    w = np.diag(T).astype(complex)
    i = 0
    while i + 1 < n:
        if T[i + 1, i] != 0:
            w[i : i + 2] = np.linalg.eigvals(T[i : i + 2, i : i + 2])
            i += 1
        i += 1
    return w


def general_pairs(problem: GeneralProblem) -> tuple[Tensor, Tensor, float, int, int]:
    """(w, V, residual relative to the norm, products, restarts); w as wanted, V (n, k) complex with unit columns."""
    p, k = problem, problem.k
    space = _Space(p, min(p.n, max(2 * k + 20, 40)))
    if p.start is not None:
        space.seed(p.start[None].to(p.dtype))
    else:
        space.fresh()
    restarts, settled, until = 0, None, 0
    while True:
        space.expand()
        restarts += 1
        w, Y = np.linalg.eig(space.H[: space.size, : space.size])
        best = pick(w, p.which)[:k]
        norm = max(float(np.abs(w).max()), space.scale)
        residual = np.abs(space.H[space.size, : space.size] @ Y[:, best])
        converged = residual <= 0.3 * p.rtol * norm
        if space.size == p.n:
            break
        if converged.all():
            edge = w[best]
            same = settled is not None and np.abs(np.sort_complex(edge) - np.sort_complex(settled)).max() <= (
                1e3 * p.rtol * norm
            )
            if same and space.products >= until:
                break
            if not same:
                # A Krylov space sees one copy of a multiple eigenvalue: look again from a random vector.
                until = space.products + int(0.4 * space.products)
                settled = edge
                space.compress(p.which, k)
                space.H[space.size] = 0
                space.fresh()
                continue
        if space.products > p.limit:
            break
        space.compress(p.which, min(k + max(2, (space.dim - k) // 3), space.dim - 2))
    return _finish(space, w, Y, best, norm, restarts)


def _finish(
    space: _Space, w: np.ndarray, Y: np.ndarray, best: np.ndarray, norm: float, restarts: int
) -> tuple[Tensor, Tensor, float, int, int]:
    p = space.p
    wide = space.basis.dtype if p.dtype.is_complex else space.basis.dtype.to_complex()
    coordinates = torch.from_numpy(np.ascontiguousarray(Y[:, best])).to(dtype=wide, device=p.device)
    rows = space.basis[: space.size]
    V = _real_times(rows.mT, coordinates)
    V = V / torch.linalg.vector_norm(V, dim=0)
    AV = (
        torch.complex(p.multiply(V.real.contiguous()), p.multiply(V.imag.contiguous()))
        if not p.dtype.is_complex
        else (p.multiply(V))
    )
    values = torch.from_numpy(w[best].astype(complex)).to(dtype=wide, device=p.device)
    residual = float(torch.linalg.vector_norm(AV - V * values, dim=0).max())
    products = space.products + p.k * (1 if p.dtype.is_complex else 2)
    if not math.isfinite(residual):
        raise ValueError("the product with A returned NaN or infinity")
    return values, V, residual / norm if norm else 0.0, products, restarts


def _real_times(A: Tensor, B: Tensor) -> Tensor:
    if A.is_complex():
        return A @ B
    return torch.complex(A @ B.real.contiguous(), A @ B.imag.contiguous())
