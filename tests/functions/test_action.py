"""expm_multiply: every method against the dense exponential, complex and many times, gradients, and what must raise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
import torch
from scipy.special import iv
from torch.autograd import gradcheck

from resolvent.errors import AccuracyWarning, ConvergenceError
from resolvent.functions import expm, expm_multiply
from resolvent.operators import (
    BlockDiagonal,
    Circulant,
    Dense,
    Diagonal,
    KroneckerSum,
    Laplacian,
    MatrixFree,
    Sparse,
    as_operator,
    grid_graph,
    path_graph,
)
from resolvent.random import gaussian

METHODS = ("chebyshev", "taylor", "krylov")


def sparse(n=60, kind="general", dtype=torch.float64, seed=0):
    M = gaussian((n, n), dtype, generator=seed) * (gaussian((n, n), generator=seed + 1) > 1.2)
    M = {"general": M, "hermitian": M + M.mH, "skew": M - M.mH, "complex": M}[kind]
    return Sparse(M.to_sparse(), hermitian=kind == "hermitian"), M


def reference(M, B, t):
    return torch.from_numpy(scipy.linalg.expm((t * M.to(torch.complex128)).numpy())) @ B.to(torch.complex128)


def error(found, M, B, t):
    exact = reference(M, B, t)
    return float((torch.linalg.vector_norm(found - exact, dim=0) / torch.linalg.vector_norm(exact, dim=0)).max())


@pytest.mark.parametrize("method", [*METHODS, "auto"])
@pytest.mark.parametrize("kind", ["general", "hermitian", "skew", "complex"])
def test_agrees_with_the_exponential(method, kind):
    A, M = sparse(kind=kind, dtype=torch.complex128 if kind == "complex" else torch.float64)
    B = gaussian((60, 2), generator=3)
    for t in (1.0, -0.7, 3.0, 0.5j, 1 - 2j):
        found, info = expm_multiply(A, B, t, method=method, return_info=True)
        assert found.is_complex() == (A.is_complex or isinstance(t, complex))
        assert info.converged and info.matvecs > 0 and error(found, M, B, t) < 2e-12
        assert error(expm_multiply(A, B * (1 + 1j), t, method=method), M, B * (1 + 1j), t) < 2e-12


def test_bessel_on_a_long_path():
    # On an endless path e^{-t (2 - shift - shift^-1)} spreads a point like e^{-2t} I_k(2t).
    A, e = Laplacian(path_graph(401, dtype=torch.float64)), torch.zeros(401, dtype=torch.float64)
    e[200] = 1
    t = 20.0
    exact = torch.from_numpy(math.exp(-2 * t) * iv(np.arange(-200, 201), 2 * t))
    for method in METHODS:
        torch.testing.assert_close(expm_multiply(-A, e, t, method=method), exact, atol=1e-13, rtol=0)


def test_many_times_in_one_sweep():
    A, M = sparse(kind="hermitian")
    b = gaussian((60,), generator=1)
    times = [3.0, 0.0, -1.0, 0.25, 3.0]
    found, info = expm_multiply(A, b, times, return_info=True)
    assert found.shape == (5, 60)
    for t, w in zip(times, found, strict=True):
        assert error(w[:, None], M, b[:, None], t) < 2e-12
    single = sum(expm_multiply(A, b, t, return_info=True)[1].matvecs for t in times)
    assert info.matvecs < single
    quantum = expm_multiply(A, b, -1j * torch.tensor([1.0, 2.0], dtype=torch.float64))
    torch.testing.assert_close(torch.linalg.vector_norm(quantum, dim=1), torch.linalg.vector_norm(b).expand(2))


def test_semigroup_and_mass():
    A = Laplacian(grid_graph((15, 15), dtype=torch.float64))
    b = gaussian((225, 3), generator=2)
    both = expm_multiply(-A, b, 7.0)
    torch.testing.assert_close(expm_multiply(-A, expm_multiply(-A, b, 3.0), 4.0), both)
    torch.testing.assert_close(both.sum(0), b.sum(0))
    torch.testing.assert_close(expm_multiply(A, expm_multiply(-A, b)), b, rtol=1e-8, atol=1e-8)


def test_large_times_of_stiff_matrices():
    n = 120
    h = 1 / (n + 1)
    # Convection against diffusion: far from normal, norm 6e4, numerical range in the left half plane.
    T = sp.diags(
        [(1 / h**2 + 20 / h) * np.ones(n - 1), -2 / h**2 * np.ones(n), (1 / h**2 - 20 / h) * np.ones(n - 1)], [-1, 0, 1]
    )
    A = sp.csr_array(T)
    b = np.ones(n)
    exact = scipy.linalg.expm(0.01 * A.toarray()) @ b
    for method in ("chebyshev", "krylov"):
        found, info = expm_multiply(A, b, 0.01, method=method, rtol=1e-9, return_info=True)
        assert isinstance(found, np.ndarray)
        assert np.linalg.norm(found - exact) < 1e-8 * np.linalg.norm(exact)
        assert info.error <= 1e-9


def test_nilpotent_and_jordan_blocks():
    n = 40
    N = torch.diag(torch.full((n - 1,), 5.0, dtype=torch.float64), 1)
    b = gaussian((n, 1), generator=0)
    for shift in (0.0, -3.0, 2.0):
        M = N + shift * torch.eye(n, dtype=torch.float64)
        for method in METHODS:
            assert error(expm_multiply(Sparse(M.to_sparse()), b, 1.0, method=method), M, b, 1.0) < 2e-12


@pytest.mark.parametrize("method", METHODS)
def test_far_from_normal_is_right_or_raises(method):
    # 40 digits by hand: e^{tA} b of a bidiagonal matrix has a closed form by divided differences of equal points.
    n, coupling, t = 24, 50.0, 20.0
    M = torch.diag(torch.full((n - 1,), coupling, dtype=torch.float64), 1) - 3 * torch.eye(n, dtype=torch.float64)
    b = gaussian((n,), generator=5)
    exact = torch.stack(
        [
            sum(math.exp(k * math.log(coupling * t) - math.lgamma(k + 1) - 3 * t) * b[i + k] for k in range(n - i))
            for i in range(n)
        ]
    )
    try:
        found = expm_multiply(Sparse(M.to_sparse()), b, t, method=method)
    except ConvergenceError as caught:
        assert caught.error > 1e-12
    else:
        torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-10 * float(exact.abs().max()))


def test_stiff_matrices_cost_the_root_of_their_norm():
    n = 200
    d = -torch.logspace(-6, 6, n, dtype=torch.float64)
    Q = torch.linalg.qr(gaussian((n, n), generator=3)).Q
    M = (Q * d) @ Q.mT
    b = gaussian((n,), generator=1)
    # Rounding the entries changes the result by more than the tolerance, and that is said.
    with pytest.warns(AccuracyWarning, match="rtol") as warned:
        A = Sparse(((M + M.mT) / 2).to_sparse())
        found, info = expm_multiply(A, b, 0.1, method="chebyshev", return_info=True)
    assert warned[0].filename == __file__
    exact = Q @ (torch.exp(0.1 * d) * (Q.mT @ b))
    assert info.matvecs < 3000 and float((found - exact).norm() / exact.norm()) < 1e-9


def test_float32_stays_and_is_accurate():
    for kind in ("hermitian", "general", "skew"):
        A, M = sparse(kind=kind)
        b = gaussian((60, 2), generator=4)
        for method in METHODS:
            found = expm_multiply(A.to(torch.float32), b.float(), 0.5, method=method)
            assert found.dtype == torch.float32 and error(found.double(), M, b, 0.5) < 2e-5


@pytest.mark.parametrize("method", METHODS)
def test_small_cases(method):
    one = Sparse(torch.tensor([[2.0]], dtype=torch.float64).to_sparse())
    b = torch.tensor([3.0], dtype=torch.float64)
    torch.testing.assert_close(expm_multiply(one, b, 0.5, method=method), 3 * math.e * torch.ones(1).double())
    A, M = sparse()
    B = gaussian((60, 2), generator=0)
    B[:, 1] = 0
    found = expm_multiply(A, B, 1.0, method=method)
    assert float(found[:, 1].abs().max()) == 0 and error(found[:, :1], M, B[:, :1], 1.0) < 2e-12
    torch.testing.assert_close(expm_multiply(A, B, 0.0, method=method), B)
    four = Sparse((4 * torch.eye(50, dtype=torch.float64)).to_sparse())
    torch.testing.assert_close(expm_multiply(four, B[:50], -2.0, method=method), math.exp(-8) * B[:50])
    assert expm_multiply(A, B[:, :0], 1.0, method=method).shape == (60, 0)
    empty = Sparse(sp.csr_array((50, 50)))
    torch.testing.assert_close(expm_multiply(empty, B[:50], 3.0, method=method), B[:50])


def test_structures_have_closed_forms():
    P, Q = gaussian((20, 20), generator=0) / 8, gaussian((15, 15), generator=1) / 8
    d = gaussian((300,), generator=2)
    for A in (
        KroneckerSum(P, Q),
        BlockDiagonal(*[P] * 15),
        Diagonal(d),
        Circulant(gaussian((300,), generator=5) / 30),
        -2 * Diagonal(d),
    ):
        b = gaussian((300,), generator=3)
        found, info = expm_multiply(A, b, [0.5, -1.0], return_info=True)
        assert info.method == "closed form"
        for t, w in zip((0.5, -1.0), found, strict=True):
            torch.testing.assert_close(w, torch.linalg.matrix_exp(t * A.to_dense()) @ b, rtol=1e-9, atol=1e-9)
    batch = gaussian((3, 20, 20), generator=1)
    b = gaussian((20, 2), generator=1)
    torch.testing.assert_close(expm_multiply(batch, b), torch.linalg.matrix_exp(batch) @ b)


def test_dear_products_take_few():
    M = gaussian((300, 300), generator=0) / math.sqrt(300)
    b = gaussian((300,), generator=1)
    calls = []

    def product(X):
        calls.append(X.shape[1])
        return M @ X

    found, info = expm_multiply(MatrixFree((300, 300), product, dtype=torch.float64), b, 4.0, return_info=True)
    assert info.method == "krylov" and sum(calls) < 45
    assert error(found[:, None], M, b[:, None], 4.0) < 1e-12


def test_kinds_and_promotion():
    A, M = sparse()
    b = gaussian((60,), generator=1)
    S = sp.csr_array(M.numpy())
    found = expm_multiply(S, b.numpy())
    assert isinstance(found, np.ndarray) and found.dtype == np.float64
    assert isinstance(expm_multiply(S, b), torch.Tensor)
    assert expm_multiply(S, b.numpy().astype(np.float32)).dtype == np.float64
    with pytest.raises(TypeError, match="B has dtype"):
        expm_multiply(A, b.float())
    with pytest.raises(TypeError, match="B has dtype"):
        expm_multiply(A.to(torch.float32), b)


def test_bad_input():
    A, _ = sparse()
    b = gaussian((60,), generator=1)
    for bad, match in (
        (lambda: expm_multiply(A, b[:5]), "B must have shape"),
        (lambda: expm_multiply(A, b * math.nan), "B has 60 entries"),
        (lambda: expm_multiply(A, b, math.inf), "t has"),
        (lambda: expm_multiply(A, b, []), "t must be"),
        (lambda: expm_multiply(A, b, [1.0, 1j]), "one line"),
        (lambda: expm_multiply(A, b, rtol=0.0), "rtol must be"),
        (lambda: expm_multiply(A, b, rtol=1e-16), "rtol must be"),
        (lambda: expm_multiply(A, b, method="pade"), "method must be"),
        (lambda: expm_multiply(torch.ones(3, 2), torch.ones(2)), "A must be square"),
        (lambda: expm_multiply(gaussian((2, 60, 60)), b, method="krylov"), "one matrix"),
    ):
        with pytest.raises(ValueError, match=match):
            bad()
    for method in METHODS:
        with pytest.raises(OverflowError):
            expm_multiply(Diagonal(torch.linspace(900, 1000, 60, dtype=torch.float64)), b, method=method)


@pytest.mark.parametrize("method", METHODS)
def test_missed_tolerance_raises_with_the_best_value(method):
    A = Laplacian(grid_graph((30, 30), dtype=torch.float64))
    with pytest.raises(ConvergenceError) as caught:
        expm_multiply(-A, gaussian((900,), generator=0), 1e4, method=method, max_products=20)
    assert caught.value.best.shape == (900,) and caught.value.error > 1e-12


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["general", "hermitian", "complex"])
def test_gradients(method, kind):
    A, _ = sparse(7, kind, torch.complex128 if kind == "complex" else torch.float64)
    values = A.values.clone().requires_grad_()
    B = gaussian((7, 1), A.dtype, generator=2).requires_grad_()
    t = torch.tensor([0.7, -0.4, 0.0], dtype=torch.float64, requires_grad=True)

    def value(values, B, t):
        return expm_multiply(A.with_values(values), B, t, method=method)

    assert gradcheck(value, (values, B, t), nondet_tol=1e-12)
    assert gradcheck(
        lambda v, B: expm_multiply(A.with_values(v), B, 0.5j, method=method),
        (values, B),
        nondet_tol=1e-12,
        fast_mode=True,
    )


def test_gradient_of_a_closure_and_of_a_declared_hermitian_operator():
    M = gaussian((80, 80), generator=0)
    M = (M + M.mT) / 20
    b = gaussian((80,), generator=1)

    def loss(c, method):
        A = MatrixFree((80, 80), lambda X: c * (M @ X), hermitian=True, dtype=torch.float64)
        return expm_multiply(A, b, 1.0, method=method).square().sum()

    c = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    exact = torch.autograd.grad((torch.linalg.matrix_exp(c * M) @ b).square().sum(), c)[0]
    for method in METHODS:
        torch.testing.assert_close(torch.autograd.grad(loss(c, method), c)[0], exact)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g = torch.autograd.grad(loss(c, "krylov"), c, create_graph=True)[0]
        g.backward()


def test_second_derivatives_of_small_matrices():
    M = (gaussian((5, 5), generator=0)).requires_grad_()
    b = gaussian((5,), generator=1)
    assert torch.autograd.gradgradcheck(lambda M: expm_multiply(Dense(M), b, [0.3, 1.0]), (M,))


def test_operators_of_operators():
    A, M = sparse(kind="hermitian")
    D = Diagonal(gaussian((60,), generator=5))
    b = gaussian((60,), generator=1)
    S = as_operator(A) + D
    torch.testing.assert_close(expm_multiply(S, b, 0.3), torch.linalg.matrix_exp(0.3 * (M + D.to_dense())) @ b)
    torch.testing.assert_close(expm_multiply(-0.5 * A, b, 0.3), torch.linalg.matrix_exp(-0.15 * M) @ b)


def test_small_matrices_that_products_cannot_do_are_exponentiated() -> None:
    n = 200
    A = torch.diag(torch.linspace(-1, 1, n, dtype=torch.float64))
    A[0, -1] = 1e8
    b = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sparse = Sparse(sp.csr_array(A.numpy()))
    value, info = expm_multiply(sparse, b, return_info=True)
    assert info.method == "closed form"
    assert torch.allclose(value, expm(A) @ b, rtol=1e-12)
    with pytest.raises(ConvergenceError):
        expm_multiply(sparse, b, method="chebyshev", max_products=4000)
