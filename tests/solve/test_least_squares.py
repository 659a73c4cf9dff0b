"""lstsq, lsqr and lsmr: numpy's solutions at any condition and rank, ridge and weights, gradients, bad input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.datasets import load_diabetes
from torch.autograd import gradcheck

from resolvent.errors import ConvergenceError
from resolvent.operators import Dense, Diagonal, LowRank
from resolvent.random import gaussian
from resolvent.solve import lsmr, lsqr, lstsq

F64 = torch.float64


def draw(*shape, dtype=F64, seed=0):
    return gaussian(shape, dtype, generator=seed)


def conditioned(m, n, condition, seed=0):
    r = min(m, n)
    U, V = torch.linalg.qr(draw(m, r, seed=seed)).Q, torch.linalg.qr(draw(n, r, seed=seed + 1)).Q
    return (U * torch.logspace(0, -np.log10(condition), r, dtype=F64)) @ V.mT


def reference(A, b, **options):
    return torch.from_numpy(np.linalg.lstsq(A.numpy(), b.numpy(), rcond=None, **options)[0])


@pytest.mark.parametrize("method", ["auto", "qr", "lsmr"])
@pytest.mark.parametrize("shape", [(30, 8), (8, 30), (12, 12)])
def test_solutions_are_those_of_numpy(method, shape):
    A, B = draw(*shape), draw(shape[0], 3, seed=1)
    x, info = lstsq(A, B, method=method, rtol=1e-12, return_info=True)
    torch.testing.assert_close(x, reference(A, B), rtol=1e-7, atol=1e-9)
    assert info.converged
    torch.testing.assert_close(lstsq(A, B[:, 0], method=method), x[:, 0], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("condition", [1e0, 1e4, 1e8, 1e12])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_sketch_is_as_accurate_as_a_factorisation(condition, noise):
    m, n = 20_000, 40
    A = conditioned(m, n, condition)
    b = A @ draw(n, seed=3) + noise * draw(m, seed=4)
    x, info = lstsq(A, b, method="sketch", rcond=1e-15, return_info=True)
    y = torch.linalg.lstsq(A, b[:, None], driver="gelsd", rcond=1e-15).solution[:, 0]
    ours, theirs = (float(torch.linalg.vector_norm(b - A @ z)) for z in (x, y))
    assert ours <= theirs * (1 + 1e-10) + 1e-13 * float(torch.linalg.vector_norm(b))
    error = torch.linalg.vector_norm(x - y) / torch.linalg.vector_norm(y)
    assert float(error) <= 1e-13 * condition * (1 + condition * noise) and info.method == "sketch"


def test_steps_do_not_depend_on_the_condition():
    steps = []
    for condition in (1.0, 1e10):
        A = conditioned(20_000, 40, condition)
        steps.append(lstsq(A, draw(20_000, seed=5), method="sketch", rcond=1e-15, return_info=True)[1].iterations)
    assert max(steps) <= 30


@pytest.mark.parametrize("seed", range(5))
def test_rows_that_outweigh_all_others(seed):
    A = draw(8000, 20, seed=seed)
    heavy = torch.randperm(8000, generator=torch.Generator().manual_seed(seed))[:20]
    A[heavy] += 1e6 * torch.eye(20, dtype=F64)
    b = draw(8000, seed=9)
    x = lstsq(A, b, method="sketch", generator=seed)
    torch.testing.assert_close(x, reference(A, b), rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize(("m", "method"), [(60, "qr"), (40_000, "sketch"), (60, "lsmr")])
def test_the_least_norm_where_the_rank_is_short(m, method):
    A, b = draw(m, 10) @ draw(10, 25, seed=1), draw(m, seed=2)
    x, info = lstsq(A, b, method=method, return_info=True)
    assert info.method == method
    torch.testing.assert_close(x, reference(A, b), rtol=1e-6, atol=1e-10)


def test_batches():
    A, B = draw(2, 1, 9, 4), draw(3, 9, 2, seed=1)
    x = lstsq(A, B)
    assert x.shape == (2, 3, 4, 2)
    torch.testing.assert_close(x[1, 2], reference(A[1, 0], B[2]))
    assert lstsq(A, draw(9)).shape == (2, 1, 4)
    deficient = torch.stack([draw(6, 3), torch.zeros(6, 3, dtype=F64)])
    assert bool((lstsq(deficient, draw(6))[1] == 0).all())


@pytest.mark.parametrize("method", ["qr", "sketch", "lsmr"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128])
def test_dtypes(method, dtype):
    A, b = draw(2000, 6, dtype=dtype), draw(2000, dtype=dtype, seed=1)
    x = lstsq(A, b, method=method)
    assert x.dtype == dtype
    wide = torch.linalg.lstsq(A.to(torch.complex128), b.to(torch.complex128)[:, None]).solution[:, 0]
    accuracy = 1e-4 if A.real.dtype == torch.float32 else 1e-9
    torch.testing.assert_close(x.to(torch.complex128), wide, rtol=accuracy, atol=accuracy * float(wide.abs().max()))


@pytest.mark.parametrize("method", ["qr", "sketch", "lsmr"])
def test_ridge_and_weights(method):
    A, b, w = draw(400, 5), draw(400, seed=1), draw(400, seed=2).abs()
    x = lstsq(A, b, ridge=2.0, weights=w, method=method, rtol=1e-11)
    exact = torch.linalg.solve(A.mT @ (w[:, None] * A) + 2 * torch.eye(5, dtype=F64), A.mT @ (w * b))
    torch.testing.assert_close(x, exact, rtol=1e-8, atol=1e-9)
    zero = lstsq(A, b, weights=(torch.arange(400) < 200).double(), method=method)
    torch.testing.assert_close(zero, reference(A[:200], b[:200]), rtol=1e-7, atol=1e-8)
    wide = lstsq(A[:3], b[:3], ridge=1.0, method="qr")
    torch.testing.assert_close(wide, torch.linalg.solve(A[:3].mT @ A[:3] + torch.eye(5, dtype=F64), A[:3].mT @ b[:3]))


def test_sparse_and_operators():
    S = sp.random(40_000, 120, 0.02, random_state=0).tocsr()
    b = np.random.default_rng(0).standard_normal(40_000)
    for matrix, side in ((S, b), (S.T.tocsr(), b[:120])):
        x, info = lstsq(matrix, side, return_info=True)
        assert info.method == "lsmr" and isinstance(x, np.ndarray)
        tall = S.toarray()
        gram = tall.T @ tall
        exact = np.linalg.solve(gram, tall.T @ side) if matrix is S else tall @ np.linalg.solve(gram, side)
        np.testing.assert_allclose(x, exact, rtol=1e-5, atol=1e-7)
    A = Diagonal(draw(50).abs() + 1) + LowRank(draw(50, 2))
    torch.testing.assert_close(lstsq(A, draw(50)), torch.linalg.solve(A.to_dense(), draw(50)), rtol=1e-7, atol=1e-9)


def test_real_data():
    X, y = load_diabetes(return_X_y=True)
    X = np.c_[np.ones(len(X)), X]
    np.testing.assert_allclose(lstsq(X, y), np.linalg.lstsq(X, y, rcond=None)[0], rtol=1e-9)


def test_gradients():
    b = draw(6, seed=1).requires_grad_()
    for shape in ((5, 2), (2, 5)):
        A, c = draw(*shape).requires_grad_(), b[: shape[0]].detach().requires_grad_()
        w = (draw(shape[0], seed=2).abs() + 0.5).detach().requires_grad_()
        assert gradcheck(lstsq, (A, c))
        assert gradcheck(lambda A, c, w: lstsq(A, c, ridge=0.3, weights=w), (A, c, w))
        assert gradcheck(lstsq, (draw(*shape, dtype=torch.complex128).requires_grad_(), c))
        assert gradcheck(lambda A, c: lstsq(A, c, method="lsmr", rtol=1e-12), (A, c))
    F, G = draw(5, 2).requires_grad_(), draw(2, 3, seed=3).requires_grad_()
    assert gradcheck(
        lambda F, G, b: lstsq(F @ G, b, rcond=1e-6), (F, G, b[:5].detach().requires_grad_()), eps=1e-7, atol=1e-4
    )
    tall, side = draw(16, 2).requires_grad_(), draw(16, seed=4).requires_grad_()
    assert gradcheck(lambda A, b: lstsq(A, b, method="sketch"), (tall, side))
    (first,) = torch.autograd.grad(lstsq(tall, side).sum(), tall, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(first.square().sum() + tall.sum(), tall)


def test_a_sketch_that_fails_is_replaced_by_factors(monkeypatch):
    A, b = draw(4000, 10), draw(4000, seed=1)
    monkeypatch.setattr("resolvent.solve.least_squares_methods._INNER", 3)
    x, info = lstsq(A, b, method="sketch", return_info=True)
    assert info.method == "qr"
    torch.testing.assert_close(x, reference(A, b))


@pytest.mark.parametrize("method", [lsqr, lsmr])
@pytest.mark.parametrize("dtype", [F64, torch.complex128])
def test_bidiagonalisation(method, dtype):
    scale = torch.logspace(0, 2, 40, dtype=F64).to(dtype)
    A, B = draw(120, 40, dtype=dtype) * scale, draw(120, 2, dtype=dtype, seed=1)
    exact = torch.linalg.lstsq(A, B).solution
    x, info = method(A, B, return_info=True)
    torch.testing.assert_close(x, exact, rtol=1e-6, atol=1e-8)
    y, faster = method(A, B, M=Diagonal(1 / scale), return_info=True)
    torch.testing.assert_close(y, exact, rtol=1e-6, atol=1e-8)
    assert faster.iterations < 0.5 * info.iterations
    damped = method(A, B, damp=3.0)
    normal = torch.linalg.solve(A.mH @ A + 9 * torch.eye(40, dtype=dtype), A.mH @ B)
    torch.testing.assert_close(damped, normal, rtol=1e-6, atol=1e-8)
    wide = method(A.mH, B[:40])
    torch.testing.assert_close(wide, torch.linalg.pinv(A.mH) @ B[:40], rtol=1e-6, atol=1e-8)
    _, info = method(A, B, x0=exact, rtol=1e-8, return_info=True)
    assert info.error <= 1e-8


def test_the_gradient_falls_in_every_step_of_lsmr():
    A, b = draw(80, 30), draw(80, seed=1)
    norms = []
    lsmr(A, b, callback=lambda x: norms.append(float(torch.linalg.vector_norm(A.mT @ (b - A @ x)))))
    assert all(after <= before * (1 + 1e-10) + 1e-12 for before, after in itertools.pairwise(norms))


@pytest.mark.parametrize("method", [lsqr, lsmr])
def test_a_missed_tolerance(method):
    A, b = conditioned(60, 40, 1e6).numpy(), np.ones(60)
    with pytest.raises(ConvergenceError) as caught:
        method(A, b, maxiter=3)
    assert caught.value.best.shape == (40,) and caught.value.info.iterations == 3
    with pytest.raises(ValueError, match="damp"):
        method(A, b, damp=-1.0)
    with pytest.raises(TypeError, match="solve"):
        method(torch.from_numpy(A), torch.from_numpy(b).requires_grad_())


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"b": np.ones(3)}, ValueError, "m = 4"),
        ({"b": [1.0, 2.0, np.inf, 0.0]}, ValueError, "NaN"),
        ({"ridge": -1.0}, ValueError, "ridge"),
        ({"weights": [1.0, -1.0, 1.0, 1.0]}, ValueError, "weights"),
        ({"weights": [1.0]}, ValueError, "weights"),
        ({"rcond": 2.0}, ValueError, "rcond"),
        ({"rtol": -1.0}, ValueError, "rtol"),
        ({"method": "svd"}, ValueError, "method"),
        ({"method": "sketch"}, TypeError, "sketch"),
        ({"method": "lsmr", "A": np.ones((2, 4, 2))}, TypeError, "batch"),
    ],
)
def test_bad_input(change, error, match):
    given = {"A": np.arange(8.0).reshape(4, 2), "b": np.ones(4)} | change
    with pytest.raises(error, match=match):
        lstsq(given.pop("A"), given.pop("b"), **given)


def test_no_columns_and_no_rows():
    assert lstsq(np.ones((3, 0)), np.ones(3)).shape == (0,)
    np.testing.assert_array_equal(lstsq(np.ones((0, 2)), np.ones(0)), np.zeros(2))


def test_half_precision_is_refused():
    with pytest.raises(TypeError, match="float32"):
        lstsq(Dense(torch.ones(4, 2, dtype=torch.bfloat16)), torch.ones(4, dtype=torch.bfloat16))


@pytest.mark.parametrize("method", [lsqr, lsmr])
def test_a_start_for_a_zero_right_hand_side_is_left(method):
    A, b = draw(30, 10), torch.zeros(30, 2, dtype=F64)
    b[:, 1] = draw(30, seed=1)
    x = method(A, b, x0=draw(10, 2, seed=2))
    assert torch.allclose(x, torch.linalg.lstsq(A, b).solution, atol=1e-7)
    assert method(A, b[:, :0]).shape == (10, 0)


@pytest.mark.parametrize("method", [lstsq, lsqr, lsmr])
@pytest.mark.parametrize(("of_A", "of_b"), [(1.0, 1e-30), (1.0, 1e30), (1e-25, 1.0), (1e25, 1.0), (1e20, 1e20)])
def test_float32_far_from_one(method, of_A, of_b):
    A, b = draw(30, 5, dtype=torch.float32), draw(30, dtype=torch.float32, seed=1)
    exact = torch.linalg.lstsq(A.double(), b.double()[:, None]).solution[:, 0]
    found = method(A * of_A, b * of_b).double() * (of_A / of_b)
    assert torch.allclose(found, exact, rtol=1e-3, atol=1e-4)


def test_a_small_matrix_that_lacks_rank_in_float32():
    A = draw(30, 5, dtype=torch.float32)
    A[:, 4] = A[:, 3]
    b = draw(30, dtype=torch.float32, seed=1)
    found = lstsq(A * 1e-25, b * 1e-25)
    exact = torch.linalg.pinv(A.double(), rtol=1e-5) @ b.double()
    assert torch.allclose(found.double(), exact, rtol=1e-3, atol=1e-4)


def test_complex_right_hand_sides_of_a_real_matrix():
    A, b = draw(12, 4), draw(12, 2, dtype=torch.complex128, seed=1)
    exact = torch.linalg.pinv(A).to(b) @ b
    for ridge in (0.0, 1e-12):
        assert torch.allclose(lstsq(A, b, ridge=ridge), exact)
    given = (A.clone().requires_grad_(), b.clone().requires_grad_())
    assert gradcheck(lambda A, b: torch.view_as_real(lstsq(A, b)), given)


def test_damping_must_be_finite():
    with pytest.raises(ValueError, match="damp"):
        lsqr(np.eye(2), np.ones(2), damp=np.inf)
