"""Ranking measures against scikit-learn and by hand; readers of collections on files that are right and wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from resolvent import search
from resolvent.search import Hits


def test_ndcg_agrees_with_scikit_learn():
    from sklearn.metrics import ndcg_score

    r = np.random.default_rng(0)
    gains, scores = r.integers(0, 4, (20, 30)), r.random((20, 30))
    order = np.argsort(-scores, axis=1)
    qrels = [dict(enumerate(g.tolist())) for g in gains]
    assert search.ndcg(order, qrels, 10) == pytest.approx(ndcg_score(gains, scores, k=10))


def test_measures_by_hand():
    got = search.evaluate(
        [[4, 1, 2, 9]], [{1: 1, 9: 2, 7: 1}], ("mrr@10", "recall@4", "precision@2", "map", "map@2", "ndcg@4")
    )
    ideal = 2 + 1 / np.log2(3) + 1 / 2
    assert got == pytest.approx(
        {
            "mrr@10": 1 / 2,
            "recall@4": 2 / 3,
            "precision@2": 1 / 2,
            "map": (1 / 2 + 2 / 4) / 3,
            "map@2": (1 / 2) / 3,
            "ndcg@4": (1 / np.log2(3) + 2 / np.log2(5)) / ideal,
        }
    )


def test_runs_by_name_and_queries_that_were_not_answered():
    run = {"a": {"x": 0.1, "y": 0.9}, "b": ["y"]}
    qrels = {"a": {"y": 1}, "b": {"x": 1, "y": 0}, "c": {"x": 1}, "d": {"x": 0}}
    assert search.mrr(run, qrels) == pytest.approx(1 / 3)


def test_negative_gains_count_as_none():
    assert search.ndcg([[1, 2]], [{1: -1, 2: 1}]) == pytest.approx(1 / np.log2(3))


@pytest.mark.parametrize("as_kind", [np.asarray, torch.as_tensor, lambda x: x])
def test_recall_of_every_kind(as_kind):
    assert search.recall_at_k(as_kind([[1, 2, 3], [4, 5, 6]]), as_kind([[3, 2, 9], [4, 5, 6]])) == pytest.approx(5 / 6)
    assert search.recall_at_k(as_kind([[1, 2, 3]]), as_kind([[2, 1, 9]]), k=1) == 0


def test_hits_are_as_long_as_their_scores_say():
    scores = np.array([[1.0, 0.5, -np.inf]], np.float32)
    found = Hits(np.array([[-1, 5, -1]]), scores, 0, 0)
    assert search.recall_at_k(found, found) == 1 and search.mrr(found, [{-1}]) == 1


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="measures must be like"):
        search.evaluate([[1]], [{1}], ("ndgc@10",))
    with pytest.raises(ValueError, match="qrels must have an entry for each of the 1 rows"):
        search.mrr([[1]], [{1}, {2}])
    with pytest.raises(TypeError, match="run must be a mapping"):
        search.mrr([[1]], {"q": {1: 1}})
    with pytest.raises(ValueError, match="no query with a relevant"):
        search.mrr([[1]], [{1: 0}])
    with pytest.raises(ValueError, match="found must have a row"):
        search.recall_at_k([[1]], [[1], [2]])


def test_trec_msmarco_and_beir_files(tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\n")
    (tmp_path / "corpus.jsonl").write_text(
        '{"_id": "d1", "title": "T", "text": "one"}\n\n{"_id": "d2", "text": "two"}\n'
    )
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "a"}\n{"_id": "q2", "text": "b"}\n')
    found = search.read_beir(tmp_path, "dev")
    assert found == ({"d1": "T one", "d2": "two"}, {"q1": "a"}, {"q1": {"d1": 1, "d2": 0}})
    (tmp_path / "run.txt").write_text("q1 d2 1\nq1 d1 2\n")
    run = search.read_run(tmp_path / "run.txt")
    assert search.mrr(run, found.qrels) == 0.5
    (tmp_path / "texts.tsv").write_text("1\ta\tb\n2\tc\n")
    assert search.read_tsv(tmp_path / "texts.tsv") == {"1": "a\tb", "2": "c"}


@pytest.mark.parametrize(("suffix", "dtype"), [("fvecs", np.float32), ("bvecs", np.uint8), ("ivecs", np.int32)])
def test_vectors_of_texmex_are_mapped(tmp_path, suffix, dtype):
    rows = np.arange(24).reshape(4, 6).astype(dtype)
    path = tmp_path / f"x.{suffix}"
    with path.open("wb") as file:
        for row in rows:
            file.write(np.int32(6).tobytes() + row.tobytes())
    assert (search.read_vecs(path) == rows).all() and len(search.read_vecs(path, 2)) == 2
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is damaged"):
        search.read_vecs(path)
    damaged = bytearray(np.int32(1).tobytes() + b"\0" * 8 + np.int32(2).tobytes())
    path.write_bytes(bytes(damaged))
    with pytest.raises(ValueError, match="is damaged"):
        search.read_vecs(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="holds no vector"):
        search.read_vecs(path)


def test_damaged_texts_name_the_line(tmp_path):
    path = tmp_path / "x.txt"
    for reader, text in (
        (search.read_qrels, "q d one\n"),
        (search.read_run, "q Q0 d 1 high tag\n"),
        (search.read_tsv, "no tab\n"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match="line 1"):
            reader(path)
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("q 0 d 1\n")
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"text": "no id"}))
    with pytest.raises(ValueError, match=r"corpus.jsonl, line 1"):
        search.read_beir(tmp_path)
    with pytest.raises(ValueError, match="must end in"):
        search.read_vecs(path)
