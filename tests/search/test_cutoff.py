"""The cut-off by relevance: order kept, thresholds chosen as promised, baselines that are what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resolvent.search import Hits, RelevanceCutoff

FORMS = ["power", "linear", "sqrt", "platt", "isotonic", "relative", "cosine"]


def retrieval(b=300, m=30, d=5, seed=0):
    """Queries whose first entry says how high a score must be."""
    r = np.random.default_rng(seed)
    q = r.normal(size=(b, d)).astype(np.float32)
    scores = -np.sort(-r.random((b, m)), axis=1).astype(np.float32)
    labels = scores + 0.05 * r.normal(size=scores.shape) > 0.5 + 0.3 * np.tanh(2 * q[:, :1])
    return q, scores, labels


@pytest.fixture(scope="module")
def fitted():
    return {form: RelevanceCutoff(form, steps=300, generator=0).fit(*retrieval()) for form in FORMS}


@pytest.mark.parametrize("form", FORMS)
def test_order_within_a_query_never_changes(fitted, form):
    q, scores, _ = retrieval(seed=1)
    mapped = fitted[form].transform(q, scores)
    assert (np.diff(mapped, axis=1) <= 0).all() and mapped.min() >= 0 and mapped.max() <= 1


def test_what_depends_on_the_query_needs_the_query(fitted):
    q, scores, labels = retrieval(seed=2)

    def f1(form):
        keep = fitted[form].transform(q, scores) >= fitted[form].threshold
        return 2 * (keep & labels).sum() / (keep.sum() + labels.sum())

    for form in ("power", "linear", "sqrt"):
        assert f1(form) > max(f1(other) for other in ("platt", "isotonic", "relative", "cosine")) + 0.05


def test_one_global_threshold_is_the_same_for_platt_and_cosine(fitted):
    q, scores, _ = retrieval(seed=2)
    a, b = (fitted[f].transform(q, scores).ravel() for f in ("platt", "cosine"))
    assert (np.diff(a[np.argsort(b)]) >= 0).all()


def test_the_threshold_is_the_smallest_that_reaches_the_precision():
    cut = RelevanceCutoff("linear", steps=300, generator=0).fit(*retrieval())
    low, high = (cut.calibrate(p).threshold for p in (0.8, 0.97))
    assert low < high and cut.precision >= 0.97
    values, labels = cut._held
    for threshold in np.unique(values[values < high])[-5:]:
        assert labels[values >= threshold].mean() < 0.97 or (values >= threshold).sum() == (values >= high).sum()


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_apply_drops_and_says_how_many(fitted, kind):
    q, scores, _ = retrieval(b=4, seed=3)
    ids = np.arange(scores.size).reshape(scores.shape)
    fields = (ids, scores, np.zeros(4, np.int64), np.zeros(4, np.int64))
    hits = Hits(*(map(torch.from_numpy, fields) if kind == "torch" else fields))
    kept = fitted["linear"].apply(hits, q)
    n = np.asarray(kept.counts)
    assert kept.explain["cutoff"]["dropped"] == scores.size - n.sum() > 0
    assert all((np.asarray(kept.ids)[i, n[i] :] == -1).all() for i in range(4))
    assert all((np.asarray(kept.ids)[i, : n[i]] == ids[i, : n[i]]).all() for i in range(4))
    assert (np.asarray(fitted["linear"].apply(hits, q, threshold=2.0).counts) == 0).all()


def test_apply_takes_one_query_and_strings(fitted):
    q, scores, _ = retrieval(b=1, seed=3)
    names = np.array([f"d{i}" for i in range(30)], dtype=object)
    kept = fitted["power"].apply(Hits(names, scores[0], 0, 0), q[0], threshold=0.5)
    assert kept.ids.shape == (30,) and kept.ids[-1] is None and kept.ids[0] == "d0"


def test_missing_hits_stay_missing(fitted):
    q, scores, labels = retrieval(seed=4)
    scores[:, 20:] = -np.inf
    for form in FORMS:
        assert np.isneginf(fitted[form].transform(q, scores)[:, 20:]).all()
    RelevanceCutoff("power", steps=20, generator=0).fit(q, scores, labels)


def test_the_same_seed_gives_the_same_cutoff():
    one, two = (RelevanceCutoff("power", steps=30, generator=5).fit(*retrieval()) for _ in range(2))
    assert one.threshold == two.threshold
    state = torch.get_rng_state()
    RelevanceCutoff("power", steps=5, generator=5).fit(*retrieval())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: RelevanceCutoff("cubic"), "form must be one of"),
        (lambda d: RelevanceCutoff(hidden=0), "hidden must be"),
        (lambda d: RelevanceCutoff(lr=0), "lr must be"),
        (lambda d: RelevanceCutoff().fit(d[0][:3], d[1], d[2]), "must have the same b"),
        (lambda d: RelevanceCutoff().fit(d[0], d[1], d[2] * 2.0), "labels must be 0 or 1"),
        (lambda d: RelevanceCutoff().fit(d[0], d[1], d[2] * 0), "both relevant and irrelevant"),
        (lambda d: RelevanceCutoff().fit(d[0], d[1] * np.nan, d[2]), "scores has NaN"),
        (lambda d: RelevanceCutoff().fit(*d, held_out=1.0), "held_out must lie"),
        (lambda d: RelevanceCutoff().transform(*d[:2]), "fit the cutoff"),
        (lambda d: RelevanceCutoff("isotonic").transform(*d[:2]), "fit the cutoff"),
        (lambda d: RelevanceCutoff().calibrate(), "fit the cutoff"),
        (lambda d: RelevanceCutoff().apply(Hits(d[1], d[1], 0, 0), d[0]), "threshold must be given"),
        (lambda d: RelevanceCutoff("cosine").fit(*d).calibrate(1.5), "target_precision must lie"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(retrieval(b=40))


def test_a_precision_out_of_reach_says_what_is_possible():
    q, scores, _ = retrieval()
    labels = np.zeros(scores.shape)
    labels[:, -1] = 1
    with pytest.raises(ValueError, match="is not reached by any threshold"):
        RelevanceCutoff("cosine", generator=0).fit(q, scores, labels, target_precision=0.99)
