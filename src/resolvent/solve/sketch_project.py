"""Linear systems by randomised projections onto sketches of their equations, with the work counted."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numba import njit
from torch import Tensor

from resolvent.random import gaussian

Sketch = Literal["gaussian", "kaczmarz", "block"]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})  # type: ignore[untyped-decorator]
def _sweep(K: np.ndarray, norms: np.ndarray, right: np.ndarray, rows: np.ndarray, z: np.ndarray) -> None:
    """Project z onto one equation after another."""
    for i in rows:
        if norms[i] > 0:
            gap = right[i]
            for j in range(z.shape[0]):
                gap -= K[i, j] * z[j]
            gap /= norms[i]
            for j in range(z.shape[0]):
                z[j] += gap * K[i, j]


class SketchProject:
    r"""The iteration z <- z + K^T S (S^T K K^T S)^+ S^T (b - K z), from z = 0.

    A fresh S for every step: Gaussian columns, a coordinate with a probability that is proportional to the squared norm
    of its row (Kaczmarz), or one of the blocks of a random partition of the coordinates. The expected squared error
    falls by a factor of at least 1 - s, with s the smallest eigenvalue of the mean projection.

    Parameters
    ----------
    K : (n, n)
    b : (n,)
    sketch : kind of S
    size : columns of S; 1 for "kaczmarz"
    generator : of the sketches

    Attributes
    ----------
    z : (n,) current iterate
    flops : work so far
    steps : projections so far

    References
    ----------
    "Randomized Iterative Methods for Linear Systems"

    Examples
    --------
    >>> K = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    >>> run = SketchProject(K, torch.tensor([3.0, 4.0], dtype=torch.float64), "kaczmarz", 1, torch.Generator())
    >>> for _ in range(40):
    ...     residual = run.epoch()
    >>> bool((run.z - 1).abs().max() < 1e-6)
    True
    """

    def __init__(self, K: Tensor, b: Tensor, sketch: Sketch, size: int, generator: torch.Generator) -> None:
        self.K, self.b, self.sketch, self.generator = K, b, sketch, generator
        n = len(b)
        self.size = 1 if sketch == "kaczmarz" else min(size, n)
        self.z = torch.zeros_like(b)
        self.residual = b
        self.flops, self.steps = 0.0, 0
        self.norms = (K * K).sum(1)
        self._factors: dict[int, tuple[Tensor, Tensor]] = {}
        order = torch.randperm(n, generator=generator)
        self.blocks = [rows.to(K.device) for rows in order.split(self.size)] if sketch == "block" else []

    def epoch(self) -> Tensor:
        """As many steps as there are in one pass over the equations; the residual b - K z."""
        n = len(self.b)
        count = -(-n // self.size)
        if self.sketch == "kaczmarz":
            rows = torch.multinomial(self.norms.cpu().double(), n, True, generator=self.generator)
            if self.K.device.type == "cpu":
                z = self.z.clone()
                _sweep(self.K.numpy(), self.norms.numpy(), self.b.numpy(), rows.numpy(), z.numpy())
                self.z = z
            else:
                for i in rows.tolist():
                    row = self.K[i]
                    self.z = self.z + row * ((self.b[i] - row @ self.z) / self.norms[i])
            self.flops += 4.0 * n * n
        elif self.sketch == "block":
            for at in torch.randint(len(self.blocks), (count,), generator=self.generator).tolist():
                Q, target = self._factor(at)
                self.z = self.z + Q @ (target - Q.mT @ self.z)
                self.flops += 4.0 * n * Q.shape[1]
        else:
            for _ in range(count):
                S = gaussian((n, self.size), self.K.dtype, self.K.device, self.generator)
                Q, target = self._projector((S.mT @ self.K).mT, S.mT @ self.b)
                self.z = self.z + Q @ (target - Q.mT @ self.z)
                self.flops += 2.0 * n * n * self.size + 2.0 * n * self.size + 4.0 * n * Q.shape[1]
        self.steps += count
        self.residual = self.b - self.K @ self.z
        self.flops += 2.0 * n * n
        return self.residual

    def _factor(self, at: int) -> tuple[Tensor, Tensor]:
        """The projector of a block, made when it is drawn for the first time."""
        if at not in self._factors:
            rows = self.blocks[at]
            self._factors[at] = self._projector(self.K[rows].mT, self.b[rows])
        return self._factors[at]

    def _projector(self, M: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Orthonormal Q for the columns of M, and what Q^T z is for the solutions of M^T z = right."""
        n, k = M.shape
        Q, R = torch.linalg.qr(M)
        self.flops += 4.0 * n * k * k
        diagonal = R.diagonal().abs()
        if float(diagonal.min()) > 1e3 * torch.finfo(M.dtype).eps * float(diagonal.max()):
            return Q, torch.linalg.solve_triangular(R.mT, right[:, None], upper=False)[:, 0]
        U, s, Vh = torch.linalg.svd(M, full_matrices=False)
        keep = s > 1e3 * torch.finfo(M.dtype).eps * s[0]
        return U[:, keep], (Vh[keep] @ right) / s[keep]
