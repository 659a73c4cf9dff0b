"""Sums, products, multiples, powers and conjugates of operators: lazy, and simplified where a rule is exact."""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from resolvent.operators.arrays import check_finite, complex_dtype
from resolvent.operators.elementary import Diagonal, Identity, Zero
from resolvent.operators.operator import Operator


def _common(operators: tuple[Operator, ...], name: str) -> dict[str, Any]:
    """dtype, device and kind of a composition; torch wins over NumPy. Mixed precision or devices raise."""
    dtype = operators[0].dtype
    for other in operators[1:]:
        if other.device != operators[0].device:
            raise ValueError(f"{name}: one operator is on {operators[0].device}, another on {other.device}")
        if torch.finfo(other.dtype).bits != torch.finfo(dtype).bits:
            raise TypeError(f"{name}: one operator has dtype {dtype}, another {other.dtype}; convert one of them")
        dtype = torch.promote_types(dtype, other.dtype)
    # The identity and zero hold no data of the user's, so they have no say.
    holders = [A for A in operators if not A._neutral] or list(operators)
    kind = "numpy" if all(A.kind == "numpy" for A in holders) else "torch"
    return {"dtype": dtype, "device": operators[0].device, "kind": kind}


def _broadcast(operators: tuple[Operator, ...], name: str) -> torch.Size:
    try:
        return torch.broadcast_shapes(*(A.batch_shape for A in operators))
    except RuntimeError as error:
        shapes = [tuple(A.batch_shape) for A in operators]
        raise ValueError(f"{name}: batch shapes {shapes} do not broadcast") from error


def _cast(A: Operator, dtype: torch.dtype) -> Operator:
    return A if A.dtype == dtype else A.to(dtype)


class Sum(Operator):
    """The sum of operators of one shape: ``(A + B + ...) X = A X + B X + ...``.

    Parameters
    ----------
    *operators : at least one operator, all (*batch, m, n)

    Examples
    --------
    >>> import torch
    >>> A = Diagonal(torch.tensor([1.0, 2.0])) + Identity(2)
    >>> A @ torch.ones(2)
    tensor([2., 3.])
    """

    def __init__(self, *operators: Operator) -> None:
        if not operators:
            raise ValueError("operators must hold at least one operator")
        for other in operators[1:]:
            if other.shape[-2:] != operators[0].shape[-2:]:
                shapes = [tuple(A.shape) for A in operators]
                raise ValueError(f"operators of a sum must have one shape, got {shapes}")
        common = _common(operators, "sum")
        operators = tuple(_cast(A, common["dtype"]) for A in operators)
        super().__init__(
            (*_broadcast(operators, "sum"), *operators[0].shape[-2:]),
            **common,
            hermitian=all(A.hermitian for A in operators),
            positive=all(A.positive for A in operators),
            parts=operators,
        )

    def _matmul(self, X: Tensor) -> Tensor:
        first, *rest = self._parts
        Y = first._matmul(X)
        for A in rest:
            Y = Y + A._matmul(X)
        return Y

    def _adjoint(self) -> Operator:
        return Sum(*(A.H for A in self._parts))

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        return Sum(*(A._mapped(fn) for A in self._parts))

    def _dense(self) -> Tensor:
        first, *rest = self._parts
        return sum((A._dense() for A in rest), first._dense())

    def _diagonal(self) -> Tensor | None:
        found = [A._diagonal() for A in self._parts]
        return None if any(d is None for d in found) else sum(found[1:], found[0])

    def _trace(self) -> Tensor | None:
        found = [A._trace() for A in self._parts]
        return None if any(t is None for t in found) else sum(found[1:], found[0])

    def _entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        first, *rest = self._parts
        return sum((A._entries(rows, cols) for A in rest), first._entries(rows, cols))


class Product(Operator):
    """The product of operators, applied from the right: ``(A B ...) X = A (B (... X))``.

    Parameters
    ----------
    *operators : at least one operator, inner sizes matching

    Examples
    --------
    >>> import torch
    >>> from resolvent.operators import Dense
    >>> A = Dense(torch.ones(2, 3)) @ Diagonal(torch.tensor([1.0, 2.0, 3.0]))
    >>> A @ torch.ones(3)
    tensor([6., 6.])
    """

    def __init__(self, *operators: Operator) -> None:
        if not operators:
            raise ValueError("operators must hold at least one operator")
        for left, right in itertools.pairwise(operators):
            if left.shape[-1] != right.shape[-2]:
                shapes = f"{tuple(left.shape)} @ {tuple(right.shape)}"
                raise ValueError(f"operators of a product must have matching inner sizes, got {shapes}")
        common = _common(operators, "product")
        operators = tuple(_cast(A, common["dtype"]) for A in operators)
        super().__init__(
            (*_broadcast(operators, "product"), operators[0].shape[-2], operators[-1].shape[-1]),
            **common,
            unitary=all(A.unitary for A in operators),
            parts=operators,
        )

    def _matmul(self, X: Tensor) -> Tensor:
        for A in reversed(self._parts):
            X = A._matmul(X)
        return X

    def _adjoint(self) -> Operator:
        return Product(*(A.H for A in reversed(self._parts)))

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        return Product(*(A._mapped(fn) for A in self._parts))


