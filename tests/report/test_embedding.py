"""Embeddings with a known dimension, direction and hubs."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from resolvent.report.embedding import embedding_of, is_embedding
from resolvent.report.facts import facts_of


def gaussian(m: int, n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dimension", [1, 2, 5, 10])
def test_the_dimension_of_a_flat_and_of_a_curved_sheet(dimension: int) -> None:
    turn, _ = torch.linalg.qr(gaussian(40, 40, 7))
    flat = torch.rand(1900, dimension, generator=torch.Generator().manual_seed(0))
    curved = torch.cat((torch.cos(2 * flat), torch.sin(2 * flat)), 1)
    for points in (flat, curved):
        X = 5 + points @ turn[: points.shape[1]]
        e = embedding_of(X, quick=True)
        assert e.dimension_twonn == pytest.approx(dimension, rel=0.15)
        assert e.dimension_mle == pytest.approx(dimension, rel=0.2)
    assert embedding_of(flat @ turn[:dimension]).rank99 == dimension


def test_neighbours_against_a_tree() -> None:
    X = gaussian(700, 6).double().numpy()
    e = embedding_of(torch.from_numpy(X))
    distances, places = cKDTree(X).query(X, 11)
    counts = np.bincount(places[:, 1:].ravel(), minlength=700)
    assert e.largest_hub == pytest.approx(counts.max() / 10, abs=0.11)
    z = (counts - 10) / counts.std()
    assert e.hubness == pytest.approx((z**3).mean(), rel=0.05)
    inverse = np.log(distances[:, -1:] / distances[:, 1:-1]).sum(1) / 9
    assert e.dimension_mle == pytest.approx(1 / inverse.mean(), rel=0.2)


def test_norms_and_the_common_direction() -> None:
    A = gaussian(500, 64)
    unit = A / A.norm(dim=1, keepdim=True)
    e = embedding_of(unit)
    assert e.norm_spread < 1e-6 and e.metric == "cosine" and e.anisotropy < 0.01
    shifted = unit + 2 * torch.eye(64)[0]
    rows = shifted / shifted.norm(dim=1, keepdim=True)
    e = embedding_of(shifted)
    assert e.anisotropy == pytest.approx(float(rows.mean(0).square().sum()), rel=1e-5) and e.anisotropy > 0.7
    assert "mean" in e.advice
    scaled = unit * torch.linspace(0.1, 1, 500)[:, None]
    e = embedding_of(scaled)
    norms = scaled.norm(dim=1)
    assert e.norm_spread == pytest.approx(float(norms.std(correction=0) / norms.mean()), rel=1e-4)
    assert e.metric == "inner product"


def test_high_dimensions_have_hubs_and_copies_are_counted() -> None:
    A = gaussian(2000, 200)
    assert embedding_of(A, quick=True).hubness > 1.4 > 1 > embedding_of(gaussian(2000, 3), quick=True).hubness
    A[100:150] = A[:50]
    A[7] = 0
    A[9, 9] = math.nan
    e = embedding_of(A, quick=True)
    assert e.rows == 1998 and e.duplicates == 48 == e.near_duplicates
    assert e.dimension_twonn > 0 and e == embedding_of(A, quick=True, facts=facts_of(A))
    json.dumps(dataclasses.asdict(e))


def test_a_sample_is_said_and_the_index_depends_on_the_size() -> None:
    low = gaussian(12000, 4) @ gaussian(4, 30, 1)
    e = embedding_of(low, quick=True)
    assert (e.rows, e.sampled, e.index, e.rank99 <= 4) == (12000, 2000, "graph", True)
    assert e == embedding_of(low, quick=True)
    assert embedding_of(low[:300]).index == "flat"
    # beyond a dimension of about fifty the paths in a graph grow long
    assert embedding_of(gaussian(12000, 400), quick=True).index == "IVF"


def test_small_and_degenerate() -> None:
    e = embedding_of(torch.ones(50, 20))
    assert (e.dimension_twonn, e.dimension_mle, e.rank99, e.duplicates) == (None, None, 0, 49)
    few = embedding_of(gaussian(5, 8))
    assert few.hubness is None and few.index == "flat"
    assert embedding_of(torch.complex(gaussian(60, 8), gaussian(60, 8, 1))).rows == 60
    assert embedding_of(gaussian(60, 8).half()).rows == embedding_of(torch.arange(480).reshape(60, 8)).rows == 60
    with pytest.raises(ValueError, match="finite"):
        embedding_of(torch.zeros(40, 4))


@pytest.mark.parametrize(
    ("name", "shape", "role", "expected"),
    [
        ("model.embed_tokens.weight", (32000, 4096), "weight", True),
        ("transformer.wte.weight", (50257, 768), "weight", True),
        ("transformer.wpe.weight", (1024, 768), "weight", True),
        ("tok_embeddings.weight", (32000, 4096), "weight", True),
        ("embeddings.token_type_embeddings.weight", (2, 384), "weight", False),
        ("vision.patch_embed.proj.weight", (768, 768), "weight", False),
        ("vision.embeddings.patch_embedding_conv.weight", (768, 768), "weight", False),
        ("embed_out_norm.dense.weight", (300, 300), "weight", False),
        ("anything", (100, 20), "vectors", True),
        ("anything", (100, 20), "graph", False),
        ("embedding.weight", (100,), "weight", False),
        ("encoder.layer.0.q.weight", (300, 300), "weight", False),
    ],
)
def test_names_of_embeddings(name: str, shape: tuple[int, ...], role: str, expected: bool) -> None:
    assert is_embedding(name, shape, role) is expected
