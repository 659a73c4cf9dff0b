"""Deep conjugate directions: limits that are CG and its preconditioned form, data, networks, training, bad input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from resolvent.errors import ConvergenceError
from resolvent.operators import Dense
from resolvent.operators.threads import one_thread
from resolvent.random import gaussian
from resolvent.solve import DirectionNet, cg, deep_cg, ritz_dataset, train_direction_net

F64 = torch.float64


def draw(*shape, dtype=F64, seed=0):
    return gaussian(shape, dtype, generator=seed)


def positive(n, condition=100.0, dtype=F64):
    Q = torch.linalg.qr(draw(n, n, dtype=dtype)).Q
    A = (Q * torch.logspace(0, np.log10(condition), n, dtype=F64).to(dtype)) @ Q.mH
    return (A + A.mH) / 2


def poisson(m, mask=None):
    T = sp.diags([-np.ones(m - 1), 2 * np.ones(m), -np.ones(m - 1)], [-1, 0, 1])
    A = (sp.kron(sp.eye(m), T) + sp.kron(T, sp.eye(m))).tocsr()
    inside = np.flatnonzero(np.ones(m * m, bool) if mask is None else mask.numpy().ravel())
    return A[inside][:, inside]


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.complex128])
def test_the_identity_gives_cg_and_a_preconditioner_its_preconditioned_form(dtype):
    n = 60
    A, b = positive(n, 10.0, dtype=dtype), draw(n, 2, dtype=dtype, seed=1)
    P = torch.linspace(0.5, 2, n, dtype=F64).to(b.real.dtype)
    rtol = 1e-4 if dtype == torch.float32 else 1e-9
    for model, M in ((lambda R: R, None), (lambda R: P[:, None] * R, torch.diag(P).to(dtype))):
        x, info = deep_cg(A, b, model, rtol=rtol, return_info=True)
        y, plain = cg(A, b, M=M, rtol=rtol, return_info=True)
        assert abs(info.iterations - plain.iterations) <= 1 and x.dtype == dtype
        torch.testing.assert_close(x, y, rtol=100 * rtol, atol=100 * rtol)
        ours, theirs = (torch.tensor(i.history[:15]) for i in (info, plain))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_inverse_is_one_step_and_any_model_converges():
    A, b = positive(40), draw(40, seed=1)
    inverse = torch.linalg.inv(A)
    assert deep_cg(A, b, lambda R: -3 * inverse @ R, rtol=1e-9, return_info=True)[1].iterations == 1
    spread = torch.linspace(0.5, 2, 40, dtype=F64)[:, None]
    x, info = deep_cg(A, b, lambda R: torch.tanh(10 * spread * R), return_info=True)
    assert float(torch.linalg.vector_norm(b - A @ x) / torch.linalg.vector_norm(b)) <= 1e-10
    assert info.iterations == len(info.history) - 1


def test_the_error_never_grows_and_directions_are_conjugate():
    A, b = positive(30), draw(30, seed=1)
    exact = torch.linalg.solve(A, b)
    seen = [torch.zeros_like(b)]
    W = draw(30, 30, seed=2)
    with pytest.raises(ConvergenceError):
        deep_cg(A, b, lambda R: torch.relu(W @ R), history=3, maxiter=12, callback=seen.append)
    errors = [float((x - exact) @ A @ (x - exact)) for x in seen]
    assert (np.diff(errors) <= 1e-12).all()
    steps = torch.stack([y - x for x, y in itertools.pairwise(seen)], 1)
    between = (steps.mT @ A @ steps).abs()
    scale = between.diagonal().sqrt()
    for j in (1, 2, 3):
        assert float((between / scale[:, None] / scale).diagonal(j).max()) < 1e-8


def test_histories():
    A, b = positive(60, 20.0), draw(60, seed=1)
    counts = [deep_cg(A, b, lambda R: R, history=h, rtol=1e-3, return_info=True)[1].iterations for h in (0, 1, 2)]
    assert counts[0] > 2 * counts[1] and abs(counts[1] - counts[2]) <= 2


def test_kinds_starts_and_zero():
    A, b = poisson(8), np.ones(64)
    x = deep_cg(A, b, lambda R: R)
    assert isinstance(x, np.ndarray)
    np.testing.assert_allclose(A @ x, b, atol=1e-8)
    assert deep_cg(A, b, lambda R: R, x0=x, rtol=1e-8, return_info=True)[1].iterations == 0
    assert (deep_cg(A, 0 * b, lambda R: R, x0=x) == 0).all()


def test_the_data_are_smooth_and_in_the_space_of_the_ritz_vectors():
    A = poisson(12)
    rows = ritz_dataset(A, 200, vectors=144, generator=0)
    torch.testing.assert_close(torch.linalg.vector_norm(rows, dim=1), torch.ones(200, dtype=F64))
    w, V = np.linalg.eigh(A.toarray())
    power = ((rows.numpy() @ V) ** 2).mean(0)
    # A grid has repeated eigenvalues, of which Lanczos finds one vector each.
    assert power[w < np.median(w) + 1e-9].sum() > 0.9
    again = ritz_dataset(A, 200, vectors=144, generator=0)
    assert bool((rows == again).all())
    flat = ritz_dataset(A, 400, vectors=144, low=0, emphasis=1.0, generator=0)
    assert 0.35 < ((flat.numpy() @ V) ** 2).mean(0)[w < np.median(w)].sum() < 0.65
    # Few steps on a matrix of rank 3: the kernel is left out.
    U = torch.linalg.qr(draw(20, 3)).Q
    low = ritz_dataset(U @ U.mT * 2.0, 5, vectors=10, generator=0)
    torch.testing.assert_close(low @ U @ U.mT, low)


@pytest.mark.parametrize(("dims", "grid"), [(2, (7, 10)), (3, (5, 4, 6))])
def test_networks_are_homogeneous_and_fit_any_grid(dims, grid):
    net = DirectionNet(dims, channels=3, generator=0)
    x = gaussian((2, *grid), torch.float32, generator=1)
    torch.testing.assert_close(net(5 * x), 5 * net(x))
    assert net(x).shape == x.shape and bool((net(0 * x) == 0).all())
    again = DirectionNet(dims, channels=3, generator=0)
    torch.testing.assert_close(again(x), net(x))
    flat = net.on(grid)(x.flatten(1).mT)
    torch.testing.assert_close(flat, net(x).flatten(1).mT)
    assert not flat.requires_grad


def test_masks_are_zero_outside():
    net = DirectionNet(channels=3, generator=0)
    mask = torch.ones(6, 7, dtype=torch.bool)
    mask[2:4, 3:5] = False
    r = gaussian((38, 2), F64, generator=1)
    whole = torch.zeros(2, 6, 7)
    whole[:, mask] = r.mT.float()
    found = net.on(mask)(r)
    assert found.dtype == F64
    torch.testing.assert_close(found.float(), net(whole)[:, mask].mT)


def test_a_trained_network_needs_fewer_steps_also_with_obstacles():
    m = 24
    A = poisson(m)
    net = DirectionNet(channels=8, generator=1)
    with one_thread():
        net, losses = train_direction_net(A, (m, m), net=net, samples=900, vectors=200, generator=0, return_losses=True)
    assert len(losses) == 150 and np.mean(losses[-10:]) < 0.3 * np.mean(losses[:5])
    mask = torch.ones(m, m, dtype=torch.bool)
    mask[5:9, 12:17] = False
    B = poisson(m, mask)
    b = draw(B.shape[0], 3, seed=5).numpy()
    x, ours = deep_cg(B, b, net.on(mask), rtol=1e-4, return_info=True)
    plain = cg(B, b, rtol=1e-4, return_info=True)[1]
    assert ours.iterations < 0.7 * plain.iterations
    assert (np.linalg.norm(b - B @ x, axis=0) <= 1e-4 * np.linalg.norm(b, axis=0)).all()


def test_the_loss_is_the_residual_of_one_step_and_training_goes_on():
    A = poisson(6).astype(np.float32)
    net = DirectionNet(channels=2, generator=3)
    before = net.on((6, 6))
    rows = ritz_dataset(A, 4, vectors=36, generator=7)
    missed = []
    for b in rows:
        with pytest.raises(ConvergenceError) as caught:
            deep_cg(A, b, before, maxiter=1)
        missed.append(caught.value.info.history[1] ** 2)
    same, losses = train_direction_net(
        A, (6, 6), net=net, samples=4, vectors=36, batch=4, epochs=2, generator=7, return_losses=True
    )
    assert same is net and losses[0] == pytest.approx(np.mean(missed), rel=1e-3) and len(losses) == 2


def test_bad_input():
    A, b = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=F64)), torch.ones(3, dtype=F64)
    for model, options, error, match in (
        (lambda R: R[:2], {}, ValueError, "model"),
        (lambda R: R * torch.nan, {}, ValueError, "NaN"),
        (3, {}, TypeError, "model"),
        (lambda R: R, {"history": -1}, ValueError, "history"),
        (lambda R: 0 * R, {}, ConvergenceError, "residual"),
    ):
        with pytest.raises(error, match=match):
            deep_cg(A, b, model, **options)
    with pytest.raises(ValueError, match="positive definite"):
        deep_cg(np.diag([1.0, -1.0, 2.0]), np.array([1.0, 2.0, 1.0]), lambda R: R)
    with pytest.raises(ValueError, match="Hermitian"):
        deep_cg(torch.ones(3, 3).triu(), torch.ones(3), lambda R: R)
    with pytest.raises(TypeError, match="solve"):
        deep_cg(A, b.clone().requires_grad_(), lambda R: R)
    for options, match in (({"count": 0}, "count"), ({"emphasis": 0.0}, "emphasis"), ({"low": -1}, "low")):
        with pytest.raises(ValueError, match=match):
            ritz_dataset(A, **{"count": 2, **options})
    with pytest.raises(ValueError, match="positive eigenvalue"):
        ritz_dataset(-A, 2)
    for make, match in (
        (lambda: DirectionNet(4), "dims"),
        (lambda: DirectionNet(2, 0), "channels"),
        (lambda: DirectionNet()(torch.ones(3, 3)), "shape"),
        (lambda: DirectionNet().on((3, 3))(torch.ones(8, 1)), "unknowns"),
        (lambda: DirectionNet().on((3, 3, 3)), "grid"),
        (lambda: train_direction_net(A, (2, 2), samples=2), "unknowns"),
        (lambda: train_direction_net(A, (2, 2), rate=0.0), "rate"),
    ):
        with pytest.raises(ValueError, match=match):
            make()
    with pytest.raises(TypeError, match="real"):
        train_direction_net(Dense(A.to(torch.complex128)), (1, 3))


@pytest.mark.parametrize("samples", [1, 10, 60])
def test_a_training_of_few_steps(samples):
    net, losses = train_direction_net(poisson(6), (6, 6), samples=samples, vectors=8, return_losses=True)
    assert len(losses) == -(-samples // 6) and isinstance(net, DirectionNet)
