"""Least squares of dense matrices: by orthogonal factors, and by a sketch that preconditions conjugate gradients."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from resolvent.operators.gram import gram_vector
from resolvent.random import GeneratorLike, as_generator
from resolvent.solve.system import lengths

_ROUNDS = 5
_INNER = 80  # steps of conjugate gradients after which the sketch is held to have failed
_GAIN = 1e-7  # what one round of conjugate gradients takes off the residual
_KERNEL = 1 << 18  # entries from which the compiled one-pass product pays


class Solver(Protocol):
    """What the value and the gradient need of a method."""

    steps: int
    passes: int

    def solve(self, B: Tensor) -> Tensor:
        """A^+ B, or the ridge solution."""

    def inverse_gram(self, G: Tensor) -> Tensor:
        """(A^H A + ridge)^+ G."""


class Factored:
    """A = Q R for tall and A^H = Q R for wide matrices, (*batch, m, n); the singular values of R where they matter."""

    steps, passes = 0, 1

    def __init__(self, A: Tensor, rcond: float) -> None:
        self.tall = A.shape[-2] >= A.shape[-1]
        T = A if self.tall else A.mH
        self.Q, self.R = torch.linalg.qr(T)
        self.deficient = not self._surely_regular(rcond)
        if self.deficient:
            U, s, Vh = torch.linalg.svd(self.R)
            keep = s > rcond * s[..., :1]
            self.deficient = not bool(keep.all())
            inverse = torch.where(keep, 1 / torch.where(keep, s, 1), 0)
            self.inner = (Vh.mH * inverse[..., None, :].to(Vh.dtype)) @ U.mH

    def _surely_regular(self, rcond: float) -> bool:
        """Whether the condition number is known to be below 1 / rcond, by the inverse of R."""
        d = self.R.diagonal(dim1=-2, dim2=-1).abs()
        if bool((d == 0).any()):
            return False
        eye = torch.eye(d.shape[-1], dtype=self.R.dtype, device=self.R.device).expand_as(self.R)
        inverse = torch.linalg.solve_triangular(self.R, eye, upper=True)
        product = frobenius(self.R) * frobenius(inverse)
        if not bool((product * rcond < 1).all()):
            return False
        self.inner = inverse
        return True

    def solve(self, B: Tensor) -> Tensor:
        if self.tall:
            return self.inner @ (self.Q.mH @ B)
        return self.Q @ (self.inner.mH @ B)

    def inverse_gram(self, G: Tensor) -> Tensor:
        if self.tall:
            return self.inner @ (self.inner.mH @ G)
        return self.Q @ (self.inner.mH @ (self.inner @ (self.Q.mH @ G)))


class Unreached(Exception):
    """Conjugate gradients with this sketch did not converge."""


class Sketched:
    r"""Tall A (m, n) by conjugate gradients on :math:`N^H (A^H A + \rho) N` with N from the SVD of a sketch S A.

    S A has nearly the singular values of A, so that A N has nearly orthonormal columns: the steps do not depend on the
    condition of A. Two rounds with the residual computed anew between them give the accuracy of a QR factorisation,
    which one round from zero does not.
    """

    def __init__(self, A: Tensor, ridge: float, rcond: float, rows: int, nonzeros: int, generator: GeneratorLike):
        from resolvent.sketch import make_sketch

        m, n = A.shape
        source = as_generator(generator, A.device)
        self.A, self.ridge, self.steps, self.passes = A, ridge, 0, 1
        self.S = make_sketch("osnap", rows, m, generator=source, dtype=A.dtype, device=A.device, nonzeros=nonzeros)
        small = self.S._matmul(A)
        if ridge:
            small = torch.cat([small, ridge**0.5 * torch.eye(n, dtype=A.dtype, device=A.device)])
        R = torch.linalg.qr(small, mode="r").R
        _, s, Vh = torch.linalg.svd(R, full_matrices=False)
        keep = s > rcond * s[0]
        # The sketch knows singular values to a quarter or so: whether one so near to the cut counts is not for it to say.
        self.doubtful = bool(((s > 0.5 * rcond * s[0]) & (s < 2 * rcond * s[0])).any())
        self.rank = int(keep.sum())
        self.deficient = self.rank < n
        self.N = Vh[: self.rank].mH / s[: self.rank].to(Vh.dtype)
        self.small = small[:rows]
        # The sketch keeps the norm, too; the residual and the gradient of the solution come with it.
        self.norm = frobenius(self.small)
        self.last: tuple[Tensor, Tensor, Tensor] | None = None

    def solve(self, B: Tensor) -> Tensor:
        # The sketched problem gives the first guess: from zero, rounding errors of the size of cond(A) would stay.
        X = self.N @ (self.N.mH @ (self.small.mH @ self.S._matmul(B)))
        least = None
        for _ in range(_ROUNDS):
            R = B - self.A @ X
            gradient = self.A.mH @ R - self.ridge * X
            gap = self.N.mH @ gradient
            self.passes += 2
            size = torch.linalg.vector_norm(gap, dim=0)
            # In these coordinates the gap is what the residual could still lose.
            floor = 8 * torch.finfo(size.dtype).eps * torch.linalg.vector_norm(R, dim=0)
            worst = float((size / torch.linalg.vector_norm(B, dim=0).clamp(min=torch.finfo(size.dtype).tiny)).max())
            ended = least is not None and not worst < least / 2
            if least is None or worst < least:
                least, self.last = worst, (X, R, gradient)
            if ended or bool((size <= floor).all()):
                break
            X = X + self.N @ self._conjugate(gap, floor / 4)
        return X if self.last is None else self.last[0]

    def inverse_gram(self, G: Tensor) -> Tensor:
        gap = self.N.mH @ G
        Y = self._conjugate(gap)
        Y = Y + self._conjugate(gap - self._gram(Y))
        return self.N @ Y

    def _gram(self, Y: Tensor) -> Tensor:
        X = self.N @ Y
        A = self.A
        self.passes += 1
        if X.shape[1] == 1 and A.device.type == "cpu" and A.is_contiguous() and A.numel() >= _KERNEL:
            product = gram_vector(A, X[:, 0])[:, None]
        else:
            product = A.mH @ (A @ X)
        return self.N.mH @ (product + self.ridge * X if self.ridge else product)

    def _conjugate(self, C: Tensor, floor: Tensor | float = 0.0) -> Tensor:
        """Conjugate gradients until the residual has lost the factor `_GAIN`, or its norm is at the floor."""
        eps = torch.finfo(C.dtype).eps
        Y, R, P = torch.zeros_like(C), C.clone(), C
        rho = torch.linalg.vecdot(R, R, dim=0).real
        goal = torch.clamp(rho * max(_GAIN, 4 * eps) ** 2, min=floor**2)
        for _ in range(_INNER):
            if bool((rho <= goal).all()):
                return Y
            Q = self._gram(P)
            self.steps += 1
            curvature = torch.linalg.vecdot(P, Q, dim=0).real
            alpha = torch.where(curvature > 0, rho / torch.where(curvature > 0, curvature, 1), 0).to(C.dtype)
            Y = Y + alpha * P
            R = R - alpha * Q
            before, rho = rho, torch.linalg.vecdot(R, R, dim=0).real
            P = R + torch.where(before > 0, rho / torch.where(before > 0, before, 1), 0).to(C.dtype) * P
        raise Unreached


def frobenius(A: Tensor) -> Tensor:
    """The Frobenius norm in double precision, where squares of float32 have room."""
    return torch.linalg.vector_norm(A, dim=(-2, -1), dtype=torch.promote_types(A.dtype, torch.float64))


def optimality(A_norm: Tensor, X: Tensor, R: Tensor, gradient: Tensor) -> float:
    """The largest over all columns of |A^H r - ridge x| / (|A| (|r| + |A| |x|)): what a change of A by as much explains."""
    norm = A_norm.double()[..., None]
    below = norm * (lengths(R) + norm * lengths(X))
    above = lengths(gradient)
    worst = torch.where(above > 0, above / below.clamp(min=torch.finfo(below.dtype).tiny), 0)
    return float(worst.amax()) if worst.numel() else 0.0
