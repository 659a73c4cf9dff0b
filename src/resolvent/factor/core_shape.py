"""How large the core of a Tucker decomposition, or the ranks of a tree network, should be for a budget of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from resolvent.factor.core_shape_program import by_program
from resolvent.factor.packing import Packing
from resolvent.factor.tensor import tensor_of, unfold, unfolding_values
from resolvent.operators.arrays import as_tensor

Method = Literal["auto", "greedy", "bang", "brute", "milp"]

# Shapes that are looked at one by one before the integer program takes over.
_FEW = 4_000_000


class CoreShape(NamedTuple):
    """The ranks that were chosen, and what they promise.

    Attributes
    ----------
    ranks : one for every axis of the tensor (the core's shape), or for every edge of the tree
    parameters : numbers that a decomposition of these ranks holds
    packed : the sum over axes (edges) of the leading squared singular values
    bound : upper bound on the relative error of the best decomposition of these ranks, from the values left out
    lower : lower bound on it: the largest of what one axis (edge) alone leaves out
    """

    ranks: tuple[int, ...]
    parameters: int
    packed: float
    bound: float
    lower: float


def core_shape(
    T: Any,
    budget: int,
    *,
    method: Method = "auto",
    rtol: float = 0.3,
    tree: Sequence[tuple[int, int]] | None = None,
    values: Sequence[Any] | None = None,
) -> CoreShape:
    r"""The shape of a Tucker core, or the ranks of a tree network, that keeps most of a tensor within a budget.

    .. math:: \max_r \sum_n \sum_{i \le r_n} \sigma_i^2(T_{(n)}) \quad\text{so that}\quad
              \prod_n r_n + \sum_n r_n I_n \le \text{budget}

    Parameters
    ----------
    T : (I_1, ..., I_N) tensor; for torch also sparse COO, which is never made dense
    budget : how many numbers the decomposition may hold, at least ``1 + sum(I)``
    method : "brute" looks at every shape; "greedy" adds one to the axis that gains most, "bang" to the one that gains
        most for each number; "milp" solves integer programs with the two parts of the budget apart, for a grid of
        divisions; "auto" is "brute" where it is quick (its last axis costs nothing), else the best of "milp" and the
        two others
    rtol : of "milp": the ratio of neighbouring divisions is 1 + rtol; smaller is better and slower
    tree : edges (u, v) between nodes of a tree network. Nodes 0 to N - 1 have the axes of T, others none. A node of
        edges e, f, ... holds I r_e r_f ... numbers. None is Tucker's star. "milp" is for the star alone
    values : singular values of all unfoldings, where they are known (`unfolding_values`), in the order of the ranks

    Returns
    -------
    CoreShape : (ranks, parameters, packed, bound, lower)

    Raises
    ------
    ValueError : the budget does not hold all ranks 1, `tree` is no tree, or an argument is out of range

    Notes
    -----
    The values that are left out bound the squared error of the best decomposition of these ranks from above, and from
    below by their sum over N: packing as much as possible is within sqrt(N) of the best shape, and often equal to it.
    No decomposition is computed: after the singular values (Gram matrices, I_n flops an entry and axis) the choice
    takes milliseconds. The packing is NP-hard for many axes; the integer program is within 1 - rtol of its optimum.
    The result is integers, without gradients.

    References
    ----------
    "Approximately Optimal Core Shapes for Tensor Decompositions"

    Examples
    --------
    >>> import torch
    >>> x = torch.linspace(0, 1, 12).double()
    >>> T = torch.exp(-(x[:, None, None] - x[:, None]).abs() * 3) * (1 + x)
    >>> core_shape(T, 90).ranks
    (3, 2, 1)
    """
    problem = _problem(T, tree, values)
    if isinstance(budget, bool) or not isinstance(budget, int | np.integer) or budget < problem.smallest:
        raise ValueError(f"budget must be an int of at least {problem.smallest}, for all ranks 1, got {budget!r}")
    if method not in ("auto", "greedy", "bang", "brute", "milp"):
        raise ValueError(f"method must be auto, greedy, bang, brute or milp, got {method!r}")
    if not isinstance(rtol, int | float) or not 0 < rtol < 1:
        raise ValueError(f"rtol must be between 0 and 1, got {rtol!r}")
    if method == "milp" and tree is not None:
        raise ValueError("method 'milp' is for Tucker's star: take brute, greedy or bang for a tree")
    limit = int(budget)
    if method == "auto":
        few = problem.shapes <= _FEW
        names: tuple[str, ...] = (
            ("brute",) if few else ("greedy", "bang") if tree is not None else ("milp", "greedy", "bang")
        )
    else:
        names = (method,)
    found = [_ranks(problem, limit, name, rtol) for name in names]
    return _report(problem, max(found, key=problem.packed))


def _ranks(problem: Packing, budget: int, method: str, rtol: float) -> tuple[int, ...]:
    if method == "brute":
        return problem.brute(budget)
    if method == "milp":
        return by_program(problem, budget, rtol)
    return problem.greedy(budget, for_each_number=method == "bang")


def _problem(T: Any, tree: Sequence[tuple[int, int]] | None, values: Any) -> Packing:
    shape = tuple(int(s) for s in T.shape) if hasattr(T, "shape") else tensor_of(T, "T")[0].shape
    N = len(shape)
    nodes, sides = _nodes(tree, N)
    spectra = values
    if spectra is None:
        spectra = unfolding_values(T) if tree is None else _edge_values(T, sides)
    squares = [np.square(as_tensor(v, "values")[0].detach().double().cpu().numpy()) for v in spectra]
    if len(squares) != len(sides):
        raise ValueError(f"values must hold one vector for each of the {len(sides)} ranks, got {len(squares)}")
    # A rank beyond either side of its unfolding gains nothing.
    limits = [min(math.prod(shape[i] for i in s), math.prod(shape[i] for i in range(N) if i not in s)) for s in sides]
    for e, (v, limit) in enumerate(zip(squares, limits, strict=True)):
        if v.ndim != 1 or len(v) < 1 or not np.isfinite(v).all() or (np.diff(v) > 1e-12 * v[0]).any():
            raise ValueError(f"values[{e}] must be a descending vector of finite numbers")
        squares[e] = v[: min(limit, len(v))]
    sizes = [shape[u] if u < N else 1 for u in range(len(nodes))]
    return Packing(squares, [tuple(n) for n in nodes], sizes)


def _nodes(tree: Sequence[tuple[int, int]] | None, N: int) -> tuple[list[list[int]], list[list[int]]]:
    """The edges at every node, and for every edge the axes on one side of it."""
    edges = [(n, N) for n in range(N)] if tree is None else [(int(u), int(v)) for u, v in tree]
    count = max([N, *(max(e) + 1 for e in edges)])
    nodes: list[list[int]] = [[] for _ in range(count)]
    for e, (u, v) in enumerate(edges):
        if min(u, v) < 0 or u == v:
            raise ValueError(f"tree must hold pairs of different nodes, got {(u, v)}")
        nodes[u].append(e)
        nodes[v].append(e)
    sides = []
    for e, (start, _) in enumerate(edges):
        seen, todo = {start}, [start]
        while todo:
            u = todo.pop()
            for f in nodes[u]:
                w = sum(edges[f]) - u
                if f != e and w not in seen:
                    seen.add(w)
                    todo.append(w)
        sides.append(sorted(u for u in seen if u < N))
        if edges[e][1] in seen:
            raise ValueError(f"tree has a cycle through the edge {edges[e]}")
    if len(edges) != count - 1 or any(not 0 < len(s) < N for s in sides if N > 1):
        raise ValueError(f"tree must join all {count} nodes, with axes of T on both sides of every edge")
    return nodes, sides


def _edge_values(T: Any, sides: list[list[int]]) -> list[np.ndarray]:
    import torch

    t = tensor_of(T, "T")[0].detach()
    wide = t.to(torch.complex128 if t.is_complex() else torch.float64)
    found = []
    for side in sides:
        M = unfold(wide, side)
        M = M if M.shape[0] <= M.shape[1] else M.mH
        found.append(torch.linalg.eigvalsh(M @ M.mH).flip(0).clamp(min=0).sqrt().cpu().numpy())
    return found


def _report(problem: Packing, ranks: tuple[int, ...]) -> CoreShape:
    whole = [float(v.sum()) for v in problem.squares]
    tails = [float(v[r:].sum()) for v, r in zip(problem.squares, ranks, strict=True)]
    size = max(whole) or 1.0
    bound, lower = math.sqrt(sum(tails) / size), math.sqrt(max(tails) / size)
    return CoreShape(ranks, problem.parameters(ranks), problem.packed(ranks), min(1.0, bound), lower)
