"""The error bound of `parametric_function`: what combinations of values of power series can be wrong by."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from resolvent.operators import lu

# Multi-indices that are enumerated; beyond their order the geometric series is used.
_INDICES = 4000
# Numbers in a block of rows of the residual's terms.
_BLOCK = 2**22


@dataclass(frozen=True, eq=False)
class Letters:
    r"""A(mu) = c(mu) (I + sum_k eps_k(mu) L_k), relative to a matrix in the middle of the range.

    Attributes
    ----------
    f : "inv" or "logdet"
    root : (n, n) the Cholesky factor of A_ref where it is positive definite, else A_ref itself
    definite : which of the two
    matrices : (d, n, n) the terms relative to A_ref, of which directions are taken
    middle : (d,) coefficients of A_ref
    lengths : (d,) the norms of the letters L_k
    centres : (d,) multiples of the identity that are taken out of the terms; None where all terms are positive
        semidefinite and A(mu) lies between multiples of A_ref instead
    logdet : log det A_ref, 0 where it is not needed
    rounding : what rounding may add to a relative error, per unit of the weights
    """

    f: str
    root: Tensor
    definite: bool
    matrices: Tensor
    middle: Tensor
    lengths: Tensor
    centres: Tensor | None
    logdet: float
    rounding: float

    def split(self, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c (k,), eps (k, d) and the norm rho (k,) of sum_k eps_k L_k, of coefficients (k, d)."""
        if self.centres is None:
            ratio = a / self.middle
            low, high = ratio.amin(1), ratio.amax(1)
            c = (low + high) / 2
            return c, a / c[:, None] - self.middle, (high - low) / (high + low)
        delta = a - self.middle
        c = 1 + delta @ self.centres
        eps = delta / c[:, None]
        return c, eps, torch.where(c > 0, eps.abs() @ self.lengths, math.inf)

    def bound(self, a: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """(k,) of coefficients (k, d), those of the evaluations (M, d), and weights (k, M)."""
        n, size = self.matrices.shape[-1], weights.abs()
        (c, eps, rho), (c_m, eps_m, rho_m) = self.split(a), self.split(chosen)
        table = _multi_indices(len(self.lengths))
        monomials, monomials_m = _monomials(eps, table), _monomials(eps_m, table)
        at = torch.as_tensor(table, device=a.device)
        order = at.sum(1)
        counts = [math.factorial(sum(i)) / math.prod(map(math.factorial, i)) for i in table]
        words = torch.tensor(counts, dtype=a.dtype, device=a.device) * (self.lengths**at).prod(1)
        powers = torch.arange(1, int(order.max()) + 1, device=a.device)
        if self.f == "inv":
            scale, scale_m, factor = 1 / c, 1 / c_m, torch.ones_like(words[: len(powers)])
            zeroth = (scale - weights @ scale_m).abs()
        else:
            scale, scale_m, factor = torch.ones_like(c), torch.ones_like(c_m), n / powers
            zeroth = abs(self.logdet) * (1 - weights.sum(1)).abs() + n * (c.log() - weights @ c_m.log()).abs()
        residual = (scale[:, None] * monomials - weights @ (scale_m[:, None] * monomials_m)).abs() * words
        by_order = residual.new_zeros(len(a), len(powers) + 1).index_add_(1, order, residual)[:, 1:] * factor
        plain = scale[:, None] * rho[:, None] ** powers + size @ (scale_m[:, None] * rho_m[:, None] ** powers)
        # The series beyond: sum_{p > P} rho^p, divided by P + 1 for the logarithm.
        last = 1.0 if self.f == "inv" else n / (len(powers) + 1)
        tail, tail_m = (r ** (len(powers) + 1) / (1 - r).clamp(min=0) for r in (rho, rho_m))
        beyond = last * (scale * tail + size @ (scale_m * tail_m))
        total = zeroth + torch.minimum(by_order, plain * factor).sum(1) + beyond
        rounding = self.rounding * (1 + size.sum(1))
        total = total * c * (1 + rho) + rounding if self.f == "inv" else total + n * rounding
        outside = (rho >= 1) | bool((rho_m >= 1).any())
        return torch.where(outside, math.inf, total)


class Residual:
    """What combinations of inverses, or of solutions, leave: ||sum lambda_m alpha_k A_m^-1 A_k - I|| for every lambda.

    Attributes
    ----------
    factors : (1 or columns of b, q, q) triangular R of all the terms of the residual, so that its norm is ||R v||
    solutions : (columns, M, M) R of the solutions alone; None for whole inverses
    """

    def __init__(self, letters: Letters, values: Tensor, rhs: Tensor | None) -> None:
        self.letters = letters
        self.solutions: Tensor | None = None
        C, L = letters.root, letters.matrices
        values = values.to(L.dtype)
        if rhs is None:
            self.factors = _inverses(letters, values)[None]
            return
        b = rhs.to(L.dtype).reshape(len(C), -1)
        u = values.reshape(len(values), len(C), -1)
        if letters.definite:
            b, u = torch.linalg.solve_triangular(C, b, upper=False), C.mH @ u
        else:
            b = lu.solve(C, b)
        products = torch.einsum("kij,mjc->cimk", L, u).flatten(2)
        self.factors = torch.linalg.qr(torch.cat([products, b.T[:, :, None]], 2), "r").R
        self.solutions = torch.linalg.qr(u.permute(2, 1, 0), "r").R

    def bound(self, a: Tensor, weights: Tensor) -> Tensor:
        """Relative errors (k,) of coefficients (k, d) and weights (k, M)."""
        v = torch.cat([(weights[:, :, None] * a[:, None, :]).flatten(1), -torch.ones_like(a[:, :1])], 1)
        left = torch.linalg.vector_norm(v.to(self.factors.dtype) @ self.factors.mT, dim=-1)
        rounding = self.letters.rounding * (1 + weights.abs().sum(1))
        if self.solutions is None:
            return left[0] + rounding
        if self.letters.centres is None:
            smallest = (a / self.letters.middle).amin(1)
        else:
            c, _, rho = self.letters.split(a)
            smallest = c * (1 - rho)
        size = torch.linalg.vector_norm(weights.to(self.solutions.dtype) @ self.solutions.mT, dim=-1)
        error = torch.where(smallest > 0, left / smallest, math.inf)
        # ||x|| is at least that of what was found, less its error.
        return torch.where(error < size, error / (size - error), math.inf).amax(0) + rounding


def _inverses(letters: Letters, values: Tensor) -> Tensor:
    """R of the columns vec(A_m^-1 A_k) and vec(I), in the coordinates of A_ref, by blocks of rows."""
    C, L = letters.root, letters.matrices
    n, width = len(C), len(values) * len(L) + 1
    one = torch.eye(n, dtype=L.dtype, device=L.device)
    R = L.new_zeros(0, width)
    step = max(1, _BLOCK // (n * width))
    for start in range(0, n, step):
        rows = C.mH[start : start + step] if letters.definite else one[start : start + step]
        products = ((rows @ values) @ C)[:, None] @ L
        columns = torch.cat([products.flatten(0, 1), one[None, start : start + step]]).flatten(1).mT
        R = torch.linalg.qr(torch.cat([R, columns]), "r").R
    return R


def letters_of(terms: Tensor, a: Tensor, f: str, dtype: torch.dtype) -> Letters:
    """The letters of terms (d, n, n) for coefficients (k, d) of the training set."""
    low, high = a.amin(0), a.amax(0)
    middles = [(low + high) / 2]
    if bool((low > 0).all()):
        middles.append((low * high).sqrt())
    scale = terms.abs().max()
    hermitian = bool((terms - terms.mH).abs().max() <= 1e-12 * scale)
    terms = (terms + terms.mH) / 2 if hermitian else terms
    made = [_letters(terms, middle, f, dtype, hermitian) for middle in middles]
    found = [one for one in made if one is not None]
    if not found:
        raise ValueError(
            "A(mu) in the middle of train must be positive definite for f='logdet'"
            if f == "logdet"
            else "A(mu) in the middle of train is singular"
        )
    return min(found, key=lambda one: float(one.split(a)[2].max()))


def _letters(terms: Tensor, middle: Tensor, f: str, dtype: torch.dtype, hermitian: bool) -> Letters | None:
    A = torch.einsum("k,kij->ij", middle.to(terms.dtype), terms)
    eps = torch.finfo(dtype).eps
    if hermitian:
        C, failed = torch.linalg.cholesky_ex(A)
        if not bool(failed):
            half = torch.linalg.solve_triangular(C, terms, upper=False)
            relative = torch.linalg.solve_triangular(C, half.mH, upper=False)
            relative = (relative + relative.mH) / 2
            w = torch.linalg.eigvalsh(relative)
            low, high = w[:, 0], w[:, -1]
            spread = torch.linalg.eigvalsh(A)
            rounding = 4 * eps * float(spread[-1] / spread[0])
            logdet = float(2 * C.diagonal().real.log().sum())
            if bool((low >= -1e-12 * high.abs().max()).all()) and bool((middle > 0).all()):
                lengths, centres = torch.maximum(high, -low), None
            else:
                lengths, centres = (high - low) / 2, (high + low) / 2
            return Letters(f, C, True, relative, middle, lengths, centres, logdet, rounding)
    if f == "logdet":
        return None
    LU, pivots, failed = lu.lu_factor_ex(A)
    if bool(failed):
        return None
    relative = torch.linalg.lu_solve(LU, pivots, terms)
    n = A.shape[-1]
    centres = relative.diagonal(dim1=-2, dim2=-1).sum(-1).real / n
    one = torch.eye(n, dtype=A.dtype, device=A.device)
    lengths = torch.linalg.matrix_norm(relative - centres[:, None, None] * one, 2)
    return Letters(f, A, False, relative, middle, lengths, centres, 0.0, 4 * eps * float(torch.linalg.cond(A)))


def _multi_indices(d: int) -> list[tuple[int, ...]]:
    """All of order at most P, the largest P for which there are few enough."""
    top = 1
    while math.comb(top + 1 + d, d) <= _INDICES and top < 30:
        top += 1
    return [i for p in range(top + 1) for i in _compositions(p, d)]


def _compositions(total: int, parts: int) -> list[tuple[int, ...]]:
    bars = itertools.combinations(range(total + parts - 1), parts - 1)
    return [tuple(b - a - 1 for a, b in itertools.pairwise((-1, *cut, total + parts - 1))) for cut in bars]


def _monomials(eps: Tensor, table: list[tuple[int, ...]]) -> Tensor:
    """eps^i (k, indices)."""
    top = max(map(max, table))
    powers = eps[:, :, None] ** torch.arange(top + 1, device=eps.device)
    at = torch.as_tensor(table, device=eps.device)
    out = torch.ones(len(eps), len(table), dtype=eps.dtype, device=eps.device)
    for k in range(eps.shape[1]):
        out = out * powers[:, k, at[:, k]]
    return out
