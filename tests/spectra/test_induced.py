"""Induced norms: exact ones against brute force, certified intervals, honest refusals."""

import itertools
import math

import pytest
import torch

from resolvent.errors import ConvergenceError
from resolvent.operators import Diagonal, MatrixFree, as_operator
from resolvent.spectra import norm
from resolvent.spectra.induced import _ENUMERATED, _upper_bounds, dual, induced_norm


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def sampled(a, p, q, count=4000):
    """The largest ratio over random vectors, a lower bound of the norm."""
    x = random(a.shape[-1], count, seed=99, dtype=a.dtype)
    return (torch.linalg.vector_norm(a @ x, q, dim=0) / torch.linalg.vector_norm(x, p, dim=0)).max()


@pytest.mark.parametrize(("m", "n"), [(3, 5), (6, 4), (1, 3), (4, 1), (9, 9)])
@pytest.mark.parametrize("q", [1, 2, 3.5])
def test_cube_norms_are_brute_force(m, n, q):
    a = random(m, n, seed=m * 10 + n)
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=n)), dtype=torch.float64).T
    exact = torch.linalg.vector_norm(a @ signs, q, dim=0).max()
    torch.testing.assert_close(norm(a, ("induced", math.inf, q)), exact, rtol=1e-12, atol=0)
    # the dual statement
    torch.testing.assert_close(norm(a.T.contiguous(), ("induced", dual(q), 1)), exact, rtol=1e-12, atol=0)


def test_the_largest_enumerated_side_in_pieces():
    a = random(30, _ENUMERATED, seed=4)
    value = norm(a, ("induced", math.inf, 1))
    x = torch.sign(random(_ENUMERATED, 2000, seed=5))
    for _ in range(50):
        x = torch.sign(a.T @ torch.sign(a @ x))
    assert float(value) == pytest.approx(float((a @ x).abs().sum(0).max()), rel=1e-12)
    batch = torch.stack([a[:, :6], 3 * a[:, 6:12]])
    torch.testing.assert_close(
        norm(batch, ("induced", math.inf, 1)), torch.stack([norm(b, ("induced", math.inf, 1)) for b in batch])
    )


@pytest.mark.parametrize(("p", "q"), [(3, 3), (4, 2), (3, 1.5), (math.inf, 2), (1.5, 1.5), (2, 1), (math.inf, 1)])
def test_nonnegative_matrices_are_certified(p, q):
    a = random(40, 30, seed=1).abs()
    value, info = norm(a, ("induced", p, q), return_info=True)
    assert info.converged and info.error <= 1e-6
    assert float(value) >= float(sampled(a.clone(), p, q)) * (1 - 1e-9)
    torch.testing.assert_close(value, norm(2 * a, ("induced", p, q)) / 2, rtol=1e-6, atol=0)


def test_duality_and_scaling():
    a = random(25, 35, seed=2).abs()
    for p, q in [(3, 2), (4, 4), (math.inf, 3)]:
        torch.testing.assert_close(
            norm(a, ("induced", p, q)), norm(a.T.contiguous(), ("induced", dual(q), dual(p))), rtol=1e-6, atol=0
        )


@pytest.mark.parametrize(("p", "q"), [(3, 1.5), (2, 3), (1.5, 2), (1.5, 4), (4, 2), (3, 3), (4, 1.2), (1.2, 1.1)])
def test_every_upper_bound_is_one(p, q):
    for seed in range(3):
        a = random(7, 6, seed=seed)
        A = as_operator(a)
        low = sampled(a, p, q, 20000)
        try:
            low = torch.maximum(low, norm(a, ("induced", p, q)))
        except ConvergenceError as error:
            low = torch.maximum(low, error.best)
        for bound in _upper_bounds(A, p, q, torch.Generator().manual_seed(0), low):
            bound = bound[0] if isinstance(bound, tuple) else bound
            assert float(bound) >= float(low) * (1 - 1e-12)


