"""EIM: exact at its points and at full rank, equal to the classical recursion, any norm, rectangular, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from resolvent.errors import ConvergenceError
from resolvent.random import gaussian
from resolvent.solve import EIM


def line(n, dtype=torch.float64):
    return torch.linspace(0, 1, n, dtype=dtype)


def inverse_distance(x, y):
    return 1 / (1.2 + x[:, None] - y)


@pytest.mark.parametrize("norm", ["inf", 2, lambda R: R.abs().square().mean(0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_exact_at_points_and_at_full_rank(norm, dtype):
    f = gaussian((30, 6), dtype, generator=0) @ gaussian((6, 40), dtype, generator=1)
    part = EIM(f, max_terms=4, norm=norm)
    found = part.evaluate()
    torch.testing.assert_close(found[list(part.x_points)], f[list(part.x_points)])
    torch.testing.assert_close(found[:, list(part.y_points)], f[:, list(part.y_points)])
    assert float((found - f).abs().max()) > 1e-3
    whole = EIM(f, norm=norm)
    assert whole.rank == 6
    torch.testing.assert_close(whole.evaluate(), f)
    assert part.x_points == whole.x_points[:4]
    assert whole.errors[0] == 1
    assert whole.errors[-1] < 1e-10


@pytest.mark.parametrize("norm", ["inf", 2])
def test_equals_the_classical_recursion(norm):
    f = inverse_distance(line(90), line(70))
    found, classic = (EIM(f, rtol=1e-9, norm=norm, symmetric=s) for s in (True, False))
    assert found.x_points == classic.x_points
    assert found.y_points == classic.y_points
    np.testing.assert_allclose(found.errors, classic.errors, rtol=1e-3, atol=1e-13)
    # the greedy choice itself, from the definition
    two = EIM(f, max_terms=2, norm=norm)
    X, Y = list(two.x_points), list(two.y_points)
    residual = f - f[:, Y[:1]] @ torch.linalg.solve(f[X[:1]][:, Y[:1]], f[X[:1]])
    sizes = torch.linalg.vector_norm(residual, ord=2 if norm == 2 else torch.inf, dim=0)
    assert int(sizes.argmax()) == Y[1]
    assert int(residual[:, Y[1]].abs().argmax()) == X[1]


def test_points_beyond_the_candidates():
    found = EIM(inverse_distance, line(50), line(50), rtol=1e-8)
    x, y = torch.tensor([0.123, 0.77], dtype=torch.float64), torch.tensor([0.31, 0.5, 0.99], dtype=torch.float64)
    torch.testing.assert_close(found.evaluate(x, y), inverse_distance(x, y), rtol=0, atol=1e-6)
    sensors = line(50)[list(found.x_points)]
    weights = found.coefficients(inverse_distance(sensors, y))
    fields = inverse_distance(x, line(50)[list(found.y_points)])
    torch.testing.assert_close(fields @ weights, found.evaluate(x, y))
    assert found.coefficients(np.ones(found.rank)).shape == (found.rank,)


def test_rectangular():
    f = inverse_distance(line(60), line(50))
    found = EIM(f, max_terms=6)
    broken = found.drop(x_index=1)
    assert len(broken.x_points) == 5
    assert broken.rank == 5
    assert len(broken.y_points) == 6
    torch.testing.assert_close(broken.evaluate(), broken.left @ torch.linalg.pinv(broken.core) @ broken.right)
    rows = list(broken.x_points)
    torch.testing.assert_close(broken.evaluate(x=rows), f[rows])
    fewer = found.drop(y_index=2)
    torch.testing.assert_close(
        fewer.evaluate(), fewer.left @ torch.linalg.pinv(fewer.core) @ fewer.right, rtol=1e-6, atol=1e-8
    )
    with pytest.raises(ValueError, match="x_index"):
        found.drop(x_index=6)
    with pytest.raises(ValueError, match="last point"):
        EIM(f, max_terms=1).drop(x_index=0)


def test_lebesgue_constant_bounds_the_errors():
    f = inverse_distance(line(60), line(50))
    found = EIM(f, max_terms=5)
    weights = f[:, list(found.y_points)] @ torch.linalg.inv(found.core)
    torch.testing.assert_close(found.lebesgue(), weights.abs().sum(1).max())
    noise = 1e-3 * (2 * torch.rand(5, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1)
    assert float((found.left @ found.coefficients(noise)).abs().max()) <= 1e-3 * float(found.lebesgue())


def test_kinds_and_float32():
    f = inverse_distance(line(40), line(30))
    found = EIM(f.numpy())
    assert isinstance(found.evaluate(), np.ndarray)
    assert isinstance(found.lebesgue(), float)
    np.testing.assert_allclose(found.evaluate([3, 5], slice(0, 4)), f[[3, 5], :4].numpy(), rtol=1e-8)
    single = EIM(f.float())
    assert single.evaluate().dtype == torch.float32
    assert single.rank < found.rank
    torch.testing.assert_close(single.evaluate(), f.float(), rtol=1e-4, atol=1e-4)


def test_gradients():
    f = inverse_distance(line(8), line(7)).requires_grad_()
    assert gradcheck(lambda f: EIM(f, max_terms=3).evaluate(), f)
    assert gradcheck(lambda f: EIM(f, max_terms=3).drop(x_index=0).evaluate(), f)


def test_bad_input():
    f = inverse_distance(line(9), line(8))
    with pytest.raises(ConvergenceError) as caught:
        EIM(f, rtol=1e-10, max_terms=2)
    assert caught.value.best.rank == 2
    assert caught.value.error > 1e-10
    for call, word in (
        (lambda: EIM(torch.zeros(3, 3)), "zero"),
        (lambda: EIM(torch.ones(3)), "matrix"),
        (lambda: EIM(torch.full((2, 2), torch.nan)), "NaN"),
        (lambda: EIM(inverse_distance), "candidates"),
        (lambda: EIM(f, line(9), line(8)), "callable"),
        (lambda: EIM(lambda x, y: f, line(3), line(8)), "shape"),
        (lambda: EIM(f, norm=3), "norm"),
        (lambda: EIM(f, norm=lambda R: R), "norm"),
        (lambda: EIM(f, max_terms=0), "max_terms"),
        (lambda: EIM(f, rtol=2), "rtol"),
        (lambda: EIM(f, max_terms=2).evaluate(x=3), "indices"),
        (lambda: EIM(f, max_terms=2).coefficients(torch.ones(3)), "rows"),
    ):
        with pytest.raises(ValueError, match=word):
            call()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_more_terms_than_rank_are_not_taken_from_rounding_errors(symmetric, dtype):
    f = gaussian((30, 2), dtype, generator=0) @ gaussian((2, 20), dtype, generator=1)
    found = EIM(f, max_terms=10, symmetric=symmetric)
    assert found.rank == 2
    assert float((found.evaluate() - f).abs().max()) < 100 * torch.finfo(dtype).eps


@pytest.mark.parametrize("scale", [1e-35, 1e35])
def test_float32_far_from_one(scale):
    f = gaussian((12, 9), torch.float32, generator=0)
    found = EIM(f * scale, norm=2)
    assert float((found.evaluate() / scale - f).abs().max()) < 1e-4
