"""Matrices with known singular values, for the tests of low-rank approximations."""

from __future__ import annotations

import torch
from torch import Tensor

from resolvent.random import gaussian


def with_values(m: int, n: int, s: Tensor, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """(m, n) with singular values s and random singular vectors."""
    U = torch.linalg.qr(gaussian((m, len(s)), dtype, generator=2 * seed)).Q
    V = torch.linalg.qr(gaussian((n, len(s)), dtype, generator=2 * seed + 1)).Q
    return (U * s.to(U.real.dtype)) @ V.mH


def tail(s: Tensor, k: int) -> float:
    """The least error of rank k relative to the whole, in the Frobenius norm."""
    return float(s[k:].norm() / s.norm())


def geometric(count: int, ratio: float = 0.8) -> Tensor:
    """1, r, r^2, ..."""
    return ratio ** torch.arange(count, dtype=torch.float64)


def error(A: Tensor, found: Tensor) -> float:
    """Relative, in the Frobenius norm."""
    return float(torch.linalg.matrix_norm(A - found) / torch.linalg.matrix_norm(A))
