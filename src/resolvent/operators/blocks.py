"""Block operators: a diagonal of operators, or a grid of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from resolvent.operators.operator import Operator
from resolvent.operators.parts import batch_of, common_operators, concatenate


class BlockDiagonal(Operator):
    r"""Operators along the diagonal, zero elsewhere: :math:`\mathrm{diag}(A_1, A_2, \dots)`.

    Parameters
    ----------
    *blocks : operators or anything `as_operator` takes, each (*batch, m_i, n_i); they need not be square

    Raises
    ------
    ValueError : no block, batch shapes that do not broadcast, mixed devices
    TypeError : mixed precision

    Notes
    -----
    A product costs the sum of the blocks' products. Hermitian, positive and unitary blocks make the whole so.

    Examples
    --------
    >>> import torch
    >>> A = BlockDiagonal(torch.ones(2, 2), 3 * torch.eye(1))
    >>> A @ torch.tensor([1.0, 2.0, 3.0])
    tensor([3., 3., 9.])
    """

    def __init__(self, *blocks: Any) -> None:
        operators, common = common_operators(blocks, "BlockDiagonal")
        # Rectangular blocks can make a square whole: facts need every block to have them.
        super().__init__(
            (
                *batch_of("BlockDiagonal", *(A.batch_shape for A in operators)),
                sum(A.shape[-2] for A in operators),
                sum(A.shape[-1] for A in operators),
            ),
            **common,
            hermitian=all(A.hermitian for A in operators),
            positive=all(A.positive for A in operators),
            unitary=all(A.unitary for A in operators),
            parts=operators,
        )

    @property
    def blocks(self) -> tuple[Operator, ...]:
        """The blocks, from the top left."""
        return self._parts

    def _along(self, X: Tensor, apply: Callable[[Operator, Tensor], Tensor]) -> Tensor:
        pieces = X.split([A.shape[-1] for A in self._parts], dim=-2)
        return concatenate([apply(A, x) for A, x in zip(self._parts, pieces, strict=True)], -2)

    def _matmul(self, X: Tensor) -> Tensor:
        return self._along(X, lambda A, x: A._matmul(x))

    def _gram(self, X: Tensor) -> Tensor:
        return self._along(X, lambda A, x: A._gram(x))

    def _adjoint(self) -> Operator:
        return BlockDiagonal(*(A.H for A in self._parts))

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        return BlockDiagonal(*(A._mapped(fn) for A in self._parts))

    def _dense(self) -> Tensor:
        places = range(len(self._parts))
        return _assemble(self, [[A._dense() if i == j else None for j in places] for i, A in enumerate(self._parts)])

    def _diagonal(self) -> Tensor | None:
        if any(A.shape[-1] != A.shape[-2] for A in self._parts):
            return None
        found = [A._diagonal() for A in self._parts]
        if any(d is None for d in found):
            return None
        return torch.cat([d.expand(*self.batch_shape, -1) for d in found], -1)

    def _trace(self) -> Tensor | None:
        if any(A.shape[-1] != A.shape[-2] for A in self._parts):
            return None
        found = [A._trace() for A in self._parts]
        return None if any(t is None for t in found) else sum(found[1:], found[0]).expand(self.batch_shape)

    def _entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        places = [(i, i, A) for i, A in enumerate(self._parts)]
        heights, widths = [A.shape[-2] for A in self._parts], [A.shape[-1] for A in self._parts]
        return _select(self, places, heights, widths, rows, cols)


class Block(Operator):
    r"""A grid of operators, ``Block([[A, B], [C, D]])``; None stands for a zero block.

    Parameters
    ----------
    grid : list of rows, each a list of operators (or anything `as_operator` takes) or None
        Blocks of one row share their number of rows, blocks of one column their number of columns; each row and each
        column needs at least one block that is not None.

    Raises
    ------
    ValueError : an empty or ragged grid, a row or column of nothing but None, blocks whose sizes do not match
    TypeError : mixed precision

    Notes
    -----
    A product costs the sum of the blocks' products. Only what is declared is known about the whole:
    ``Block([[A, B], [B.H, D]]).declare(hermitian=True)``.

    Examples
    --------
    >>> import torch
    >>> B = torch.tensor([[1.0, 2.0]])
    >>> A = Block([[None, B], [B.mT, None]]).declare(hermitian=True)
    >>> A.to_dense()
    tensor([[0., 1., 2.],
            [1., 0., 0.],
            [2., 0., 0.]])
    """

    def __init__(self, grid: Sequence[Sequence[Any]]) -> None:
        rows = [list(row) for row in grid]
        if not rows or not rows[0] or any(len(row) != len(rows[0]) for row in rows):
            raise ValueError(f"grid must be rows of one length of at least 1, got lengths {[len(r) for r in rows]}")
        flat = [a for row in rows for a in row]
        if all(a is None for a in flat):
            raise ValueError("grid needs at least one block that is not None")
        operators, common = common_operators(tuple(a for a in flat if a is not None), "Block")
        source = iter(operators)
        self.grid: tuple[tuple[Operator | None, ...], ...] = tuple(
            tuple(None if a is None else next(source) for a in row) for row in rows
        )
        self._heights = [_size(row, -2, f"row {i}") for i, row in enumerate(self.grid)]
        self._widths = [_size(col, -1, f"column {j}") for j, col in enumerate(zip(*self.grid, strict=True))]
        super().__init__(
            (*batch_of("Block", *(A.batch_shape for A in operators)), sum(self._heights), sum(self._widths)),
            **common,
            # The places of the blocks are a part of what the operator is, not only the blocks.
            parts=(*(A for row in self.grid for A in row), len(rows)),
        )

    @property
    def cost(self) -> float:
        return sum(A.cost for row in self.grid for A in row if A is not None)

    def _matmul(self, X: Tensor) -> Tensor:
        pieces = X.split(self._widths, dim=-2)
        batch = torch.broadcast_shapes(self.batch_shape, X.shape[:-2])
        out = []
        for row, height in zip(self.grid, self._heights, strict=True):
            terms = [A._matmul(x) for A, x in zip(row, pieces, strict=True) if A is not None]
            out.append(sum(terms[1:], terms[0]).expand(*batch, height, X.shape[-1]))
        return torch.cat(out, -2)

    def _adjoint(self) -> Operator:
        return Block([[None if A is None else A.H for A in column] for column in zip(*self.grid, strict=True)])

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        return Block([[None if A is None else A._mapped(fn) for A in row] for row in self.grid])

    def _dense(self) -> Tensor:
        return _assemble(self, [[None if A is None else A._dense() for A in row] for row in self.grid])

    def _diagonal(self) -> Tensor | None:
        if self._heights != self._widths:
            return None
        found = []
        for i, height in enumerate(self._heights):
            A = self.grid[i][i]
            d = torch.zeros(height, dtype=self.dtype, device=self.device) if A is None else A._diagonal()
            if d is None:
                return None
            found.append(d.expand(*self.batch_shape, -1))
        return torch.cat(found, -1)

    def _entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        places = [(i, j, A) for i, row in enumerate(self.grid) for j, A in enumerate(row) if A is not None]
        return _select(self, places, self._heights, self._widths, rows, cols)


def _size(blocks: Sequence[Operator | None], axis: int, name: str) -> int:
    sizes = [A.shape[axis] for A in blocks if A is not None]
    if not sizes:
        raise ValueError(f"grid: {name} has only None, its size is unknown; put a Zero operator there")
    if len(set(sizes)) > 1:
        raise ValueError(f"grid: the blocks of {name} must agree in size, got {sizes}")
    return sizes[0]


def _assemble(A: Operator, grid: list[list[Tensor | None]]) -> Tensor:
    heights = [next(b.shape[-2] for b in row if b is not None) for row in grid]
    widths = [next(b.shape[-1] for b in col if b is not None) for col in zip(*grid, strict=True)]
    rows = []
    for row, height in zip(grid, heights, strict=True):
        blocks = [
            torch.zeros(height, width, dtype=A.dtype, device=A.device) if b is None else b
            for b, width in zip(row, widths, strict=True)
        ]
        rows.append(torch.cat([b.expand(*A.batch_shape, -1, -1) for b in blocks], -1))
    return torch.cat(rows, -2)


def _select(
    whole: Operator,
    places: list[tuple[int, int, Operator]],
    heights: list[int],
    widths: list[int],
    rows: Tensor,
    cols: Tensor,
) -> Tensor:
    """Entries of a block operator: each block is asked only for the rows and columns that fall into it."""
    tops, lefts = [0, *accumulate(heights)], [0, *accumulate(widths)]
    out = torch.zeros(*whole.batch_shape, len(rows), len(cols), dtype=whole.dtype, device=whole.device)
    inside_rows = [((rows >= a) & (rows < b)).nonzero()[:, 0] for a, b in pairwise(tops)]
    inside_cols = [((cols >= a) & (cols < b)).nonzero()[:, 0] for a, b in pairwise(lefts)]
    for i, j, A in places:
        r, c = inside_rows[i], inside_cols[j]
        if len(r) and len(c):
            block = A._entries(rows[r] - tops[i], cols[c] - lefts[j])
            out[..., r[:, None], c[None, :]] = block.expand(*whole.batch_shape, -1, -1)
    return out


__all__ = ["Block", "BlockDiagonal"]
