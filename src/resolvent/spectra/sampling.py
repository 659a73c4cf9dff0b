"""Samplers of a trace: each holds probes and their products, grows on demand and knows its standard error."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from resolvent.operators.operator import Operator
from resolvent.random import rademacher, sphere

# Bytes that a sampler may hold; beyond, Hutchinson's method goes on, which forgets its probes.
MEMORY = 1 << 30
_CHUNK = 16
# Widening of the standard errors, measured on spectra from flat to 0.7^i with 16 to 128 probes (see the
# tests).
SKEW = 0.15


def columns_dot(X: Tensor, Y: Tensor) -> Tensor:
    """x_j^H y_j per column."""
    return (X.conj() * Y).sum(-2)


def standard_error(samples: Tensor) -> Tensor:
    """Of the mean of the samples; a variance of complex samples counts both parts.

    Skew samples (squares of a few Gaussians, where a few eigenvalues rule) miss more often on one side than
    Student's law says: the error grows with the skewness, by a factor measured to restore the coverage.
    """
    deviation = (samples - samples.mean()).abs() if samples.is_complex() else samples - samples.mean()
    variance = deviation.square().sum() / (len(samples) - 1)
    third = (deviation**3).mean() / variance.clamp_min(torch.finfo(variance.dtype).tiny) ** 1.5
    return (variance / len(samples)).sqrt() * (1 + SKEW * third.abs())


class Sampler:
    """Estimates tr A from the probes Z (n, m) and Y = A Z."""

    name = ""
    # How the error falls with the products: Hutchinson's with their root, the others' at least that fast.
    rate = 2.0
    blocks = 1
    # Leave-one-out estimates share their ranges, so their spread shows less than the error of their mean.
    dependence = 1.0

    def __init__(self, A: Operator, Z: Tensor, Y: Tensor | None = None) -> None:
        self.A, self.Z = A, Z
        self.Y = A._matmul(Z) if Y is None else Y
        self.matvecs = Z.shape[1]
        self._known: tuple[Tensor, Tensor, int] | None = None

    def probes(self, m: int, g: torch.Generator) -> Tensor:
        return sphere((self.A.shape[-1], m), self.A.dtype, self.A.device, g)

    def predicted(self, error: float, tolerance: float) -> float:
        """Products in all until `error` has become `tolerance`."""
        if error <= tolerance:
            return float(self.matvecs)
        return math.inf if tolerance <= 0 else self.matvecs * (error / tolerance) ** self.rate

    def fits(self, growth: float) -> bool:
        """Whether the blocks of the next round fit into the memory allowed."""
        return self.Z.numel() * self.Z.element_size() * growth * self.blocks <= MEMORY

    def plain(self) -> Hutchinson:
        """Hutchinson's method on the samples taken so far."""
        return Hutchinson(self.A, self.Z, self.Y)

    def extend(self, growth: float, g: torch.Generator) -> None:
        """More samples, `growth` times as many as now in all."""
        Z = self.probes(max(1, round((growth - 1) * self.Z.shape[1])), g)
        self.Z, self.Y = torch.cat([self.Z, Z], 1), torch.cat([self.Y, self.A._matmul(Z)], 1)
        self.matvecs += Z.shape[1]
        self._known = None

    def estimate(self) -> tuple[Tensor, Tensor, int]:
        """Value, standard error, number of estimates averaged."""
        if self._known is None:
            samples = self._samples()
            self._known = samples.mean(), self.dependence * standard_error(samples), len(samples)
        return self._known

    def _samples(self) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not define its samples")


class Hutchinson(Sampler):
    """Mean of ``z^H A z``."""

    name = "hutchinson"

    def __init__(self, A: Operator, Z: Tensor, Y: Tensor | None = None) -> None:
        super().__init__(A, Z, Y)
        self._values = columns_dot(self.Z, self.Y)

    def probes(self, m: int, g: torch.Generator) -> Tensor:
        return rademacher((self.A.shape[-1], m), self.A.dtype, self.A.device, g)

    def fits(self, growth: float) -> bool:
        return True

    def extend(self, growth: float, g: torch.Generator) -> None:
        """More samples; only the first probes are kept."""
        wanted = max(1, round((growth - 1) * len(self._values)))
        found = [self._values]
        for first in range(0, wanted, _CHUNK):
            Z = self.probes(min(_CHUNK, wanted - first), g)
            found.append(columns_dot(Z, self.A._matmul(Z)))
        self._values = torch.cat(found)
        self.matvecs += wanted
        self._known = None

    def _samples(self) -> Tensor:
        return self._values


