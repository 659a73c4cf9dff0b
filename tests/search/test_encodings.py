"""fixed_dimensional_encoding: the paper's steps one by one, bounds, limiting cases, both paths, gradients, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from resolvent.random import gaussian
from resolvent.search import chamfer, fixed_dimensional_encoding, token_sets
from resolvent.search.encodings import _draw


@pytest.fixture
def corpus():
    return token_sets(20, tokens=9, dim=12, queries=6, query_tokens=5, ragged=True, generator=0)


def one_by_one(tokens, directions, projection, bits, document, fill):
    """The definition, cell by cell; the cell of number i holds the signs of i's Gray code."""
    out = []
    for r in range(projection.shape[1]):
        ones = tokens @ directions[:, r * bits : (r + 1) * bits] > 0
        projected = tokens @ projection[:, r]
        for index in range(1 << bits):
            gray = index ^ (index >> 1)
            cell = np.array([gray >> (bits - 1 - b) & 1 for b in range(bits)], bool)
            distance = (ones != cell).sum(1)
            inside = projected[distance == 0]
            if len(inside):
                out.append(inside.mean(0) if document else inside.sum(0))
            else:
                out.append(projected[distance.argmin()] if document and fill else np.zeros(projected.shape[1]))
    return np.concatenate(out)


@pytest.mark.parametrize("bits", [0, 1, 4])
@pytest.mark.parametrize("fill", [True, False])
@pytest.mark.parametrize("role", ["query", "document"])
def test_the_papers_steps(corpus, bits, fill, role):
    found = fixed_dimensional_encoding(
        *corpus.documents, role, repetitions=3, bits=bits, proj_dim=4, fill_empty=fill, generator=5
    )
    drawn = _draw(12, 3, bits, 4, None, 5, torch.float32, "cpu")
    projection = drawn.projection.numpy().reshape(12, 3, 4)
    assert found.shape == (20, 3 * 2**bits * 4) and found.dtype == np.float32
    assert (np.abs(projection).sum(2) == 1).all()
    for i in range(0, 20, 5):
        tokens = corpus.tokens[corpus.offsets[i] : corpus.offsets[i + 1]]
        wanted = one_by_one(tokens, drawn.directions.numpy(), projection, bits, role == "document", fill)
        np.testing.assert_allclose(found[i], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("role", ["query", "document"])
@pytest.mark.parametrize("bits", [0, 5])
def test_the_path_with_gradients_is_the_same(corpus, role, bits):
    tokens = torch.from_numpy(corpus.tokens)
    options = {"repetitions": 4, "bits": bits, "proj_dim": 8}
    plain = fixed_dimensional_encoding(tokens, corpus.offsets, role, **options)
    recorded = fixed_dimensional_encoding(tokens.clone().requires_grad_(), corpus.offsets, role, **options)
    assert recorded.requires_grad
    torch.testing.assert_close(plain, recorded.detach())


def test_whole_tokens_stay_below_the_chamfer_score_and_meet_it(corpus):
    exact = chamfer(corpus.queries, corpus.documents)
    options = {"proj_dim": None, "bits": 4, "repetitions": 50}
    f = fixed_dimensional_encoding(*corpus.queries, "query", **options)
    g = fixed_dimensional_encoding(*corpus.documents, "document", **options)
    estimate = f @ g.T / 50
    assert (estimate <= exact + 1e-4).all()
    # No cells: the sum of the query times the mean of the document.
    f = fixed_dimensional_encoding(*corpus.queries, "query", proj_dim=None, bits=0, repetitions=1)
    np.testing.assert_allclose(f, corpus.query_tokens.reshape(6, 5, 12).sum(1), rtol=1e-5, atol=1e-6)
    # One token on each side and whole tokens: their product, whatever the cells.
    p, q = corpus.tokens[:1], corpus.query_tokens[:1]
    f, g = (fixed_dimensional_encoding(x, role=r, **options) for x, r in ((q, "query"), (p, "document")))
    assert f @ g / 50 == pytest.approx(float(q[0] @ p[0]), abs=1e-5)


def test_repetitions_average_the_projection(corpus):
    def error(repetitions):
        # The same cells with and without a projection: the difference is its noise alone.
        found = []
        for proj_dim in (8, None):
            options = {"repetitions": repetitions, "bits": 3, "proj_dim": proj_dim}
            f = fixed_dimensional_encoding(*corpus.queries, "query", **options)
            found.append(f @ fixed_dimensional_encoding(*corpus.documents, **options).T / repetitions)
        return np.std(found[0] - found[1])

    assert 0.2 < error(40) / error(4) < 0.45  # 10^(-1/2) = 0.32


def test_count_sketch_keeps_products(corpus):
    options = {"repetitions": 10, "generator": 3}
    f, g = (fixed_dimensional_encoding(*corpus.documents, r, **options) for r in ("query", "document"))
    a, b = (fixed_dimensional_encoding(*corpus.documents, r, final_dim=2048, **options) for r in ("query", "document"))
    assert a.shape == (20, 2048)
    lengths = np.linalg.norm(f, axis=1)[:, None] * np.linalg.norm(g, axis=1)
    assert np.abs(a @ b.T - f @ g.T).max() < 0.15 * lengths.max()


def test_order_of_tokens_without_filling_and_seeds(corpus):
    edges = zip(corpus.offsets[:-1], corpus.offsets[1:], strict=True)
    order = np.concatenate([np.arange(b - 1, a - 1, -1) for a, b in edges])
    for fill, same in ((False, True), (True, False)):
        a, b = (
            fixed_dimensional_encoding(x, corpus.offsets, fill_empty=fill)
            for x in (corpus.tokens, corpus.tokens[order])
        )
        assert np.allclose(a, b, atol=1e-5) == same
    first, again, other = (fixed_dimensional_encoding(*corpus.documents, generator=s) for s in (0, 0, 1))
    assert np.array_equal(first, again) and not np.allclose(first, other)
    # Cells are shared by float32 and float64.
    double = fixed_dimensional_encoding(corpus.tokens.astype(float), corpus.offsets)
    assert double.dtype == np.float64
    np.testing.assert_allclose(double, first, atol=1e-5)


def test_gradients():
    x = gaussian((7, 4), generator=0).requires_grad_()
    for role in ("query", "document"):
        for final in (None, 6):
            assert gradcheck(
                lambda x, role=role, final=final: fixed_dimensional_encoding(
                    x, [0, 3, 7], role, repetitions=2, bits=2, proj_dim=3, final_dim=final
                ),
                x,
            )


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"role": "both"}, ValueError, "role"),
        ({"bits": 17}, ValueError, "bits"),
        ({"repetitions": 0}, ValueError, "repetitions"),
        ({"proj_dim": 0}, ValueError, "proj_dim"),
        ({"final_dim": 0}, ValueError, "final_dim"),
        ({"generator": None}, TypeError, "share"),
        ({"offsets": [0, 2]}, ValueError, "end with 3"),
    ],
)
def test_bad_input(options, error, word):
    with pytest.raises(error, match=word):
        fixed_dimensional_encoding(np.ones((3, 4)), **options)
