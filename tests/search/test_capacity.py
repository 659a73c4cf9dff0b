"""Margins, the bound on the dimension, and what random compression really loses."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import sparse

from resolvent import search
from resolvent.search.capacity import compression_failure


def test_margin_is_the_cosine_with_the_difference():
    g = torch.Generator().manual_seed(0)
    q, d1, d2 = (torch.randn(3, 7, 20, generator=g, dtype=torch.float64) for _ in range(3))
    expected = torch.cosine_similarity(q, d1 - d2, dim=-1)
    torch.testing.assert_close(search.normalized_margin(q, d1, d2), expected)
    assert search.normalized_margin(q[0, 0].numpy(), d1.numpy(), d2[0].numpy()).shape == (3, 7)
    torch.testing.assert_close(search.normalized_margin(q, d2, d1), -expected)


def test_margin_does_not_see_scale():
    q, d1, d2 = torch.tensor([1e30, 2e30]), torch.tensor([3e38, 0.0]), torch.tensor([-3e38, 1e38])
    small = search.normalized_margin(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.0]), torch.tensor([-3.0, 1.0]))
    torch.testing.assert_close(search.normalized_margin(q, d1, d2), small)
    assert float(search.normalized_margin(q, d1, d1)) == 0.0


def test_gradient_of_the_margin():
    g = torch.Generator().manual_seed(0)
    vectors = [torch.randn(2, 5, generator=g, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(search.normalized_margin, vectors)


@pytest.mark.parametrize("margin", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("failure", [1e-6, 0.5])
def test_bound_is_the_least_dimension(margin, failure):
    k = search.encoder_dimension_bound(margin, failure)
    assert compression_failure(margin, k) <= failure < compression_failure(margin, k - 1)
    many = search.encoder_dimension_bound(margin, failure, 1000)
    assert many == search.encoder_dimension_bound(margin, failure / 1000)


def test_signs_of_few_dimensions_by_enumeration():
    """All sign matrices of one row: the exact chance of an error lies below the bound, and is what is simulated."""
    q, d1, d2 = np.array([1.0, 1, 0, 0]), np.array([1.0, 1, 0, 0]), np.array([1.0, 0, 1, 0])
    errors = [(a @ q) * (a @ (d1 - d2)) <= 0 for a in map(np.array, itertools.product([-1.0, 1], repeat=4))]
    margin = float(search.normalized_margin(q, d1, d2))
    assert math.isclose(margin, 0.5)
    assert np.mean(errors) == 0.75 <= compression_failure(margin, 1)


def test_profile_by_brute_force():
    corpus = search.topic_corpus(80, 60, 5, queries=6, generator=0)
    weights = search.bm25(corpus.counts).toarray()
    queries = corpus.queries.counts.toarray()
    known = set()
    for q in queries:
        order = np.argsort(-(weights @ q), kind="stable")
        for other in order[1:4]:
            margin = search.normalized_margin(q.astype(float), weights[order[0]], weights[other])
            if margin > 0:
                known.add(round(float(margin), 5))
    profile = search.margin_profile(corpus.queries.counts, sparse.csr_array(weights), rank=4, pairs=400, generator=0)
    assert set(profile.margins.round(5).tolist()) == known
    assert np.all(np.diff(profile.dims) <= 0)
    margin, dim = profile.quantile(0.1)
    assert dim == search.encoder_dimension_bound(margin, 0.05)


def test_profile_of_ties():
    profile = search.margin_profile(np.eye(3), np.ones((5, 3)), generator=0)
    assert len(profile.margins) == 0
    with pytest.raises(ValueError, match="no margins"):
        profile.quantile(0.5)


@pytest.mark.parametrize(
    "call, name",
    [
        (lambda: search.encoder_dimension_bound(0.0, 0.1), "margin"),
        (lambda: search.encoder_dimension_bound(1.1, 0.1), "margin"),
        (lambda: search.encoder_dimension_bound(0.1, 1.0), "failure"),
        (lambda: search.encoder_dimension_bound(0.1, 0.1, 0), "documents"),
        (lambda: compression_failure(0.1, 0), "dim"),
        (lambda: search.normalized_margin(np.ones(3), np.ones(4), np.ones(3)), "d1"),
        (lambda: search.normalized_margin(np.ones(3), np.ones(3), np.full(3, np.nan)), "d2"),
        (lambda: search.margin_profile(np.eye(2), np.eye(2), rank=1), "rank"),
        (lambda: search.margin_profile(np.eye(2), np.eye(2), pairs=0), "pairs"),
        (lambda: search.margin_profile(np.eye(2), -np.eye(2)), "documents"),
        (lambda: search.margin_profile(np.ones((1, 4)), np.ones((2, 4)), generator=0).quantile(2.0), "share"),
    ],
)
def test_bad_numbers(call, name):
    with pytest.raises(ValueError, match=name):
        call()