class HutchPP(Sampler):
    """The trace on the range of A S exactly, the rest by Hutchinson's method; half of the probes make the
    range."""

    name = "hutchpp"
    rate = 1.0
    blocks = 3

    def probes(self, m: int, g: torch.Generator) -> Tensor:
        return rademacher((self.A.shape[-1], m), self.A.dtype, self.A.device, g)

    def __init__(self, A: Operator, Z: Tensor, Y: Tensor | None = None) -> None:
        super().__init__(A, Z, Y)
        self._products = self.matvecs

    def estimate(self) -> tuple[Tensor, Tensor, int]:
        """Value, standard error, number of residual samples."""
        if self._known is None:
            # Alternate columns, so that the roles of the old probes stay when new ones come.
            G, AG = self.Z[:, 1::2], self.Y[:, 1::2]
            Q = torch.linalg.qr(self.Y[:, ::2]).Q
            AQ = self.A._matmul(Q)
            self._products += Q.shape[1]
            QG = Q.mH @ G
            residual = AG - AQ @ QG
            samples = columns_dot(G - Q @ QG, residual)
            on_range = columns_dot(Q, AQ).sum()
            self._known = on_range + samples.mean(), standard_error(samples), len(samples)
            self.matvecs = self._products
        return self._known

    def extend(self, growth: float, g: torch.Generator) -> None:
        """More samples; the products with the old orthonormal basis are not used again."""
        before = self.matvecs
        super().extend(growth, g)
        self._products += self.matvecs - before


class XTrace(Sampler):
    """Leave-one-out Hutch++: each probe is the residual sample of the range that the others make."""

    name = "xtrace"
    blocks = 3
    dependence = 1.3

    def estimate(self) -> tuple[Tensor, Tensor, int]:
        """Value, standard error, number of leave-one-out estimates."""
        if self._known is None:
            super().estimate()
            self.matvecs += self.Z.shape[1]
        return self._known  # type: ignore[return-value]

    def _samples(self) -> Tensor:
        n, m = self.Z.shape
        Q, R = torch.linalg.qr(self.Y)
        AQ = self.A._matmul(Q)
        W = Q.mH @ self.Z
        S = loo_directions(R)
        H, T = Q.mH @ AQ, AQ.mH @ self.Z
        HW = H @ W
        SW, SHS = columns_dot(S, W), columns_dot(S, H @ S)
        # The probe's part outside the others' range has a known direction law: its length is put to its mean.
        size = (n - W.abs().square().sum(0) + SW.abs().square()).clamp_min(torch.finfo(W.real.dtype).eps * n)
        rest = (
            columns_dot(W, HW)
            - columns_dot(T, W)
            + SW.conj() * columns_dot(S, R - HW)
            + SW.abs().square() * SHS
            + columns_dot(T - H.mH @ W, S) * SW
        )
        return H.diagonal().sum() - SHS + rest * ((n - m + 1) / size)


class XNysTrace(Sampler):
    """Leave-one-out Nystrom approximation of a positive operator: one product per sample."""

    name = "xnystrace"
    blocks = 3
    dependence = 1.8

    def _samples(self) -> Tensor:
        n, m = self.Z.shape
        eps = torch.finfo(self.Z.dtype).eps
        # A small multiple of the identity keeps the Cholesky factor; its trace is taken off again.
        shift = eps * torch.linalg.matrix_norm(self.Y) / math.sqrt(n)
        for _ in range(12):
            Y = self.Y + shift * self.Z
            M = self.Z.mH @ Y
            C, info = torch.linalg.cholesky_ex((M + M.mH) / 2, upper=True)
            if not bool(info):
                break
            shift = 10 * shift
        else:
            raise ValueError("xnystrace needs a positive operator, and this one has negative directions")
        Q, R = torch.linalg.qr(Y)
        B = torch.linalg.solve_triangular(C, R, upper=True, left=False)
        inverse = torch.linalg.solve_triangular(C, torch.eye(m, dtype=C.dtype, device=C.device), upper=True)
        lengths = inverse.abs().square().sum(1).sqrt()
        S = (B @ inverse.mH) / lengths
        # The residual is zero on the others: only the probe's part outside their span counts, its length put
        # to its mean.
        outside = (n - m + 1) * loo_inverse_lengths(self.Z)
        SW = columns_dot(S, Q.mH @ self.Z).abs().square() * outside
        return torch.linalg.matrix_norm(B).square() - S.abs().square().sum(0) + SW - shift * n


def loo_directions(R: Tensor) -> Tensor:
    """Unit columns s_i with s_i orthogonal to every column of R but the i-th."""
    d = R.diagonal()
    floor = torch.finfo(R.dtype).eps * d.abs().max().clamp_min(torch.finfo(R.dtype).tiny)
    R = R + torch.diag_embed(torch.where(d.abs() < floor, floor.to(R.dtype), torch.zeros_like(d)))
    S = torch.linalg.solve_triangular(R, torch.eye(R.shape[0], dtype=R.dtype, device=R.device), upper=True).mH
    return S / torch.linalg.vector_norm(S, dim=0)


def loo_inverse_lengths(Z: Tensor) -> Tensor:
    """One over the squared distance of every column of Z from the span of the others: ``diag((Z^H
    Z)^-1)``."""
    R = torch.linalg.qr(Z, mode="r").R
    inverse = torch.linalg.solve_triangular(R, torch.eye(R.shape[0], dtype=R.dtype, device=R.device), upper=True)
    return inverse.abs().square().sum(1)
