"""Unitary operators with fast products: Walsh-Hadamard, Householder reflections, permutations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resolvent.operators.arrays import Kind
from resolvent.operators.operator import Operator
from resolvent.operators.parts import Adjoint, Memo, batch_of, common_tensors, concatenate, owned, unknown_type
from resolvent.operators.walsh import walsh

_PANEL = 64


class Hadamard(Operator):
    r"""The Walsh-Hadamard matrix in Sylvester's order, :math:`H_{ij} = (-1)^{\mathrm{popcount}(i \wedge j)}`.

    Parameters
    ----------
    n : a power of two
    normalized : bool, default False
        Divide by sqrt(n): the matrix is then orthogonal and its own inverse. Without it ``H @ H = n I``, the order and
        scale of `scipy.linalg.hadamard`.
    dtype, device : as in torch

    Raises
    ------
    ValueError : `n` is not a power of two

    Notes
    -----
    On a CPU butterflies in blocks that fit the caches: n log2 n additions and two or three passes over memory. On a GPU
    ``H_n`` is a Kronecker product of Hadamard matrices of size at most 32, each applied to its axis by one GEMM:
    ``log_32 n`` passes over the data where butterflies need ``log_2 n``.

    Examples
    --------
    >>> import torch
    >>> H = Hadamard(4)
    >>> H @ torch.tensor([1.0, 0.0, 0.0, 1.0])
    tensor([2., 0., 0., 2.])
    >>> Hadamard(4, normalized=True).unitary
    True
    """

    def __init__(
        self,
        n: int,
        *,
        normalized: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1 or n & (n - 1):
            raise ValueError(f"n must be a power of two, got {n!r}")
        self.normalized = bool(normalized)
        super().__init__(
            (int(n), int(n)),
            dtype=dtype or torch.get_default_dtype(),
            device=device,
            hermitian=True,
            unitary=normalized or n == 1,
            parts=(self.normalized,),
        )

    @property
    def cost(self) -> float:
        return float(self.shape[-1] * (self.shape[-1].bit_length() - 1))

    @property
    def _scale(self) -> float:
        return 1 / math.sqrt(self.shape[-1]) if self.normalized else 1.0

    def _matmul(self, X: Tensor) -> Tensor:
        return walsh(X, -2, self._scale)

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        return Hadamard(self.shape[-1], normalized=self.normalized, **unknown_type(fn, self))

    def _dense(self) -> Tensor:
        index = torch.arange(self.shape[-1], device=self.device)
        return self._entries(index, index)

    def _diagonal(self) -> Tensor:
        return self._signs(torch.arange(self.shape[-1], device=self.device))

    def _trace(self) -> Tensor:
        trace = 1.0 if self.shape[-1] == 1 else 0.0
        return torch.tensor(trace, dtype=self.dtype, device=self.device)

    def _entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        return self._signs(rows[:, None] & cols[None, :])

    def _gram(self, X: Tensor) -> Tensor:
        return X * (1.0 if self.normalized else float(self.shape[-1]))

    def _signs(self, bits: Tensor) -> Tensor:
        for shift in (32, 16, 8, 4, 2, 1):
            bits = bits ^ (bits >> shift)
        return (1 - 2 * (bits & 1)).to(self.dtype) * self._scale


class Householder(Operator):
    r"""A product of Householder reflections, never formed: the first columns of :math:`H_1 H_2 \cdots H_k`.

    :math:`H_i = I - \tau_i v_i v_i^H`, with :math:`v_i` zero above row i, one in row i and ``V[i+1:, i]`` below, the
    form that `torch.geqrf` gives and `torch.linalg.householder_product` takes.

    Parameters
    ----------
    V : (*batch, m, n) with m >= n
        Entries on and above the diagonal are not used.
    tau : (*batch, k) with k <= n
    full : bool, default False
        False: the shape is (m, n), as `torch.linalg.householder_product`. True: the square (m, m) product.

    Raises
    ------
    ValueError : shapes that do not match, NaN or infinite entries
    TypeError : torch tensors of mixed precision

    Notes
    -----
    Reflections are applied 64 at a time in the compact WY form ``I - W T W^H``: ``2 m k`` multiplications a column,
    as GEMMs. The small triangles T are kept until the data changes. A square one is known to be unitary when the data
    is not learnable and every ``|tau|^2 v^H v = 2 Re tau`` to rounding.

    Examples
    --------
    >>> import torch
    >>> A = torch.tensor([[3.0, 1.0], [4.0, 2.0]])
    >>> Q = Householder(*torch.geqrf(A))
    >>> torch.round(Q.H @ A, decimals=4) + 0.0
    tensor([[-5.0000, -2.2000],
            [ 0.0000,  0.4000]])
    """

    def __init__(self, V: Any, tau: Any, *, full: bool = False) -> None:
        tensors, kind = common_tensors(V=V, tau=tau)
        vectors, scales = owned(tensors, kind)
        if vectors.ndim < 2 or vectors.shape[-2] < vectors.shape[-1]:
            raise ValueError(f"V must have shape (*batch, m, n) with m >= n, got {tuple(vectors.shape)}")
        m, n = vectors.shape[-2:]
        if scales.ndim < 1 or scales.shape[-1] > n:
            raise ValueError(f"tau must have shape (*batch, k) with k <= {n}, got {tuple(scales.shape)}")
        self.full = bool(full)
        self._memo = Memo()
        super().__init__(
            (*batch_of("Householder", vectors.shape[:-2], scales.shape[:-1]), m, m if full else n),
            dtype=vectors.dtype,
            device=vectors.device,
            kind=kind,
            parts=(vectors, scales, self.full),
        )
        if self.shape[-1] == m and not (vectors.requires_grad or scales.requires_grad):
            self.unitary = self._reflects()

    @property
    def cost(self) -> float:
        m, k = self.shape[-2], self._parts[1].shape[-1]
        return float(2 * m * k - k * (k - 1))

    def _reflects(self) -> bool:
        V, tau = self._parts[:2]
        k = tau.shape[-1]
        squared = 1 + torch.linalg.vector_norm(V[..., :k].tril(-1), dim=-2) ** 2
        gap = (tau.abs() ** 2 * squared - 2 * tau.real).abs()
        return bool((gap <= 8 * self.shape[-2] * torch.finfo(self.dtype).eps).all())

    def _panels(self) -> list[tuple[int, Tensor, Tensor]]:
        """Per panel: its first row, the unit lower triangle on top of W, and T of ``I - W T W^H``."""
        V, tau = self._parts[:2]
        out = []
        for a in range(0, tau.shape[-1], _PANEL):
            b = min(a + _PANEL, tau.shape[-1])
            eye = torch.eye(b - a, dtype=V.dtype, device=V.device)
            top, below, t = V[..., a:b, a:b].tril(-1) + eye, V[..., b:, a:b], tau[..., a:b]
            cross = (top.mH @ top + below.mH @ below).triu(1)
            # T = (D^-1 + S)^-1 with D = diag(tau), written so that tau = 0 (no reflection) is allowed.
            T = torch.linalg.solve_triangular(
                eye + t[..., None] * cross, torch.diag_embed(t), upper=True, unitriangular=True
            )
            out.append((a, top, T))
        return out

    def _reflect(self, X: Tensor, adjoint: bool) -> Tensor:
        V, tau = self._parts[:2]
        panels = self._memo.get((V, tau), self._panels)
        for a, top, T in panels if adjoint else reversed(panels):
            b = a + top.shape[-1]
            below = V[..., b:, a:b]
            first, rest = X[..., a:b, :], X[..., b:, :]
            Z = (T.mH if adjoint else T) @ (top.mH @ first + below.mH @ rest)
            X = concatenate([X[..., :a, :], first - top @ Z, rest - below @ Z], -2)
        return X.expand(*torch.broadcast_shapes(self.batch_shape, X.shape[:-2]), -1, -1)

    def _matmul(self, X: Tensor) -> Tensor:
        m, n = self.shape[-2:]
        if n < m:
            X = torch.cat([X, X.new_zeros(*X.shape[:-2], m - n, X.shape[-1])], -2)
        return self._reflect(X, adjoint=False)

    def _rmatmul(self, X: Tensor) -> Tensor:
        return self._reflect(X, adjoint=True)[..., : self.shape[-1], :]

    def _adjoint(self) -> Operator:
        return Adjoint(self)

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        return Householder(fn(self._parts[0]), fn(self._parts[1]), full=self.full)


class Permutation(Operator):
    r"""A reordering: :math:`(P x)_i = x_{p_i}`, the rows of the identity in the order `p`.

    Parameters
    ----------
    p : (*batch, n) integers, each a permutation of 0, ..., n - 1
    dtype : of the products; default as for new arrays of the kind of `p`

    Raises
    ------
    ValueError : `p` is not a permutation
    TypeError : `p` does not hold integers

    Notes
    -----
    A product is one gather. Its own inverse (an involution) is seen to be Hermitian, all are unitary.

    Examples
    --------
    >>> import torch
    >>> P = Permutation(torch.tensor([2, 0, 1]))
    >>> P @ torch.tensor([10.0, 20.0, 30.0])
    tensor([30., 10., 20.])
    >>> P.H @ (P @ torch.tensor([10.0, 20.0, 30.0]))
    tensor([10., 20., 30.])
    """

    def __init__(self, p: Any, *, dtype: torch.dtype | None = None) -> None:
        kind: Kind = "torch" if isinstance(p, Tensor) else "numpy"
        index = p if isinstance(p, Tensor) else torch.from_numpy(np.array(p))
        if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
            raise TypeError(f"p must hold integers, got dtype {index.dtype}")
        if index.ndim < 1:
            raise ValueError(f"p must have shape (*batch, n), got {tuple(index.shape)}")
        index = index.long()
        n = index.shape[-1]
        order = torch.arange(n, device=index.device)
        if not bool((index.sort(dim=-1).values == order).all()):
            raise ValueError(f"p must hold each of 0, ..., {n - 1} once in every batch entry")
        super().__init__(
            (*index.shape, n),
            dtype=dtype or (torch.get_default_dtype() if kind == "torch" else torch.float64),
            device=index.device,
            kind=kind,
            hermitian=bool((index.gather(-1, index) == order).all()),
            unitary=True,
            parts=(index,),
        )

    @property
    def cost(self) -> float:
        return 0.0

    def tensors(self) -> list[Tensor]:
        """No tensor that a gradient could flow to."""
        return []

    def _matmul(self, X: Tensor) -> Tensor:
        p = self._parts[0]
        if p.ndim == 1:
            return X.index_select(-2, p) if X.ndim == 2 else X[..., p, :]
        batch = torch.broadcast_shapes(self.batch_shape, X.shape[:-2])
        shape = (*batch, *X.shape[-2:])
        return X.expand(shape).gather(-2, p[..., None].expand(shape))

    def _gram(self, X: Tensor) -> Tensor:
        return X.expand(*torch.broadcast_shapes(self.batch_shape, X.shape[:-2]), *X.shape[-2:]).clone()

    def _adjoint(self) -> Operator:
        return Permutation(self._parts[0].argsort(dim=-1), dtype=self.dtype)

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        target = unknown_type(fn, self)
        return Permutation(self._parts[0].to(target["device"]), dtype=target["dtype"])

    def _diagonal(self) -> Tensor:
        return (self._parts[0] == torch.arange(self.shape[-1], device=self.device)).to(self.dtype)

    def _entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        return (self._parts[0][..., rows, None] == cols).to(self.dtype)

    def _dense(self) -> Tensor:
        index = torch.arange(self.shape[-1], device=self.device)
        return self._entries(index, index)


__all__ = ["Hadamard", "Householder", "Permutation"]
