"""token_sets: shapes, unit tokens, topics, planted matches, seeds, bad input."""

from __future__ import annotations

import numpy as np
import pytest

from resolvent.search import chamfer, token_sets


def test_shapes_seeds_and_unit_tokens():
    made = token_sets(30, tokens=10, dim=16, queries=7, query_tokens=4, ragged=True, generator=1)
    sizes = np.diff(made.offsets)
    assert made.offsets[-1] == len(made.tokens) and sizes.min() >= 5 and sizes.max() <= 15 and len(set(sizes)) > 3
    assert made.query_offsets.tolist() == list(range(0, 29, 4)) and made.topics.shape == (30, 0)
    for x in (made.tokens, made.query_tokens):
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-5)
    again = token_sets(30, tokens=10, dim=16, queries=7, query_tokens=4, ragged=True, generator=1)
    np.testing.assert_array_equal(made.query_tokens, again.query_tokens)


@pytest.mark.parametrize("options", [{}, {"topics": 20, "own": 0.5}])
def test_without_noise_a_query_copies_its_document(options):
    made = token_sets(60, tokens=8, dim=24, queries=9, query_tokens=5, noise=0.0, generator=0, **options)
    scores = chamfer(made.queries, made.documents)
    assert (scores.argmax(1) == made.relevant).all()
    np.testing.assert_allclose(scores.max(1), 5, rtol=1e-5)


def test_topics_are_distinct_and_shared():
    made = token_sets(50, tokens=10, dim=32, topics=12, per_document=5, spread=0.0, own=0.0, generator=0, queries=5)
    assert made.topics.shape == (50, 5) and all(len(set(row)) == 5 for row in made.topics.tolist())
    # Without spread all tokens of a topic are the same vector, wherever it occurs.
    assert len(np.unique(made.tokens.round(4), axis=0)) == 12


def test_families_share_their_topics():
    made = token_sets(25, tokens=10, dim=32, topics=30, family=10, queries=2, generator=0)
    subjects = {tuple(row) for row in made.topics.tolist()}
    assert (
        len(subjects) == 3
        and (made.topics[:10] == made.topics[0]).all()
        and (made.topics[20:] == made.topics[20]).all()
    )


def test_a_query_about_one_topic():
    made = token_sets(
        40, tokens=10, dim=32, topics=40, query_topics=1, spread=0.0, noise=0.0, queries=20, query_tokens=6, generator=0
    )
    groups = made.query_tokens.reshape(20, 6, 32)
    assert np.abs(groups - groups[:, :1]).max() < 1e-6
    short = token_sets(20, tokens=2, dim=8, topics=9, query_topics=1, queries=30, query_tokens=1, generator=0)
    assert np.isfinite(short.query_tokens).all()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"n": 0}, "n must"),
        ({"tokens": 0}, "tokens"),
        ({"topics": 3}, "per_document"),
        ({"query_topics": 1}, "query_topics"),
        ({"topics": 9, "query_topics": 6}, "query_topics"),
        ({"noise": -1.0}, "noise"),
        ({"spread": float("nan")}, "spread"),
        ({"queries": True}, "queries"),
        ({"family": 0}, "family"),
    ],
)
def test_bad_input(options, word):
    with pytest.raises(ValueError, match=word):
        token_sets(**{"n": 5, **options})
