"""chamfer: the definition, every way to give sets, candidates, gradients, dtypes, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from resolvent.random import gaussian
from resolvent.search import chamfer, token_sets
from resolvent.search.chamfer_score import carve_balls
from resolvent.search.ragged import as_sets, blocks, joined_rows


@pytest.fixture
def corpus():
    return token_sets(40, tokens=7, dim=12, queries=6, query_tokens=5, ragged=True, generator=0)


def by_definition(queries, documents):
    """One pair of sets at a time, in float64."""
    (q, a), (p, b) = queries, documents
    scores = np.empty((len(a) - 1, len(b) - 1))
    for i in range(len(a) - 1):
        for j in range(len(b) - 1):
            products = q[a[i] : a[i + 1]].astype(float) @ p[b[j] : b[j + 1]].astype(float).T
            scores[i, j] = products.max(1).sum()
    return scores


@pytest.mark.parametrize("entries", [1, 100, 1 << 19])
def test_the_definition_whatever_the_blocks(corpus, entries, monkeypatch):
    from resolvent.search import chamfer_score

    monkeypatch.setattr(chamfer_score, "_ENTRIES", entries)
    found = chamfer(corpus.queries, corpus.documents)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_definition(corpus.queries, corpus.documents), rtol=1e-6)


def test_every_way_to_give_sets(corpus):
    wanted = torch.from_numpy(chamfer(corpus.queries, corpus.documents))
    pieces = [torch.from_numpy(x) for x in np.split(corpus.tokens, corpus.offsets[1:-1])]
    asked = torch.from_numpy(corpus.query_tokens).view(6, 5, 12)
    torch.testing.assert_close(chamfer(asked, pieces), wanted)
    torch.testing.assert_close(chamfer(asked[2], pieces), wanted[2])
    torch.testing.assert_close(chamfer(asked[2], pieces[3]), wanted[2, 3])
    torch.testing.assert_close(chamfer(list(asked), (torch.cat(pieces), torch.from_numpy(corpus.offsets))), wanted)
    doubled = chamfer(asked.double(), [p.double() for p in pieces])
    assert doubled.dtype == torch.float64
    torch.testing.assert_close(doubled.float(), wanted)
    assert chamfer(asked.half(), pieces).dtype == torch.float32


def test_order_of_tokens_and_one_document_token(corpus):
    rng = np.random.default_rng(0)
    edges = zip(corpus.offsets[:-1], corpus.offsets[1:], strict=True)
    order = np.concatenate([a + rng.permutation(b - a) for a, b in edges])
    np.testing.assert_allclose(
        chamfer(corpus.queries, (corpus.tokens[order], corpus.offsets)),
        chamfer(corpus.queries, corpus.documents),
        rtol=1e-6,
    )
    # A document of one token: the product with the sum of the query.
    token = corpus.tokens[:1]
    total = corpus.query_tokens.reshape(6, 5, 12).sum(1)
    np.testing.assert_allclose(chamfer(corpus.queries, token), total @ token[0], rtol=1e-5, atol=1e-6)


def test_candidates(corpus):
    every = chamfer(corpus.queries, corpus.documents)
    chosen = np.random.default_rng(0).integers(-1, 40, (6, 9))
    chosen[2] = -1
    found = chamfer(corpus.queries, corpus.documents, chosen)
    wanted = np.where(chosen >= 0, np.take_along_axis(every, np.maximum(chosen, 0), 1), -np.inf)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    one = chamfer(corpus.query_tokens[:5], corpus.documents, np.array([3, 1]))
    np.testing.assert_allclose(one, every[0, [3, 1]], rtol=1e-5)


def test_gradients():
    q, p = (gaussian(shape, generator=i).requires_grad_() for i, shape in enumerate([(5, 3), (9, 3)]))
    assert gradcheck(lambda q, p: chamfer((q, [0, 2, 5]), (p, [0, 4, 6, 9])), (q, p))
    rows = np.array([[0, -1], [2, 1]])
    assert gradcheck(lambda q, p: chamfer((q, [0, 2, 5]), (p, [0, 4, 6, 9]), rows).nan_to_num(neginf=0), (q, p))


def test_carved_balls():
    # Balls of one token at a threshold above every cosine; one ball at -1; parallel tokens fall together.
    sets = as_sets((np.array([[1.0, 0], [0, 1], [2, 0], [1, 1], [3, 3]]), [0, 3, 5]), "x")
    loose, tight, all_ = (carve_balls(sets, t) for t in (0.99, 1.1, -1.0))
    np.testing.assert_array_equal(loose.tokens.numpy(), [[3, 0], [0, 1], [4, 4]])
    assert loose.offsets.tolist() == [0, 2, 3]
    np.testing.assert_array_equal(tight.tokens.numpy(), sets.tokens.numpy())
    np.testing.assert_array_equal(all_.tokens.numpy(), [[3, 1], [4, 4]])


def test_rows_and_blocks():
    offsets = np.array([0, 3, 4, 9])
    rows, inner = joined_rows(offsets, np.array([2, 0, 2]))
    assert rows.tolist() == [4, 5, 6, 7, 8, 0, 1, 2, 4, 5, 6, 7, 8] and inner.tolist() == [0, 5, 8, 13]
    assert blocks(offsets, 4) == [(0, 2), (2, 3)] and blocks(offsets, 1) == [(0, 1), (1, 2), (2, 3)]
    assert blocks(offsets, 100) == [(0, 3)]


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [
        (lambda q, p: chamfer(q, (p, [0, 3, 3, 9])), ValueError, "set 1 has no tokens"),
        (lambda q, p: chamfer(q, (p, [0, 5, 3, 9])), ValueError, "ends before"),
        (lambda q, p: chamfer(q, (p, [0, 5])), ValueError, "end with 9"),
        (lambda q, p: chamfer(q, (p, [0.0, 9.0])), ValueError, "integers"),
        (lambda q, p: chamfer(q, p[:, :2]), ValueError, "length 3"),
        (lambda q, p: chamfer(q, []), ValueError, "at least one set"),
        (lambda q, p: chamfer(q, [p, p[:, :2]]), ValueError, "one length"),
        (lambda q, p: chamfer(q, p[0]), ValueError, "shape"),
        (lambda q, p: chamfer(q, p * np.nan), ValueError, "NaN"),
        (lambda q, p: chamfer(q, p + 1j), TypeError, "real"),
        (lambda q, p: chamfer(q, p, [[0.0]]), TypeError, "integers"),
        (lambda q, p: chamfer(q, p, [[0], [0]]), ValueError, "shape"),
        (lambda q, p: chamfer(q, p, [[1]]), ValueError, "between -1 and 0"),
    ],
)
def test_bad_input(call, error, word):
    with pytest.raises(error, match=word):
        call(np.ones((2, 3)), np.ones((9, 3)))