class Scaled(Operator):
    """A multiple of an operator, ``c A``; the factor is a number or a tensor of the batch shape.

    Parameters
    ----------
    c : number or 0-d or batch-shaped tensor
    A : operator

    Examples
    --------
    >>> import torch
    >>> (3 * Identity(2)) @ torch.ones(2)
    tensor([3., 3.])
    """

    def __init__(self, c: complex | Tensor, A: Operator) -> None:
        factor = c if isinstance(c, Tensor) else torch.tensor(c, dtype=None if isinstance(c, complex) else A.dtype)
        dtype = complex_dtype(A.dtype) if factor.is_complex() else A.dtype
        factor = factor.to(device=A.device, dtype=dtype)
        check_finite(factor, "c")
        A = _cast(A, dtype)
        batch = torch.broadcast_shapes(factor.shape, A.batch_shape)
        # A factor that is a learnable tensor has a sign that can change: only a fixed one proves positivity.
        fixed = not factor.requires_grad
        real = not factor.is_complex() or (fixed and bool((factor.imag == 0).all()))
        nonnegative = fixed and real and bool(((factor.real if factor.is_complex() else factor) >= 0).all())
        super().__init__(
            (*batch, *A.shape[-2:]),
            dtype=dtype,
            device=A.device,
            kind=A.kind,
            hermitian=A.hermitian and real,
            positive=A.positive and nonnegative,
            unitary=A.unitary and fixed and bool((factor.abs() == 1).all()),
            parts=(factor, A),
        )
        self._neutral = A._neutral

    @property
    def factor(self) -> Tensor:
        """The factor c."""
        return self._parts[0]

    def _spread(self, t: Tensor, dims: int) -> Tensor:
        return t * self.factor.reshape(self.factor.shape + (1,) * dims)

    def _matmul(self, X: Tensor) -> Tensor:
        return self._spread(self._parts[1]._matmul(X), 2)

    def _gram(self, X: Tensor) -> Tensor:
        size = (self.factor.abs() ** 2).to(self.dtype)
        return self._parts[1]._gram(X) * size.reshape(size.shape + (1, 1))

    def _adjoint(self) -> Operator:
        return Scaled(self.factor.conj(), self._parts[1].H)

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        return Scaled(fn(self.factor), self._parts[1]._mapped(fn))

    def _dense(self) -> Tensor:
        return self._spread(self._parts[1]._dense(), 2)

    def _diagonal(self) -> Tensor | None:
        d = self._parts[1]._diagonal()
        return None if d is None else self._spread(d, 1)

    def _trace(self) -> Tensor | None:
        t = self._parts[1]._trace()
        return None if t is None else self.factor * t

    def _entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        return self._spread(self._parts[1]._entries(rows, cols), 2)

    def _label(self) -> str:
        one = f" by {self.factor.item():.6g}" if self.factor.ndim == 0 else ""
        return super()._label() + one


class Power(Operator):
    """An integer power of a square operator, by repeated products.

    Parameters
    ----------
    A : (*batch, n, n) operator
    p : int >= 0

    Examples
    --------
    >>> import torch
    >>> (Diagonal(torch.tensor([1.0, 2.0])) ** 3) @ torch.ones(2)
    tensor([1., 8.])
    """

    def __init__(self, A: Operator, p: int) -> None:
        if not isinstance(p, numbers.Integral) or isinstance(p, bool) or p < 0:
            raise ValueError(f"p must be an int of at least 0, got {p!r}")
        if A.shape[-1] != A.shape[-2]:
            raise ValueError(f"a power needs a square operator, got shape {tuple(A.shape)}")
        self.p: int = int(p)
        super().__init__(
            A.shape,
            dtype=A.dtype,
            device=A.device,
            kind=A.kind,
            hermitian=A.hermitian,
            positive=A.positive or (A.hermitian and p % 2 == 0),
            unitary=A.unitary,
            parts=(A,),
        )

    @property
    def cost(self) -> float:
        return self.p * self._parts[0].cost

    def _matmul(self, X: Tensor) -> Tensor:
        if self.p == 0:
            return X.expand(*torch.broadcast_shapes(self.batch_shape, X.shape[:-2]), *X.shape[-2:]).clone()
        for _ in range(self.p):
            X = self._parts[0]._matmul(X)
        return X

    def _adjoint(self) -> Operator:
        return Power(self._parts[0].H, self.p)

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        return Power(self._parts[0]._mapped(fn), self.p)

    def _dense(self) -> Tensor:
        return torch.linalg.matrix_power(self._parts[0]._dense(), self.p)

    def _label(self) -> str:
        return f"{super()._label()} to the {self.p}"


