"""What a structure is made of: its tensors or operators, brought to one dtype and device and checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from resolvent.operators.arrays import Kind, as_tensor, check_finite
from resolvent.operators.operator import Operator


def common_tensors(**named: Any) -> tuple[tuple[Tensor, ...], Kind]:
    """The array arguments of a structure as finite tensors of one dtype on one device, and their kind.

    NumPy arrays promote; torch tensors of mixed precision raise, as in torch. One torch tensor makes all torch.

    Examples
    --------
    >>> (c, r), kind = common_tensors(c=[1.0, 2.0], r=[1.0, 2j])
    >>> c.dtype, r.dtype, kind
    (torch.complex128, torch.complex128, 'numpy')
    """
    tensors, kinds = zip(*(as_tensor(x, name) for name, x in named.items()), strict=True)
    kind: Kind = "numpy" if all(k == "numpy" for k in kinds) else "torch"
    first, dtype = next(iter(named)), tensors[0].dtype
    for name, t in zip(named, tensors, strict=True):
        if t.device != tensors[0].device:
            raise ValueError(f"{name} is on {t.device}, {first} on {tensors[0].device}; move one of them")
        if kind == "torch" and torch.finfo(t.dtype).bits != torch.finfo(dtype).bits:
            raise TypeError(f"{name} has dtype {t.dtype}, {first} {dtype}; convert one of them")
        dtype = torch.promote_types(dtype, t.dtype)
        check_finite(t, name)
    return tuple(t.to(dtype) for t in tensors), kind


def owned(tensors: tuple[Tensor, ...], kind: Kind) -> tuple[Tensor, ...]:
    """Copies of arrays, for a structure that keeps what it computed from them: nothing tells of a write to an array."""
    return tuple(t.clone() for t in tensors) if kind == "numpy" else tensors


def common_operators(operands: tuple[Any, ...], name: str) -> tuple[tuple[Operator, ...], dict[str, Any]]:
    """Operators of one dtype from anything `as_operator` takes, with the dtype, device and kind they share."""
    from resolvent.operators.algebra import _cast, _common
    from resolvent.operators.convert import as_operator

    operators = tuple(as_operator(a) for a in operands)
    if not operators:
        raise ValueError(f"{name} needs at least one operator")
    common = _common(operators, name)
    return tuple(_cast(A, common["dtype"]) for A in operators), common


def batch_of(what: str, *shapes: tuple[int, ...]) -> torch.Size:
    """The broadcast of batch shapes, or a ValueError that names the structure."""
    try:
        return torch.broadcast_shapes(*shapes)
    except RuntimeError as error:
        raise ValueError(f"{what}: batch shapes {[tuple(s) for s in shapes]} do not broadcast") from error


def concatenate(pieces: list[Tensor], dim: int) -> Tensor:
    """`torch.cat` along one of the last two axes, leading axes broadcast."""
    batch = torch.broadcast_shapes(*(p.shape[:-2] for p in pieces))
    return torch.cat([p.expand(*batch, *p.shape[-2:]) for p in pieces], dim)


def unknown_type(fn: Callable[[Tensor], Tensor], A: Operator) -> dict[str, Any]:
    """The dtype and device that `fn` takes an operator without floating-point data to."""
    probe = fn(torch.empty(0, dtype=A.dtype, device=A.device))
    return {"dtype": probe.dtype, "device": probe.device}


class Memo:
    """A value computed from tensors, kept until one of them is written to; while autograd records, computed anew."""

    def __init__(self) -> None:
        self._version: tuple[int, ...] | None = None
        self._value: Any = None

    def get(self, tensors: tuple[Tensor, ...], compute: Callable[[], Any]) -> Any:
        """The value of ``compute()``."""
        recorded = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        # Tensors made in inference mode have no version counter and cannot enter a later graph: never keep them.
        if recorded or torch.is_inference_mode_enabled() or any(t.is_inference() for t in tensors):
            return compute()
        version = tuple(t._version for t in tensors)
        if self._version != version:
            self._value = compute()
            self._version = version
        return self._value


class Adjoint(Operator):
    """The adjoint of a structure that knows the product with its adjoint, ``_rmatmul(X) = A^H X``."""

    def __init__(self, A: Operator) -> None:
        m, n = A.shape[-2:]
        super().__init__(
            (*A.batch_shape, n, m),
            dtype=A.dtype,
            device=A.device,
            kind=A.kind,
            positive=A.positive,
            hermitian=A.hermitian,
            unitary=A.unitary,
            parts=(A,),
        )

    def _matmul(self, X: Tensor) -> Tensor:
        return self._parts[0]._rmatmul(X)

    def _rmatmul(self, X: Tensor) -> Tensor:
        return self._parts[0]._matmul(X)

    def _adjoint(self) -> Operator:
        return self._parts[0]

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        return Adjoint(self._parts[0]._mapped(fn))

    def _dense(self) -> Tensor:
        return self._parts[0]._dense().mH

    def _diagonal(self) -> Tensor | None:
        d = self._parts[0]._diagonal()
        return None if d is None else d.conj()

    def _entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        return self._parts[0]._entries(cols, rows).mH
