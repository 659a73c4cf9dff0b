"""core_shape: every solver against enumeration, the paper's bounds, trees, sparse tensors, bad input."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from resolvent import factor
from resolvent.random import gaussian


def decaying(shape, seed=0, rate=0.8):
    T = gaussian(shape, generator=seed)
    for n, size in enumerate(shape):
        scale = [1] * len(shape)
        scale[n] = size
        T = T * (rate ** torch.arange(size, dtype=T.dtype)).reshape(scale)
    return T


def best_by_hand(T, budget):
    squares = [s.square() for s in factor.unfolding_values(T)]
    best = (-1.0, ())
    for ranks in itertools.product(*(range(1, n + 1) for n in T.shape)):
        if math.prod(ranks) + sum(r * n for r, n in zip(ranks, T.shape, strict=True)) <= budget:
            best = max(best, (float(sum(s[:r].sum() for s, r in zip(squares, ranks, strict=True))), ranks))
    return best


@pytest.mark.parametrize("shape", [(6, 7, 5), (12, 12, 12), (4, 5, 3, 4), (9, 8)])
def test_solvers_against_enumeration(shape):
    T = decaying(shape)
    for share in (0.1, 0.3, 0.7):
        budget = max(1 + sum(shape), int(share * T.numel()))
        value, _ = best_by_hand(T, budget)
        found = {m: factor.core_shape(T, budget, method=m) for m in ("brute", "auto", "greedy", "bang", "milp")}
        for method, one in found.items():
            assert (
                one.parameters
                == math.prod(one.ranks) + sum(r * n for r, n in zip(one.ranks, shape, strict=True))
                <= budget
            )
            assert one.packed <= value * (1 + 1e-12), method
        assert found["brute"].packed == pytest.approx(value, rel=1e-12)
        assert found["auto"].packed == found["brute"].packed
        assert found["milp"].packed >= 0.9 * value


def test_bounds_hold_for_the_decomposition():
    T = decaying((10, 11, 12), rate=0.7)
    for budget in (60, 120, 300):
        found = factor.core_shape(T, budget)
        _, info = factor.tucker(T, found.ranks, return_info=True)
        assert found.lower <= info.error * (1 + 1e-9)
        assert info.error <= found.bound * (1 + 1e-9)
        assert found.bound <= found.lower * math.sqrt(3) * (1 + 1e-9)


def test_exact_ranks_are_not_exceeded():
    core = gaussian((2, 3, 2), generator=0)
    T = factor.mode_product(core, [gaussian((9, r), generator=r) for r in (2, 3, 2)], range(3))
    found = factor.core_shape(T, 700)
    assert found.ranks == (2, 3, 2) or found.bound < 1e-7


def test_the_larger_budget_is_never_worse():
    T = decaying((8, 9, 10))
    packed = [factor.core_shape(T, b, method="brute").packed for b in range(28, 600, 40)]
    assert all(a <= b for a, b in itertools.pairwise(packed))


def test_a_path_is_a_tensor_train():
    T = decaying((5, 6, 4, 5))
    path = [(0, 1), (1, 2), (2, 3)]
    spectra = [torch.linalg.svdvals(T.reshape(math.prod(T.shape[: k + 1]), -1)) for k in range(3)]
    for budget in (40, 80, 160):
        found = factor.core_shape(T, budget, tree=path)
        best = (-1.0, ())
        for r in itertools.product(range(1, 6), range(1, 21), range(1, 6)):
            if 5 * r[0] + 6 * r[0] * r[1] + 4 * r[1] * r[2] + 5 * r[2] <= budget:
                best = max(best, (float(sum(s[:k].square().sum() for s, k in zip(spectra, r, strict=True))), r))
        assert found.packed == pytest.approx(best[0], rel=1e-12)
        train, info = factor.tt(T, found.ranks, return_info=True)
        assert train.parameters == found.parameters <= budget
        assert found.lower * (1 - 1e-9) <= info.error <= found.bound * (1 + 1e-9)
        for method in ("greedy", "bang"):
            assert factor.core_shape(T, budget, tree=path, method=method).packed <= found.packed * (1 + 1e-12)


def test_sparse_numpy_and_known_values():
    T = decaying((6, 5, 7))
    T[T.abs() < 0.3] = 0
    dense = factor.core_shape(T, 60)
    assert factor.core_shape(T.to_sparse(), 60).ranks == dense.ranks
    assert factor.core_shape(T.numpy(), 60).ranks == dense.ranks
    assert factor.core_shape(T.float(), 60).ranks == dense.ranks
    assert factor.core_shape(T, 60, values=factor.unfolding_values(T)).ranks == dense.ranks
    assert factor.core_shape(T, np.int64(60)).ranks == dense.ranks
    star = [(0, 3), (1, 3), (2, 3)]
    assert factor.core_shape(T, 60, tree=star).ranks == dense.ranks


def test_many_axes_take_the_program():
    T = decaying((4,) * 6, rate=0.6)
    values = [s.repeat_interleave(8).div(8**0.5) for s in factor.unfolding_values(T)]
    big = torch.zeros(1).expand(32, 32, 32, 32, 32, 32)
    found = factor.core_shape(big, 600, values=values, rtol=0.9)
    assert found.parameters <= 600
    for method in ("greedy", "bang"):
        assert found.packed >= factor.core_shape(big, 600, values=values, method=method).packed


def test_bad_input():
    T = decaying((3, 4, 5))
    for call, word in (
        (lambda: factor.core_shape(T, 12), "at least 13"),
        (lambda: factor.core_shape(T, 20.5), "budget"),
        (lambda: factor.core_shape(T, 20, method="rre"), "method"),
        (lambda: factor.core_shape(T, 20, rtol=0.0), "rtol"),
        (lambda: factor.core_shape(T, 20, method="milp", tree=[(0, 1), (1, 2)]), "tree"),
        (lambda: factor.core_shape(T, 20, tree=[(0, 1), (0, 1)]), "cycle"),
        (lambda: factor.core_shape(T, 20, tree=[(0, 1)]), "join"),
        (lambda: factor.core_shape(T, 20, tree=[(0, 0)]), "different"),
        (lambda: factor.core_shape(T, 20, values=[torch.ones(3)]), "values"),
        (lambda: factor.core_shape(T, 20, values=[torch.arange(3.0)] * 3), "descending"),
        (lambda: factor.core_shape(T * math.nan, 20), "NaN"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
