"""Hermitian indefinite matrices: L D L^H with blocks of one and two, what is solved with it, and the inertia."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from resolvent.factor.cholesky import _square
from resolvent.factor.elimination import right_side
from resolvent.operators.arrays import as_tensor, give_back, give_back_array


class Inertia(NamedTuple):
    """Of :meth:`LDL.inertia`: how many eigenvalues are positive, negative and zero."""

    positive: Any
    negative: Any
    zero: Any


class LDL(NamedTuple):
    """Of :func:`ldl`: ``A[order][:, order] = L D L^H``.

    Attributes
    ----------
    L : (*batch, n, n) lower triangular with a unit diagonal, zero below the diagonal inside a block of two
    D : (*batch, n, n) Hermitian, blocks of one and two on its diagonal
    order : (*batch, n) order of the rows and columns of A

    Examples
    --------
    >>> factors = ldl(torch.tensor([[0.0, 2.0], [2.0, 0.0]]))
    >>> factors.D, factors.inertia()
    (tensor([[0., 2.],
            [2., 0.]]), Inertia(positive=1, negative=1, zero=0))
    """

    L: Any
    D: Any
    order: Any

    def solve(self, B: Any) -> Any:
        """X with A X = B; B (*batch, n) or (*batch, n, k). A ValueError if a block of D is singular. Differentiable."""
        L, D, order, kind = self._parts()
        if bool((_block_values(D.detach()) == 0).any()):
            raise ValueError("A is singular: a block of D is")
        b, other, vector = right_side(B, L)
        y = b.gather(-2, order[..., :, None].expand(b.shape))
        y = torch.linalg.solve_triangular(L, y, upper=False, unitriangular=True)
        y = _block_inverse(D) @ y
        y = torch.linalg.solve_triangular(L.mH, y, upper=True, unitriangular=True)
        x = y.gather(-2, order.argsort(-1)[..., :, None].expand(b.shape))
        return give_back_array(x[..., 0] if vector else x, "numpy" if kind == other == "numpy" else "torch")

    def inertia(self, rtol: float | None = None) -> Inertia:
        """Signs of the eigenvalues of A, counted by those of D (Sylvester); Python ints without a batch.

        Eigenvalues of D up to `rtol` times its largest, default n eps, count as zero. Not zero, they are right unless A
        has an eigenvalue of the order of rounding.
        """
        _, D, _, kind = self._parts()
        values = _block_values(D.detach())
        rtol = D.shape[-1] * torch.finfo(D.dtype).eps if rtol is None else rtol
        if not 0 <= rtol < 1:
            raise ValueError(f"rtol must be at least 0 and less than 1, got {rtol}")
        bound = rtol * values.abs().amax(-1, keepdim=True) if values.shape[-1] else values
        counts = ((values > bound).sum(-1), (values < -bound).sum(-1), (values.abs() <= bound).sum(-1))
        if D.ndim == 2:
            return Inertia(*(int(count) for count in counts))
        return give_back(Inertia(*counts), kind)

    def slogdet(self) -> tuple[Any, Any]:
        """Sign and logarithm of the modulus of the determinant, (*batch,) each; 0 and -inf if a block of D is singular."""
        _, D, _, kind = self._parts()
        values = _block_values(D)
        return give_back(values.sign().prod(-1), kind), give_back(values.abs().log().sum(-1), kind)

    def to_dense(self) -> Any:
        """A itself, from its factors."""
        L, D, order, kind = self._parts()
        back = order.argsort(-1)
        A = (L @ D @ L.mH).gather(-2, back[..., :, None].expand(L.shape))
        return give_back_array(A.gather(-1, back[..., None, :].expand(L.shape)), kind)

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Any]:
        (L, kind), (D, _) = as_tensor(self.L, "L"), as_tensor(self.D, "D")
        return L, D, torch.as_tensor(self.order), kind


def ldl(A: Any) -> LDL:
    r"""Factors of a Hermitian matrix that need not be positive: :math:`A_{p p} = L D L^H`.

    Parameters
    ----------
    A : (*batch, n, n) real symmetric or complex Hermitian; its lower triangle is read, the other may be zero

    Returns
    -------
    `LDL` with the methods `solve`, `inertia`, `slogdet` and `to_dense`.

    Raises
    ------
    ValueError : A is not a finite Hermitian matrix.

    Notes
    -----
    The pivots of Bunch and Kaufman, one entry or a block of two, by LAPACK: n^3/3 flops, on the host for every device.
    Backward stable for solving; entries of L have no bound, so that the error of L D L^H is that of rounding times the
    growth of the entries, at most 2.57^(n-1) and a few in practice. Gradients of every order at fixed pivots, Hermitian
    as those of `torch.linalg.cholesky`; there is none where a block of D is singular.

    References
    ----------
    "Some Stable Methods for Calculating Inertia and Solving Symmetric Linear Systems"

    Examples
    --------
    >>> factors = ldl(torch.tensor([[4.0, 2.0], [2.0, -5.0]]))
    >>> factors.order, factors.D.diagonal(), factors.slogdet()[0]
    (tensor([0, 1]), tensor([ 4., -6.]), tensor(-1.))
    """
    t, kind = _square(A, "A")
    if t.is_complex() and t.numel():
        gap = t.detach().diagonal(dim1=-2, dim2=-1).imag.abs().max()
        if bool(gap > 1e3 * torch.finfo(t.dtype).eps * t.detach().abs().max()):
            raise ValueError(f"A must be Hermitian, its diagonal has imaginary parts up to {float(gap):.3g}")
    with torch.no_grad():
        L, D, order = _factors(t.detach())
    if t.requires_grad and torch.is_grad_enabled():
        turned = t.gather(-2, order[..., :, None].expand(t.shape)).gather(-1, order[..., None, :].expand(t.shape))
        L, D = _Factored.apply(turned, L, D)
    return LDL(*give_back((L, D, order), kind))


def _factors(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    from resolvent.factor.elimination_kernel import unpack_symmetric

    n, lead = t.shape[-1], t.shape[:-2]
    host = t.resolve_conj().cpu()
    if t.numel() == 0:
        return t.clone(), t.clone(), torch.zeros(*lead, n, dtype=torch.long, device=t.device)
    compact, pivots, _ = torch.linalg.ldl_factor_ex(host, hermitian=True)
    count = lead.numel()
    F, at = compact.reshape(count, n, n).contiguous().numpy(), pivots.reshape(count, n).contiguous().numpy()
    L, D = torch.zeros(count, n, n, dtype=t.dtype), torch.zeros(count, n, n, dtype=t.dtype)
    order = torch.zeros(count, n, dtype=torch.long)
    d = torch.zeros(count, n, dtype=t.dtype.to_real())
    e = torch.zeros(count, n, dtype=t.dtype)
    for i in range(count):
        unpack_symmetric(F[i], at[i], L[i].numpy(), d[i].numpy(), e[i].numpy(), order[i].numpy())
    D.diagonal(dim1=-2, dim2=-1).copy_(d)
    D.diagonal(-1, -2, -1).copy_(e[:, : n - 1])
    D.diagonal(1, -2, -1).copy_(e[:, : n - 1].conj())
    shape = (*lead, n, n)
    return (
        L.reshape(shape).to(t.device),
        D.reshape(shape).to(t.device),
        order.reshape(*lead, n).to(t.device),
    )


def _blocks(D: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The diagonal, the entries of D below it with a zero at the end, and where blocks of two begin and end."""
    d = D.diagonal(dim1=-2, dim2=-1).real
    below = torch.nn.functional.pad(D.diagonal(-1, -2, -1), (0, 1)) if D.shape[-1] else D.diagonal(dim1=-2, dim2=-1)
    begins = below.detach() != 0
    return d, below, begins, begins.roll(1, -1)


