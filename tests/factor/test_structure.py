"""structure_search: planted networks, completion, any loss, node splits, budgets, bad input; and its state's algebra."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from resolvent import factor
from resolvent.errors import ConvergenceError
from resolvent.factor.structure_fit import Entries
from resolvent.factor.structure_state import Structure
from resolvent.random import as_generator, gaussian


def planted(dims, ranks, seed=0):
    state = Structure.of_ranks(dims, ranks, torch.float64, "cpu", as_generator(seed))
    return state.dense(), state.parameters


def with_inner_nodes():
    """Three axes and two inner nodes, all joined."""
    ranks = {(0, 1): 2, (0, 3): 3, (1, 3): 2, (2, 3): 2, (2, 4): 3, (3, 4): 2, (0, 4): 2}
    dims = (3, 4, 5, 1, 1)
    shapes = [[dims[k] if j == k else ranks.get((min(j, k), max(j, k)), 1) for j in range(5)] for k in range(5)]
    return Structure([gaussian(shape, generator=k) for k, shape in enumerate(shapes)], 3)


@pytest.mark.parametrize(
    "ranks",
    [
        {(0, 1): 2, (1, 2): 3, (2, 3): 2},
        {(0, 1): 2, (1, 2): 2, (2, 3): 2, (0, 3): 2},
        {(0, 2): 3},
    ],
)
def test_planted_networks_are_found(ranks):
    T, parameters = planted((4, 4, 4, 4), ranks)
    found = factor.structure_search(T, rtol=1e-4, generator=0)
    assert found.error <= 1e-4
    assert found.parameters <= 1.2 * parameters
    near = found.network.contract()
    assert float(torch.dist(near, T) / T.norm()) == pytest.approx(found.error, abs=1e-10)
    errors = [step.error for step in found.history if step.change != "split"]
    assert all(b <= a * (1 + 1e-6) + 1e-12 for a, b in itertools.pairwise(errors))


def test_matrix_needs_its_rank():
    M = gaussian((8, 3), generator=0) @ gaussian((3, 9), generator=1)
    found = factor.structure_search(M, rtol=1e-8, generator=0)
    assert found.ranks == {(0, 1): 3}
    noisy = M + 0.1 * gaussian((8, 9), generator=2)
    best = float(torch.linalg.svdvals(noisy)[3:].norm() / noisy.norm())
    assert factor.structure_search(noisy, budget=51, generator=0).error == pytest.approx(best, rel=1e-2)


def test_a_hub_is_found_by_splitting():
    core = gaussian((2, 2, 2, 2), generator=0)
    T = factor.mode_product(core, [gaussian((8, 2), generator=n + 1) for n in range(4)], range(4))
    found = factor.structure_search(T, rtol=1e-4, generator=0)
    whole = factor.structure_search(T, rtol=1e-4, generator=0, split_nodes=False)
    assert len(found.network.cores) > 4
    assert any(step.change == "split" for step in found.history)
    assert found.parameters < whole.parameters


def test_completion():
    T, parameters = planted((5, 5, 5, 5), {(0, 1): 2, (1, 2): 2}, seed=1)
    mask = torch.rand(T.shape, generator=as_generator(0)) < 0.5
    broken = torch.where(mask, T, torch.full_like(T, 7.0))
    found = factor.structure_search(broken, mask=mask, rtol=1e-4, generator=0)
    assert float(torch.dist(found.network.contract(), T) / T.norm()) < 1e-2
    assert found.parameters <= 1.5 * parameters


def test_a_full_mask_is_no_mask():
    T, _ = planted((3, 4, 3), {(0, 1): 2})
    plain, masked = Entries(T), Entries(T, torch.ones_like(T, dtype=torch.bool))
    states = [Structure.of_ranks((3, 4, 3), {(0, 1): 2}, torch.float64, "cpu", as_generator(0)) for _ in range(2)]
    errors = [o.fit(s, 3, 0.0) for o, s in zip((plain, masked), states, strict=True)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-6, abs=1e-9)


def test_any_loss():
    T, parameters = planted((3, 4), {(0, 1): 2})
    found = factor.structure_search(lambda X: (X - T).square().sum(), (3, 4), rtol=1e-5, sweeps=40, generator=0)
    assert found.parameters <= 1.2 * parameters
    torch.testing.assert_close(found.network.contract(), T, rtol=0, atol=1e-2)


def test_the_algebra_of_the_state():
    state = with_inner_nodes()
    T = state.dense()
    torch.testing.assert_close(state.network().contract(), T)
    for u, v in ((3, 4), (4, 3), (0, 4), (2, 3)):
        joined = state._joined(u, v)
        assert joined.nodes == 4
        torch.testing.assert_close(joined.dense(), T)
    for k in range(5):
        near = state.matrix(k) @ state.environment(k)
        wanted = factor.unfold(T, k) if k < 3 else T.reshape(1, -1)
        torch.testing.assert_close(near, wanted)
    grown = state.grown((1, 2), 2, as_generator(0))
    torch.testing.assert_close(grown.dense(), T)
    assert grown.parameters == state.parameters + state.cost((1, 2), 2)


def test_a_rank_that_is_too_large_shrinks():
    T, parameters = planted((6, 6, 6), {(0, 1): 2, (1, 2): 2})
    state = Structure.of_ranks((6, 6, 6), {(0, 1): 4, (1, 2): 2}, torch.float64, "cpu", as_generator(1))
    Entries(T).fit(state, 500, 1e-6)
    joined = state.split(1e-6).merged()
    assert joined.parameters == parameters
    torch.testing.assert_close(joined.dense(), T, rtol=0, atol=1e-4)


def test_splits_keep_the_product():
    # A core (6; 3, 4) of rank 1 between (6, 3) and 4, and one of rank 2 between its own axis and its edges.
    for left in ((6, 3), (6,)):
        shape = (6, 3, 4)
        rank = 2
        right = shape[len(left) :]
        core = torch.tensordot(gaussian((*left, rank), generator=0), gaussian((rank, *right), generator=1), dims=1)
        cores = [core, gaussian((3, 5, 1), generator=2), gaussian((4, 1, 7), generator=3)]
        state = Structure(cores, 3)
        split = state.split(1e-10)
        assert split is not None
        assert split.nodes == 4
        assert split.parameters < state.parameters
        torch.testing.assert_close(split.dense(), state.dense())


def test_budgets_and_baselines():
    T = gaussian((4, 4, 4), generator=0)
    found = factor.structure_search(T, budget=40, generator=0)
    assert found.parameters <= 40
    assert found.error < factor.structure_search(T, budget=20, generator=0).error
    with pytest.raises(ConvergenceError) as caught:
        factor.structure_search(T, budget=40, rtol=1e-3, generator=0)
    assert caught.value.best.parameters <= 40
    for choose in ("error", "random"):
        assert factor.structure_search(T, rtol=0.5, choose=choose, generator=0).error <= 0.5


def test_kinds_dtypes_and_seeds():
    T, _ = planted((3, 3, 3), {(0, 1): 2})
    a, b = (factor.structure_search(T.numpy(), rtol=1e-6, generator=3) for _ in range(2))
    assert isinstance(a.network.contract(), np.ndarray)
    assert np.array_equal(a.network.contract(), b.network.contract())
    single = factor.structure_search(T.float(), rtol=1e-4, generator=0)
    assert single.network.contract().dtype == torch.float32
    torch.testing.assert_close(single.network.contract(), T.float(), rtol=0, atol=1e-3)
    assert factor.structure_search(torch.zeros(2, 3), rtol=1e-3).error < 1e-20
    assert factor.structure_search(torch.ones(2, 1, 3), rtol=1e-3).network.shape == (2, 1, 3)


def test_bad_input():
    T = gaussian((3, 4), generator=0)
    for call, word in (
        (lambda: factor.structure_search(T), "rtol, budget"),
        (lambda: factor.structure_search(T, rtol=2.0), "rtol"),
        (lambda: factor.structure_search(T, budget=6), "at least sum"),
        (lambda: factor.structure_search(T, rtol=0.1, method="genetic"), "method"),
        (lambda: factor.structure_search(T, rtol=0.1, choose="best"), "choose"),
        (lambda: factor.structure_search(T, rtol=0.1, step=0), "step"),
        (lambda: factor.structure_search(T, rtol=0.1, restarts=-1), "restarts"),
        (lambda: factor.structure_search(T, rtol=0.1, mask=torch.ones(3, 4)), "mask"),
        (lambda: factor.structure_search(T, (3, 4), rtol=0.1), "dims"),
        (lambda: factor.structure_search(T[0], rtol=0.1), "two axes"),
        (lambda: factor.structure_search(T * 1j, rtol=0.1), "real"),
        (lambda: factor.structure_search(T * math.inf, rtol=0.1), "NaN"),
        (lambda: factor.structure_search(T.clone().requires_grad_(), rtol=0.1), "gradient"),
        (lambda: factor.structure_search(lambda X: X.sum(), rtol=0.1), "dims"),
        (lambda: factor.structure_search(lambda X: X, (2, 2), rtol=0.1), "one finite number"),
        (lambda: factor.structure_search(T, rtol=0.1, method="local_sampling", topology="star"), "topology"),
        (lambda: factor.structure_search(T, rtol=0.1, method="local_sampling", topology=[(0, 2)]), "topology"),
        (lambda: factor.structure_search(T, rtol=0.1, method="local_sampling", topology=3), "topology"),
        (lambda: factor.structure_search(T, rtol=0.1, method="local_sampling", weight=0), "weight"),
        (lambda: factor.structure_search(T, rtol=0.1, method="local_sampling", samples=0), "samples"),
        (lambda: factor.structure_search(T, rtol=0.1, method="alternating_enumeration", radius=1), "radius"),
        (lambda: factor.structure_search(T, rtol=0.1, method="alternating_enumeration", max_rank=0), "max_rank"),
        (lambda: factor.structure_search(T, budget=9, method="alternating_enumeration"), "rtol"),
        (
            lambda: factor.structure_search(lambda X: X.sum(), (2, 2), rtol=0.1, method="alternating_enumeration"),
            "needs a tensor",
        ),
    ):
        with pytest.raises(ValueError, match=word):
            call()
