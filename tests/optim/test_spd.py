"""Momentum on positive definite matrices: groups, metric, exact geodesics as a limiting case, structures, refusals."""

import numpy as np
import pytest
import torch

from resolvent.errors import ConvergenceError
from resolvent.functions import expm
from resolvent.optim import spd_momentum
from resolvent.optim.spd_structure import STRUCTURES, Blocks, borders, pattern

DOUBLE = torch.float64


def wishart(n, seed=0, batch=()):
    draw = torch.Generator().manual_seed(seed)
    X = torch.randn(*batch, n, 2 * n, generator=draw, dtype=DOUBLE)
    return X @ X.mT / (2 * n)


def packed(full, structure, rank):
    n = len(full)
    first, last = borders(structure, n, rank)
    return Blocks(full[:first].clone(), full.diagonal()[first : n - last].clone(), full[n - last :, first:].clone())


def inverse_problem(S):
    eye = torch.eye(S.shape[-1], dtype=S.dtype)
    return lambda A: A.mT @ S @ A - eye


@pytest.mark.parametrize("n", [1, 2, 5, 9])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_blocks_are_their_dense_matrices(structure, n):
    torch.manual_seed(n)
    inside = (pattern(structure, n, 2) > 0).double()
    A, M = (torch.randn(n, n, dtype=DOUBLE) * inside for _ in range(2))
    a, m = packed(A, structure, 2), packed(M, structure, 2)
    X, Y, W = torch.randn(n, 3, dtype=DOUBLE), torch.randn(4, n, dtype=DOUBLE), pattern(structure, n, 2).double()
    eye = torch.eye(n, dtype=DOUBLE)
    for got, want in (
        (a.dense(), A),
        (a.apply(X), A @ X),
        (a.apply_transpose(X), A.T @ X),
        (a.from_left(Y), Y @ A),
        (a.times(m).dense(), A @ M),
        (a.gram(Y).dense(), W * (Y.T @ Y)),
        (a.own_gram().dense(), W * (A.T @ A)),
        (a.squared_norm(), A.square().sum()),
        (packed(A, structure, 2).shift_(2.0).add_(m, -0.5).scale_(3.0).dense(), 3 * (A + 2 * eye - 0.5 * M)),
        (Blocks.identity(structure, n, 2, A).dense(), eye),
    ):
        assert torch.allclose(got, want, atol=1e-12)
    assert torch.equal((A @ M) * (1 - inside), torch.zeros_like(A))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_weights_make_the_metric_the_identity(structure):
    """The step along M is the Riemannian gradient: <M, V> in the metric is the derivative along V, for every V of the group."""
    torch.manual_seed(0)
    n, W = 6, pattern(structure, 6, 2).double()
    inside = (W > 0).double()
    G = torch.randn(n, n, dtype=DOUBLE)
    G = G + G.T
    M = 0.5 * W * G
    for _ in range(5):
        V = torch.randn(n, n, dtype=DOUBLE) * inside
        if structure != "lowrank":
            # Symmetric within the blocks that hold both of an entry and its mirror image.
            V = torch.where(W == 1, (V + V.T) / 2, V)
        else:
            V[:2, :2] = (V[:2, :2] + V[:2, :2].T) / 2
        metric = 0.5 * ((M + M.T) * (V + V.T)).sum()
        assert float(metric) == pytest.approx(0.5 * float((G * (V + V.T)).sum()), rel=1e-10)


def test_without_momentum_it_is_gradient_descent_along_exact_geodesics():
    S, tau, lr = wishart(5), wishart(5, 1), 0.3
    A0 = torch.linalg.cholesky(tau)
    for _ in range(4):
        root = torch.linalg.cholesky(tau)
        xi = -lr * root.T @ (S - torch.linalg.inv(tau)) @ root
        tau = root @ expm(xi) @ root.T
    A = spd_momentum(lambda T: S - torch.linalg.inv(T), A0, 4, lr, 0.0, rtol=None, truncation="exp")
    assert torch.allclose(A @ A.T, tau, rtol=1e-10)


@pytest.mark.parametrize("truncation", [1, 2, "exp"])
def test_finds_inverses_by_products(truncation):
    S = wishart(6, batch=(2, 3))
    start = torch.eye(6, dtype=DOUBLE).expand(2, 3, 6, 6)
    A, info = spd_momentum(
        inverse_problem(S), start, lr=0.2, momentum=0.5, rtol=1e-10, local=True, truncation=truncation, return_info=True
    )
    assert torch.allclose(A @ A.mT @ S, torch.eye(6, dtype=DOUBLE).expand_as(S), atol=1e-7)
    assert info.converged and info.error <= 1e-10 and 10 < info.iterations < 300


