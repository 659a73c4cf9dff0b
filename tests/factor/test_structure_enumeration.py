"""structure_search by enumeration and by sampling: planted rings, evaluations, completion; and the batch of fits."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from resolvent import factor
from resolvent.errors import ConvergenceError
from resolvent.factor.structure_batch import Fit, Graph, Point
from resolvent.factor.structure_enumeration import Enumeration, joined
from resolvent.factor.structure_fit import Entries
from resolvent.factor.structure_state import Structure
from resolvent.random import as_generator, gaussian


def planted(dims, ranks, order, topology="ring", seed=0):
    point = Point(tuple(ranks), tuple(order))
    edges = joined(topology, len(dims))
    state = Structure.of_ranks(dims, point.at(edges), torch.float64, "cpu", as_generator(seed))
    return state.dense(), point, edges, state.parameters


@pytest.mark.parametrize(
    ("topology", "ranks"), [("ring", (2, 2, 2, 2)), ("train", (2, 3, 2)), ([(0, 1), (0, 2), (0, 3)], (2, 2, 2))]
)
def test_planted_networks_with_permuted_axes_are_found(topology, ranks):
    T, _, _, parameters = planted((3, 4, 3, 4), ranks, (2, 0, 3, 1), topology)
    options = {"method": "alternating_enumeration", "topology": topology, "max_rank": 4, "generator": 0}
    found = factor.structure_search(T, rtol=1e-4, budget=parameters, **options)
    assert found.parameters <= parameters
    near = found.network.contract()
    assert float(torch.dist(near, T) / T.norm()) == pytest.approx(found.error, abs=1e-9)
    assert found.error <= 1e-4
    assert found.evaluations == len(found.history) <= sum(found.visits)


def test_sampling_finds_them_too():
    T, _, _, parameters = planted((3, 3, 3, 3), (2, 2, 2, 1), (0, 2, 1, 3))
    found = factor.structure_search(
        T, rtol=1e-4, budget=parameters, method="local_sampling", max_rank=3, samples=20, generator=0
    )
    assert found.parameters <= parameters
    assert found.visits[0] == 1
    assert set(found.visits[1:]) <= {20}


def by_formula(objective, dims, edges, most, permute=True, seed=0):
    """A search whose fits are a given function of the ranks and the order."""
    seen = []

    def fit(points):
        seen.append(points)
        states = [Structure.of_ranks(dims, p.at(edges), torch.float64, "cpu", as_generator(0)) for p in points]
        return [Fit(objective(p), state) for p, state in zip(points, states, strict=True)]

    return Enumeration(fit, dims, edges, most, 200.0, 1e-4, None, permute, as_generator(seed)), seen


def test_a_round_looks_at_the_sum_of_the_neighbourhoods():
    n, dims = 5, (9,) * 5
    edges = joined("ring", n)
    for radius, most, window in ((1, 9, 3), (2, 9, 5), (1, 2, 2), (2, 4, 4)):
        search, _ = by_formula(lambda p: 1.0 / sum(p.ranks), dims, edges, most)
        search.alternating((1, radius), 0, 1, 10)
        assert search.visits == [2 * n * window + 1 + n * (n - 1) // 2]
        fixed, _ = by_formula(lambda p: 1.0 / sum(p.ranks), dims, edges, most, permute=False)
        fixed.alternating((1, radius), 0, 1, 10)
        assert fixed.visits == [(2 * n - 1) * window]
    coarse, _ = by_formula(lambda p: 1.0 / sum(p.ranks), dims, edges, 9)
    coarse.alternating((3, 1), 1, 1, 10)
    assert coarse.visits == [2 * n * 3 + 1 + n * (n - 1) // 2]


def test_separable_objectives_are_solved_and_points_fitted_once():
    dims, wanted = (4, 4, 4, 4), (3, 1, 2, 4)
    edges = joined("ring", 4)
    search, seen = by_formula(
        lambda p: math.sqrt(sum((a - b) ** 2 for a, b in zip(p.ranks, wanted, strict=True))), dims, edges, 4, False
    )
    search.alternating((2, 1), 2, 30, 3)
    assert search.smallest().state.ranks == Point(wanted, (0, 1, 2, 3)).at(edges)
    keys = [frozenset(p.at(edges).items()) for batch in seen for p in batch]
    assert len(keys) == len(set(keys)) == len(search.found)


def test_a_random_neighbour_leaves_a_local_optimum():
    # Two ranks must move together: each alone is at its best at (1, 1).
    edges = joined("train", 3)
    table = {(1, 1): 0.1, (2, 2): 0.0}
    results = []
    for patience in (0, 30):
        search, _ = by_formula(lambda p: table.get(p.ranks, 0.9), (9, 9, 9), edges, 2, False, seed=4)
        search.start = lambda: Point((1, 1), (0, 1, 2))
        search.alternating((1, 1), 0, 40, patience)
        results.append(search.smallest().error)
    assert results == [0.1, 0.0]


def test_windows_stay_inside_and_hold_their_centre():
    edges = joined("ring", 4)
    search, _ = by_formula(lambda p: 0.5, (9,) * 4, edges, 7)
    centre = Point((1, 7, 4, 2), (3, 1, 0, 2))
    *ranks, orders = search.windows(centre, 2)
    values = [[p.ranks[k] for p in window] for k, window in enumerate(ranks)]
    assert values == [[1, 2, 3, 4, 5], [3, 4, 5, 6, 7], [2, 3, 4, 5, 6], [1, 2, 3, 4, 5]]
    assert len({p.order for p in orders}) == 7
    assert orders[0] == centre
    assert all(centre in window for window in ranks)


def test_interpolation_fits_three_ranks_and_takes_the_rest_from_lines():
    edges = joined("train", 2)
    errors = {1: 0.4, 2: 0.0, 3: 0.3, 4: 0.0, 5: 0.3}
    search, seen = by_formula(lambda p: errors[p.ranks[0]], (9, 9), edges, 5, False)
    near = [Point((r,), (0, 1)) for r in range(1, 6)]
    search.visits.append(0)
    value, point = search._interpolated(near)
    assert [p.ranks[0] for p in seen[0]] == [1, 3, 5]
    assert (search.visits, point.ranks) == ([3], (3,))
    assert value == pytest.approx(18 * 3 / 81 + 200 * (0.09 - 1e-8))


def test_ranks_that_add_nothing_are_not_fitted():
    search, _ = by_formula(lambda p: 0.5, (3, 4, 3), joined("train", 3), 7)
    assert search.needed(Point((7, 7), (0, 1, 2))).ranks == (3, 3)
    ring, _ = by_formula(lambda p: 0.5, (3, 2, 9, 9), joined("ring", 4), 7)
    # The core of 2 can join a rank of 1 to one of 2 at most, and so on around.
    assert ring.needed(Point((1, 7, 7, 7), (0, 1, 2, 3))).ranks == (1, 2, 7, 3)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dims", [(3, 4, 3, 4), (2, 9, 3, 2)])
def test_the_batch_agrees_with_single_fits(dims, masked):
    # (2, 9, ...) are fitted in groups of one shape, the others padded.
    T, point, edges, _ = planted(dims, (2, 1, 2, 2), (0, 2, 1, 3))
    mask = torch.rand(T.shape, generator=as_generator(1)) < 0.9 if masked else None
    graph = Graph(1e30 * T, edges, mask)
    near = [
        point,
        point._replace(ranks=(1, 1, 1, 1)),
        point._replace(order=(1, 2, 0, 3)),
        Point((3, 2, 2, 4), (3, 1, 2, 0)),
    ]
    fits = graph.fit(near, 3, 200, 1e-9, as_generator(0))
    assert fits[0].error <= 1e-7
    for at, fit in zip(near, fits, strict=True):
        assert fit.state.ranks == at.at(edges)
        assert fit.state.parameters == at.parameters(dims, edges)
        assert Entries(1e30 * T, mask).error(fit.state) == pytest.approx(fit.error, abs=1e-9)
    alone = Structure.of_ranks(dims, near[1].at(edges), torch.float64, "cpu", as_generator(0))
    assert fits[1].error == pytest.approx(Entries(T, mask).fit(alone, 200, 1e-9), rel=2e-2)


def test_completion_by_enumeration():
    T, _, _, parameters = planted((4, 4, 4), (2, 2), (1, 0, 2), "train")
    mask = torch.rand(T.shape, generator=as_generator(0)) < 0.8
    found = factor.structure_search(
        torch.where(mask, T, torch.full_like(T, 9.0)),
        mask=mask,
        rtol=1e-5,
        budget=parameters,
        method="alternating_enumeration",
        topology="train",
        max_rank=3,
        sweeps=400,
        generator=0,
    )
    assert float(torch.dist(found.network.contract(), T) / T.norm()) < 1e-2


def test_kinds_seeds_and_budgets():
    T, _, _, parameters = planted((3, 3, 3), (2, 2), (1, 0, 2), "train")
    options = {"method": "alternating_enumeration", "topology": "train", "max_rank": 3, "rounds": 4, "generator": 3}
    a, b = (factor.structure_search(T.float().numpy(), rtol=1e-4, **options) for _ in range(2))
    assert a.network.contract().dtype == "float32"
    assert (a.network.contract() == b.network.contract()).all()
    assert a.parameters == parameters
    with pytest.raises(ConvergenceError) as caught:
        factor.structure_search(gaussian((3, 3, 3), generator=0), rtol=1e-4, budget=12, **options)
    assert caught.value.best.visits
    assert factor.structure_search(torch.zeros(2, 3), rtol=1e-3, **options).error == 0


def test_full_graphs_and_pairs():
    assert joined("full", 4) == tuple(itertools.combinations(range(4), 2))
    assert joined("ring", 2) == ((0, 1),)
    assert joined([(2, 0), (1, 2)], 3) == ((0, 2), (1, 2))
    T, _, _, parameters = planted((5, 5, 5), (2, 2, 2), (0, 1, 2), "full")
    found = factor.structure_search(
        T, rtol=1e-4, budget=parameters, method="alternating_enumeration", topology="full", max_rank=4, generator=0
    )
    assert found.parameters <= parameters


@pytest.mark.parametrize("method", ["greedy", "alternating_enumeration"])
@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_the_size_of_the_entries_does_not_matter(method, size):
    T, _, _, _ = planted((3, 3), (2,), (0, 1), "train")
    found = factor.structure_search(size * T, rtol=1e-6, method=method, topology="train", max_rank=3, generator=0)
    assert found.ranks == {(0, 1): 2}
    torch.testing.assert_close(found.network.contract() / size, T, rtol=1e-5, atol=1e-6)
