"""Affine spaces of matrices that all have one rank, of the greatest dimension, over the reals and finite fields.

>>> from resolvent import factor
>>> space = factor.constant_rank_space(7, 4, field=3)
>>> space.dimension, space.certify().ranks
(8, (4, 4))
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite
from resolvent.random import GeneratorLike, as_generator

Symmetry = Literal["alternating", "symmetric", "general"]
Mode = Literal["exact", "at_least"]
# Ranks of integer points of real spaces are taken modulo this prime, below which no pivot of theirs is lost by chance.
_PRIME = 2**31 - 1
_MOST = 2 * 10**8


class RankCertificate(NamedTuple):
    """Of :meth:`AffineSpace.certify`: the least and the largest rank, of how many points, and whether it is a proof."""

    ranks: tuple[int, int]
    points: int
    proof: bool


class GrownSpace(NamedTuple):
    """Of :meth:`AffineSpace.grow`: the space with the directions that could be added, and how many could not."""

    space: AffineSpace
    refused: int


@dataclass(frozen=True)
class AffineSpace:
    """The matrices ``offset + sum_i c_i basis[i]``, of :func:`constant_rank_space`.

    Attributes
    ----------
    offset : (n, m) int64
    basis : (dimension, n, m) int64, independent
    field : "real" or a prime p, for the integers modulo p
    rank : the rank that is meant
    kind : "alternating", "symmetric" or "general"
    mode : whether all ranks are `rank` ("exact") or none is below it ("at_least")
    rows, columns : (rank,) positions of a minor that is one or minus one everywhere
    """

    offset: Tensor
    basis: Tensor
    field: Literal["real"] | int
    rank: int
    kind: Symmetry
    mode: Mode
    rows: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()

    @property
    def dimension(self) -> int:
        return len(self.basis)

    def sample(self, count: int, *, bound: int = 1000, generator: GeneratorLike = None) -> Tensor:
        """Points (count, n, m), int64, with independent uniform coordinates: in F_p, or integers up to `bound` in size."""
        g = as_generator(generator)
        if self.field == "real":
            c = torch.randint(-bound, bound + 1, (count, self.dimension), generator=g)
            return self.offset + torch.einsum("si,inm->snm", c, self.basis)
        p = int(self.field)
        c = torch.randint(p, (count, self.dimension), generator=g)
        return (self.offset + torch.einsum("si,inm->snm", c, self.basis)) % p

    def contains(self, A: Any) -> bool:
        """Whether a matrix (n, m) is a point of the space."""
        t, _ = as_tensor(A, "A")
        if t.shape != self.offset.shape:
            raise ValueError(f"A must have shape {tuple(self.offset.shape)}, got {tuple(t.shape)}")
        check_finite(t, "A")
        if self.field == "real":
            t = t.double().cpu()
            gap = (t - self.offset).reshape(-1, 1)
            directions = self.basis.reshape(self.dimension, gap.numel()).double().mT
            rest = gap - directions @ torch.linalg.lstsq(directions, gap).solution if self.dimension else gap
            return float(rest.abs().max()) <= 1e-10 * max(float(t.abs().max()), 1.0)
        if bool((t != t.round()).any()):
            raise ValueError(f"A must hold integers in a space over the field of {self.field} elements")
        gap = (t.long().cpu() - self.offset).reshape(1, 1, -1)
        flat = self.basis.reshape(1, self.dimension, gap.numel())
        return int(self._ranks(torch.cat([flat, gap], 1))[0]) == self.dimension

    def certify(
        self,
        method: Literal["auto", "identity", "exhaustive", "sample"] = "auto",
        *,
        count: int = 10_000,
        bound: int = 1000,
        generator: GeneratorLike = None,
    ) -> RankCertificate:
        """Ranks of the points of the space, all of them or many.

        Parameters
        ----------
        method : "identity" reads a proof from the entries, see Notes; "exhaustive" takes all points over a finite field;
            "sample" takes `count` random ones, by elimination modulo p, or modulo 2^31 - 1 for the reals, which is a lower
            bound of the rank and misses it with a chance of about 1e-9. "auto": all points up to 1e6 of them, else identity
        count, bound, generator : of the sample, see `sample`

        Returns
        -------
        RankCertificate

        Raises
        ------
        ValueError : "exhaustive" for the reals or for more than 2e8 points, or "identity" for a space in which the minor is
            not constant.

        Notes
        -----
        The identity: in the order of `rows` and `columns` the pivot minor is triangular with a diagonal of ones and minus
        ones in every point, hence its determinant is constant; and the other entries vanish in a block whose
        complement has as many rows and columns as the rank, or the matrix is too small for more.
        """
        from resolvent.factor import constant_rank_kernel as kernel

        points = 0 if self.field == "real" else int(self.field) ** self.dimension
        if method == "auto":
            method = "exhaustive" if 0 < points <= 10**6 or (points and not self.rows) else "identity"
        if method == "identity":
            return RankCertificate((self.rank, self._upper_bound()), 0, self._check_minor())
        if method == "sample":
            found = self._ranks(self.sample(count, bound=bound, generator=generator))
            return RankCertificate((int(found.min()), int(found.max())), count, False)
        if method != "exhaustive":
            raise ValueError(f"method must be 'auto', 'identity', 'exhaustive' or 'sample', got {method!r}")
        if not 0 < points <= _MOST:
            many = "infinitely many" if self.field == "real" else points
            raise ValueError(f"'exhaustive' takes up to {_MOST} points of a finite field, and here are {many}")
        counts = np.zeros(max(self.offset.shape) + 1, np.int64)
        kernel.scan(self.offset.numpy(), self.basis.numpy(), int(self.field), 0, len(counts), counts)
        seen = np.flatnonzero(counts)
        return RankCertificate((int(seen[0]), int(seen[-1])), points, True)

    def grow(self, trials: int = 100, *, generator: GeneratorLike = None) -> GrownSpace:
        """Add random directions as long as no rank leaves what the space promises, by looking at every point.

        Parameters
        ----------
        trials : how many directions to try, those inside the space not counted
        generator : for the directions

        Returns
        -------
        GrownSpace

        Raises
        ------
        ValueError : the field is not finite, or the space has more than 2e8 points with one direction more.

        Notes
        -----
        A direction that breaks the rank usually does so in one of the first points, where the look ends; one that keeps it
        costs all p^(dimension + 1) points. It keeps the kind: alternating or symmetric directions.
        """
        from resolvent.factor import constant_rank_kernel as kernel

        if self.field == "real":
            raise ValueError("grow looks at every point and needs a finite field, got field = 'real'")
        p, g, space, refused = int(self.field), as_generator(generator), self, 0
        n, m = self.offset.shape
        outer = n * m if self.kind == "general" else n * (n + (1 if self.kind == "symmetric" else -1)) // 2
        high = self.rank if self.mode == "exact" else min(n, m)
        for _ in range(trials):
            if space.dimension == outer:
                break
            if p ** (space.dimension + 1) > _MOST:
                raise ValueError(f"grow looks at up to {_MOST} points, and here are {p}^{space.dimension + 1}")
            D = torch.randint(p, (n, m), generator=g)
            while space.contains(space.offset + (D := _of_kind(D, self.kind))):
                D = torch.randint(p, (n, m), generator=g)
            basis = torch.cat([(D % p)[None], space.basis])
            counts = np.zeros(max(n, m) + 1, np.int64)
            seen = kernel.scan(space.offset.numpy(), basis.numpy(), p, self.rank, high, counts)
            if seen == p ** len(basis) and not (counts[: self.rank].any() or counts[high + 1 :].any()):
                space = replace(space, basis=basis, rows=(), columns=())
            else:
                refused += 1
        return GrownSpace(space, refused)

    def _ranks(self, points: Tensor) -> np.ndarray:
        from resolvent.factor import constant_rank_kernel as kernel

        p = _PRIME if self.field == "real" else int(self.field)
        return kernel.ranks_of(np.ascontiguousarray((points % p).numpy()), p)

    def _check_minor(self) -> bool:
        """Whether the pivot minor is triangular with constant units on its diagonal; anything else is refused."""
        minor = torch.cat([self.offset[None], self.basis])[:, list(self.rows)][:, :, list(self.columns)]
        modulus = 0 if self.field == "real" else int(self.field)
        diagonal = minor.diagonal(dim1=-2, dim2=-1)
        units = diagonal[0] == 1
        units |= diagonal[0] == (modulus - 1 if modulus else -1)
        if not self.rows or bool(minor.tril(-1).any()) or bool(diagonal[1:].any()) or not bool(units.all()):
            raise ValueError(
                "the space has no minor that is constant for its entries; take method='exhaustive' or 'sample'"
            )
        return True

    def _upper_bound(self) -> int:
        """The least number of rows and columns that hold all entries, or the size."""
        used = (self.offset != 0) | (self.basis != 0).any(0)
        n, m = used.shape
        best = min(n - n % 2 if self.kind == "alternating" else n, m)
        for a in range(n + 1):
            # The first a rows, and all columns that the rest needs.
            best = min(best, a + int(used[a:].any(0).sum()))
        return best


def _of_kind(D: Tensor, kind: Symmetry) -> Tensor:
    if kind == "general":
        return D
    upper = D.triu(1)
    return upper - upper.mT if kind == "alternating" else D.triu() + upper.mT


def constant_rank_space(
    n: int | tuple[int, int],
    r: int,
    *,
    field: Literal["real"] | int = "real",
    kind: Symmetry = "alternating",
    mode: Mode = "exact",
) -> AffineSpace:
    r"""An affine space of matrices that all have rank r, or all rank at least r, as large as is known to be possible.

    For alternating matrices (skew, with zero diagonal) of rank r = 2 s: those of the form

    .. math:: \begin{pmatrix} B & C \\ -C^T & 0 \end{pmatrix}, \qquad C = (U, F),

    with B alternating s x s, U unit upper triangular s x s and F free: dimension s (n - s - 1).

    Parameters
    ----------
    n : number of rows and columns; (n, m) for kind="general"
    r : the rank, from 1 to n; even for alternating matrices
    field : "real", or a prime below 2^31 for the integers modulo it
    kind : "alternating", "symmetric" or "general"
    mode : "exact", or "at_least" for spaces without matrices of a rank below r

    Returns
    -------
    AffineSpace, with `sample`, `contains`, `certify` and `grow`

    Raises
    ------
    ValueError : sizes, a rank, a field or a name that do not go together.

    Notes
    -----
    All kinds take one minor of r rows and columns in which a triangle vanishes and the diagonal is one; "exact" clears, in
    addition, what lies beyond, and every other entry is free. Dimensions: :func:`constant_rank_dimension`. An
    alternating matrix of size r + 1 has no rank above r, and "exact" is then "at_least". No gradients.

    References
    ----------
    "On affine spaces of alternating matrices with constant rank"

    Examples
    --------
    >>> constant_rank_space(3, 2).sample(1, bound=5, generator=0)[0]
    tensor([[ 0,  1,  5],
            [-1,  0,  2],
            [-5, -2,  0]])
    """
    from resolvent.factor.constant_rank_dimension import checked_problem

    rows, columns = checked_problem(n, r, field, kind, mode)
    s = r // 2 if kind != "general" else r
    if kind == "general":
        R, C = list(range(r)), list(range(r))
    else:
        # U, for symmetric matrices of odd rank one more pivot, and the mirror of U backwards.
        middle = [s] if r % 2 else []
        R = [*range(s), *middle, *range(r - 1, r - s - 1, -1)]
        C = [*range(r - s, r), *middle, *range(s - 1, -1, -1)]
    offset, free = np.zeros((rows, columns), np.int64), np.ones((rows, columns), bool)
    mirror = {"alternating": -1, "symmetric": 1, "general": 0}[kind]
    if kind == "alternating":
        np.fill_diagonal(free, False)
    for a in range(r):
        free[R[a], C[a]] = False
        for b in range(a):
            free[R[a], C[b]] = False
    for a in range(s if mirror else r):
        offset[R[a], C[a]] = 1
        if mirror:
            offset[C[a], R[a]] = mirror
    if r % 2 and mirror:
        offset[s, s] = 1
    if mode == "exact" and not (kind == "alternating" and rows <= r + 1):
        if mirror:
            free[r - s :, s:] = False
            free[s:, r - s :] = False
        elif rows <= columns:
            free[r:] = False
        else:
            free[:, r:] = False
    if mirror:
        free = np.triu(free & free.T)
    places = np.argwhere(free)
    basis = np.zeros((len(places), rows, columns), np.int64)
    for k, (i, j) in enumerate(places):
        basis[k, i, j] = 1
        if mirror and i != j:
            basis[k, j, i] = mirror
    if field != "real":
        offset, basis = offset % int(field), basis % int(field)
    return AffineSpace(torch.from_numpy(offset), torch.from_numpy(basis), field, r, kind, mode, tuple(R), tuple(C))
