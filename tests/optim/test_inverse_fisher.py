"""The inverse Fisher matrix against the dense inverse and Woodbury's recursion; M-FAC's step against the dense one."""

import numpy as np
import pytest
import torch
from torch import nn

from resolvent.optim import MFAC, inverse_fisher
from resolvent.optim.inverse_fisher import cholesky, gram

D, M = 60, 12


def gradients(m=M, d=D, dtype=torch.float64, seed=0):
    return torch.randn(m, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def dense(G, damp):
    return torch.linalg.inv(damp * torch.eye(G.shape[1], dtype=torch.float64) + G.T.double() @ G.double() / len(G))


@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize("damp", [1e-5, 1.0])
def test_is_the_dense_inverse(mode, damp):
    G, X = gradients(), gradients(D, 3, seed=1)
    F_inv, wanted = inverse_fisher(G, damp, mode=mode), dense(G, damp)
    scale = float(wanted.abs().max())
    assert torch.allclose(F_inv @ X, wanted @ X, atol=1e-10 * scale)
    assert torch.allclose(F_inv.to_dense(), wanted, atol=1e-10 * scale)
    assert torch.allclose(F_inv.diagonal(), wanted.diagonal(), atol=1e-10 * scale)
    assert F_inv.entry(3, -1) == pytest.approx(float(wanted[3, -1]), abs=1e-10 * scale)
    assert torch.allclose(F_inv[2:5, 7:9], wanted[2:5, 7:9], atol=1e-10 * scale)
    assert F_inv.positive and torch.allclose(F_inv.H @ X, F_inv @ X)


def test_rows_are_the_vectors_of_the_recursion():
    """v_i = F_{i-1}^{-1} g_i of Woodbury's recursion, each divided by the root of m + g_i v_i."""
    G, damp = gradients(), 0.1
    vectors, below = [], []
    for g in G:
        v = g / damp
        for u, b in zip(vectors, below, strict=True):
            v = v - u * (u @ g) / b
        vectors.append(v)
        below.append(M + g @ v)
    wanted = torch.stack([v / b.sqrt() for v, b in zip(vectors, below, strict=True)])
    assert torch.allclose(inverse_fisher(G, damp).rows, wanted, rtol=1e-10)


def test_update_replaces_the_oldest():
    G, new = gradients(), gradients(M + 3, seed=4)
    F_inv = inverse_fisher(G, 0.01, mode="dynamic")
    for g in new:
        F_inv.update(g)
    x = gradients(1, seed=5)[0]
    wanted = dense(new[-M:], 0.01) @ x
    assert torch.allclose(F_inv @ x, wanted, rtol=1e-9, atol=1e-9 * float(wanted.abs().max()))
    with pytest.raises(ValueError, match="dynamic"):
        inverse_fisher(G).update(G[0])


def test_float32_is_as_accurate_as_float32():
    G, damp = gradients(dtype=torch.float32), 1e-3
    x = torch.randn(D)
    for mode in ("static", "dynamic"):
        found = inverse_fisher(G, damp, mode=mode) @ x
        wanted = dense(G, damp) @ x.double()
        assert found.dtype == torch.float32
        assert float((found - wanted).norm() / wanted.norm()) < 1e-5


def test_numpy_in_numpy_out_and_bad_input():
    G = gradients().numpy()
    F_inv = inverse_fisher(G, 1.0)
    assert isinstance(F_inv @ G[0], np.ndarray) and isinstance(F_inv.diagonal(), np.ndarray)
    assert isinstance(F_inv.prune(G[0], 0.5), np.ndarray)
    for bad, word in (
        (G[0], "shape"),
        (np.full((2, 3), np.nan), "NaN"),
        (torch.ones(2, 2, requires_grad=True), "detach"),
    ):
        with pytest.raises(ValueError, match=word):
            inverse_fisher(bad)
    with pytest.raises(ValueError, match="damp"):
        inverse_fisher(G, 0.0)
    with pytest.raises(ValueError, match="mode"):
        inverse_fisher(G, mode="fast")
    with pytest.raises(ValueError, match="fraction"):
        F_inv.prune(G[0], 1.5)
    with pytest.raises(ValueError, match="weights"):
        F_inv.prune(G[0][:3], 0.5)
    with pytest.raises(ValueError, match="i must be"):
        F_inv.entry(D, 0)


def test_diagonal_stays_positive_where_float32_loses_it():
    G = 1e3 * torch.ones(1, 4) * torch.tensor([1.0, 1e-3, 0.0, 2.0])
    for mode in ("static", "dynamic"):
        diagonal = inverse_fisher(torch.cat([G, 2 * G]), 1e-7, mode=mode).diagonal()
        assert bool((diagonal > 0).all())


def test_pruning_one_weight_is_the_best_correction():
    """Optimal brain surgeon: of all w' with w'_i = 0 it minimises the quadratic form of F, whose value is the score."""
    G, damp = gradients(), 0.5
    F_inv, w = inverse_fisher(G, damp), gradients(1, seed=7)[0]
    pruned = F_inv.prune(w, 1.01 / D)
    (i,) = (pruned == 0).nonzero().flatten().tolist()
    scores = F_inv.pruning_scores(w)
    assert i == int(scores.argmin())
    F = torch.linalg.inv(dense(G, damp))
    cost = (pruned - w) @ F @ (pruned - w) / 2
    assert float(cost) == pytest.approx(float(scores[i]), rel=1e-8)
    rest = [j for j in range(D) if j != i]
    slope = (F @ (pruned - w))[rest]
    assert float(slope.abs().max()) < 1e-8
    assert torch.equal(F_inv.prune(w, 0.0), w) and bool((F_inv.prune(w, 1.0) == 0).all())


def test_parallel_gradients_have_a_factor():
    G = torch.ones(6, 4) * torch.linspace(1, 2, 6)[:, None] * 1e4
    products = gram(G)
    products += 1e3 * torch.randn(6, 6, dtype=torch.float64).tril(-1).abs()  # what float32 sums may be off by
    L = cholesky((products + products.T) / 2, 1e-7, 6)
    assert bool(torch.isfinite(L).all())
    assert float(torch.linalg.eigvalsh(L @ L.T).min()) > 1.0


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_mfac_follows_the_dense_inverse(momentum):
    torch.manual_seed(0)
    shapes, history, damp, decay, lr = ((3, 4), (5,)), 6, 1e-3, 0.1, 0.05
    params = [nn.Parameter(torch.randn(s, dtype=torch.float64)) for s in shapes]
    x = torch.cat([p.detach().flatten() for p in params])
    optimizer = MFAC(params, lr, momentum, decay, history, damp)
    window, mean = torch.zeros(history, 17, dtype=torch.float64), torch.zeros(17, dtype=torch.float64)
    for t in range(10):
        g = torch.randn(17, dtype=torch.float64)
        params[0].grad, params[1].grad = g[:12].view(3, 4).clone(), g[12:].clone()
        optimizer.step()
        g = g + decay * x
        window[t % history] = g
        mean = momentum * mean + (1 - momentum) * (dense(window, damp) @ g)
        x = x - lr * mean
        assert torch.allclose(torch.cat([p.detach().flatten() for p in params]), x, rtol=1e-9, atol=1e-10)


def test_mfac_counts_a_missing_gradient_as_zeros():
    torch.manual_seed(0)
    params = [nn.Parameter(torch.zeros(3, dtype=torch.float64)) for _ in range(2)]
    optimizer, history, damp = MFAC(params, 1.0, history=3, damp=0.1), 3, 0.1
    window, x = torch.zeros(history, 6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    for t in range(7):
        g = torch.randn(6, dtype=torch.float64)
        params[0].grad, params[1].grad = g[:3].clone(), g[3:].clone()
        if t in (0, 3, 4):
            params[1].grad, g[3:] = None, 0.0
        optimizer.step()
        window[t % history] = g
        move = dense(window, damp) @ g
        move[3:] *= t not in (0, 3, 4)
        x = x - move
        assert torch.allclose(torch.cat([p.detach() for p in params]), x, rtol=1e-9)


def test_mfac_in_bfloat16_is_near_and_half_as_large():
    runs = {}
    for storage in (None, torch.bfloat16):
        torch.manual_seed(0)
        start = torch.randn(20_000)
        p = nn.Parameter(start.clone())
        optimizer = MFAC([p], 0.1, history=8, damp=1e-2, storage=storage)
        for _ in range(10):
            p.grad = torch.randn(20_000)
            optimizer.step()
        runs[storage] = p.detach(), optimizer.state[p]["history"].nbytes
    (a, wide), (b, narrow) = runs.values()
    assert narrow * 2 == wide
    assert 1e-5 < float((a - b).norm() / (a - start).norm()) < 1e-2
