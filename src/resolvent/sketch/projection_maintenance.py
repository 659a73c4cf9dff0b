"""The projection onto the rows of a Kronecker-weighted matrix, kept up to date and safe from adaptive questions."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.operators.arrays import Kind, as_tensor, check_finite, give_back_array
from resolvent.random import GeneratorLike, as_generator, gaussian

Form = Literal["sqrt x sqrt", "W x I"]


class ProjectionMaintainer:
    r"""Answers :math:`P h`, :math:`P = B^T (B B^T)^{-1} B`, while the weights W in B change a little at a time.

    :math:`B = A (W^{1/2} \otimes W^{1/2})` or :math:`B = A (W \otimes I)` for positive definite
    :math:`W = U \operatorname{diag}(\lambda) U^T`. Row i of A is a matrix of n x n, row by row.

    Parameters
    ----------
    A : (m, n^2) real of full row rank, m at most n^2; or (m, n, n)
    values : (n,) eigenvalues of W, positive
    eigenvectors : (n, n) orthogonal U; default the identity
    form : "sqrt x sqrt" or "W x I"
    eps : every entry of an answer is wrong by at most about ``eps ||h||_2``. Default 0: exact answers, nothing is
        sketched
    rounds : number of questions expected; ceil(sqrt(rounds)) copies of the sketch are kept. Default 100
    copies : that number itself; 1 is a plain sketch, which questions made from earlier answers break
    sketch_rows : rows of a copy; default ``12 m log(n^2 rounds) / (n^2 eps^2 copies)``, at least 8: an entry's standard
        deviation over copies is ``sqrt(m / rows) / n``, and the largest of all entries in all rounds is to stay below eps
    privacy : parameter of the private median of each answer, per entry; larger is nearer to the median. Default: the
        smallest at which, in all rounds, no entry is likely to be drawn from outside of what the copies say
    generator : of sketches and medians

    Raises
    ------
    ValueError : shapes, ranges, NaN or infinity, rows of A that are linearly dependent.

    Notes
    -----
    Eigenvalues are refreshed lazily: only when one is off by more than a factor 1 +- eps / 2 from what the structure
    holds. Then the largest deviations go in groups of powers of two until a gap, and B B^T changes by the
    ``2 n t - t^2`` columns of pairs that t eigenvalues touch (n t for "W x I"). A Cholesky factorisation of m x m
    follows; the paper's Woodbury formula costs more whenever the pairs outnumber m / 6. The sketches are then applied
    again: 4 m n^2 times all their rows. A question costs n^2 times the rows of all sketches, `only` the coordinates
    asked for. Its entries are medians over copies by the exponential mechanism of differential privacy, so that T
    questions need sqrt(T) copies, not T. The exact question costs 4 m n^2, which is less until m is above the rows of
    all copies: what the sketch saves shows when few coordinates are wanted. Meant for n up to about 64. No gradient.

    References
    ----------
    "Sketching Meets Differential Privacy: Fast Algorithm for Dynamic Kronecker Projection Maintenance"

    Examples
    --------
    >>> A = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    >>> P = ProjectionMaintainer(A, torch.tensor([1.0, 1.0]))
    >>> P.query(torch.tensor([1.0, 5.0, 0.0, 0.0]))
    tensor([0.5000, 0.0000, 0.0000, 0.5000])
    >>> P.update(torch.tensor([1.0, 2.0])).query(torch.tensor([1.0, 5.0, 0.0, 0.0]))
    tensor([0.2000, 0.0000, 0.0000, 0.4000])
    """

    def __init__(
        self,
        A: Any,
        values: Any,
        eigenvectors: Any = None,
        *,
        form: Form = "sqrt x sqrt",
        eps: float = 0.0,
        rounds: int = 100,
        copies: int | None = None,
        sketch_rows: int | None = None,
        privacy: float | None = None,
        generator: GeneratorLike = None,
    ) -> None:
        if form not in ("sqrt x sqrt", "W x I"):
            raise ValueError(f"form must be 'sqrt x sqrt' or 'W x I', got {form!r}")
        if not 0 <= eps < 1:
            raise ValueError(f"eps must be at least 0 and below 1, got {eps}")
        if privacy is not None and not privacy > 0:
            raise ValueError(f"privacy must be positive, got {privacy}")
        for name, count in (("rounds", rounds), ("copies", copies), ("sketch_rows", sketch_rows)):
            if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
                raise ValueError(f"{name} must be an int of at least 1, got {count!r}")
        self.form, self.eps = form, float(eps)
        self._rows = _matrix_rows(A)
        self.m, self.n = self._rows.shape[:2]
        self._dtype, self._device = self._rows.dtype, self._rows.device
        self._generator = as_generator(generator, self._device)
        self.copies = copies or math.ceil(math.sqrt(rounds))
        # The two outer gaps are about 1 / eps times as long as the inner ones, and copies / 2 ranks away.
        outside = 4 / self.copies * math.log(1e4 * self.n**2 * rounds / self.eps) if eps else 1.0
        self.privacy = float(privacy or outside)
        largest = 12 * math.log(self.n**2 * max(rounds, 2)) / self.copies
        default = max(8, math.ceil(largest * self.m / (self.n * self.eps) ** 2)) if eps else 1
        self.sketch_rows = sketch_rows or default
        self._exact_values = self._held_values = self._given(values)
        self._basis = self._orthogonal(eigenvectors)
        self.refreshes = 0
        if self.eps:
            shape = (self.copies, self.sketch_rows, self.n**2)
            self._sketches = gaussian(shape, self._dtype, self._device, self._generator) / math.sqrt(self.sketch_rows)
        self._rotate()

    def update(self, values: Any = None, eigenvectors: Any = None) -> ProjectionMaintainer:
        """Take new eigenvalues (n,) of W, of which few may differ from before, or new eigenvectors (n, n).

        New eigenvectors cost as much as a new structure; new eigenvalues only what they touch.
        """
        if values is not None:
            self._exact_values = self._given(values)
        if eigenvectors is not None:
            self._basis = self._orthogonal(eigenvectors)
            self._held_values = self._exact_values
            self._rotate()
            return self
        changed = self._to_refresh()
        if len(changed):
            self._refresh(changed)
        return self

    def query(self, h: Any, only: Any = None) -> Any:
        """P h for h (n^2,), or the entries of it that `only`, a vector of indices, names."""
        t, kind = self._question(h)
        places = slice(None) if only is None else torch.as_tensor(only, device=self._device)
        if not self.eps:
            return give_back_array(self._factor[:, places].mT @ (self._factor @ t), kind)
        short = self._sketches @ t
        answers = torch.einsum("cib,cb->ci", self._products[:, places], short)
        bound = torch.linalg.vector_norm(t)
        return give_back_array(_private_median(answers, bound, self.privacy, self._generator), kind)

    def exact(self, h: Any) -> Any:
        """P h for the weights as they are now, from scratch: 4 m n^3 + 2 m^2 n^2 operations."""
        t, kind = self._question(h)
        factor = self._orthonormal(self._weighted(self._exact_values), self._gram(self._exact_values))
        return give_back_array(factor.mT @ (factor @ t), kind)

    def _question(self, h: Any) -> tuple[Tensor, Kind]:
        t, kind = as_tensor(h, "h")
        if tuple(t.shape) != (self.n**2,) or t.is_complex():
            raise ValueError(f"h must be real with shape ({self.n**2},), got {tuple(t.shape)} of {t.dtype}")
        check_finite(t, "h")
        return t.detach().to(self._device, self._dtype), kind

    def _given(self, values: Any) -> Tensor:
        t, _ = as_tensor(values, "values")
        if tuple(t.shape) != (self.n,) or t.is_complex():
            raise ValueError(f"values must be real with shape ({self.n},), got {tuple(t.shape)} of {t.dtype}")
        check_finite(t, "values")
        if not bool((t > 0).all()):
            raise ValueError(f"values must be positive, the smallest is {float(t.min()):.3g}")
        return t.detach().to(self._device, self._dtype).clone()

    def _orthogonal(self, eigenvectors: Any) -> Tensor:
        one = torch.eye(self.n, dtype=self._dtype, device=self._device)
        if eigenvectors is None:
            return one
        U, _ = as_tensor(eigenvectors, "eigenvectors")
        if tuple(U.shape) != (self.n, self.n) or U.is_complex():
            raise ValueError(f"eigenvectors must be real with shape ({self.n}, {self.n}), got {tuple(U.shape)}")
        check_finite(U, "eigenvectors")
        U = U.detach().to(self._device, self._dtype)
        gap = float((U.mT @ U - one).abs().max())
        if gap > 100 * self.n * torch.finfo(self._dtype).eps:
            raise ValueError(f"eigenvectors must be orthogonal, U^T U differs from the identity by {gap:.3g}")
        return U.clone()

    def _pair_weights(self, values: Tensor) -> Tensor:
        """(n, n): the square of what scales the columns of A in the eigenbasis."""
        if self.form == "W x I":
            return (values**2)[:, None].expand(self.n, self.n)
        return values[:, None] * values[None, :]

    def _gram(self, values: Tensor) -> Tensor:
        flat = self._rotated.reshape(self.m, -1)
        return (flat * self._pair_weights(values).reshape(-1)) @ flat.mT

    def _rotate(self) -> None:
        U = self._basis
        self._rotated = U.mT @ self._rows @ U
        self._product = self._gram(self._held_values)
        self._rebuild()

    def _to_refresh(self) -> Tensor:
        """The eigenvalues to be brought up to date: none while all are within 1 +- eps / 2 of what is held."""
        off = (self._exact_values / self._held_values).log().abs()
        if not self.eps:
            return (off > 0).nonzero()[:, 0]
        sizes, order = off.sort(descending=True)
        limit = math.log1p(self.eps / 2)
        if not bool(sizes[0] > limit):
            return order[:0]
        # Groups of powers of two, until the next in line is clearly smaller: what is almost due would come soon.
        count, softer = int((sizes > limit).sum()), 1 - 1 / math.log2(max(self.n, 4))
        count = 1 << (count - 1).bit_length()
        while count < self.n and bool(sizes[min(3 * count // 2, self.n - 1)] >= softer * sizes[min(count, self.n) - 1]):
            count *= 2
        return order[: min(count, self.n)]

    def _refresh(self, changed: Tensor) -> None:
        held = self._held_values.clone()
        held[changed] = self._exact_values[changed]
        touched = torch.zeros(self.n, self.n, dtype=torch.bool, device=self._device)
        touched[changed] = True
        if self.form == "sqrt x sqrt":
            touched[:, changed] = True
        self.refreshes += 1
        # Updates add rounding errors; a sum from scratch now and then keeps them at those of one sum.
        if self.refreshes % 64 == 0 or 2 * int(touched.sum()) > self.n**2:
            self._product = self._gram(held)
        else:
            columns = self._rotated[:, touched]
            change = (self._pair_weights(held) - self._pair_weights(self._held_values))[touched]
            self._product = self._product + (columns * change) @ columns.mT
        self._held_values = held
        self._rebuild()

    def _weighted(self, values: Tensor) -> Tensor:
        """(m, n^2): B."""
        U = self._basis
        scaled = self._rotated * self._pair_weights(values).sqrt()
        return (U @ scaled @ U.mT).reshape(self.m, -1)

    def _orthonormal(self, B: Tensor, product: Tensor) -> Tensor:
        """Rows that span those of B: P = F^T F."""
        L, info = torch.linalg.cholesky_ex(product)
        left = L.diagonal().square() / product.diagonal()
        if int(info) or not bool((left > 10 * self.m * torch.finfo(self._dtype).eps).all()):
            row = int(info) - 1 if int(info) else int(left.argmin())
            raise ValueError(f"the rows of A must be linearly independent, row {row} depends on those before it")
        return torch.linalg.solve_triangular(L, B, upper=False)

    def _rebuild(self) -> None:
        self._factor = self._orthonormal(self._weighted(self._held_values), self._product)
        if self.eps:
            self._products = ((self._sketches @ self._factor.mT) @ self._factor).mT.contiguous()


def _matrix_rows(A: Any) -> Tensor:
    t, _ = as_tensor(A, "A")
    n = math.isqrt(t.shape[-1]) if t.ndim == 2 else t.shape[-1]
    if tuple(t.shape[1:]) not in ((n * n,), (n, n)) or 0 in t.shape:
        raise ValueError(f"A must have shape (m, n^2) or (m, n, n), got {tuple(t.shape)}")
    if t.is_complex():
        raise ValueError("A must be real, got complex numbers")
    if t.shape[0] > n * n:
        raise ValueError(f"A must have at most n^2 = {n * n} rows, got {t.shape[0]}")
    check_finite(t, "A")
    return t.detach().reshape(-1, n, n)


def _private_median(answers: Tensor, bound: Tensor, privacy: float, generator: torch.Generator) -> Tensor:
    """A median of the rows in [-bound, bound] for every column, by the exponential mechanism.

    A gap between neighbouring values is drawn in proportion to its length times ``exp(-privacy / 2 * distance)``, the
    distance being how many values lie between it and the median; the answer is uniform in the gap. One copy more or
    less changes the law of the answer by at most a factor exp(privacy).
    """
    copies = answers.shape[0]
    if copies == 1:
        return answers[0]
    ends = bound.expand(1, answers.shape[1])
    lines = torch.cat([-ends, answers.sort(0).values.clamp(-bound, bound), ends])
    ranks = torch.arange(copies + 1, dtype=answers.dtype, device=answers.device)
    gaps = lines.diff(dim=0)
    logs = gaps.log() - privacy / 2 * (ranks - copies / 2).abs()[:, None]
    draws = torch.rand(2, *gaps.shape, dtype=torch.float64, device=generator.device, generator=generator)
    u, v = draws.clamp_min(1e-300).to(answers.device)
    pick = (logs.double() - (-u.log()).log()).argmax(0, keepdim=True)
    low, length = lines.gather(0, pick), gaps.gather(0, pick)
    return (low + length * v[:1].to(answers.dtype))[0]
