"""The curve of a spectrum, and the ranks that keep its energy."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import scipy.sparse
import torch

from resolvent.report.curve import POINTS, ks_distance
from resolvent.report.measure import measure_matrix, measured


def gaussian(m: int, n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_curve_of_noise_lies_on_both_nulls() -> None:
    m, curve = measured(3 * gaussian(900, 400), quick=False)
    assert curve is not None and curve.shuffled is not None
    assert len(curve.values) == len(curve.shuffled) == POINTS
    assert curve.values[0] == pytest.approx(m.spectral_norm, rel=1e-5)
    assert curve.variance == pytest.approx(9, rel=0.02) and curve.ratio == pytest.approx(400 / 900)
    assert curve.edge == pytest.approx(3 * (30 + 20), rel=0.02)
    assert curve.shuffled_distance < 0.02
    assert np.array(curve.shuffled) == pytest.approx(np.array(curve.values), rel=0.05)
    json.dumps(dataclasses.asdict(curve))


def test_a_curve_of_structure_leaves_both() -> None:
    A = gaussian(300, 200) * torch.logspace(0, -2, 200, dtype=torch.float64)
    _, curve = measured(A, quick=False)
    assert len(curve.values) == 200 and curve.shuffled_distance > 0.3
    assert list(curve.values) == sorted(curve.values, reverse=True)


def test_what_has_no_curve_or_only_half_of_one() -> None:
    A = gaussian(50, 40)
    assert measured(A, quick=True)[1].shuffled is None
    assert measured(A, quick=False, curve=False)[1] is None
    assert measured(torch.zeros(30, 30), quick=False)[1] is None
    small = measured(gaussian(9, 5), quick=False)[1]
    assert (small.variance, small.edge) == (None, None) and len(small.shuffled) == 5
    sparse = scipy.sparse.random_array((300, 40), density=0.2, rng=0, format="csr")
    assert measured(sparse, quick=False)[1].shuffled is None
    assert measured(scipy.sparse.eye_array(3000, format="csr"), quick=True)[1] is None


@pytest.mark.parametrize("scale", [1e-250, 1e250])
def test_a_curve_beyond_the_squares_of_doubles(scale: float) -> None:
    A = gaussian(60, 40)
    plain, scaled = measured(A, quick=False)[1], measured(scale * A, quick=False)[1]
    assert np.array(scaled.values) == pytest.approx(scale * np.array(plain.values), rel=1e-5)
    assert np.array(scaled.shuffled) == pytest.approx(scale * np.array(plain.shuffled), rel=1e-3)
    assert scaled.edge == pytest.approx(scale * plain.edge, rel=1e-5)
    assert scaled.variance is None or scaled.variance == pytest.approx(scale * scale * plain.variance, abs=1e-300)


def test_the_ranks_that_keep_the_energy_are_exact() -> None:
    s = torch.tensor([3.0, 2.0, 1.0] + [0.05] * 37, dtype=torch.float64)
    m = measure_matrix(torch.diag(s))
    energy = np.cumsum(s.numpy() ** 2) / float((s**2).sum())
    assert m.rank90 == int((energy < 0.9).sum()) + 1 == 2
    assert m.rank99 == int((energy < 0.99).sum()) + 1
    assert m.parameters99 == m.rank99 * 80 and m.saves99 == (m.parameters99 < 1600)
    assert m.top_ratio == pytest.approx(1.5)
    assert measure_matrix(torch.eye(100)).rank99 == 99 and not measure_matrix(torch.eye(100)).saves99


def test_one_direction_has_no_second() -> None:
    m = measure_matrix(torch.ones(30, 40))
    assert m.rank99 == 1 and m.saves99 and m.top_ratio is None and "zero" in m.missing["top_ratio"]
    assert "one singular value" in measure_matrix(torch.ones(1, 4)).missing["top_ratio"]
    assert "rank99" in measure_matrix(torch.zeros(3, 3)).missing
    assert "rank99" in measure_matrix(scipy.sparse.eye_array(3000, format="csr")).missing


def test_distance_of_two_samples() -> None:
    assert ks_distance(np.arange(5.0), np.arange(5.0)) == 0 and ks_distance(np.zeros(3), np.ones(4)) == 1
    a, b = np.random.default_rng(0).normal(size=(2, 500))
    from scipy.stats import ks_2samp

    assert math.isclose(ks_distance(a, b), ks_2samp(a, b).statistic, rel_tol=1e-12)
