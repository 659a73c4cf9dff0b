"""FixedRadiusGrid: against brute force and scipy's k-d tree, periodic images, the sphere, metrics of the user, edges."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from resolvent.search import FixedRadiusGrid


def brute(x, q, periods):
    """All distances (b, n) by trying every image of every point."""
    turns = [(-1, 0, 1) if a in periods else (0,) for a in range(x.shape[1])]
    length = np.array([periods.get(a, (0, 1))[1] - periods.get(a, (0, 1))[0] for a in range(x.shape[1])])
    shifts = np.array(list(itertools.product(*turns))) * length
    gaps = x[None, :, None, :] + shifts[None, None] - q[:, None, None, :]
    return np.sqrt((gaps**2).sum(-1)).min(-1)


def same(found, distances, keep):
    """Whether a result has exactly the points of `keep`, with their distances."""
    for i in range(len(found)):
        ids, gaps = found[i]
        assert sorted(ids.tolist()) == np.flatnonzero(keep[i]).tolist()
        if gaps is not None:
            np.testing.assert_allclose(gaps, distances[i, ids], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dim", [1, 2, 3, 6])
@pytest.mark.parametrize("cells", ["auto", 1, 3])
@pytest.mark.parametrize("periods", [{}, {0: (0.0, 1.0)}, "all"])
def test_balls_shells_and_nearest_equal_brute_force(dim, cells, periods):
    periods = {a: (-0.5, 1.0 + a / 2) for a in range(dim)} if periods == "all" else periods
    rng = np.random.default_rng(dim)
    x, q = rng.random((150, dim)), rng.random((20, dim)) * 1.2 - 0.1
    for a, (low, high) in periods.items():
        x[:, a] = low + x[:, a] * (high - low)
    q[:3] = x[:3]
    grid = FixedRadiusGrid(x, cells, periods)
    distances = brute(x, q, periods)
    for r in (0.0, 0.1, 0.6, 0.99):
        same(grid.within(q, r), distances, distances <= r)
        same(grid.within(q, r, distances=False), distances, distances <= r)
    inner, outer = rng.random(20) * 0.4, 0.4 + rng.random(20) * 0.5
    same(grid.shell(q, inner, outer), distances, (distances >= inner[:, None]) & (distances < outer[:, None]))
    for n in (1, 7, 150, 1000):
        found = grid.nearest(q, n)
        assert found.counts.tolist() == [min(n, 150)] * 20
        np.testing.assert_allclose(
            found.distances.reshape(20, -1), np.sort(distances, 1)[:, :n], rtol=1e-12, atol=1e-13
        )


@pytest.mark.parametrize("box", [None, 1.0])
def test_the_same_sets_as_a_k_d_tree(box):
    rng = np.random.default_rng(0)
    x, q = rng.random((5000, 3)), rng.random((100, 3))
    grid = FixedRadiusGrid(x, periodic={a: (0, 1) for a in range(3)} if box else None)
    tree = cKDTree(x, boxsize=box)
    expected = tree.query_ball_point(q, 0.15)
    found = grid.within(q, 0.15, sort=True)
    for i, ids in enumerate(expected):
        assert sorted(found[i][0].tolist()) == sorted(ids)
        assert (np.diff(found[i][1]) >= 0).all()
    assert found.evaluations.mean() < 0.1 * len(x)
    gaps, ids = tree.query(q, 6)
    nearest = grid.nearest(q, 6)
    np.testing.assert_array_equal(nearest.indices.reshape(-1, 6), ids)
    np.testing.assert_allclose(nearest.distances.reshape(-1, 6), gaps)


def test_points_on_a_lattice_lie_exactly_on_the_edge():
    x = np.stack(np.meshgrid(*[np.arange(8.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    grid = FixedRadiusGrid(x, cells=7)
    distances = brute(x, x[:40], {})
    for r in (1.0, 2.0, 3.0, 5.0):
        same(grid.within(x[:40], r), distances, distances <= r)
        same(grid.shell(x[:40], r - 1, r), distances, (distances >= r - 1) & (distances < r))


def test_whole_cells_are_accepted_without_a_distance_and_holes_are_left_out():
    rng = np.random.default_rng(1)
    x, q = rng.random((4000, 2)), rng.random((10, 2)) / 2 + 0.25
    grid = FixedRadiusGrid(x)
    tested = grid.within(q, 0.2).evaluations.sum()
    assert grid.within(q, 0.2, distances=False).evaluations.sum() < 0.4 * tested
    assert grid.shell(q, 0.18, 0.2).evaluations.sum() < 0.5 * tested


def test_shells_cut_a_ball_into_parts():
    rng = np.random.default_rng(2)
    x, q = rng.random((1000, 3)), rng.random((10, 3))
    grid = FixedRadiusGrid(x, periodic={1: (0, 1)})
    parts = [grid.shell(q, a, b) for a, b in itertools.pairwise((0, 0.1, 0.25, 0.5))]
    whole = grid.shell(q, 0, 0.5)
    for i in range(10):
        assert sorted(np.concatenate([p[i][0] for p in parts])) == sorted(whole[i][0])
    assert FixedRadiusGrid(x).shell(q, 0.0, math.inf).counts.tolist() == [1000] * 10


def angles(q, x):
    """Great-circle angles in degrees from unit vectors, accurate at every angle."""

    def unit(p):
        lon, lat = np.radians(p).T
        return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)

    u, v = unit(q)[:, None], unit(x)[None]
    return np.degrees(2 * np.arctan2(np.linalg.norm(u - v, axis=-1), np.linalg.norm(u + v, axis=-1)))


@pytest.mark.parametrize("metric", ["haversine", "vincenty"])
@pytest.mark.parametrize("region", ["all", "city", "meridian"])
def test_the_sphere(metric, region):
    rng = np.random.default_rng(3)
    x = np.column_stack([rng.random(400) * 720 - 360, np.degrees(np.arcsin(rng.random(400) * 2 - 1))])
    if region == "city":
        x = np.array([13.4, 52.5]) + rng.normal(size=(400, 2)) * 0.2
    elif region == "meridian":
        x = np.column_stack([rng.normal(size=400) * 3 % 360, rng.random(400) * 40])
    q = np.concatenate([x[:10], rng.random((10, 2)) * [360, 170] - [0, 85], [[0, 90], [50, -90], [179.9, 0]]])
    grid = FixedRadiusGrid(x, metric=metric)
    distances = angles(q, x)
    for r in (0.05, 1.0, 20.0, 89.0, 120.0, 180.0):
        found = grid.within(q, r, sort=True)
        for i in range(len(q)):
            ids, gaps = found[i]
            assert ids.tolist() == np.argsort(distances[i], kind="stable")[: len(ids)].tolist() or len(ids) > 300
            np.testing.assert_allclose(gaps, distances[i, ids], atol=2e-6 if metric == "haversine" else 1e-11)
            assert len(ids) == (distances[i] <= r).sum()
    found = grid.nearest(q, 5)
    np.testing.assert_allclose(found.distances.reshape(-1, 5), np.sort(distances, 1)[:, :5], atol=1e-11)
    same(grid.shell(q, 10, 30), distances, (distances >= 10) & (distances < 30))


def test_antipodes_and_close_points():
    x = np.array([[180.0, -30.0 + 1e-7], [1e-9, 30.0]])
    found = FixedRadiusGrid(x, metric="vincenty").within([0.0, 30.0], 180, sort=True)
    assert found.indices.tolist() == [1, 0]
    # One billionth of a degree of longitude at latitude 30, to full relative accuracy.
    np.testing.assert_allclose(found.distances[0], 1e-9 * math.cos(math.pi / 6), rtol=1e-12)
    np.testing.assert_allclose(180 - found.distances[1], 1e-7, rtol=1e-5)
    rough = FixedRadiusGrid(x, metric="haversine").within([0.0, 30.0], 180, sort=True)
    np.testing.assert_allclose(rough.distances[0], 1e-9 * math.cos(math.pi / 6), rtol=1e-12)


@pytest.mark.parametrize("periods", [{}, {0: (0.0, 1.0), 2: (0.0, 1.0)}])
def test_a_metric_of_the_user(periods):
    rng = np.random.default_rng(4)
    x, q = rng.random((300, 3)), rng.random((12, 3))
    grid = FixedRadiusGrid(x, periodic=periods, metric=lambda a, b: np.abs(b - a).sum(1))
    gaps = np.abs(x[None] - q[:, None])
    for a in periods:
        gaps[..., a] = np.minimum(gaps[..., a], 1 - gaps[..., a])
    distances = gaps.sum(-1)
    same(grid.within(q, 0.4), distances, distances <= 0.4)
    same(grid.shell(q, 0.2, 0.4), distances, (distances >= 0.2) & (distances < 0.4))
    np.testing.assert_allclose(grid.nearest(q, 4).distances.reshape(-1, 4), np.sort(distances, 1)[:, :4])
    assert len(grid.within(np.empty((0, 3)), 0.5)) == 0
    with pytest.raises(ValueError, match="metric"):
        FixedRadiusGrid(x, metric=lambda a, b: -np.ones(len(b))).within(q, 0.4)


def test_kinds_dtypes_threads_and_one_query():
    rng = np.random.default_rng(5)
    x = rng.random((2000, 2)).astype(np.float32)
    grid = FixedRadiusGrid(x)
    q = x[:400]
    found = grid.within(q, 0.05)
    assert found.distances.dtype == np.float32 and found.indices.dtype == np.int64 and found.indptr.dtype == np.int64
    exact = FixedRadiusGrid(x.astype(np.float64)).within(q.astype(np.float64), 0.05)
    np.testing.assert_array_equal(found.indices, exact.indices)
    np.testing.assert_allclose(found.distances, exact.distances, rtol=1e-7)
    tensors = grid.within(torch.from_numpy(q), torch.full((400,), 0.05), workers=2)
    assert isinstance(tensors.indices, torch.Tensor) and tensors.distances.dtype == torch.float32
    np.testing.assert_array_equal(tensors.indices.numpy(), found.indices)
    for name in ("nearest", "within"):
        one = getattr(grid, name)(x[5], 1)
        assert len(one) == 1 and one.counts.shape == (1,)
    with pytest.raises(IndexError):
        found[400]
    assert len(grid) == 2000 and grid.nbytes > x.nbytes


def test_far_queries_thin_boxes_and_equal_points():
    line = np.column_stack([np.linspace(0, 1, 50), np.full(50, 3.0), np.zeros(50)])
    grid = FixedRadiusGrid(line)
    assert [grid.nearest([far, far, 0.0]).indices[0] for far in (1e3, 1e9, -1e9)] == [49, 49, 0]
    assert len(grid.nearest([-1e20, 1e20, 0.0], 7).indices) == 7
    assert grid.within([0.0, 3.0, 0.0], 0.1).counts.tolist() == [5]
    equal = FixedRadiusGrid(np.ones((9, 2)))
    assert equal.within([1.0, 1.0], 0.0).counts.tolist() == [9]
    assert equal.nearest([0.0, 1.0], 3).distances.tolist() == [1.0] * 3
    assert FixedRadiusGrid(np.array([[0.25]]), periodic={0: (0, 1)}).nearest([0.95]).distances[0] == pytest.approx(0.3)


def test_bad_input():
    x = np.random.default_rng(6).random((20, 2))
    grid, torus = FixedRadiusGrid(x), FixedRadiusGrid(x, periodic={0: (0, 1), 1: None})
    for call, word in (
        (lambda: FixedRadiusGrid(x[:0]), "x must"),
        (lambda: FixedRadiusGrid(np.ones((3, 7))), "1 to 6"),
        (lambda: FixedRadiusGrid(x * math.nan), "x has"),
        (lambda: FixedRadiusGrid(x * 1e160), "scale"),
        (lambda: FixedRadiusGrid(x, metric="cosine"), "metric"),
        (lambda: FixedRadiusGrid(x, cells=0), "cells"),
        (lambda: FixedRadiusGrid(x, cells=1 << 20), "2\\^27"),
        (lambda: FixedRadiusGrid(x, cells="many"), "cells"),
        (lambda: FixedRadiusGrid(x, periodic={2: (0, 1)}), "periodic"),
        (lambda: FixedRadiusGrid(x, periodic={0: (1, 1)}), "low < high"),
        (lambda: FixedRadiusGrid(x, metric="haversine", periodic={0: (0, 360)}), "periodic"),
        (lambda: FixedRadiusGrid(x * 100 + 90, metric="haversine"), "latitudes"),
        (lambda: FixedRadiusGrid(np.ones((2, 3)), metric="vincenty"), "two columns"),
        (lambda: grid.within(np.ones((2, 3)), 1), "q must"),
        (lambda: grid.within(x, -1.0), "r must"),
        (lambda: grid.within(x, math.nan), "r must"),
        (lambda: grid.within(x, np.ones(3)), "r must"),
        (lambda: torus.within(x, 1.5), "one period"),
        (lambda: grid.shell(x, 0.2, 0.1), "r_in"),
        (lambda: grid.nearest(x, 0), "n must"),
        (lambda: grid.within(x, 0.1, workers=0), "workers"),
        (lambda: grid.within(x, 0.1, sort=True, distances=False), "sort"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    with pytest.raises(TypeError, match="real"):
        FixedRadiusGrid(x + 1j)
