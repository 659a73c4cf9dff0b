"""sample_rows, inclusion_probabilities, sample_size and lp_distortion."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resolvent.random import gaussian
from resolvent.sketch import (
    SampledRows,
    inclusion_probabilities,
    leverage_scores,
    lp_distortion,
    sample_rows,
    sample_size,
    sensitivities,
)


def heavy(n=400, d=4):
    A = gaussian((n, d), generator=0)
    A[:2] *= 1000
    return A


@pytest.mark.parametrize("m", [1, 3.5, 30, 99, 100])
def test_inclusion_probabilities(m):
    s = gaussian((120,), generator=0).abs() ** 3
    s[:20] = 0
    q = inclusion_probabilities(s, m)
    assert float(q.sum()) == pytest.approx(m) and float(q.max()) <= 1 and bool((q[:20] == 0).all())
    free = (q < 1) & (s > 0)
    if bool(free.any()):
        c = (q / s)[free]
        torch.testing.assert_close(c, c[:1].expand(len(c)))
        assert bool((c[0] * s[q >= 1] >= 1 - 1e-9).all())


@pytest.mark.parametrize("p", [1.0, 3.0])
def test_norms_are_unbiased_and_sizes_as_asked(p):
    A = heavy()
    x = gaussian((4,), generator=3)
    exact = float(((A @ x).abs() ** p).sum())
    s = sensitivities(A, p)
    found, sizes = [], []
    for seed in range(300):
        sample = sample_rows(A, 60, p=p, scores=s, generator=seed)
        found.append(float(((sample.weights * (A[sample.rows] @ x)).abs() ** p).sum()))
        sizes.append(len(sample.rows))
    assert np.mean(found) == pytest.approx(exact, abs=4 * np.std(found) / 300**0.5)
    assert np.mean(sizes) == pytest.approx(60, abs=4 * np.std(sizes) / 300**0.5)


@pytest.mark.parametrize("scores", ["sensitivity", "lewis", "root_leverage"])
def test_the_distortion_over_200_seeds(scores):
    """p = 2, where the distortion is known exactly: all three are leverage scores."""
    A, rtol = heavy(), 0.5
    tau = leverage_scores(A)
    torch.testing.assert_close(
        sample_rows(A, 50, scores=scores, generator=0).probabilities, inclusion_probabilities(tau, 50)
    )
    m = 4 * sample_size(4, 2.0, rtol)
    failures = 0
    for seed in range(200):
        failures += lp_distortion(A, sample_rows(A, m, p=2.0, scores=tau, generator=seed), 2.0) > rtol
    assert failures <= 10
    lost = [lp_distortion(A, sample_rows(A, m, p=2.0, scores="uniform", generator=seed), 2.0) for seed in range(20)]
    assert np.median(lost) > 0.9


def test_distortion_search_against_many_directions():
    A = heavy(200, 3)
    sample = sample_rows(A, 40, p=1.0, generator=0)
    found = lp_distortion(A, sample, 1.0, generator=0)
    Q = torch.linalg.qr(A).Q
    X = gaussian((3, 20_000), generator=1)
    R = torch.linalg.solve(torch.linalg.qr(A).R, X)
    ratio = (sample.weights[:, None] * (A[sample.rows] @ R)).abs().sum(0) / (Q @ X).abs().sum(0)
    assert found >= 0.99 * float((ratio - 1).abs().max())
    everything = SampledRows(torch.arange(200), torch.ones(200), torch.ones(200))
    assert lp_distortion(A, everything, 1.5) == pytest.approx(0, abs=1e-12)
    assert lp_distortion(A, SampledRows(torch.arange(2), torch.ones(2), torch.ones(200)), 3.0) >= 1


def test_a_tolerance_in_place_of_a_size_and_kinds():
    A = heavy().numpy()
    sample = sample_rows(A, rtol=0.9, p=1.0, scores="mixed", generator=0)
    assert isinstance(sample.rows, np.ndarray) and sample.weights.dtype == np.float64
    total = sensitivities(A, 1.0).sum()
    assert sample.probabilities.sum() == pytest.approx(sample_size(total, 1.0, 0.9, scores="mixed", d=4))
    again = sample_rows(torch.from_numpy(A).float(), rtol=0.9, p=1.0, scores="mixed", generator=0)
    assert again.weights.dtype == torch.float32


def test_probabilities_of_extreme_scores():
    for size in (1e308, 1e-320):
        np.testing.assert_allclose(inclusion_probabilities(np.full(5, size), 2), 0.4)


def test_sizes():
    assert sample_size(5, 1.0, 0.1) == 2500
    assert sample_size(8, 4.0, 0.5) == round(8**1.5 * 4 + 0.5)
    assert sample_size(8, 4.0, 0.5, scores="mixed", d=4) == 64
    assert sample_size(8, 1.0, 0.5, scores="lewis", d=4) == 16


def test_bad_input():
    A = heavy(20)
    for call, word in (
        (lambda: sample_rows(A), "one of m and rtol"),
        (lambda: sample_rows(A, 5, rtol=0.1), "one of m and rtol"),
        (lambda: sample_rows(A, 21), "m must"),
        (lambda: sample_rows(A, 5, scores="best"), "scores"),
        (lambda: sample_rows(A, 5, scores=torch.ones(3)), "scores"),
        (lambda: sample_rows(A, 5, scores=-torch.ones(20)), "at least 0"),
        (lambda: sample_rows(A, 5, p=0.5), "p must"),
        (lambda: sample_size(1.0, 1.0, 2.0), "rtol"),
        (lambda: sample_size(1.0, 3.0, 0.2, scores="mixed"), "d is needed"),
        (lambda: lp_distortion(A, SampledRows(torch.tensor([40]), torch.ones(1), torch.ones(41))), "40"),
        (lambda: lp_distortion(A, SampledRows(torch.tensor([-1]), torch.ones(1), torch.ones(41))), "-1"),
        (lambda: lp_distortion(A, SampledRows(torch.tensor([1]), torch.ones(2), torch.ones(41))), "weights"),
        (
            lambda: lp_distortion(A, SampledRows(torch.tensor([1]), torch.ones(1), torch.ones(41)), restarts=0),
            "restarts",
        ),
    ):
        with pytest.raises(ValueError, match=word):
            call()
