"""Kernel matrices that are never stored: tiles of k(X, Y), computed, used and dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from resolvent.operators.operator import Operator
from resolvent.operators.parts import Adjoint, batch_of, common_tensors

KernelFunction = Callable[[Tensor, Tensor], Tensor]


class Kernel(Operator):
    r"""A kernel matrix by its function and points: :math:`K_{ij} = k(x_i, y_j)`, evaluated tile by tile, never stored.

    Parameters
    ----------
    k : callable
        ``k(X, Y)`` for tensors (*batch, a, d) and (*batch, b, d) gives (*batch, a, b). A `torch.nn.Module` is welcome;
        its parameters are parts of the operator.
    X : (*batch, m, d) points, one a row
    Y : (*batch, n, d) or None
        None means `X`.
    parameters : tensors, optional
        Tensors that `k` closes over. Products give them gradients in any case; named here, functions that do not record
        their iterations (eigenvalues, norms) do so too.
    tile : int, default 512 on a CPU (a tile fits its cache) and 4096 on a GPU
        At most ``tile * tile`` entries of the matrix exist at a time (and what `k` needs to make them).
    hermitian, positive : bool, default False
        Declare them for a symmetric or positive definite `k` with ``Y=None``. Then only the tiles on and above the
        diagonal are evaluated.

    Raises
    ------
    ValueError : points that do not match, NaN or infinite entries, `k` giving another shape
    TypeError : `k` is not callable, torch tensors of mixed precision

    Notes
    -----
    A product evaluates ``m n`` entries and needs ``O(tile^2 + (m + n) k)`` memory. Under autograd each tile is computed
    again in the backward pass, so that memory stays bounded there too; gradients flow to X, Y and everything that `k`
    uses. ``A^H A X`` evaluates each entry once, in strips of rows.

    Examples
    --------
    >>> import torch
    >>> points = torch.tensor([[0.0], [1.0], [2.0]])
    >>> K = Kernel(lambda X, Y: torch.exp(-torch.cdist(X, Y)), points, positive=True)
    >>> K @ torch.tensor([1.0, 0.0, 0.0])
    tensor([1.0000, 0.3679, 0.1353])
    >>> K[0, 2]
    tensor(0.1353)
    """

    def __init__(
        self,
        k: KernelFunction,
        X: Any,
        Y: Any = None,
        *,
        parameters: Iterable[Tensor] = (),
        tile: int | None = None,
        hermitian: bool = False,
        positive: bool = False,
    ) -> None:
        if not callable(k):
            raise TypeError(f"k must be a function of two sets of points, got {type(k).__name__}")
        if tile is not None and (isinstance(tile, bool) or not isinstance(tile, int) or tile < 1):
            raise ValueError(f"tile must be an int of at least 1, got {tile!r}")
        given = {"X": X} if Y is None or Y is X else {"X": X, "Y": Y}
        (left, *rest), kind = common_tensors(**given)
        right = rest[0] if rest else left
        for name, points in (("X", left), ("Y", right)):
            if points.ndim < 2 or points.shape[-1] != left.shape[-1]:
                d = "d" if name == "X" else left.shape[-1]
                raise ValueError(f"{name} must have shape (*batch, points, {d}), got {tuple(points.shape)}")
        if (hermitian or positive) and right is not left:
            raise ValueError("hermitian and positive need Y=None, the same points for rows and columns")
        batch = batch_of("Kernel", left.shape[:-2], right.shape[:-2])
        parameters = tuple(parameters) or (tuple(k.parameters()) if isinstance(k, torch.nn.Module) else ())
        self.k, self._n_parameters = k, len(parameters)
        self.tile = tile or (512 if left.device.type == "cpu" else 4096)
        super().__init__(
            (*batch, left.shape[-2], right.shape[-2]),
            dtype=_sample(k, left, right, batch),
            device=left.device,
            kind=kind,
            hermitian=hermitian,
            positive=positive,
            parts=(left, right, *parameters, k),
        )

    @property
    def X(self) -> Tensor:
        """The points of the rows."""
        return self._parts[0]

    @property
    def Y(self) -> Tensor:
        """The points of the columns."""
        return self._parts[1]

    @property
    def cost(self) -> float:
        return float(self.shape[-1] * self.shape[-2] * (self.X.shape[-1] + 1))

    def tensors(self) -> list[Tensor]:
        """The points and the kernel's parameters."""
        return super().tensors()[1 if self.X is self.Y else 0 :]

    def _tile(self, x: Tensor, y: Tensor) -> Tensor:
        return self.k(x, y).to(self.dtype)

    def _matmul(self, V: Tensor) -> Tensor:
        if self.hermitian:
            return self._symmetric(V)
        strips = []
        for rows in _ranges(self.shape[-2], self.tile):
            x, total = self.X[..., rows, :], None
            for cols in _ranges(self.shape[-1], self.tile):
                term = _recomputed(self._forward, x, self.Y[..., cols, :], V[..., cols, :])
                total = term if total is None else total + term
            strips.append(total)
        return self._joined(strips, V, self.shape[-2])

    def _rmatmul(self, V: Tensor) -> Tensor:
        strips = []
        for cols in _ranges(self.shape[-1], self.tile):
            y, total = self.Y[..., cols, :], None
            for rows in _ranges(self.shape[-2], self.tile):
                term = _recomputed(self._backward, self.X[..., rows, :], y, V[..., rows, :])
                total = term if total is None else total + term
            strips.append(total)
        return self._joined(strips, V, self.shape[-1])

    def _symmetric(self, V: Tensor) -> Tensor:
        """Each tile above the diagonal serves twice, by its mirror image too."""
        ranges = _ranges(self.shape[-1], self.tile)
        totals: list[Tensor | None] = [None] * len(ranges)
        for i, rows in enumerate(ranges):
            for j, cols in enumerate(ranges[i:], start=i):
                both = (self.X[..., rows, :], self.Y[..., cols, :], V[..., rows, :], V[..., cols, :])
                if i == j:
                    here, there = _recomputed(self._forward, both[0], both[1], both[3]), None
                else:
                    here, there = _recomputed(self._mirrored, *both)
                totals[i] = here if totals[i] is None else totals[i] + here
                if there is not None:
                    totals[j] = there if totals[j] is None else totals[j] + there
        return self._joined(totals, V, self.shape[-2])

    def _forward(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self._tile(x, y) @ v

    def _backward(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self._tile(x, y).mH @ v

    def _mirrored(self, x: Tensor, y: Tensor, v_rows: Tensor, v_cols: Tensor) -> tuple[Tensor, Tensor]:
        K = self._tile(x, y)
        return K @ v_cols, K.mH @ v_rows

    def _strip(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        K = self._tile(x, y)
        return K.mH @ (K @ v)

    def _gram(self, V: Tensor) -> Tensor:
        m, n = self.shape[-2:]
        height = self.tile * self.tile // max(n, 1)
        # A strip of whole rows must fit into the memory of a tile and be high enough to be worth a GEMM.
        if height < 16:
            return super()._gram(V)
        total = None
        for rows in _ranges(m, height):
            term = _recomputed(self._strip, self.X[..., rows, :], self.Y, V)
            total = term if total is None else total + term
        return self._joined([] if total is None else [total], V, n)

    def _joined(self, strips: list[Any], V: Tensor, size: int) -> Tensor:
        batch = torch.broadcast_shapes(self.batch_shape, V.shape[:-2])
        if size == 0 or not strips or strips[0] is None:
            return V.new_zeros(*batch, size, V.shape[-1])
        return torch.cat(strips, -2).expand(*batch, size, V.shape[-1])

    def _adjoint(self) -> Operator:
        return Adjoint(self)

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        X = _points(fn, self.X)
        out = Kernel(
            self.k,
            X,
            None if self.Y is self.X else _points(fn, self.Y),
            parameters=self._parts[2 : 2 + self._n_parameters],
            tile=self.tile,
        )
        out.dtype = fn(torch.empty(0, dtype=self.dtype, device=self.device)).dtype
        return out

    def _dense(self) -> Tensor:
        return self._tile(self.X, self.Y).expand(self.shape)

    def _entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        found = self._tile(self.X[..., rows, :], self.Y[..., cols, :])
        return found.expand(*self.batch_shape, len(rows), len(cols))

    def _diagonal(self) -> Tensor:
        # Small tiles on the diagonal: a point with itself costs one call for every 64 of them.
        tiles = [
            self._tile(self.X[..., r, :], self.Y[..., r, :]).diagonal(dim1=-2, dim2=-1)
            for r in _ranges(min(self.shape[-2:]), 64)
        ]
        if not tiles:
            return torch.zeros(*self.batch_shape, 0, dtype=self.dtype, device=self.device)
        return torch.cat(tiles, -1).expand(*self.batch_shape, -1)


def _points(fn: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """Points in the precision that `fn` gives; a complex kernel is a complex function of real points."""
    moved = fn(points)
    return moved.real if moved.is_complex() and not points.is_complex() else moved


def _sample(k: KernelFunction, X: Tensor, Y: Tensor, batch: torch.Size) -> torch.dtype:
    """The dtype of the kernel's values, from one entry; a wrong shape is seen here and not inside a product."""
    rows, cols = min(2, X.shape[-2]), min(1, Y.shape[-2])
    with torch.no_grad():
        found = k(X[..., :rows, :], Y[..., :cols, :])
    if not isinstance(found, Tensor):
        raise TypeError(f"k must give a tensor, got {type(found).__name__}")
    if tuple(found.shape) != (*batch, rows, cols):
        raise ValueError(
            f"k must give (*batch, a, b) for a and b points, got {tuple(found.shape)} for {rows} and {cols} points"
        )
    if not (found.is_floating_point() or found.is_complex()):
        raise TypeError(f"k must give floating-point values, got {found.dtype}")
    return found.dtype


def _ranges(n: int, step: int) -> list[slice]:
    return [slice(a, min(a + step, n)) for a in range(0, n, step)]


def _recomputed(fn: Callable[..., Any], *args: Tensor) -> Any:
    """``fn(*args)``; under autograd its insides are dropped and computed again when the gradient needs them."""
    if not torch.is_grad_enabled():
        return fn(*args)
    return checkpoint(fn, *args, use_reentrant=False, preserve_rng_state=False)


__all__ = ["Kernel"]
