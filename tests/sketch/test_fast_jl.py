"""fjlt: the parts of the paper, the distribution of P, its density, distances over many seeds, bad input."""

from __future__ import annotations

import math

import pytest
import torch

from resolvent import sketch
from resolvent.random import gaussian
from resolvent.sketch.fast_jl import _bernoulli_pattern


def test_density():
    n, points = 4096, 1000
    log = math.log(points)
    for eps in (0.01, 0.15, 0.25, 0.9):
        classic = sketch.fjlt_density(eps, points, n, analysis="classic")
        improved = sketch.fjlt_density(eps, points, n)
        assert classic == pytest.approx(log**2 / n)
        assert classic / improved == pytest.approx(max(1, min(math.log(1 / eps) / eps, log)))
    assert sketch.fjlt_density(0.1, 1000, 4) == 1
    # the transform is padded
    assert sketch.fjlt_density(0.25, points, 4097) == pytest.approx(sketch.fjlt_density(0.25, points, 8192))


@pytest.mark.parametrize("q", [0.003, 0.2, 0.9, 1.0])
def test_places_are_independent(q):
    m, N = 200, 256
    g = torch.Generator().manual_seed(0)
    indptr, indices = _bernoulli_pattern(m, N, q, g)
    counts = indptr.diff()
    rows = torch.repeat_interleave(torch.arange(m), counts)
    assert len(torch.unique(rows * N + indices)) == len(indices) == int(indptr[-1])
    spread = math.sqrt(m * N * q * (1 - q))
    assert abs(len(indices) - m * N * q) <= 5 * spread
    # binomial columns: chi square of 256 cells has mean 256 and deviation 23
    hits = torch.bincount(indices, minlength=N).double()
    if q < 1:
        assert float(((hits - m * q) ** 2).sum()) / (m * q * (1 - q)) < 256 + 6 * 23
        assert float(((counts - N * q) ** 2).sum()) / (N * q * (1 - q)) < 200 + 6 * 20


def test_parts():
    S = sketch.fjlt(300, 100, eps=0.3, points=50, density=0.3, generator=0, dtype=torch.float64)
    P, mixed = S._parts
    assert tuple(P.shape) == (300, 128) and S.cost == P.nnz + 100 + 128 * 7
    # entries are normal of variance 1 / (q m)
    values = P.values * math.sqrt(0.3 * 300)
    assert float(values.var()) == pytest.approx(1, abs=5 * math.sqrt(2 / P.nnz))
    assert float((values**4).mean()) == pytest.approx(3, abs=5 * math.sqrt(96 / P.nnz))
    torch.testing.assert_close(S.to_dense(), P.to_dense() @ mixed.to_dense())


def test_full_density_is_gaussian():
    # P has independent normal entries, and a rotated Gaussian matrix is one: columns of squared length about 1
    D = sketch.fjlt(2000, 8, density=1.0, generator=0, dtype=torch.float64).to_dense()
    assert float((D.mT @ D - torch.eye(8)).abs().max()) < 6 * math.sqrt(2 / 2000)


def test_distances_are_kept_over_200_seeds():
    points, n, eps = 40, 128, 0.5
    m = math.ceil(4 * math.log(points) / eps**2)
    X = torch.cat([gaussian((20, n), generator=0), 3 * torch.eye(20, n, dtype=torch.float64)])
    failed = 0
    for seed in range(200):
        S = sketch.fjlt(m, n, eps=eps, points=points, generator=seed, dtype=torch.float64)
        failed += sketch.distance_distortion(S, X).item() > eps
    assert failed <= 10


def test_bad_input():
    for call, word in (
        (lambda: sketch.fjlt(4, 8, eps=1.0), "eps must lie in"),
        (lambda: sketch.fjlt(4, 8, points=1), "points must be at least 2"),
        (lambda: sketch.fjlt(4, 8, density="sparse"), "analysis must be 'improved' or 'classic'"),
        (lambda: sketch.fjlt(4, 8, density=0.0), "density must be"),
        (lambda: sketch.fjlt_density(0.5, 10, 8, constant=0), "constant must be positive"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
