"""Cyclic block coordinate descent with proximal terms, and what it says about the distance to a stationary point."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError

Solve = Callable[[list[Tensor], float], Tensor]


class BlockDescent(NamedTuple):
    """Of :func:`bcd_prox`.

    Attributes
    ----------
    blocks : the last point
    objective : (sweeps + 1,) values, from the start on
    stationarity : (sweeps,) squared norms of the prox-gradients, c^2 times the squared length of each sweep's steps
    """

    blocks: tuple[Tensor, ...]
    objective: Tensor
    stationarity: Tensor


def bcd_prox(
    blocks: Sequence[Tensor],
    solve: Sequence[Solve],
    objective: Callable[[list[Tensor]], Tensor],
    *,
    prox: float = 1.0,
    rtol: float = 1e-3,
    max_iter: int = 200,
) -> BlockDescent:
    r"""Minimise over one block after the other, :math:`x_i \leftarrow \arg\min_x f(\ldots, x, \ldots) + \tfrac c2 \|x - x_i\|^2`.

    Parameters
    ----------
    blocks : the start x_1, ..., x_b, tensors of any shapes within their convex sets
    solve : for each block a function of (blocks, c) that returns the minimiser of its proximal problem
    objective : f of all blocks
    prox : c, positive
    rtol : stop when the norm of the prox-gradient is below this part of that of the first sweep
    max_iter : sweeps

    Returns
    -------
    BlockDescent (blocks, objective, stationarity)

    Raises
    ------
    ValueError : numbers of blocks and functions that differ, c that is not positive.
    ConvergenceError : `rtol` was not reached; carries the BlockDescent.

    Notes
    -----
    c times the step of a block is minus a partial (sub)gradient of f at its new point, so the squared lengths of the
    steps bound how far the point is from stationary. If f is convex in each block, or c is above its weak
    convexity, every sweep decreases f by at least (c/2) times the squared step: the least measure after T sweeps is
    at most 2 c (f_0 - min f) / T. Inexact solutions with summable errors keep that. No gradient.

    References
    ----------
    "Complexity of Block Coordinate Descent with Proximal Regularization and Applications to Wasserstein CP-dictionary Learning"

    Examples
    --------
    >>> f = lambda z: (z[0] * z[1] - 6) ** 2 / 2
    >>> step = lambda i: lambda z, c: (6 * z[1 - i] + c * z[i]) / (z[1 - i] ** 2 + c)
    >>> found = bcd_prox([torch.tensor(1.0), torch.tensor(1.0)], [step(0), step(1)], f)
    >>> round(float(found.blocks[0] * found.blocks[1]), 2)
    6.0
    """
    now = list(blocks)
    if not now or len(now) != len(solve):
        raise ValueError(f"blocks and solve must be as many and at least one, got {len(now)} and {len(solve)}")
    if not (math.isfinite(prox) and prox > 0):
        raise ValueError(f"prox must be positive, got {prox}")
    if not 0 < rtol < 1 or max_iter < 1:
        raise ValueError(f"rtol must be between 0 and 1 and max_iter positive, got {rtol} and {max_iter}")
    values, measures = [objective(now)], []
    for _ in range(max_iter):
        square = torch.zeros_like(values[0])
        for i, minimiser in enumerate(solve):
            new = minimiser(now, prox)
            square = square + prox**2 * (new - now[i]).square().sum()
            now[i] = new
        values.append(objective(now))
        measures.append(square)
        if not bool(torch.isfinite(values[-1])):
            raise OverflowError("the objective is not finite: a block's solution is outside its domain")
        if bool(square <= rtol**2 * measures[0]):
            return BlockDescent(tuple(now), torch.stack(values), torch.stack(measures))
    found = BlockDescent(tuple(now), torch.stack(values), torch.stack(measures))
    error = float((measures[-1] / measures[0]).sqrt())
    raise ConvergenceError(
        f"bcd_prox: the prox-gradient is {error:.2g} of its first after {max_iter} sweeps, asked for {rtol:.2g}; "
        "allow more sweeps, or a larger rtol",
        best=found,
        error=error,
    )


def onto_simplex(V: Tensor) -> Tensor:
    """The nearest points with nonnegative entries that sum to one, along the last dimension."""
    ordered = V.sort(-1, descending=True).values
    excess = ordered.cumsum(-1) - 1
    count = torch.arange(1, V.shape[-1] + 1, dtype=V.dtype, device=V.device)
    support = (ordered * count > excess).sum(-1, keepdim=True)
    return (V - excess.gather(-1, support - 1) / support).clamp_min(0)
