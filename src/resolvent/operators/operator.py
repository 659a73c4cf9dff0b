"""`Operator`: anything that multiplies, with its shape, dtype, device and the facts declared about it."""

from __future__ import annotations

import copy
import math
import numbers
from collections.abc import Callable
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import (
    Kind,
    as_tensor,
    complex_dtype,
    give_back,
    give_back_array,
    positions,
    real_dtype,
)
from resolvent.random import gaussian

Index = int | slice | Tensor | np.ndarray | list


class Operator:
    """A linear map of shape (*batch, m, n) that is known by its products.

    Everything else (norms, eigenvalues, functions, solves) is a function ``task(A, ...)`` in a room above.

    Parameters
    ----------
    shape : (*batch, m, n)
    dtype, device : of the products
    kind : "torch" or "numpy", the kind of the user's data and so of the results
    hermitian, positive, unitary : facts that a method may rely on; positive means semidefinite and implies hermitian
    parts : the tensors and operators this one is made of

    Examples
    --------
    >>> import torch
    >>> from resolvent.operators import Diagonal, Identity
    >>> A = 2 * Identity(3) + Diagonal(torch.tensor([0.0, 1.0, 2.0]))
    >>> A @ torch.ones(3)
    tensor([2., 3., 4.])
    """

    # NumPy must let `ndarray @ Operator` come to __rmatmul__.
    __array_ufunc__ = None
    # Whether the operator holds no data of the user's, so that it has no say in the kind of a composition.
    _neutral = False

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        kind: Kind = "torch",
        hermitian: bool = False,
        positive: bool = False,
        unitary: bool = False,
        parts: tuple[Any, ...] = (),
    ) -> None:
        if len(shape) < 2 or any(int(s) < 0 for s in shape):
            raise ValueError(f"shape must be (*batch, m, n) with sizes of at least 0, got {tuple(shape)}")
        self.shape = torch.Size(int(s) for s in shape)
        self.dtype = dtype
        self.device = torch.device(device)
        self.kind: Kind = kind
        self._parts = parts
        self._mirror: Operator | None = None
        self._mirror_made = 0
        self._set_facts(hermitian, positive, unitary)

    def _set_facts(self, hermitian: bool, positive: bool, unitary: bool) -> None:
        square = self.shape[-1] == self.shape[-2]
        for name, fact in (("hermitian", hermitian), ("positive", positive), ("unitary", unitary)):
            if fact and not square:
                raise ValueError(f"{name}=True needs a square operator, got shape {tuple(self.shape)}")
        self.hermitian = bool(hermitian or positive)
        self.positive = bool(positive)
        self.unitary = bool(unitary)

    # ---- what a structure defines -------------------------------------------------------------------------------

    def _matmul(self, X: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not define a product")

    def _adjoint(self) -> Operator:
        raise TypeError(f"{type(self).__name__} does not define its adjoint")

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        raise TypeError(f"{type(self).__name__} cannot be converted")

    def _dense(self) -> Tensor:
        m, n = self.shape[-2:]
        if m < n:
            return self.H._matmul(self.H._eye()).mH
        return self._matmul(self._eye())

    def _diagonal(self) -> Tensor | None:
        return None

    def _trace(self) -> Tensor | None:
        d = self._diagonal()
        return None if d is None else d.sum(-1)

    def _entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        """The block at index vectors `rows` x `cols`; by products with unit vectors unless a structure knows better."""
        m, n = self.shape[-2:]
        if len(cols) <= len(rows):
            return self._matmul(self._units(n, cols))[..., rows, :]
        return self.H._matmul(self._units(m, rows))[..., cols, :].mH

    def _gram(self, X: Tensor) -> Tensor:
        """``A^H A X``; a structure that can reads its data once."""
        return self.H._matmul(self._matmul(X))

    # ---- helpers of the base ------------------------------------------------------------------------------------

    def _units(self, n: int, index: Tensor) -> Tensor:
        E = torch.zeros(*self.batch_shape, n, len(index), dtype=self.dtype, device=self.device)
        E[..., index, torch.arange(len(index), device=self.device)] = 1
        return E

    def _eye(self) -> Tensor:
        return torch.eye(self.shape[-1], dtype=self.dtype, device=self.device).expand(
            *self.batch_shape, self.shape[-1], self.shape[-1]
        )

    @property
    def batch_shape(self) -> torch.Size:
        """The leading dimensions."""
        return self.shape[:-2]

    @property
    def ndim(self) -> int:
        """Number of dimensions, 2 without a batch."""
        return len(self.shape)

    @property
    def is_complex(self) -> bool:
        """Whether the dtype is complex."""
        return self.dtype.is_complex

    @property
    def cost(self) -> float:
        """Multiplications of one product with one vector, the sum over the parts unless a structure knows better."""
        sizes = [p.cost if isinstance(p, Operator) else float(p.numel()) for p in self._parts]
        return sum(sizes) if sizes else float(math.prod(self.shape))

    def tensors(self) -> list[Tensor]:
        """The tensors inside, in order; gradients flow to them."""
        found: list[Tensor] = []
        for part in self._parts:
            if isinstance(part, Operator):
                found.extend(part.tensors())
            elif isinstance(part, Tensor):
                found.append(part)
        return found

    @property
    def requires_grad(self) -> bool | None:
        """Whether a product would be recorded by autograd; None where only a product can tell."""
        known = [p.requires_grad for p in self._parts if isinstance(p, Operator | Tensor)]
        if any(known):
            return True
        return None if None in known else False

    def declare(
        self, *, hermitian: bool | None = None, positive: bool | None = None, unitary: bool | None = None
    ) -> Operator:
        """The same operator with facts declared (or, with False, withdrawn)."""
        out = copy.copy(self)
        out._mirror = None
        out._set_facts(
            self.hermitian if hermitian is None else hermitian,
            (self.positive and hermitian is not False) if positive is None else positive,
            self.unitary if unitary is None else unitary,
        )
        return out

    def check_hermitian(self, name: str = "A") -> None:
        """Raise a ValueError that names the argument if this operator can be seen not to be Hermitian.

        Dense and sparse data are compared entry by entry; others by ``x^H A y`` against ``(A x)^H y`` for a fixed
        pair of random vectors, which misses a non-Hermitian operator with probability zero but for rounding.
        """
        m, n = self.shape[-2:]
        if m != n:
            raise ValueError(f"{name} must be square, got shape {tuple(self.shape)}")
        if self.hermitian or n == 0:
            return
        with torch.no_grad():
            XY = gaussian((*self.batch_shape, n, 2), self.dtype, self.device, 0)
            x, y = XY[..., :1], XY[..., 1:]
            Ax, Ay = self._matmul(x), self._matmul(y)
            gap = (x.mH @ Ay - Ax.mH @ y).abs()
            scale = x.norm(dim=-2) * Ay.norm(dim=-2) + Ax.norm(dim=-2) * y.norm(dim=-2)
            tolerance = 100 * torch.finfo(self.dtype).eps * scale[..., None]
            if bool((gap > tolerance).any()):
                worst = float(gap.max())
                raise ValueError(f"{name} must be Hermitian, but x^H A y and (A x)^H y differ by {worst:.3g}")

    # ---- products -----------------------------------------------------------------------------------------------

    @overload
    def __matmul__(self, X: Operator) -> Operator: ...
    @overload
    def __matmul__(self, X: Tensor) -> Tensor: ...
    @overload
    def __matmul__(self, X: np.ndarray) -> np.ndarray: ...
    def __matmul__(self, X: Any) -> Any:
        if isinstance(X, Operator):
            from resolvent.operators.algebra import product

            return product(self, X)
        T, kind = as_tensor(X, "X")
        # A 1-D operand is one vector, for every matrix of a batch.
        if single := T.ndim == 1:
            T = T[:, None]
        if T.ndim == 0 or T.shape[-2] != self.shape[-1]:
            given = tuple(X.shape) if hasattr(X, "shape") else np.shape(X)
            raise ValueError(f"X must have shape (n,) or (..., n, k) with n = {self.shape[-1]}, got {given}")
        Y = self._apply(T, kind)
        return give_back_array(Y[..., 0] if single else Y, kind)

    def __rmatmul__(self, X: Any) -> Any:
        T, kind = as_tensor(X, "X")
        if single := T.ndim == 1:
            T = T[None, :]
        if T.ndim == 0 or T.shape[-1] != self.shape[-2]:
            given = tuple(X.shape) if hasattr(X, "shape") else np.shape(X)
            raise ValueError(f"X must have shape (m,) or (..., k, m) with m = {self.shape[-2]}, got {given}")
        Y = self.H._apply(T.mH, kind).mH
        return give_back_array(Y[..., 0, :] if single else Y, kind)

    def _apply(self, X: Tensor, kind: Kind) -> Tensor:
        """Product with a tensor of shape (..., n, k) of any dtype that promotes without a silent loss."""
        if X.device != self.device:
            raise ValueError(f"X is on {X.device}, the operator on {self.device}; move one of them")
        if X.dtype == self.dtype:
            return self._matmul(X)
        precision = torch.finfo(X.dtype).bits if X.is_floating_point() or X.is_complex() else 0
        if precision != torch.finfo(self.dtype).bits:
            # Mixed precision: NumPy users expect promotion, torch users an error instead of a hidden cast.
            if kind == "torch":
                raise TypeError(f"X has dtype {X.dtype}, the operator {self.dtype}; convert one of them")
            common = torch.promote_types(X.dtype, self.dtype)
            return self.to(common)._apply(X.to(torch.promote_types(X.dtype, real_dtype(common))), kind)
        if self.is_complex:
            return self._matmul(X.to(self.dtype))
        parts = self._matmul(torch.cat([X.real, X.imag], dim=-1))
        k = X.shape[-1]
        return torch.complex(parts[..., :k].contiguous(), parts[..., k:].contiguous())

    @property
    def H(self) -> Operator:
        """The adjoint."""
        if self.hermitian:
            return self
        # The adjoint of a structure may hold copies of its data: a write to the data makes it anew.
        if self._mirror is not None and self._mirror_made == self._writes():
            return self._mirror
        adjoint = self._adjoint()
        adjoint.kind = self.kind
        adjoint._set_facts(False, False, self.unitary)
        # Kept, so that A.H.H is A and a method may ask for A.H in a loop; but a graph is used once, so an adjoint
        # with gradients is not kept here.
        adjoint._mirror, adjoint._mirror_made = self, adjoint._writes()
        if self.requires_grad is not True:
            self._mirror, self._mirror_made = adjoint, self._writes()
        return adjoint

    def _writes(self) -> int:
        """How often the data was written to in place."""
        return sum(0 if t.is_inference() else t._version for t in self.tensors())

    def conj(self) -> Operator:
        """The complex conjugate, entry by entry."""
        if not self.is_complex:
            return self
        from resolvent.operators.algebra import Conjugate

        return Conjugate(self)

    @property
    def T(self) -> Operator:
        """The transpose, without a conjugate."""
        return self.H.conj()

    # ---- algebra ------------------------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Operator:
        from resolvent.operators.algebra import add
        from resolvent.operators.convert import as_operator

        if isinstance(other, numbers.Number):
            if other == 0:
                return self
            raise TypeError("a number cannot be added to an operator; add `c * Identity(n)`")
        return add(self, as_operator(other, name="other"))

    __radd__ = __add__

    def __neg__(self) -> Operator:
        return -1 * self

    def __sub__(self, other: Any) -> Operator:
        from resolvent.operators.convert import as_operator

        return self + (-1 * as_operator(other, name="other"))

    def __rsub__(self, other: Any) -> Operator:
        return (-self) + other

    def __mul__(self, factor: Any) -> Operator:
        from resolvent.operators.algebra import scale

        return scale(factor, self)

    __rmul__ = __mul__

    def __truediv__(self, factor: Any) -> Operator:
        return self * (1 / factor)

    def __pow__(self, p: int) -> Operator:
        from resolvent.operators.algebra import power

        return power(self, p)

    # ---- entries and conversions --------------------------------------------------------------------------------

    def to_dense(self) -> Any:
        """The matrix, of the kind that came in: (*batch, m, n). Memory is m n numbers."""
        return give_back_array(self._dense(), self.kind)

    def __getitem__(self, index: tuple[Index, Index] | Index) -> Any:
        """Entries of the last two axes as a dense array; an int drops its axis."""
        rows, cols = index if isinstance(index, tuple) else (index, slice(None))
        (r, one_row), (c, one_col) = (
            positions(ix, size, name, self.device)
            for ix, size, name in ((rows, self.shape[-2], "row"), (cols, self.shape[-1], "column"))
        )
        block = self._entries(r, c)
        if one_row:
            block = block[..., 0, :]
            if one_col:
                block = block[..., 0]
        elif one_col:
            block = block[..., 0]
        return give_back(block, self.kind)

    def to(self, target: torch.dtype | torch.device | str) -> Operator:
        """The same operator in another dtype or on another device; a real dtype keeps complex parts complex."""

        def convert(t: Tensor) -> Tensor:
            if not (t.is_floating_point() or t.is_complex()):
                return t if isinstance(target, torch.dtype) else t.to(target)
            if isinstance(target, torch.dtype) and t.is_complex() and not target.is_complex:
                return t.to(complex_dtype(target))
            return t.to(target)

        return self._mapped(convert)

    def detach(self) -> Operator:
        """The same operator, cut off from autograd."""
        return self._mapped(Tensor.detach)

    def _mapped(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        out = self._map(fn)
        out.kind = self.kind
        out._set_facts(self.hermitian, self.positive, self.unitary)
        return out

    # ---- repr ---------------------------------------------------------------------------------------------------

    def _label(self) -> str:
        facts = [n for n in ("positive", "unitary") if getattr(self, n)]
        if self.hermitian and not self.positive:
            facts.insert(0, "hermitian")
        words = [type(self).__name__, "x".join(map(str, self.shape)), str(self.dtype).removeprefix("torch."), *facts]
        if self.device.type != "cpu":
            words.append(str(self.device))
        return " ".join(words)

    def __repr__(self) -> str:
        lines = [self._label()]
        children = [p for p in self._parts if isinstance(p, Operator)]
        for i, child in enumerate(children):
            last = i == len(children) - 1
            head, *rest = repr(child).splitlines()
            lines.append(("└─ " if last else "├─ ") + head)
            lines.extend(("   " if last else "│  ") + r for r in rest)
        return "\n".join(lines)
