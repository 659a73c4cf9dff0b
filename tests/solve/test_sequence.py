"""Sequences of systems: orders, what is carried, and the limits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from resolvent.errors import ConvergenceError
from resolvent.random import gaussian
from resolvent.solve import gcrodr, jacobi_preconditioner, solve_sequence, sort_systems

F64 = torch.float64


def diffusion(shift):
    T = sp.diags([-np.ones(199), 2 * np.ones(200), -np.ones(199)], [-1, 0, 1]).tocsr()
    return (T + 1e-3 * sp.diags(1 + shift * np.linspace(0, 1, 200))).tocsr()


def length(points, path):
    return float(torch.linalg.vector_norm(points[path[1:]] - points[path[:-1]], dim=1).sum())


@pytest.mark.parametrize("method", ["greedy", "hilbert"])
def test_orders_are_permutations_and_much_shorter_than_chance(method):
    points = gaussian((300, 2), F64, generator=0)
    path = sort_systems(points, method)
    assert sorted(path.tolist()) == list(range(300))
    assert length(points, path) < 0.2 * length(points, torch.arange(300))


def test_the_greedy_path_is_that_of_its_definition():
    points = gaussian((40, 3, 2), F64, generator=0)
    path = sort_systems(points, start=7).tolist()
    left, at = set(range(40)) - {7}, 7
    for found in path[1:]:
        nearest = min(left, key=lambda j: float(torch.linalg.vector_norm(points[j] - points[at])))
        assert found == nearest
        left.remove(found)
        at = found
    assert path[0] == 7


def test_the_curve_visits_neighbours_and_a_line_is_sorted():
    side = 16
    grid = torch.tensor(list(itertools.product(range(side), range(side))), dtype=F64)
    # A few more points on the first axis make it the leading component.
    path = grid[sort_systems(grid * torch.tensor([1.0, 1.0 - 1e-9], dtype=F64), "hilbert")]
    steps = (path[1:] - path[:-1]).abs().sum(1)
    assert float(steps.max()) == 1
    line = gaussian((50, 1), F64, generator=0)
    assert sort_systems(line, "hilbert").tolist() == line[:, 0].argsort().tolist()


def test_many_points_are_sorted_in_buckets(monkeypatch):
    monkeypatch.setattr("resolvent.solve.sequence._BUCKET", 64)
    points = gaussian((500, 3), torch.float32, generator=0)
    path = sort_systems(points, start=11)
    assert sorted(path.tolist()) == list(range(500)) and int(path[0]) == 11
    assert length(points, path) < 0.4 * length(points, torch.arange(500))


def test_kinds_of_parameters():
    assert isinstance(sort_systems(np.arange(4)), np.ndarray)
    assert sort_systems(torch.tensor([0, 2j, 1j])).tolist() == [0, 2, 1]
    assert sort_systems([3.0]).tolist() == [0]


def test_solutions_in_the_order_given():
    shifts = np.array([0.0, 3.0, 1.0, 2.0])
    systems = [(diffusion(s), np.ones(200) * (1 + s)) for s in shifts]
    X, info = solve_sequence(systems, shifts, restart=20, recycle=6, rtol=1e-9, return_info=True)
    assert info.order == (0, 2, 3, 1) and isinstance(X, np.ndarray)
    for (A, b), x in zip(systems, X, strict=True):
        assert np.linalg.norm(b - A @ x) <= 1e-9 * np.linalg.norm(b)
    assert info.matvecs == sum(s.matvecs for s in info.systems) and info.converged and info.seconds > 0
    assert info.iterations == sum(s.iterations for s in info.systems)
    alone = solve_sequence(systems, restart=20, recycle=0, rtol=1e-9, return_info=True)[1]
    assert alone.order == (0, 1, 2, 3) and info.iterations < 0.7 * alone.iterations
    second = info.systems[2]
    assert 0 <= second.gap < 1 and second.space is None


def test_a_sequence_is_its_single_solves():
    systems = [(diffusion(s), np.ones(200)) for s in (0.0, 1.0)]
    X = solve_sequence(systems, restart=20, recycle=6, M=jacobi_preconditioner)
    first, info = gcrodr(*systems[0], M=jacobi_preconditioner(systems[0][0]), restart=20, recycle=6, return_info=True)
    second = gcrodr(*systems[1], M=jacobi_preconditioner(systems[1][0]), space=info.space, restart=20, recycle=6)
    np.testing.assert_array_equal(X, np.stack([first, second]))
    one = sp.diags(1 / systems[0][0].diagonal())
    np.testing.assert_allclose(solve_sequence(systems, M=one, restart=20, recycle=6), X, rtol=1e-7)


def test_systems_are_built_when_they_are_asked_for():
    class Lazy:
        def __init__(self):
            self.asked = []

        def __len__(self):
            return 3

        def __getitem__(self, i):
            self.asked.append(i)
            return torch.eye(4) * (i + 1), torch.ones(4, 2)

    systems = Lazy()
    X = solve_sequence(systems, [0.0, 2.0, 1.0])
    assert systems.asked == [0, 2, 1] and X.shape == (3, 4, 2) and X.dtype == torch.float32
    torch.testing.assert_close(X[2], torch.full((4, 2), 1 / 3))


def test_what_failed_is_told_and_the_others_are_solved():
    good, bad = np.diag([1.0, 2.0, 3.0]), np.diag([1.0, 2.0, 0.0])
    with pytest.raises(ConvergenceError, match=r"1 of 3 systems.*system 1") as caught:
        solve_sequence([(good, np.ones(3)), (bad, np.ones(3)), (2 * good, np.ones(3))])
    np.testing.assert_allclose(caught.value.best[2], 1 / np.diag(2 * good))
    assert not caught.value.info.converged and caught.value.info.systems[0].converged


def test_bad_input():
    pair = (np.eye(2), np.ones(2))
    for systems, options, match in (
        ([], {}, "systems"),
        ([np.eye(2)], {}, "pairs"),
        ([pair, (np.eye(3), np.ones(3))], {"recycle": 0}, "one shape"),
        ([pair, (np.eye(2), np.ones(3))], {}, "system 1"),
        ([pair], {"params": [1.0, 2.0]}, "params"),
        ([pair], {"params": [1.0], "sort": "random"}, "method"),
        ([pair], {"recycle": 60}, "recycle"),
    ):
        with pytest.raises(ValueError, match=match):
            solve_sequence(systems, **options)
    for params, options, match in (
        (3.0, {}, "params"),
        ([1.0, np.nan], {}, "NaN"),
        ([1.0], {"start": 1}, "start"),
    ):
        with pytest.raises(ValueError, match=match):
            sort_systems(params, **options)