class Conjugate(Operator):
    """The complex conjugate of an operator: ``conj(A) X = conj(A conj(X))``."""

    def __init__(self, A: Operator) -> None:
        super().__init__(
            A.shape,
            dtype=A.dtype,
            device=A.device,
            kind=A.kind,
            hermitian=A.hermitian,
            positive=A.positive,
            unitary=A.unitary,
            parts=(A,),
        )

    def _matmul(self, X: Tensor) -> Tensor:
        return self._parts[0]._matmul(X.conj().resolve_conj()).conj().resolve_conj()

    def _adjoint(self) -> Operator:
        return Conjugate(self._parts[0].H)

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        return self._parts[0]._mapped(fn).conj()

    def conj(self) -> Operator:
        return self._parts[0]

    def _diagonal(self) -> Tensor | None:
        d = self._parts[0]._diagonal()
        return None if d is None else d.conj()

    def _entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        return self._parts[0]._entries(rows, cols).conj().resolve_conj()


def add(A: Operator, B: Operator) -> Operator:
    """A + B: zeros vanish, diagonals and dense blocks merge, sums are flat."""
    if A.shape[-2:] != B.shape[-2:]:
        raise ValueError(f"operators of a sum must have one shape, got {tuple(A.shape)} and {tuple(B.shape)}")
    if A.dtype == B.dtype and A.shape == B.shape:
        if isinstance(A, Zero):
            return B
        if isinstance(B, Zero):
            return A
        if isinstance(A, Diagonal) and isinstance(B, Diagonal):
            merged = Diagonal(A.data + B.data)
            merged.kind = Sum(A, B).kind
            return merged.declare(hermitian=A.hermitian and B.hermitian, positive=A.positive and B.positive)
    parts: list[Operator] = []
    for term in (A, B):
        # A declared fact belongs to the whole sum: only a sum without facts of its own may be opened.
        plain = isinstance(term, Sum) and term.hermitian == all(p.hermitian for p in term._parts)
        parts.extend(term._parts if plain else (term,))
    return Sum(*parts)


def product(A: Operator, B: Operator) -> Operator:
    """A @ B: identities vanish, zeros absorb, diagonals merge; ``X^H X`` is known to be positive."""
    if A.shape[-1] != B.shape[-2]:
        raise ValueError(f"operators of a product must match, got shapes {tuple(A.shape)} @ {tuple(B.shape)}")
    if isinstance(A, Identity) and A.dtype == B.dtype and A.batch_shape in (torch.Size(), B.batch_shape):
        return B
    if isinstance(B, Identity) and A.dtype == B.dtype and B.batch_shape in (torch.Size(), A.batch_shape):
        return A
    parts: list[Operator] = []
    for factor in (A, B):
        parts.extend(factor._parts if isinstance(factor, Product) and not factor.hermitian else (factor,))
    out = Product(*parts)
    half = len(parts) // 2
    mirrored = len(parts) % 2 == 0 and all(
        left.H is right or left is right.H for left, right in zip(parts[:half], reversed(parts[half:]), strict=True)
    )
    return out.declare(positive=True) if mirrored else out


def scale(c: Any, A: Operator) -> Operator:
    """c A; factors of factors multiply, a diagonal takes the factor in."""
    if isinstance(c, Operator):
        raise TypeError("use @ for the product of two operators")
    if not isinstance(c, Tensor | numbers.Number) and not hasattr(c, "__complex__"):
        raise TypeError(f"the factor of an operator must be a number or a tensor, got {type(c).__name__}")
    if not isinstance(c, Tensor):
        c = complex(c) if isinstance(c, complex) or getattr(getattr(c, "dtype", None), "kind", "") == "c" else float(c)
        if c == 1:
            return A
    if isinstance(A, Scaled) and not isinstance(c, Tensor) and not isinstance(c, complex):
        return Scaled(c * A.factor, A._parts[1])
    return Scaled(c, A)


def power(A: Operator, p: int) -> Operator:
    """A to the power p; the zeroth power is the identity."""
    if p == 1 and A.shape[-1] == A.shape[-2]:
        return A
    return Power(A, p)
