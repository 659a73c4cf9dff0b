"""Subgroups of invertible matrices with few entries, as factors of structured positive definite matrices.

With a factor A of such a group, A A^T is a positive definite matrix of a structure that products keep. All groups here have one form,

    [ top (k1 x n)           ]
    [ 0   diag(middle)   0   ]
    [ 0   low (k2 x (n - k1))]

with k1 = n for dense matrices, k1 = k2 = 0 for diagonal ones, k2 = 0 for those whose (A A^T)^-1 is of low rank plus a diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from resolvent.optim.optimizer import State

Structure = Literal["dense", "diag", "lowrank", "hierarchical"]
STRUCTURES = ("dense", "diag", "lowrank", "hierarchical")


def borders(structure: str, n: int, rank: int) -> tuple[int, int]:
    """The full rows at the top and at the bottom of a group's matrices of order n.

    Examples
    --------
    >>> borders("hierarchical", 10, 3), borders("dense", 10, 3)
    ((3, 3), (10, 0))
    """
    if structure not in STRUCTURES:
        raise ValueError(f"structure must be one of {', '.join(STRUCTURES)}, got {structure!r}")
    if structure == "dense":
        return n, 0
    if structure == "diag":
        return 0, 0
    first = min(rank, n)
    return first, min(rank, n - first) if structure == "hierarchical" else 0


def pattern(structure: str, n: int, rank: int) -> Tensor:
    """How the tangent vectors of a group weigh the entries of a symmetric matrix: (n, n).

    A change M of the factor changes A A^T by A (M + M^T) A^T. In the metric of positive definite matrices an entry whose mirror image lies in
    the group as well (1) therefore counts twice as much as one that stands alone (2); others are outside (0).

    Examples
    --------
    >>> pattern("lowrank", 3, 1)
    tensor([[1., 2., 2.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    first, last = borders(structure, n, rank)
    weights = torch.eye(n)
    weights[:first, :first] = 1
    weights[:first, first:] = 2
    weights[n - last :, first : n - last] = 2
    weights[n - last :, n - last :] = 1
    return weights


@dataclass
class Blocks:
    """A matrix of a group, or of its tangent space, with the entries that it can have.

    Parameters
    ----------
    top : (k1, n)
    middle : (n - k1 - k2,)
    low : (k2, n - k1)
    """

    top: Tensor
    middle: Tensor
    low: Tensor

    @classmethod
    def identity(cls, structure: str, n: int, rank: int, like: Tensor) -> Blocks:
        """The unit of a group."""
        first, last = borders(structure, n, rank)
        eye = torch.eye(n, dtype=like.dtype, device=like.device)
        return cls(eye[:first].clone(), like.new_ones(n - first - last), eye[n - last :, first:].clone())

    @classmethod
    def from_state(cls, state: State) -> Blocks:
        """Over the tensors of a state, which in-place changes reach."""
        return cls(state["top"], state["middle"], state["low"])

    def state(self) -> State:
        """The tensors by name."""
        return {"top": self.top, "middle": self.middle, "low": self.low}

    def tensors(self) -> list[Tensor]:
        return [self.top, self.middle, self.low]

    def zeros(self) -> Blocks:
        return Blocks(*(torch.zeros_like(t) for t in self.tensors()))

    def to(self, dtype: torch.dtype) -> Blocks:
        return Blocks(*(t.to(dtype) for t in self.tensors()))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(k1, k2, n)."""
        first, last = self.top.shape[0], self.low.shape[0]
        return first, last, first + len(self.middle) + last

    def squared_norm(self) -> Tensor:
        """The sum of all squares, which is tr(A A^T), in float32 at least."""
        return torch.stack([_wide(t).square().sum() for t in self.tensors()]).sum()

    def apply(self, X: Tensor) -> Tensor:
        """A X, (n, r)."""
        first, last, n = self.shape
        parts = [self.top @ X, self.middle[:, None] * X[first : n - last], self.low @ X[first:]]
        return torch.cat([part for part in parts if len(part)]) if n else X

    def apply_transpose(self, X: Tensor) -> Tensor:
        """A^T X, (n, r)."""
        first, last, n = self.shape
        result = self.top.T @ X[:first] if first else torch.zeros_like(X)
        result[first : n - last] += self.middle[:, None] * X[first : n - last]
        if last:
            result[first:] += self.low.T @ X[n - last :]
        return result

    def times(self, other: Blocks) -> Blocks:
        """A M for two matrices of one group or its tangent space."""
        first, last, n = self.shape
        low = self.low[:, : n - first - last] * other.middle
        low = torch.cat([low, torch.zeros_like(self.low[:, n - first - last :])], dim=1)
        if last:
            low = low + self.low[:, n - first - last :] @ other.low
        return Blocks(other.from_left(self.top), self.middle * other.middle, low)

    def from_left(self, rows: Tensor) -> Tensor:
        """rows A, (r, n)."""
        return self.apply_transpose(rows.T).T

    def gram(self, rows: Tensor) -> Blocks:
        """The part of rows^T rows that the tangent space takes, with the weights of `pattern`; rows (r, n)."""
        first, last, n = self.shape
        head, body, tail = rows[:, :first], rows[:, first : n - last], rows[:, n - last :]
        top = torch.cat([head.T @ head, 2 * (head.T @ rows[:, first:])], dim=1)
        low = torch.cat([2 * (tail.T @ body), tail.T @ tail], dim=1)
        return Blocks(top, body.square().sum(0), low)

    def own_gram(self) -> Blocks:
        """The part of A^T A that the tangent space takes."""
        first, last, _ = self.shape
        found = self.gram(self.top) if first else self.zeros()
        if last:
            padded = torch.cat([self.low.new_zeros(last, first), self.low], dim=1)
            found.add_(self.gram(padded))
        found.middle += self.middle.square()
        return found

    def add_(self, other: Blocks, alpha: float | Tensor = 1.0) -> Blocks:
        for mine, theirs in zip(self.tensors(), other.tensors(), strict=True):
            mine.add_(theirs if isinstance(alpha, float) and alpha == 1.0 else theirs * alpha)
        return self

    def scale_(self, alpha: float | Tensor) -> Blocks:
        for mine in self.tensors():
            mine.mul_(alpha)
        return self

    def shift_(self, alpha: float) -> Blocks:
        """Add a multiple of the identity."""
        first, last, _ = self.shape
        self.top[:, :first].diagonal().add_(alpha)
        self.middle.add_(alpha)
        self.low[:, self.low.shape[1] - last :].diagonal().add_(alpha)
        return self

    def dense(self) -> Tensor:
        """(n, n)."""
        first, last, n = self.shape
        full = self.top.new_zeros(n, n)
        full[:first] = self.top
        full[n - last :, first:] = self.low
        full[first : n - last, first : n - last].diagonal().copy_(self.middle)
        return full


def _wide(t: Tensor) -> Tensor:
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t
