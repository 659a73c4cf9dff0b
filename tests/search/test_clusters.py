"""k-means against what it must satisfy, and the synthetic vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resolvent import search
from resolvent.search.clusters import nearest_centres


def test_every_row_belongs_to_its_nearest_centre_and_centres_are_means():
    x = search.clustered_vectors(2000, 16, clusters=8, generator=0).x
    found = search.kmeans(x, 8, iterations=100, rtol=0.0, generator=1)
    gaps = torch.cdist(x.double(), found.centres.double())
    assert (gaps.argmin(1) == found.labels).float().mean() > 0.999
    means = torch.stack([x[found.labels == c].mean(0) for c in range(8)])
    torch.testing.assert_close(means, found.centres, atol=1e-3, rtol=1e-3)
    assert found.inertia == pytest.approx(float(gaps.amin(1).square().sum()), rel=1e-4)


def test_planted_clusters_are_recovered():
    corpus = search.clustered_vectors(3000, 32, clusters=20, spread=0.1, generator=3)
    labels = search.kmeans(corpus.x, 20, generator=0).labels
    pure = sum(int(torch.bincount(corpus.labels[labels == c]).max()) for c in labels.unique())
    assert pure / 3000 > 0.9


def test_it_is_as_good_as_scikit_learn():
    from sklearn.cluster import KMeans

    x = search.clustered_vectors(4000, 24, clusters=40, generator=5).x
    ours = np.median([search.kmeans(x, 64, generator=s).inertia for s in range(5)])
    theirs = np.median([KMeans(64, n_init=1, random_state=s, max_iter=25).fit(x.numpy()).inertia_ for s in range(5)])
    assert ours < 1.05 * theirs


@pytest.mark.parametrize("k", [1, 4, 10])
def test_copies_leave_no_error(k):
    found = search.kmeans(np.ones((10, 3)), k, generator=0)
    assert found.inertia == 0 and found.centres.shape == (k, 3) and np.isfinite(found.centres).all()


def test_no_cluster_is_empty_among_distinct_rows():
    x = np.random.default_rng(0).normal(size=(300, 5))
    found = search.kmeans(x, 200, generator=0, iterations=50)
    assert isinstance(found.labels, np.ndarray) and len(np.unique(found.labels)) == 200


def test_far_from_the_origin_nothing_is_lost():
    x = search.clustered_vectors(1000, 8, clusters=5, generator=2).x
    near, far = (search.kmeans(x + shift, 5, generator=0) for shift in (0, 3000))
    assert far.inertia == pytest.approx(near.inertia, rel=1e-2)


def test_spherical_centres_have_length_one_and_ignore_norms():
    x = search.clustered_vectors(1000, 8, clusters=5, generator=2).x
    scale = torch.rand(1000, 1, generator=torch.Generator().manual_seed(0)) + 0.1
    one, two = (search.kmeans(rows, 6, spherical=True, generator=0) for rows in (x, x * scale))
    torch.testing.assert_close(torch.linalg.vector_norm(one.centres, dim=1), torch.ones(6))
    assert (one.labels == two.labels).float().mean() > 0.99


def test_the_same_seed_gives_the_same_clusters():
    x = np.random.default_rng(0).normal(size=(500, 5))
    assert (search.kmeans(x, 7, generator=3).labels == search.kmeans(x, 7, generator=3).labels).all()


def test_a_sample_labels_all_rows():
    x = np.random.default_rng(0).normal(size=(500, 5))
    assert search.kmeans(x, 4, sample=50, generator=3).labels.shape == (500,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be an integer from 1"),
        ({"k": 11}, "k must be an integer from 1 to the number of rows, 10"),
        ({"iterations": -1}, "iterations must not be negative"),
        ({"sample": 2}, "sample must be at least k"),
        ({"x": np.full((10, 2), np.nan)}, "x has 20 entries"),
        ({"x": np.ones(10)}, "x must be a real"),
        ({"x": np.zeros((10, 2)), "spherical": True}, "x has a zero row"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"x": np.eye(10), "k": 3} | change
    with pytest.raises(ValueError, match=message):
        search.kmeans(**arguments)


def test_nearest_centres_by_blocks(monkeypatch):
    x, c = torch.randn(100, 4), torch.randn(7, 4)
    labels, gaps = nearest_centres(x, c)
    monkeypatch.setattr("resolvent.search.clusters._BLOCK", 30)
    again = nearest_centres(x, c)
    assert (labels == again[0]).all()
    torch.testing.assert_close(gaps, torch.cdist(x, c).amin(1).square(), atol=1e-4, rtol=1e-4)


def test_clustered_vectors_have_the_dimension_asked_for():
    corpus = search.clustered_vectors(4000, 40, intrinsic_dim=4, clusters=2, noise=0.0, generator=0)
    for c in (0, 1):
        rows = corpus.x[corpus.labels == c]
        spectrum = torch.linalg.svdvals(rows - rows.mean(0))
        assert int((spectrum > 1e-3 * spectrum[0]).sum()) == 4
    assert corpus.labels.unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"n": 0}, "n must be"), ({"intrinsic_dim": 9}, "intrinsic_dim must be"), ({"clusters": 0}, "clusters must be")],
)
def test_corpora_name_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        search.clustered_vectors(**({"n": 10, "dim": 8} | change))
