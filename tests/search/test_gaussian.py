"""Gaussian embeddings: the divergence against torch's own, MIPS order, training, gradients, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.distributions import Independent, Normal, kl_divergence

from resolvent.random import gaussian
from resolvent.search import (
    GaussianEmbedding,
    exact_search,
    gaussian_divergence,
    gaussian_document_vector,
    gaussian_query_vector,
    reciprocal_rank_loss,
)


def moments(n, k, seed, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, k, generator=g, dtype=dtype), torch.rand(n, k, generator=g, dtype=dtype) * 2 + 0.1


def known(query, document):
    q, d = (Independent(Normal(m, v.sqrt()), 1) for m, v in (query, document))
    return kl_divergence(q, d)


def test_the_divergence_and_the_identity():
    query, document = moments(50, 7, 0), moments(50, 7, 1)
    exact = known(query, document)
    torch.testing.assert_close(gaussian_divergence(query, document), exact)
    product = (gaussian_query_vector(*query) * gaussian_document_vector(*document)).sum(1)
    torch.testing.assert_close(product, -2 * exact - query[1].log().sum(1) - 7, rtol=1e-10, atol=1e-10)
    assert float(gaussian_divergence(query, query).abs().max()) < 1e-14
    assert bool((gaussian_divergence(query, document) >= 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kinds_and_dtypes(dtype):
    mu, var = moments(3, 4, 0, dtype)
    for vector in (gaussian_query_vector, gaussian_document_vector):
        made = vector(mu, var)
        assert made.shape == (3, 9) and made.dtype == dtype
        array = vector(mu.numpy(), var.numpy())
        assert isinstance(array, np.ndarray)
        np.testing.assert_allclose(array, made.numpy())
        assert vector(mu[0], var[0]).shape == (9,)


def test_inner_products_rank_like_the_divergence():
    queries, documents = moments(20, 5, 0), moments(500, 5, 1)
    exact = gaussian_divergence(tuple(t[:, None] for t in queries), tuple(t[None] for t in documents))
    hits = exact_search(gaussian_document_vector(*documents), gaussian_query_vector(*queries), k=20)
    assert torch.equal(hits.ids, exact.argsort(1)[:, :20])


def test_equal_unit_variances_are_euclidean_search():
    (q, _), (d, _) = moments(20, 5, 0), moments(200, 5, 1)
    one = torch.ones_like
    found = exact_search(gaussian_document_vector(d, one(d)), gaussian_query_vector(q, one(q)), k=10)
    assert torch.equal(found.ids, exact_search(d, q, k=10, metric="l2").ids)


def test_gradients():
    mu, raw = (gaussian((3, 4), generator=i).requires_grad_() for i in (0, 1))
    for vector in (gaussian_query_vector, gaussian_document_vector):
        assert gradcheck(lambda m, r, vector=vector: vector(m, r.exp()), (mu, raw))
    assert gradcheck(lambda m, r: gaussian_divergence((m, r.exp()), (m.flip(0), r.exp().flip(1))), (mu, raw))


def test_the_loss_by_definition():
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 6, generator=g, dtype=torch.float64)
    labels = torch.randint(3, (3, 6), generator=g).double()
    for cut in (None, 2):
        total = 0.0
        for s, y in zip(scores.tolist(), labels.tolist(), strict=True):
            place = {i: r + 1 for r, i in enumerate(sorted(range(6), key=lambda i, s=s: -s[i]))}
            inverse = [1 / place[i] if cut is None or place[i] <= cut else 0 for i in range(6)]
            for i in range(6):
                for j in range(6):
                    if y[i] > y[j]:
                        total += abs(inverse[i] - inverse[j]) * np.log1p(np.exp(s[j] - s[i]))
        assert float(reciprocal_rank_loss(scores, labels, cut=cut)) == pytest.approx(total / 3)
    assert gradcheck(lambda s: reciprocal_rank_loss(s, labels), scores.requires_grad_())
    with pytest.raises(ValueError, match="alike"):
        reciprocal_rank_loss(scores, labels[:, :2])


def test_training_learns_the_teachers_order():
    g = torch.Generator().manual_seed(0)
    queries, documents = torch.randn(80, 6, generator=g), torch.randn(200, 6, generator=g)
    teacher = -torch.cdist(queries[:, :2], documents[:, :2])

    def share(model):
        with torch.no_grad():
            found = exact_search(model.document_vectors(documents), model.query_vectors(queries), 10).ids
        best = teacher.argsort(1, descending=True)[:, :10]
        return (found[:, :, None] == best[:, None]).any(2).float().mean()

    def made():
        return GaussianEmbedding(torch.nn.Identity(), 6, 3, generator=0)

    before, model = share(made()), made().fit(queries, documents, teacher, steps=60, lr=1e-2, generator=0)
    assert share(model) > before + 0.2 and len(model.losses) == 180
    again = made().fit(queries, documents, lambda i, j: teacher[i[:, None], j], steps=60, lr=1e-2, generator=0)
    assert again.losses == model.losses


def test_two_states_and_clamped_variances():
    model = GaussianEmbedding(lambda x: (x, -1000 * x), 4, 2, generator=0)
    with torch.no_grad():
        mu, var = model(torch.ones(3, 4))
    assert mu.shape == var.shape == (3, 2)
    assert float(var.min()) >= 1e-4 * 0.999 and float(var.max()) <= 1e4
    assert bool(torch.isfinite(model.document_vectors(torch.ones(3, 4))).all())


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: gaussian_query_vector(torch.ones(2), torch.zeros(2)), "positive"),
        (lambda: gaussian_query_vector(torch.ones(2), torch.ones(3)), "both"),
        (lambda: gaussian_document_vector(torch.ones(2) * np.inf, torch.ones(2)), "NaN"),
        (lambda: gaussian_divergence((1.0, 1.0), (1.0, 1.0)), "both"),
        (lambda: GaussianEmbedding(torch.nn.Identity(), 0, 2), "hidden"),
        (lambda: GaussianEmbedding(torch.nn.Identity(), 2, 2, beta=0), "beta"),
        (lambda: GaussianEmbedding(torch.nn.Identity(), 2, 2).fit(torch.ones(0, 2), torch.ones(2, 2), None), "queries"),
    ],
)
def test_bad_input(call, word):
    with pytest.raises(ValueError, match=word):
        call()
