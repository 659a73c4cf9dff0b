"""Local intrinsic dimension against its formula and known dimensions; orders of insertion; the study."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resolvent import search
from resolvent.search.rows_kernel import inner_product, integer_product, squared_distance


def test_dimension_is_the_formula():
    g = np.random.default_rng(0)
    x = g.normal(size=(60, 5))
    found = search.local_intrinsic_dimension(x, k=12)
    gaps = np.sqrt(((x[:, None] - x[None]) ** 2).sum(2))
    for i in (0, 7, 59):
        r = np.sort(np.delete(gaps[i], i))[:12]
        np.testing.assert_allclose(found[i], -1 / np.mean(np.log(r / r[-1])), rtol=1e-3)


@pytest.mark.parametrize("r", [1, 3, 8])
def test_dimension_of_a_flat_set_is_its_own_and_does_not_see_scale_shift_or_rotation(r):
    g = np.random.default_rng(0)
    x = g.random((3000, r)) @ np.linalg.qr(g.normal(size=(20, r)))[0].T
    found = search.local_intrinsic_dimension(x, k=60)
    assert abs(float(found.mean()) - r) < 0.15 * r + 0.1
    moved = search.local_intrinsic_dimension((7 * x + 1) @ np.linalg.qr(g.normal(size=(20, 20)))[0], k=60)
    np.testing.assert_allclose(moved, found, rtol=2e-2)


def test_dimension_of_copies_and_kinds():
    x = torch.zeros(5, 3)
    x[4] = 1
    found = search.local_intrinsic_dimension(x, k=4)
    assert isinstance(found, torch.Tensor) and found[:4].tolist() == [0.0] * 4 and found[4] == float("inf")
    for bad, match in ((np.ones((2, 3)), "n >= 3"), (np.ones(4), "shape")):
        with pytest.raises(ValueError, match=match):
            search.local_intrinsic_dimension(bad)
    with pytest.raises(ValueError, match="k must be"):
        search.local_intrinsic_dimension(x, k=1)
    with pytest.raises(ValueError, match="NaN"):
        search.local_intrinsic_dimension(x * torch.nan)


def test_orders_sort_by_dimension_label_and_chance():
    g = np.random.default_rng(0)
    flat, full = np.zeros((300, 12)), g.normal(size=(300, 12)) + 30
    flat[:, 0] = g.random(300)
    x = np.concatenate([flat, full])
    down, up = (search.insertion_order(x, by, k=30) for by in ("lid-desc", "lid-asc"))
    assert (down[:290] >= 300).mean() > 0.95 and (up[:290] < 300).mean() > 0.95
    thin = search.insertion_order(x, "lid-desc", k=30, sample=200, generator=0)
    assert (thin[:290] >= 300).mean() > 0.9
    a, b = (search.insertion_order(x, "random", generator=3) for _ in range(2))
    assert (a == b).all() and (np.sort(a) == np.arange(600)).all() and (a != np.arange(600)).any()
    for options, match in (
        ({"by": "up"}, "by must"),
        ({"by": "label"}, "labels must"),
        ({"by": "label", "labels": [1]}, "labels"),
    ):
        with pytest.raises(ValueError, match=match):
            search.insertion_order(x, **options)


def test_study_reports_recall_against_exact_search():
    data = search.clustered_vectors(800, 16, n_queries=40, generator=0)
    qrels = [{int(i): 1.0} for i in search.exact_search(data.x, data.queries, 1, "l2").ids[:, 0]]
    rows = search.order_study(
        data.x, data.queries, orders=("random", "label"), labels=data.labels[:800], ef=200, qrels=qrels, generator=0
    )
    assert [row.order for row in rows] == ["random", "label"]
    for row in rows:
        assert row.recall > 0.98 and len(row.by_quantile) == 4 and 0 < row.evaluations < 800
        assert row.recall == pytest.approx(np.mean(row.by_quantile), abs=1e-6)
        assert row.ndcg_exact == pytest.approx(1.0) and row.ndcg_found > 0.95


@pytest.mark.parametrize("dim", [1, 5, 16, 37, 64, 131])
def test_row_kernels_equal_numpy(dim):
    import numba

    @numba.njit
    def products(q, data, scale):
        out = np.empty((data.shape[0], 2), np.float32)
        for i in range(data.shape[0]):
            out[i, 0] = inner_product(q, data, i, scale)
            out[i, 1] = squared_distance(q, data, i, scale)
        return out

    @numba.njit
    def integers(q, data):
        return np.array([integer_product(q, data, i) for i in range(data.shape[0])])

    g = np.random.default_rng(dim)
    x, q = g.normal(size=(4, dim)).astype(np.float32), g.normal(size=dim).astype(np.float32)
    brief = torch.from_numpy(x).bfloat16()
    codes = np.rint(30 * x).clip(-127, 127).astype(np.int8)
    for data, scale, true in (
        (x, 1, x),
        (x.astype(np.float16).view(np.int16), 1, x.astype(np.float16)),
        (brief.view(torch.uint16).numpy(), 1, brief.float().numpy()),
        (codes, 0.25, codes * 0.25),
    ):
        true = true.astype(np.float64)
        expected = np.stack([true @ q, ((true - q) ** 2).sum(1)], 1)
        size = (np.abs(true) @ np.abs(q)).max() + expected[:, 1].max()
        np.testing.assert_allclose(products(q, data, np.float32(scale)), expected, atol=1e-6 * size)
    short = g.integers(-32767, 32768, dim).astype(np.int16)
    np.testing.assert_array_equal(integers(short, codes), codes.astype(np.int64) @ short)