def test_is_affine_invariant():
    """Moving the problem by a congruence moves the iterates by it."""
    S, P = wishart(5), torch.linalg.cholesky(wishart(5, 3)) + torch.triu(wishart(5, 4), 1)
    moved = torch.linalg.inv(P).T @ S @ torch.linalg.inv(P)
    A0 = torch.linalg.cholesky(wishart(5, 2))
    runs = [
        spd_momentum(inverse_problem(T), start, 7, 0.2, 0.8, rtol=None, local=True)
        for T, start in ((S, A0), (moved, P @ A0))
    ]
    assert torch.allclose(P @ runs[0], runs[1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("structure", ["diag", "lowrank", "hierarchical"])
def test_structures_reach_a_stationary_point_of_their_group(structure):
    S = wishart(7)
    A = spd_momentum(
        inverse_problem(S),
        torch.eye(7, dtype=DOUBLE),
        lr=0.1,
        momentum=0.5,
        rtol=1e-9,
        steps=3000,
        structure=structure,
        rank=2,
        local=True,
    )
    W = pattern(structure, 7, 2).double()
    assert torch.equal(A * (W == 0), torch.zeros_like(A))
    # No direction inside of the group goes down.
    assert float((W * (A.T @ S @ A - torch.eye(7, dtype=DOUBLE))).abs().max()) < 1e-7
    if structure == "diag":
        assert torch.allclose(A.diagonal().square(), 1 / S.diagonal())


def test_low_rank_structure_is_exact_for_a_diagonal_plus_low_rank():
    draw = torch.Generator().manual_seed(0)
    L = torch.zeros(8, 2, dtype=DOUBLE)
    L[:] = torch.randn(8, 2, generator=draw, dtype=DOUBLE)
    S = torch.diag(torch.rand(8, generator=draw, dtype=DOUBLE) + 0.5)
    # Arrow: the first two coordinates are coupled with all others.
    S[:2, :] += L.T
    S[:, :2] += L
    S = S @ S.T + torch.eye(8, dtype=DOUBLE)
    target = Blocks.identity("lowrank", 8, 2, S)
    target.top.copy_(torch.randn(2, 8, generator=draw, dtype=DOUBLE) * 0.3 + torch.eye(8, dtype=DOUBLE)[:2])
    tau = target.dense() @ target.dense().T
    A = spd_momentum(
        inverse_problem(torch.linalg.inv(tau)),
        torch.eye(8, dtype=DOUBLE),
        5000,
        0.05,
        0.5,
        rtol=1e-9,
        structure="lowrank",
        rank=2,
        local=True,
    )
    assert torch.allclose(A @ A.T, tau, atol=1e-6)


def test_numpy_comes_back_as_numpy():
    S = wishart(3).numpy()
    seen = []

    def grad(T):
        seen.append(type(T))
        return S - np.linalg.inv(T)

    A = spd_momentum(grad, np.eye(3), lr=0.3, momentum=0.3)
    assert isinstance(A, np.ndarray) and set(seen) == {np.ndarray}
    np.testing.assert_allclose(A @ A.T @ S, np.eye(3), atol=1e-4)


def test_float32_is_accurate_to_float32():
    S = wishart(6)
    A = spd_momentum(inverse_problem(S.float()), torch.eye(6), lr=0.3, momentum=0.3, rtol=1e-5, local=True)
    inverse = torch.linalg.inv(S)
    assert A.dtype == torch.float32
    assert (A.double() @ A.double().T - inverse).norm() < 1e-4 * inverse.norm()


def test_noise_is_averaged_where_nothing_is_asked():
    S, draw = wishart(4), torch.Generator().manual_seed(0)

    def noisy(A):
        N = torch.randn(4, 4, generator=draw, dtype=DOUBLE) * 0.1
        return A.T @ S @ A - torch.eye(4, dtype=DOUBLE) + N + N.T

    A, info = spd_momentum(noisy, torch.eye(4, dtype=DOUBLE), 500, 0.01, 0.5, rtol=None, local=True, return_info=True)
    assert info.iterations == 500 and (A @ A.T @ S - torch.eye(4, dtype=DOUBLE)).norm() < 0.3


def test_misses_are_errors_that_carry_the_best():
    S, eye = wishart(4), torch.eye(4, dtype=DOUBLE)
    with pytest.raises(ConvergenceError, match="rtol") as slow:
        spd_momentum(inverse_problem(S), eye, 3, 0.1, local=True)
    assert slow.value.best.shape == (4, 4) and slow.value.error > 1e-6
    with pytest.raises(ConvergenceError, match="finite"):
        spd_momentum(inverse_problem(1e8 * S), eye, 200, 10.0, local=True)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"A0": torch.ones(2, 3)}, ValueError, "A0"),
        ({"A0": torch.eye(2, dtype=torch.complex64)}, TypeError, "A0"),
        ({"A0": torch.full((2, 2), torch.nan)}, ValueError, "A0"),
        ({"A0": torch.ones(2, 2), "structure": "diag"}, ValueError, "structure 'diag'"),
        ({"structure": "banded"}, ValueError, "structure"),
        ({"momentum": 1.0}, ValueError, "momentum"),
        ({"lr": 0.0}, ValueError, "lr"),
        ({"steps": 0}, ValueError, "steps"),
        ({"rank": 0}, ValueError, "rank"),
        ({"truncation": 3}, ValueError, "truncation"),
        ({"grad": lambda T: T[0]}, ValueError, "grad"),
    ],
)
def test_refusals(change, error, words):
    with pytest.raises(error, match=words):
        spd_momentum(**{"grad": lambda T: T, "A0": torch.eye(2), **change})
