"""A side of Shampoo's preconditioner in 4 or 8 bits: eigenvalues, packed eigenvectors and packed roots."""

from __future__ import annotations

import torch
from torch import Tensor

from resolvent.optim.packed import pack, unpack
from resolvent.optim.shampoo_sides import State


def rectify(V: Tensor, steps: int) -> Tensor:
    r"""Make a matrix that is nearly orthogonal more so: steps :math:`V \leftarrow 1.5 V - 0.5 V V^T V` of Björck.

    Parameters
    ----------
    V : (*batch, n, n) with |V^T V - I| < 1
    steps : number of steps; each squares the error

    Returns
    -------
    (*batch, n, n).

    References
    ----------
    "4-bit Shampoo for Memory-Efficient Network Training"

    Examples
    --------
    >>> V = torch.tensor([[1.1, 0.0], [0.0, 0.9]])
    >>> rectify(V, 3).round(decimals=4)
    tensor([[1., 0.],
            [0., 1.]])
    """
    for _ in range(steps):
        V = 1.5 * V - 0.5 * (V @ (V.mT @ V))
    return V


class PackedSide:
    """A side whose statistics are eigenvalues in float32 and packed eigenvectors, and whose root is a diagonal in float32 and a packed rest.

    Parameters
    ----------
    name : "left" or "right"
    bits : 4 or 8
    block : entries of a column that share a scale
    steps : of Björck's iteration before the eigenvectors are updated, and before a root is made of them

    Notes
    -----
    The update is one orthogonal iteration, V <- qr(A V) with A = beta V diag(s) V^T + (1 - beta) X X^T, which is never formed. The first one
    takes the eigenvectors of X X^T, where the identity of the paper has no direction yet.

    References
    ----------
    "4-bit Shampoo for Memory-Efficient Network Training"

    Examples
    --------
    >>> side, state = PackedSide("left"), {}
    >>> side.add(state, torch.randn(1, 64, 80), 0.95)
    >>> state["left_codes"].nbytes, side.spectrum([state])[0].shape
    (2048, torch.Size([1, 64]))
    """

    def __init__(self, name: str, bits: int = 4, block: int = 64, steps: tuple[int, int] = (1, 4)) -> None:
        self.name, self.bits, self.block, self.steps = name, bits, block, steps

    def add(self, state: State, X: Tensor, beta: float) -> None:
        """Average X X^T into the statistics.

        Parameters
        ----------
        state : of the parameter
        X : (batch, n, k) blocks
        beta : of the average
        """
        X = X.float()
        if f"{self.name}_values" not in state:
            # The lower triangle of X X^T is all that is read.
            w, V = torch.linalg.eigh(X @ X.mT)
            # Orthogonal iteration keeps the order: the largest first.
            s, V = (1 - beta) * w.flip(-1).clamp(min=0), V.flip(-1)
        else:
            old, s = rectify(self._vectors(state), self.steps[0]), state[f"{self.name}_values"]
            product = beta * (old @ (s[..., None] * (old.mT @ old))) + (1 - beta) * (X @ (X.mT @ old))
            V = torch.linalg.qr(product).Q
            turned, seen = V.mT @ old, V.mT @ X
            s = beta * (turned.square() @ s[..., None])[..., 0] + (1 - beta) * seen.square().sum(-1)
        state[f"{self.name}_values"] = s
        state[f"{self.name}_codes"], state[f"{self.name}_scales"] = self._packed(V.mT)

    def trace(self, state: State) -> Tensor:
        """The trace of the statistics.

        Parameters
        ----------
        state : of the parameter

        Returns
        -------
        (batch,).
        """
        return state[f"{self.name}_values"].sum(-1)

    def spectrum(self, states: list[State]) -> tuple[Tensor, Tensor]:
        """Eigenvalues and eigenvectors of the statistics of equal order, all together.

        Parameters
        ----------
        states : of parameters

        Returns
        -------
        (all blocks, n) and (all blocks, n, n).
        """
        V = torch.cat([self._vectors(state) for state in states])
        return torch.cat([state[f"{self.name}_values"] for state in states]), rectify(V, self.steps[1])

    def keep_root(self, state: State, root: Tensor, dtype: torch.dtype) -> None:
        """Keep the root until the next one.

        Parameters
        ----------
        state : of the parameter
        root : (batch, n, n)
        dtype : of the products with it, which does not matter here
        """
        diagonal = root.diagonal(dim1=-2, dim2=-1)
        state[f"{self.name}_root_diagonal"] = diagonal.float().clone()
        rest = root - torch.diag_embed(diagonal)
        state[f"{self.name}_root_codes"], state[f"{self.name}_root_scales"] = self._packed(rest)

    def root(self, state: State, dtype: torch.dtype) -> Tensor:
        """The root that is kept.

        Parameters
        ----------
        state : of the parameter
        dtype : of the products with it

        Returns
        -------
        (batch, n, n).
        """
        diagonal = state[f"{self.name}_root_diagonal"]
        n = diagonal.shape[-1]
        root = self._unpacked(state[f"{self.name}_root_codes"], state[f"{self.name}_root_scales"], n)
        root.diagonal(dim1=-2, dim2=-1).copy_(diagonal)
        return root.to(dtype)

    def _packed(self, M: Tensor) -> tuple[Tensor, Tensor]:
        return pack(M.flatten(-2), bits=self.bits, block=self.block)

    def _unpacked(self, codes: Tensor, scales: Tensor, n: int) -> Tensor:
        return unpack(codes, scales, n * n, bits=self.bits, block=self.block).view(-1, n, n)

    def _vectors(self, state: State) -> Tensor:
        n = state[f"{self.name}_values"].shape[-1]
        return self._unpacked(state[f"{self.name}_codes"], state[f"{self.name}_scales"], n).mT
