"""efficiency_criterion: errors of an explicit loop, what one cluster means, the break-even accuracy, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resolvent.random import gaussian
from resolvent.solve import efficiency_criterion


def bumps(m=60, n=50):
    t = torch.linspace(0, 1, n, dtype=torch.float64)
    # Uneven places: partitions of even ones are ties.
    places = 0.1 + 0.8 * torch.linspace(0, 1, m, dtype=torch.float64) ** 1.3
    return torch.exp(-100 * (t - places[:, None]) ** 2)


def test_leaving_one_out_by_hand():
    # As many parts as snapshots: no chance in the parts.
    X = torch.eye(12, dtype=torch.float64)[torch.arange(16) // 8] + 0.2 * gaussian((16, 12), generator=9)
    X = X / torch.linalg.vector_norm(X, dim=1, keepdim=True)
    (row,) = efficiency_criterion(X, [2], [3], folds=16, generator=0).rows
    assert row.smallest == 8

    def left(x, rows):
        Vh = torch.linalg.svd(rows, full_matrices=False).Vh[:3]
        return float(torch.linalg.vector_norm(x - x @ Vh.mT @ Vh))

    rest = [torch.arange(16) != i for i in range(16)]
    side = torch.arange(16) // 8
    local = [left(X[i], X[rest[i] & (side == side[i])]) for i in range(16)]
    wrong = [left(X[i], X[rest[i] & (side != side[i])]) for i in range(16)]
    whole = [left(X[i], X[rest[i]]) for i in range(16)]
    assert row.local == pytest.approx(np.mean(local), rel=1e-9)
    assert row.local_worst == pytest.approx(max(local), rel=1e-9)
    assert row.wrong == pytest.approx(np.mean(wrong), rel=1e-9)
    assert row.global_ == pytest.approx(np.mean(whole), rel=1e-9)
    assert row.gain == pytest.approx(np.mean(whole) / np.mean(local), rel=1e-9)
    p = row.accuracy
    assert p * row.local + (1 - p) * row.wrong == pytest.approx(row.global_)


def test_one_cluster_gains_nothing():
    (row,) = efficiency_criterion(bumps(), [1], [4], generator=0).rows
    assert row.gain == 1
    assert row.equal_modes == 4
    assert np.isnan(row.wrong)


def test_rows_that_are_accepted():
    found = efficiency_criterion(bumps(), [2, 6], [3, 20], generator=0)
    assert [(r.n_clusters, r.n_modes) for r in found.rows] == [(2, 3), (2, 20), (6, 3), (6, 20)]
    assert found.rows[2].gain > found.rows[0].gain > 1
    assert found.rows[0].equal_modes > 3
    assert not found.rows[3].accepted  # ten snapshots cannot tell of twenty modes
    assert found.best() is max((r for r in found.rows if r.accepted), key=lambda r: r.gain)
    assert len(str(found).splitlines()) == 5
    strict = efficiency_criterion(bumps(), [2], [3], threshold=1e9, generator=0)
    assert strict.best() is None


def test_noise_gains_nothing_and_float32():
    X = gaussian((60, 20), generator=0)
    rows = efficiency_criterion(X, [2], [2, 5], generator=0).rows
    assert max(row.gain for row in rows) < 1.2
    single = efficiency_criterion(bumps().float(), [3], [3], generator=0).rows[0]
    assert single.local == pytest.approx(efficiency_criterion(bumps(), [3], [3], generator=0).rows[0].local, rel=1e-3)


def test_trajectories():
    X = bumps().reshape(20, 3, 50)
    (row,) = efficiency_criterion(X, [3], [5], generator=0).rows
    assert row.gain > 2


def test_bad_input():
    for call, word in (
        (lambda: efficiency_criterion(bumps(), [2], [3], folds=1), "folds"),
        (lambda: efficiency_criterion(bumps(), [2], [0]), "n_modes"),
        (lambda: efficiency_criterion(bumps(), [], [3]), "n_clusters"),
        (lambda: efficiency_criterion(bumps(), [61], [3]), "n_clusters"),
    ):
        with pytest.raises(ValueError, match=word):
            call()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_criterion_far_from_one(scale):
    X = gaussian((24, 6), torch.float32, generator=0)
    plain, found = (efficiency_criterion(Y, [2], [2], generator=0).rows[0] for Y in (X, X * scale))
    assert found.local == pytest.approx(plain.local, rel=1e-3) and found.global_ == pytest.approx(
        plain.global_, rel=1e-3
    )
