"""Kronecker products and sums: products factor by factor on a reshaped operand, as few large GEMMs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from resolvent.operators.elementary import Dense, Identity
from resolvent.operators.operator import Operator
from resolvent.operators.parts import batch_of, common_operators


class Kronecker(Operator):
    r"""The Kronecker product :math:`A_1 \otimes A_2 \otimes \dots`, in the order of `torch.kron`.

    Parameters
    ----------
    *factors : operators or anything `as_operator` takes, each (*batch, m_i, n_i)

    Raises
    ------
    ValueError : no factor, batch shapes that do not broadcast, mixed devices
    TypeError : mixed precision

    Notes
    -----
    The operand is a tensor with one axis of size n_i per factor; each factor multiplies its axis. Rectangular factors
    are applied in the order of least work (those that shrink the operand most per multiplication go first), and a dense
    factor writes its result transposed, so that the next axis is in place without a copy. With d square dense factors
    a product costs ``N (n_1 + ... + n_d)`` multiplications instead of ``N^2`` for N = n_1 ... n_d.
    Hermitian, positive and unitary factors make the product so.

    Examples
    --------
    >>> import torch
    >>> A, B = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> K = Kronecker(A, B)
    >>> bool((K.to_dense() == torch.kron(A, B)).all())
    True
    >>> K @ torch.tensor([1.0, 0.0, 0.0, 0.0])
    tensor([0., 1., 0., 3.])
    """

    def __init__(self, *factors: Any) -> None:
        operators, common = common_operators(factors, "Kronecker")
        super().__init__(
            (
                *batch_of("Kronecker", *(A.batch_shape for A in operators)),
                math.prod(A.shape[-2] for A in operators),
                math.prod(A.shape[-1] for A in operators),
            ),
            **common,
            hermitian=all(A.hermitian for A in operators),
            positive=all(A.positive for A in operators),
            unitary=all(A.unitary for A in operators),
            parts=operators,
        )

    @property
    def factors(self) -> tuple[Operator, ...]:
        """The factors, from left to right."""
        return self._parts

    def _order(self) -> list[int]:
        # Exchanging two neighbours pays off exactly when this ratio (shrinkage per work) is out of order.
        def gain(i: int) -> float:
            m, n = self._parts[i].shape[-2:]
            return (1 - m / n) / max(self._parts[i].cost / n, 1e-300) if n else 0.0

        return sorted(range(len(self._parts)), key=gain, reverse=True)

    @property
    def cost(self) -> float:
        size, total = float(self.shape[-1]), 0.0
        for i in self._order():
            m, n = self._parts[i].shape[-2:]
            if not isinstance(self._parts[i], Identity):
                total += size / max(n, 1) * self._parts[i].cost
            size *= m / max(n, 1)
        return total

    def _matmul(self, X: Tensor) -> Tensor:
        return self._along_axes(X, _transposed_product, [A.shape[-2] for A in self._parts])

    def _gram(self, X: Tensor) -> Tensor:
        return self._along_axes(X, lambda A, T: A._gram(T).mT, [A.shape[-1] for A in self._parts])

    def _along_axes(self, X: Tensor, apply: Callable[[Operator, Tensor], Tensor], sizes: list[int]) -> Tensor:
        d, k = len(self._parts), X.shape[-1]
        T = X.reshape(*X.shape[:-2], *(A.shape[-1] for A in self._parts), k)
        axes = list(range(d + 1))
        for i in self._order():
            if isinstance(self._parts[i], Identity):
                continue
            where = axes.index(i)
            T = T.movedim(where - d - 1, -d - 1)
            axes.insert(0, axes.pop(where))
            rest = T.shape[-d:]
            T = apply(self._parts[i], T.reshape(*T.shape[:-d], math.prod(rest)))
            # The result lies transposed, (rest, m_i): its axis goes to the back and the next one is in front.
            T = T.reshape(*T.shape[:-2], *rest, T.shape[-1])
            axes.append(axes.pop(0))
        lead = T.ndim - d - 1
        T = T.permute(*range(lead), *(lead + axes.index(i) for i in range(d + 1)))
        batch = torch.broadcast_shapes(self.batch_shape, T.shape[:lead])
        return T.reshape(*T.shape[:lead], math.prod(sizes), k).expand(*batch, -1, -1)

    def _adjoint(self) -> Operator:
        return Kronecker(*(A.H for A in self._parts))

    def conj(self) -> Operator:
        """The complex conjugate, factor by factor."""
        out = Kronecker(*(A.conj() for A in self._parts))
        out.kind = self.kind
        return out.declare(hermitian=self.hermitian, positive=self.positive, unitary=self.unitary)

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        return Kronecker(*(A._mapped(fn) for A in self._parts))

    def _dense(self) -> Tensor:
        return reduce(_kron, [A._dense() for A in self._parts]).expand(self.shape)

    def _diagonal(self) -> Tensor | None:
        if any(A.shape[-1] != A.shape[-2] for A in self._parts):
            return None
        found = [A._diagonal() for A in self._parts]
        if any(d is None for d in found):
            return None
        joined = reduce(lambda a, b: (a[..., :, None] * b[..., None, :]).flatten(-2), found)
        return joined.expand(*self.batch_shape, -1)

    def _trace(self) -> Tensor | None:
        if any(A.shape[-1] != A.shape[-2] for A in self._parts):
            return None
        found = [A._trace() for A in self._parts]
        return None if any(t is None for t in found) else reduce(torch.mul, found).expand(self.batch_shape)

    def _entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        left = _split(rows, [A.shape[-2] for A in self._parts])
        right = _split(cols, [A.shape[-1] for A in self._parts])
        blocks = [A._entries(r, c) for A, r, c in zip(self._parts, left, right, strict=True)]
        return reduce(torch.mul, blocks).expand(*self.batch_shape, -1, -1)


class KroneckerSum(Operator):
    r"""The Kronecker sum :math:`A_1 \otimes I \otimes \dots + I \otimes A_2 \otimes \dots + \dots` of square operators.

    The discrete Laplacian of a grid is one; :math:`\exp(A \oplus B) = \exp(A) \otimes \exp(B)`.

    Parameters
    ----------
    *terms : operators or anything `as_operator` takes, each (*batch, n_i, n_i)

    Raises
    ------
    ValueError : no term, a term that is not square, batch shapes that do not broadcast
    TypeError : mixed precision

    Notes
    -----
    Each term multiplies its own axis of the reshaped operand: ``N (n_1 + ... + n_d)`` multiplications for dense terms.
    Hermitian terms make the sum Hermitian, positive ones make it positive.

    Examples
    --------
    >>> import torch
    >>> A, B = torch.diag(torch.tensor([1.0, 2.0])), torch.diag(torch.tensor([10.0, 20.0]))
    >>> KroneckerSum(A, B) @ torch.ones(4)
    tensor([11., 21., 12., 22.])
    """

    def __init__(self, *terms: Any) -> None:
        operators, common = common_operators(terms, "KroneckerSum")
        for i, A in enumerate(operators):
            if A.shape[-1] != A.shape[-2]:
                raise ValueError(f"terms of a Kronecker sum must be square, term {i} has shape {tuple(A.shape)}")
        n = math.prod(A.shape[-1] for A in operators)
        super().__init__(
            (*batch_of("KroneckerSum", *(A.batch_shape for A in operators)), n, n),
            **common,
            hermitian=all(A.hermitian for A in operators),
            positive=all(A.positive for A in operators),
            parts=operators,
        )

    @property
    def terms(self) -> tuple[Operator, ...]:
        """The terms, from left to right."""
        return self._parts

    @property
    def cost(self) -> float:
        return sum(self.shape[-1] / max(A.shape[-1], 1) * A.cost for A in self._parts)

    def _matmul(self, X: Tensor) -> Tensor:
        k, batch = X.shape[-1], X.shape[:-2]
        sizes = [A.shape[-1] for A in self._parts]
        total: Tensor | None = None
        for i, A in enumerate(self._parts):
            before, after = math.prod(sizes[:i]), math.prod(sizes[i + 1 :]) * k
            T = X.reshape(*batch, before, sizes[i], after).movedim(-2, -3)
            Y = A._matmul(T.reshape(*batch, sizes[i], before * after))
            Y = Y.reshape(*Y.shape[:-1], before, after).movedim(-3, -2)
            Y = Y.reshape(*Y.shape[:-3], self.shape[-1], k)
            total = Y if total is None else total + Y
        return total.expand(*torch.broadcast_shapes(self.batch_shape, total.shape[:-2]), -1, -1)

    def _adjoint(self) -> Operator:
        return KroneckerSum(*(A.H for A in self._parts))

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        return KroneckerSum(*(A._mapped(fn) for A in self._parts))

    def _dense(self) -> Tensor:
        parts = [A._dense() for A in self._parts]
        eyes = [torch.eye(A.shape[-1], dtype=self.dtype, device=self.device) for A in self._parts]
        terms = [reduce(_kron, [*eyes[:i], p, *eyes[i + 1 :]]) for i, p in enumerate(parts)]
        return reduce(torch.add, terms).expand(self.shape)

    def _diagonal(self) -> Tensor | None:
        found = [A._diagonal() for A in self._parts]
        if any(d is None for d in found):
            return None
        joined = reduce(lambda a, b: (a[..., :, None] + b[..., None, :]).flatten(-2), found)
        return joined.expand(*self.batch_shape, -1)

    def _trace(self) -> Tensor | None:
        found = [A._trace() for A in self._parts]
        if any(t is None for t in found):
            return None
        n = self.shape[-1]
        total = sum(t * (n // max(A.shape[-1], 1)) for t, A in zip(found, self._parts, strict=True))
        return total.expand(self.batch_shape)

    def _entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        sizes = [A.shape[-1] for A in self._parts]
        left, right = _split(rows, sizes), _split(cols, sizes)
        equal = [r[:, None] == c[None, :] for r, c in zip(left, right, strict=True)]
        total = torch.zeros(*self.batch_shape, len(rows), len(cols), dtype=self.dtype, device=self.device)
        for i, A in enumerate(self._parts):
            others = reduce(torch.logical_and, equal[:i] + equal[i + 1 :], torch.ones_like(equal[i]))
            total = total + A._entries(left[i], right[i]) * others
        return total


def _transposed_product(A: Operator, T: Tensor) -> Tensor:
    """``(A T)^T``, which a GEMM writes for free."""
    return T.mT @ A.data.mT if isinstance(A, Dense) else A._matmul(T).mT


def _kron(a: Tensor, b: Tensor) -> Tensor:
    c = a[..., :, None, :, None] * b[..., None, :, None, :]
    return c.reshape(*c.shape[:-4], c.shape[-4] * c.shape[-3], c.shape[-2] * c.shape[-1])


def _split(index: Tensor, sizes: list[int]) -> list[Tensor]:
    """A flat index as one index per axis."""
    found = []
    for size in reversed(sizes):
        found.append(index % max(size, 1))
        index = index // max(size, 1)
    return found[::-1]


__all__ = ["Kronecker", "KroneckerSum"]