def _block_values(D: Tensor) -> Tensor:
    """Eigenvalues of D, (..., n), block by block."""
    d, below, begins, ends = _blocks(D)
    after, e = d.roll(-1, -1), torch.where(begins, below, torch.ones_like(below)).abs()
    # Of [[a, e], [e, b]]: the one farther from zero, the other by the determinant, which has no cancellation beside it.
    mean, half = (d + after) / 2, (d - after) / 2
    far = mean + torch.where(mean < 0, -1.0, 1.0).to(d.dtype) * torch.hypot(half, e)
    near = (d * (after / far)) - e * (e / far)
    return torch.where(begins, far, torch.where(ends, near.roll(1, -1), d))


def _block_inverse(D: Tensor) -> Tensor:
    d, below, begins, ends = _blocks(D)
    size = torch.where(begins, below, torch.ones_like(below)).abs()
    after = d.roll(-1, -1)
    # In units of the entry beside the diagonal, which is the largest of its block.
    p, q = d / size, after / size
    det = (p * q - 1) * size
    first, second = q / det, p / det
    alone = 1 / torch.where(begins | ends, torch.ones_like(d), d)
    diagonal = torch.where(begins, first, torch.where(ends, second.roll(1, -1), alone))
    off = torch.where(begins, -below / size / det, torch.zeros_like(below))[..., : max(D.shape[-1] - 1, 0)]
    lower = off.diag_embed(-1) if off.shape[-1] else torch.zeros_like(D)
    return diagonal.to(D.dtype).diag_embed() + lower + lower.mH


class _Factored(torch.autograd.Function):
    """L and D of a Hermitian A whose rows stand in their order."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, L: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
        L, D = L.clone(), D.clone()
        ctx.save_for_backward(L, D)
        return L, D

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        L, D = ctx.saved_tensors
        gL, gD = grads
        if bool((_block_values(D.detach()) == 0).any()):
            raise ValueError("ldl has no gradient where a block of D is singular")
        twos = D.detach().diagonal(-1, -2, -1) != 0
        blocks = torch.eye(D.shape[-1], dtype=torch.bool, device=D.device) | (
            twos.diag_embed(-1) | twos.diag_embed(1) if D.shape[-1] > 1 else False
        )
        # With X = L^-1 dA L^-H: L^-1 dL = low(X) D^-1 and dD = blocks(X).
        inner = L.mH @ gL @ _block_inverse(D)
        inner = torch.where(blocks, gD, inner.tril(-1))
        inner = (inner + inner.mH) / 2
        outer = torch.linalg.solve_triangular(L.mH, inner, upper=True, unitriangular=True)
        return torch.linalg.solve_triangular(L, outer, upper=False, left=False, unitriangular=True), None, None
