"""k_medoids: the optimum by brute force, invariances, ties, float32, bad input."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from resolvent.random import gaussian
from resolvent.solve import k_medoids


def distances(m, seed=0, p=3):
    X = gaussian((m, p), generator=seed)
    return torch.cdist(X, X).fill_diagonal_(0)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_of_all_choices(k, seed):
    D = distances(14, seed)
    best = min(float(D[:, list(chosen)].amin(dim=1).sum()) for chosen in combinations(range(14), k))
    found = k_medoids(D, k, generator=0)
    assert float(found.cost) == pytest.approx(best, rel=1e-12)
    assert found.labels[found.medoids].tolist() == list(range(k))
    torch.testing.assert_close(D[torch.arange(14), found.medoids[found.labels]].sum(), found.cost)


def test_no_swap_is_better():
    D = distances(40, 5) ** 3  # no metric
    found = k_medoids(D, 4, starts=1, generator=0)
    for place in range(4):
        for point in range(40):
            other = found.medoids.clone()
            other[place] = point
            assert float(D[:, other].amin(dim=1).sum()) >= float(found.cost) * (1 - 1e-9)


def test_order_and_scale_change_nothing():
    D = distances(30, 2)
    found = k_medoids(D, 3, starts=20, generator=0)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    moved = k_medoids(7 * D[order][:, order], 3, starts=20, generator=3)
    assert float(moved.cost) == pytest.approx(7 * float(found.cost), rel=1e-12)


def test_coincident_points_and_as_many_clusters_as_points():
    found = k_medoids(torch.zeros(5, 5), 3, generator=0)
    assert float(found.cost) == 0
    assert sorted(set(found.labels.tolist())) == [0, 1, 2]
    assert float(k_medoids(distances(6), 6, generator=0).cost) == 0


def test_kinds_and_float32():
    D = distances(12).float()
    found = k_medoids(D, 2, generator=0)
    assert found.cost.dtype == torch.float32
    array = k_medoids(D.numpy(), 2, generator=0)
    assert isinstance(array.labels, np.ndarray)
    assert isinstance(array.cost, float)
    assert array.labels.tolist() == found.labels.tolist()


@pytest.mark.parametrize(
    ("D", "k", "word"),
    [
        (torch.ones(3, 4), 1, "dissimilarity"),
        (torch.ones(3, 3), 1, "diagonal"),
        (-distances(3), 1, "negative"),
        (distances(3) * torch.nan, 1, "NaN"),
        (distances(3), 4, "n_clusters"),
        (distances(3), 0, "n_clusters"),
    ],
)
def test_bad_input(D, k, word):
    with pytest.raises(ValueError, match=word):
        k_medoids(D, k)
    with pytest.raises(ValueError, match="starts"):
        k_medoids(distances(3), 1, starts=0)
