"""Kernels: tiles, memory, gradients to points and parameters, symmetry."""

import pytest
import torch

from resolvent.operators import Kernel

F64, C128 = torch.float64, torch.complex128


def gaussian(X, Y):
    return torch.exp(-(torch.cdist(X, Y) ** 2) / 2)


class Learned(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.log_scale = torch.nn.Parameter(torch.tensor(0.3, dtype=F64))

    def forward(self, X, Y):
        squares = ((X[..., :, None, :] - Y[..., None, :, :]) ** 2).sum(-1)
        return torch.exp(-squares * self.log_scale.exp())


@pytest.mark.parametrize("tile", [1, 3, 7, 64])
def test_the_tile_does_not_matter(tile):
    X, Y, V = torch.randn(10, 3, dtype=F64), torch.randn(7, 3, dtype=F64), torch.randn(7, 2, dtype=F64)
    K = Kernel(gaussian, X, Y, tile=tile)
    dense = gaussian(X, Y)
    torch.testing.assert_close(K @ V, dense @ V)
    torch.testing.assert_close(K.H @ (K @ V), dense.mT @ (dense @ V))
    torch.testing.assert_close(K._gram(V), dense.mT @ (dense @ V))
    S = Kernel(gaussian, X, tile=tile, positive=True)
    W = torch.randn(10, 2, dtype=F64)
    torch.testing.assert_close(S @ W, gaussian(X, X) @ W, atol=1e-7, rtol=1e-7)


def largest_tile(**options):
    sizes = []

    def watched(X, Y):
        sizes.append(X.shape[-2] * Y.shape[-2])
        return X @ Y.mT + 1

    X = torch.randn(50, 2, dtype=F64, requires_grad=True)
    K = Kernel(watched, X, tile=8, **options)
    (K @ torch.randn(50, 1, dtype=F64)).sum().backward()
    K._gram(torch.randn(50, 1, dtype=F64)).sum().backward()
    return max(sizes), sum(sizes)


def test_nothing_larger_than_a_tile_is_evaluated_not_even_backwards():
    assert largest_tile()[0] <= 64
    assert largest_tile(positive=True)[0] <= 64


def test_backward_keeps_no_tile_alive():
    X = torch.randn(64, 2, dtype=F64, requires_grad=True)
    K = Kernel(gaussian, X, tile=16)
    sizes = []

    def keep(t):
        sizes.append(t.numel())
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        _ = K @ torch.randn(64, 1, dtype=F64)
    assert max(sizes, default=0) < 16 * 16


def test_symmetry_halves_the_work():
    counted = []

    def k(X, Y):
        counted.append(X.shape[-2] * Y.shape[-2])
        return X @ Y.mT

    X = torch.randn(40, 2, dtype=F64)
    S = Kernel(k, X, tile=4, hermitian=True)
    counted.clear()
    with torch.no_grad():
        _ = S @ torch.ones(40, dtype=F64)
    assert sum(counted) == 40 * 44 / 2


def test_gradients_reach_the_points_and_the_parameters():
    X, Y = torch.randn(5, 2, dtype=F64, requires_grad=True), torch.randn(4, 2, dtype=F64, requires_grad=True)
    V, k = torch.randn(4, 2, dtype=F64, requires_grad=True), Learned()
    K = Kernel(k, X, Y, tile=2)
    assert [t is p for t, p in zip(K.tensors(), (X, Y, k.log_scale), strict=True)] == [True] * 3
    wanted = (X, Y, V, k.log_scale)
    found = torch.autograd.grad((K @ V).square().sum(), wanted)
    expected = torch.autograd.grad((k(X, Y) @ V).square().sum(), wanted)
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e)
    found = torch.autograd.grad(K._gram(V).square().sum(), wanted)
    dense = k(X, Y)
    expected = torch.autograd.grad((dense.mT @ (dense @ V)).square().sum(), wanted)
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e)


def test_parameters_of_a_closure_can_be_named():
    scale = torch.tensor(2.0, dtype=F64, requires_grad=True)
    X = torch.randn(4, 2, dtype=F64)
    K = Kernel(lambda a, b: scale * (a @ b.mT), X, parameters=[scale])
    assert K.requires_grad
    (grad,) = torch.autograd.grad((K @ torch.ones(4, dtype=F64)).sum(), scale)
    torch.testing.assert_close(grad, (X @ X.mT).sum())
    assert Kernel(Learned(), X).requires_grad


def test_second_derivatives():
    X, V = torch.randn(4, 2, dtype=F64, requires_grad=True), torch.randn(4, 1, dtype=F64, requires_grad=True)
    k = Learned()
    assert torch.autograd.gradgradcheck(lambda X, V: Kernel(k, X, tile=3) @ V, (X, V), fast_mode=True)


def test_complex_kernels_and_conversion():
    X, Y = torch.randn(5, 2, dtype=F64), torch.randn(3, 2, dtype=F64)

    def waves(a, b):
        return torch.exp(1j * (a @ b.mT))

    K = Kernel(waves, X, Y, tile=2)
    assert K.dtype == C128
    torch.testing.assert_close(K.H.to_dense(), waves(X, Y).mH)
    V = torch.randn(3, 2, dtype=C128)
    torch.testing.assert_close(K @ V, waves(X, Y) @ V)
    assert K.to(torch.float32).X.dtype == torch.float32
    real = Kernel(gaussian, X).to(C128)
    assert real.dtype == C128 and real.X.dtype == F64


def test_diagonal_of_many_points_is_cheap():
    calls = []

    def k(X, Y):
        calls.append(X.shape[-2] * Y.shape[-2])
        return gaussian(X, Y)

    K = Kernel(k, torch.randn(1000, 2, dtype=F64))
    torch.testing.assert_close(K._diagonal(), torch.ones(1000, dtype=F64))
    assert sum(calls) < 70_000


def test_no_points():
    K = Kernel(gaussian, torch.ones(3, 2), torch.ones(0, 2))
    assert (K @ torch.ones(0, 2)).tolist() == [[0, 0]] * 3
    assert (K.H @ torch.ones(3, 2)).shape == (0, 2)


def test_bad_input_is_named():
    X = torch.ones(3, 2)
    with pytest.raises(TypeError, match="k must be a function"):
        Kernel(3, X)
    with pytest.raises(ValueError, match="tile must be"):
        Kernel(gaussian, X, tile=0)
    with pytest.raises(ValueError, match="X must have shape"):
        Kernel(gaussian, torch.ones(3))
    with pytest.raises(ValueError, match=r"Y must have shape \(\*batch, points, 2\)"):
        Kernel(gaussian, X, torch.ones(3, 4))
    with pytest.raises(ValueError, match="need Y=None"):
        Kernel(gaussian, X, X.clone(), positive=True)
    with pytest.raises(ValueError, match=r"k must give \(\*batch, a, b\)"):
        Kernel(lambda a, b: a.sum(-1), X)
    with pytest.raises(TypeError, match="k must give a tensor"):
        Kernel(lambda a, b: 1.0, X)
    with pytest.raises(TypeError, match="k must give floating"):
        Kernel(lambda a, b: (a @ b.mT).long(), X)
    with pytest.raises(ValueError, match="X has 1 entries"):
        Kernel(gaussian, torch.tensor([[torch.nan]]))
