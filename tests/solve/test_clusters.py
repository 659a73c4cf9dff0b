"""local_bases: bases by an SVD, amplitudes, inner products, trajectories, assignment, classifiers, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
import torch

from resolvent.random import gaussian
from resolvent.solve import local_bases


def bumps(m=60, n=50):
    t = torch.linspace(0, 1, n, dtype=torch.float64)
    # Uneven places: partitions of even ones are ties.
    places = 0.1 + 0.8 * torch.linspace(0, 1, m, dtype=torch.float64) ** 1.3
    return torch.exp(-100 * (t - places[:, None]) ** 2)


def test_one_cluster_is_the_svd():
    X = gaussian((20, 15), generator=0)
    found = local_bases(X, 1, 4, normalize=False)
    _, s, Vh = torch.linalg.svd(X, full_matrices=False)
    torch.testing.assert_close(found.singular_values[0], s)
    torch.testing.assert_close(found.bases[0] @ found.bases[0].mT, Vh[:4].mT @ Vh[:4])
    exact = torch.linalg.vector_norm(X - X @ Vh[:4].mT @ Vh[:4], dim=1) / torch.linalg.vector_norm(X, dim=1)
    torch.testing.assert_close(found.errors(X), exact)


def test_dissimilarities_are_sines_that_no_amplitude_changes():
    X = gaussian((8, 5), generator=1)
    found = local_bases(X, 2, 1, generator=0)
    for i in range(8):
        for j in range(8):
            angle = scipy.linalg.subspace_angles(X[i : i + 1].numpy().T, X[j : j + 1].numpy().T)[0]
            assert float(found.dissimilarity[i, j]) == pytest.approx(np.sin(angle), abs=1e-7)
    signs = torch.tensor([1e-3, -1.0, 4.0, -7.0, 1e5, 2.0, 3.0, -1e-8], dtype=torch.float64)
    scaled = local_bases(signs[:, None] * X, 2, 1, generator=0)
    assert scaled.labels.tolist() == found.labels.tolist()
    torch.testing.assert_close(scaled.errors(signs[:, None] * X), found.errors(X))
    torch.testing.assert_close(scaled.dissimilarity, found.dissimilarity, rtol=0, atol=1e-7)


def test_radii_bound_what_the_medoid_alone_leaves():
    X = bumps()
    found = local_bases(X, 4, 1, generator=0)
    for label, medoid in enumerate(found.medoids):
        unit = X[medoid] / X[medoid].norm()
        rows = X[found.labels == label]
        left = torch.linalg.vector_norm(rows - (rows @ unit)[:, None] * unit, dim=1)
        assert float((left / torch.linalg.vector_norm(rows, dim=1)).max()) == pytest.approx(float(found.radii[label]))


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_an_inner_product_is_a_change_of_variables(kind):
    n = 30
    T = scipy.sparse.diags([-1.0, 2.1, -1.0], [-1, 0, 1], shape=(n, n)).tocsr()
    G = torch.from_numpy(T.toarray()) if kind == "dense" else T
    X = bumps(25, n)
    L = torch.linalg.cholesky(torch.from_numpy(T.toarray()))
    found, plain = local_bases(X, 3, 3, inner=G, generator=0), local_bases(X @ L, 3, 3, generator=0)
    assert found.labels.tolist() == plain.labels.tolist()
    torch.testing.assert_close(found.errors(X), plain.errors(X @ L), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.dissimilarity, plain.dissimilarity, rtol=0, atol=1e-7)
    for V in found.bases:
        torch.testing.assert_close(V.mT @ torch.from_numpy(T.toarray()) @ V, torch.eye(3, dtype=torch.float64))
    new = bumps(7, n)
    assert found.assign(new).tolist() == plain.assign(new @ L).tolist()


def test_new_snapshots_go_to_their_medoid_and_a_classifier_learns_that():
    from sklearn.neighbors import KNeighborsClassifier

    X, places = bumps(), np.linspace(0.1, 0.9, 60)[:, None]
    found = local_bases(X, 4, 4, generator=0)
    assert found.assign(X).tolist() == found.labels.tolist()
    assert found.assign(-3 * X).tolist() == found.labels.tolist()
    learned = found.train(KNeighborsClassifier(1), places)
    assert learned.assign(parameters=places).tolist() == found.labels.tolist()
    projected = found.project(X)
    torch.testing.assert_close(found.project(projected), projected)
    assert float(found.errors(X).max()) < 0.05
    assert float(found.errors(X, labels=(found.labels + 1) % 4).min()) > float(found.errors(X).max())
    with pytest.raises(ValueError, match="classifier"):
        found.assign(parameters=places)


def test_trajectories_stay_together():
    planes = [torch.linalg.qr(gaussian((12, 2), generator=i)).Q for i in range(2)]
    X = torch.stack([(planes[i % 2] @ gaussian((2, 2), generator=10 + i)).mT for i in range(8)])
    found = local_bases(X, 2, 2, generator=0)
    assert len({*zip(found.labels.tolist(), [i % 2 for i in range(8)], strict=True)}) == 2
    assert float(found.errors(X).max()) < 1e-12
    assert found.errors(X).shape == (8, 2)
    assert found.assign(X).tolist() == found.labels.tolist()
    angles = scipy.linalg.subspace_angles(planes[0].numpy(), planes[1].numpy())
    assert float(found.dissimilarity[0, 1]) == pytest.approx(np.sqrt(np.mean(np.sin(angles) ** 2)))


def test_given_partitions_and_dissimilarities():
    X = bumps(20)
    labels = [i // 10 for i in range(20)]
    found = local_bases(X, labels, 2)
    assert found.labels.tolist() == labels
    same = local_bases(X, 2, 2, dissimilarity=found.dissimilarity, generator=0)
    assert same.measure == "given"
    assert same.labels.tolist() == local_bases(X, 2, 2, generator=0).labels.tolist()
    with pytest.raises(ValueError, match="matrix"):
        same.assign(X)
    far = local_bases(X, 2, 2, dissimilarity="euclidean", generator=0)
    torch.testing.assert_close(far.dissimilarity, torch.cdist(X, X), rtol=0, atol=1e-7)
    assert far.assign(X).tolist() == far.labels.tolist()
    assert -1 <= float(found.silhouette()) <= 1


def test_silhouette_of_scikit_learn():
    from sklearn.metrics import silhouette_score

    found = local_bases(bumps(), 3, 2, generator=0)
    exact = silhouette_score(found.dissimilarity.numpy(), found.labels.numpy(), metric="precomputed")
    assert float(found.silhouette()) == pytest.approx(exact, rel=1e-12)


def test_rtol_takes_the_least_modes():
    X = bumps()
    found = local_bases(X, 3, rtol=1e-3, generator=0)
    for V, s in zip(found.bases, found.singular_values, strict=True):
        tails = [float(s[j:].norm() / s.norm()) for j in range(len(s))]
        assert tails[V.shape[1]] <= 1e-3 < tails[V.shape[1] - 1]


def test_kinds_complex_and_float32():
    X = torch.complex(bumps(), bumps().flip(1))
    phases = torch.exp(1j * torch.arange(60, dtype=torch.float64))[:, None]
    found, turned = local_bases(X, 3, 3, generator=0), local_bases(phases * X, 3, 3, generator=0)
    assert found.labels.tolist() == turned.labels.tolist()
    torch.testing.assert_close(found.errors(X), turned.errors(phases * X), rtol=1e-8, atol=1e-12)
    array = local_bases(bumps().numpy(), 3, 3, generator=0)
    assert isinstance(array.labels, np.ndarray)
    assert isinstance(array.bases[0], np.ndarray)
    single = local_bases(bumps().float(), 3, 3, generator=0)
    assert single.bases[0].dtype == torch.float32
    np.testing.assert_allclose(single.errors(bumps().float()).numpy(), array.errors(bumps().numpy()), atol=1e-5)


def test_bad_input():
    X = bumps(10)
    for call, word in (
        (lambda: local_bases(X[0], 1, 1), "shape"),
        (lambda: local_bases(X * torch.nan, 1, 1), "NaN"),
        (lambda: local_bases(X * (torch.arange(10) != 3)[:, None], 2, 1), "snapshot 3 is zero"),
        (lambda: local_bases(X, 11, 1), "n_clusters"),
        (lambda: local_bases(X, [0, 2] * 5, 1), "labels"),
        (lambda: local_bases(X, 2, 0), "n_modes"),
        (lambda: local_bases(X, 2, rtol=2.0), "rtol"),
        (lambda: local_bases(X, 2, 1, dissimilarity="cosine"), "dissimilarity"),
        (lambda: local_bases(X, 2, 1, dissimilarity=torch.zeros(3, 3)), "dissimilarity"),
        (lambda: local_bases(X, 2, 1, inner=torch.eye(4)), "inner"),
        (lambda: local_bases(X, 2, 1, inner=-torch.eye(50, dtype=torch.float64)), "inner"),
        (lambda: local_bases(X.requires_grad_(), 2, 1), "gradient"),
        (lambda: local_bases(bumps(10), 2, 1).errors(bumps(4, 20)), "x must have shape"),
        (lambda: local_bases(bumps(10), 2, 1).errors(bumps(4), labels=[5] * 4), "labels"),
    ):
        with pytest.raises(ValueError, match=word):
            call()


@pytest.mark.parametrize("inner", [None, torch.diag(torch.linspace(1, 2, 6))])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_float32_far_from_one(scale, inner):
    X = gaussian((20, 6), torch.float32, generator=0)
    plain, found = (local_bases(Y, 2, 2, inner=inner, generator=0) for Y in (X, X * scale))
    assert torch.equal(plain.labels, found.labels)
    assert torch.allclose(plain.errors(X), found.errors(X * scale), rtol=1e-3)