def test_signed_matrices_raise_with_an_interval_that_holds_the_norm():
    a = random(26, 24, seed=3)
    with pytest.raises(ConvergenceError, match="lies between") as caught:
        norm(a, ("induced", math.inf, 1))
    best, error = caught.value.best, caught.value.error
    # Grothendieck: the semidefinite bound is at most 1.783 times the norm
    assert 0 < error < 1 - 1 / 1.783
    value, info = norm(a, ("induced", math.inf, 1), rtol=0.44, return_info=True)
    assert float(value) == pytest.approx(float(best), rel=0.05) and info.converged
    # embedding of a small matrix, whose norm is known, into a side that is not enumerated
    small = random(9, 9, seed=4)
    padded = torch.zeros(24, 24, dtype=torch.float64)
    padded[:9, :9] = small
    value, info = norm(padded, ("induced", math.inf, 1), rtol=0.44, return_info=True)
    exact = float(norm(small, ("induced", math.inf, 1)))
    assert float(value) <= exact * (1 + 1e-12) and exact <= float(value) / (1 - info.error) * (1 + 1e-9)


def test_rank_one_and_zero_are_known():
    u, v = random(30, 1), random(25, 1, seed=1)
    for p, q in [(3, 1.5), (math.inf, 1), (math.inf, 3), (4, 2)]:
        exact = torch.linalg.vector_norm(u, q) * torch.linalg.vector_norm(v, dual(p))
        torch.testing.assert_close(norm(u @ v.T, ("induced", p, q)), exact, rtol=1e-6, atol=0)
    assert float(norm(torch.zeros(30, 30), ("induced", 3, 2))) == 0


@pytest.mark.parametrize(("p", "q"), [(2, 4), (3, 1.5), (math.inf, 1), (math.inf, 3)])
def test_diagonal_closed_form(p, q):
    d = random(6)
    A = Diagonal(d)
    exact = norm(A, ("induced", p, q))
    if p <= q:
        assert float(exact) == float(d.abs().max())
    else:
        r = 1 / (1 / q - (0 if p == math.inf else 1 / p))
        torch.testing.assert_close(exact, torch.linalg.vector_norm(d, r))
    assert float(exact) >= float(sampled(torch.diag(d), p, q))


def test_gradients_of_certified_norms():
    a = (random(23, 22, seed=6).abs() + 0.1).requires_grad_()
    for p, q in [(3, 2), (3, 3), (math.inf, 1)]:
        value = norm(a, ("induced", p, q), rtol=1e-10)
        (grad,) = torch.autograd.grad(value, a)
        step = 1e-5 * random(23, 22, seed=7)
        with torch.no_grad():
            high, low = (norm(a + t * step, ("induced", p, q), rtol=1e-10) for t in (1, -1))
        assert float((high - low) / 2) == pytest.approx(float((grad * step).sum()), rel=1e-4)


def test_operators_complex_and_float32():
    a = random(24, 22, seed=8).abs()
    free = MatrixFree((24, 22), lambda X: a @ X, lambda X: a.T @ X, dtype=torch.float64)
    torch.testing.assert_close(norm(free, ("induced", 3, 2)), norm(a, ("induced", 3, 2)), rtol=1e-6, atol=0)
    single = norm(a.float(), ("induced", 3, 2))
    assert single.dtype == torch.float32 and float(single) == pytest.approx(float(norm(a, ("induced", 3, 2))), rel=1e-4)
    c = random(4, 5, seed=9, dtype=torch.complex128)
    value, info = norm(c, ("induced", math.inf, 1), rtol=0.3, generator=0, return_info=True)
    low = float(value)
    assert low >= float(sampled(c, math.inf, 1)) * (1 - 1e-9)
    x = torch.exp(2j * math.pi * torch.rand(5, 5000, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    assert float((c @ x).abs().sum(0).max()) <= low / (1 - info.error) * (1 + 1e-9)


def test_same_seed_same_value():
    a = as_operator(random(30, 30, seed=10))
    values = [induced_norm(a, math.inf, 1, 0.5, 7)[0] for _ in range(2)]
    assert torch.equal(values[0], values[1])
