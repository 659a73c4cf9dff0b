"""Meta-factorisation: every factorisation as the solution of a projector equation and a reconstruction equation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.factor.meta_presets import PRESETS, Factors
from resolvent.factor.range_finder import rounding
from resolvent.operators import LowRank
from resolvent.operators.arrays import Kind, as_tensor, check_finite, give_back_array
from resolvent.operators.parts import common_tensors
from resolvent.random import GeneratorLike, as_generator


@dataclass(frozen=True)
class Replacement:
    """What happens to F G H^H when F is exchanged for another factor.

    Attributes
    ----------
    interface : S = Y_c^H F, which turns coordinates in F into those in the candidate
    mismatch : |E G|_F with E = F - F_c S; the exchange is exact if and only if it is zero
    residual : |F G H^H - F_c S G H^H|_F
    exact : whether the mismatch is zero to working precision
    """

    interface: Any
    mismatch: float
    residual: float
    exact: bool


@dataclass(frozen=True)
class MetaFactorization:
    """A = F G H^H with the one-sided inverses Y of F and X of H^H, as `meta_factor` makes it.

    Attributes
    ----------
    F : (m, k), spans the columns
    G : (k, l), the core
    H : (n, l), spans the rows
    Y : (m, k) with F Y^H F = F
    X : (n, l) with H^H X H^H = H^H
    kind : of the arrays, "torch" or "numpy"
    """

    F: Any
    G: Any
    H: Any
    Y: Any
    X: Any
    kind: Kind = "torch"

    @property
    def column_projector(self) -> LowRank:
        """F Y^H, a projector on the span of F along the null space of Y^H."""
        return _of_kind(LowRank(self.F, None, self.Y), self.kind)

    @property
    def row_projector(self) -> LowRank:
        """X H^H: what it leaves of a row is in the span of H."""
        return _of_kind(LowRank(self.X, None, self.H), self.kind)

    def operator(self) -> LowRank:
        """F G H^H without its entries."""
        F, G, H, _, _ = _tensors(self)
        return _of_kind(LowRank(F @ G, None, H), self.kind)

    def compare(self, F: Any, Y: Any = None) -> Replacement:
        """What the exchange of F for another factor would do.

        Parameters
        ----------
        F : (m, c) candidate
        Y : (m, c) with F Y^H F = F; default the pseudoinverse
        """
        candidate, inverse = self._candidate(F, Y)
        old, G, H, _, _ = _tensors(self)
        S = inverse.mH @ old
        lost = (old - candidate @ S) @ G
        mismatch = float(torch.linalg.matrix_norm(lost))
        size = float(torch.linalg.matrix_norm(old) * torch.linalg.matrix_norm(G))
        exact = mismatch <= 100 * max(old.shape) * rounding(old.dtype) * size
        residual = float(torch.linalg.matrix_norm(lost @ H.mH))
        return Replacement(give_back_array(S, self.kind), mismatch, residual, exact)

    def replace(self, F: Any, Y: Any = None) -> MetaFactorization:
        """The same matrix with another factor F, if that is exactly possible.

        Raises
        ------
        ValueError : the mismatch is not zero; the message holds it and the residual
        """
        found = self.compare(F, Y)
        if not found.exact:
            raise ValueError(
                f"F cannot replace the factor: its columns miss a part of the matrix, with mismatch |E G| = "
                f"{found.mismatch:.6g} and residual {found.residual:.6g}"
            )
        candidate, inverse = self._candidate(F, Y)
        _, G, H, _, X = _tensors(self)
        S, _ = as_tensor(found.interface, "interface")
        return _packed(candidate, S @ G, H, inverse, X, self.kind)

    def _candidate(self, F: Any, Y: Any) -> tuple[Tensor, Tensor]:
        old = _tensors(self)[0]
        candidate = _cast(as_tensor(F, "F")[0], old, "F")
        if candidate.ndim != 2 or candidate.shape[0] != old.shape[0]:
            raise ValueError(f"F must have shape ({old.shape[0]}, c), got {tuple(candidate.shape)}")
        check_finite(candidate, "F")
        if Y is None:
            return candidate, torch.linalg.pinv(candidate).mH
        inverse = _cast(as_tensor(Y, "Y")[0], old, "Y")
        if inverse.shape != candidate.shape:
            raise ValueError(f"Y must have the shape of F, {tuple(candidate.shape)}, got {tuple(inverse.shape)}")
        _check_inverse(candidate, inverse, "Y", "F")
        return candidate, inverse


def meta_factor(
    A: Any,
    F: Any = None,
    H: Any = None,
    *,
    B: Any = None,
    D: Any = None,
    W: Any = None,
    preset: Literal["svd", "qr", "utv", "cur", "nystrom", "lu", "cholesky", "pinv"] | None = None,
    core: Literal["one-sided", "svd", "qr", "lu"] = "one-sided",
    rank: int | None = None,
    rtol: float | None = None,
    generator: GeneratorLike = None,
) -> MetaFactorization:
    r"""A factorisation :math:`A = F G H^H` from a basis F of the columns and a basis H of the rows, or a named one.

    Parameters
    ----------
    A : (m, n) tensor or array
    F : (m, k) whose columns hold those of A
    H : (n, l) whose columns hold the rows of A; both or neither, and neither with a `preset`
    B : (m, k') that decides along which space is projected, Y^H = (B^H F)^+ B^H; default F, the orthogonal projector
    D : (n, l'), likewise X = D (H^H D)^+; default H
    W : (k, l) any matrix: G gets W - Y^H F W H^H X, which F and H annihilate; default zero
    preset : "svd"; "qr" with column pivoting, F = Q and H^H = R; "utv" with F and H from pivoted QR of A and of A^H;
        "cur" from pivoted columns and rows; "nystrom" with F = A Omega and H = A^H Psi; "lu" with complete pivoting;
        "cholesky" with diagonal pivoting (A Hermitian positive semidefinite); "pinv", whose product is the
        pseudoinverse, from column_row(A) = C R with F = R^H and H = C over its largest entry
    core : for "utv", "one-sided" takes the left singular vectors of A H for F, then the rows that they meet, with a lower
        triangular core; the others keep the two bases and make the core between them diagonal ("svd"), upper ("qr") or
        lower ("lu") triangular, with a larger error at a low rank
    rank : for a `preset`, the number of columns; below the rank of A a low-rank approximation. Default the rank
    rtol : singular values up to this share of the largest count as zero; default max(m, n) eps
    generator : randomness of "nystrom"

    Returns
    -------
    MetaFactorization : F, G, H, Y, X, of the kind of A, with the projectors and the test for another F

    Raises
    ------
    ValueError : sizes that do not match, NaN, or a B (or D) for which no Y (X) exists: rank(B^H F) < rank(F)
    TypeError : F, H, B, D or W is complex and A is not

    Notes
    -----
    The projector equations F Y^H F = F and H^H X H^H = H^H have the solutions above, by a QR factorisation of B^H F where it
    is square and well conditioned and by its pseudoinverse else. The reconstruction equation F G H^H = A has, if the
    projectors keep A, all its solutions in G = Y^H A X + W - Y^H F W H^H X. Gradients flow through F, H, B, D, W and A,
    not through the choices of a preset.

    References
    ----------
    "A theory of meta-factorization"

    Examples
    --------
    >>> A = torch.tensor([[1.0, 2.0], [2.0, 4.0], [0.0, 1.0]])
    >>> found = meta_factor(A, preset="qr")
    >>> (found.F @ found.G @ found.H.T).round(decimals=4)
    tensor([[1., 2.],
            [2., 4.],
            [0., 1.]])
    """
    t, kind = as_tensor(A, "A")
    if t.ndim != 2 or 0 in t.shape:
        raise ValueError(f"A must have shape (m, n), both at least 1, got {tuple(t.shape)}")
    check_finite(t, "A")
    if (preset is None) == (F is None and H is None) or (F is None) != (H is None):
        raise ValueError("give F and H, or a preset")
    cut = max(t.shape) * rounding(t.dtype) if rtol is None else rtol
    if preset is not None:
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
        if B is not None or D is not None:
            raise ValueError("B and D are for given F and H; a preset has its own")
        chosen = PRESETS[preset](t, rank, cut, core, as_generator(generator, t.device))
    else:
        if rank is not None:
            raise ValueError("rank is for a preset; F and H have their own")
        (left, right), _ = common_tensors(F=F, H=H)
        chosen = Factors(_cast(left, t, "F"), _cast(right, t, "H"), _like(B, left, "B", t), _like(D, right, "D", t))
        for name, factor, side in (("F", chosen.F, 0), ("H", chosen.H, 1)):
            if factor.ndim != 2 or factor.shape[0] != t.shape[side] or 0 in factor.shape:
                raise ValueError(f"{name} must have shape ({t.shape[side]}, k), got {tuple(factor.shape)}")
    Y = one_sided_inverse(chosen.F, chosen.B, cut, ("F", "B"))
    X = one_sided_inverse(chosen.H, chosen.D, cut, ("H", "D"))
    G = Y.mH @ t @ X if chosen.G is None else chosen.G
    if W is not None:
        mask = _cast(as_tensor(W, "W")[0], t, "W")
        if mask.shape != G.shape:
            raise ValueError(f"W must have shape {tuple(G.shape)}, got {tuple(mask.shape)}")
        G = G + mask - Y.mH @ chosen.F @ mask @ (chosen.H.mH @ X)
    return _packed(chosen.F, G, chosen.H, Y, X, kind)


def one_sided_inverse(F: Tensor, B: Tensor | None, cut: float, names: tuple[str, str]) -> Tensor:
    """Y with F Y^H F = F and Y^H F Y^H = Y^H, from Y^H = (B^H F)^+ B^H; None means F, and then Y^H is F^+."""
    if B is None:
        return torch.linalg.pinv(F, rtol=cut).mH
    core = B.mH @ F
    if core.shape[0] == core.shape[1]:
        Q, R = torch.linalg.qr(core)
        pivots = R.detach().diagonal().abs()
        if float(pivots.min()) > 1e-3 * float(pivots.max()):
            return B @ torch.linalg.solve_triangular(R, Q.mH, upper=True).mH
    # The singular values of the core are products: their rounding errors are those of two factors.
    scale = float(torch.linalg.matrix_norm(F.detach(), 2) * torch.linalg.matrix_norm(B.detach(), 2))
    largest = float(torch.linalg.matrix_norm(core.detach(), 2))
    Y = B @ torch.linalg.pinv(core, rtol=min(cut * scale / largest, 0.5) if largest > 0 else cut).mH
    _check_inverse(F, Y, names[1], names[0])
    return Y


def _check_inverse(F: Tensor, Y: Tensor, given: str, of: str) -> None:
    with torch.no_grad():
        gap = float(torch.linalg.matrix_norm(F @ (Y.mH @ F) - F))
        size = float(torch.linalg.matrix_norm(F))
        if gap > 1e4 * max(F.shape) * rounding(F.dtype) * size * max(1.0, float(torch.linalg.matrix_norm(Y)) * size):
            raise ValueError(
                f"{given} gives no one-sided inverse of {of}: rank({given}^H {of}) is below rank({of}), and "
                f"{of} Y^H {of} misses {of} by {gap / size:.2g}"
            )


def _like(given: Any, factor: Tensor, name: str, t: Tensor) -> Tensor | None:
    if given is None:
        return None
    found = _cast(as_tensor(given, name)[0], t, name)
    check_finite(found, name)
    if found.ndim != 2 or found.shape[0] != factor.shape[0] or found.shape[1] < 1:
        raise ValueError(f"{name} must have shape ({factor.shape[0]}, k), got {tuple(found.shape)}")
    return found


def _cast(given: Tensor, like: Tensor, name: str) -> Tensor:
    if given.is_complex() and not like.is_complex():
        raise TypeError(f"{name} is complex and the matrix is {like.dtype}; convert the matrix first")
    return given.to(like)


def _tensors(found: MetaFactorization) -> tuple[Tensor, ...]:
    return tuple(as_tensor(getattr(found, name), name)[0] for name in ("F", "G", "H", "Y", "X"))


def _of_kind(A: LowRank, kind: Kind) -> LowRank:
    A.kind = kind
    return A


def _packed(F: Tensor, G: Tensor, H: Tensor, Y: Tensor, X: Tensor, kind: Kind) -> MetaFactorization:
    f, g, h, y, x = (give_back_array(t.resolve_conj(), kind) for t in (F, G, H, Y, X))
    return MetaFactorization(f, g, h, y, x, kind)
