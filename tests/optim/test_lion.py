"""Lion and its family: hand formulas, the peer, constraints, the Lyapunov function."""

import itertools
import math

import pytest
import torch
from torch import nn

from resolvent import optim

DTYPE = torch.float64


def stepped(norm: str, x: torch.Tensor, g: torch.Tensor, **options: float) -> torch.Tensor:
    """The direction of a first step, from momentum zero."""
    p = nn.Parameter(x.clone())
    p.grad = g.clone()
    optim.Lion([p], lr=1.0, betas=(0.0, 0.9), norm=norm, **options).step()
    return x - p.detach()


def test_equals_the_published_package_over_many_steps():
    peer = pytest.importorskip("lion_pytorch")
    gen = torch.Generator().manual_seed(0)
    start = torch.randn(7, 5, generator=gen)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    a = optim.Lion([ours], lr=0.01, weight_decay=0.1)
    b = peer.Lion([theirs], lr=0.01, weight_decay=0.1)
    for _ in range(30):
        ours.grad = torch.randn(7, 5, generator=gen)
        theirs.grad = ours.grad.clone()
        a.step()
        b.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_directions_maximise_the_product_with_the_gradient_over_the_dual_ball():
    g = torch.randn(6, 4, dtype=DTYPE, generator=torch.Generator().manual_seed(1))
    x = torch.zeros_like(g)
    assert torch.equal(stepped("l1", x, g), g.sign())
    torch.testing.assert_close(stepped("l2", x, g), g / g.norm())
    torch.testing.assert_close(stepped("group", x, g), g / g.norm(dim=1, keepdim=True))
    U, _, Vh = torch.linalg.svd(g, full_matrices=False)
    torch.testing.assert_close(stepped("spectral", x, g), U @ Vh)
    torch.testing.assert_close(stepped("huber", x, g, epsilon=0.5), (g / 0.5).clamp(-1, 1))
    direction = stepped("lp", x, g, p=3.0)
    assert math.isclose(torch.linalg.vector_norm(direction, 1.5), 1.0)
    assert math.isclose((direction * g).sum(), torch.linalg.vector_norm(g, 3.0))
    torch.testing.assert_close(stepped("lp", x, g, p=2.0), g / g.norm())


@pytest.mark.parametrize("norm", ["l1", "l2", "group", "huber", "spectral", "lp"])
def test_a_zero_gradient_moves_nothing(norm):
    x = torch.randn(3, 2, dtype=DTYPE)
    assert torch.equal(stepped(norm, x, torch.zeros_like(x)), torch.zeros_like(x))


@pytest.mark.parametrize(
    ("norm", "kind"), [("l1", "inf"), ("l2", "l2"), ("group", "row"), ("spectral", "spectral"), ("lp", "lq")]
)
def test_outside_of_the_constraint_the_distance_falls_by_the_factor_at_least(norm, kind):
    gen = torch.Generator().manual_seed(2)
    p = nn.Parameter(10 * torch.randn(8, 5, dtype=DTYPE, generator=gen))
    lion = optim.Lion([p], lr=0.05, weight_decay=2.0, norm=norm, p=3.0)
    limit = lion.constraint()
    assert limit is not None and limit.norm == kind and limit.radius == 0.5
    before = limit.violation(p)
    for _ in range(40):
        p.grad = torch.randn(8, 5, dtype=DTYPE, generator=gen)
        lion.step()
        after = limit.violation(p)
        assert after <= before * (1 - 0.05 * 2.0) + 1e-12
        before = after
    assert lion.feasibility() == before


def test_without_weight_decay_there_is_no_constraint():
    lion = optim.Lion([nn.Parameter(torch.ones(2))])
    assert lion.constraint() is None and lion.feasibility() == 0.0


@pytest.mark.parametrize("norm", ["l1", "l2", "group", "huber", "spectral", "lp"])
def test_the_lyapunov_function_falls_along_small_steps(norm):
    gen = torch.Generator().manual_seed(3)
    A = torch.randn(20, 12, dtype=DTYPE, generator=gen)
    target = torch.randn(20, dtype=DTYPE, generator=gen)
    p = nn.Parameter(0.01 * torch.randn(4, 3, dtype=DTYPE, generator=gen))
    lr = 1e-4
    lion = optim.Lion([p], lr=lr, betas=(1 - 5 * lr, 1 - lr), weight_decay=1.0, norm=norm, epsilon=0.1, p=3.0)
    values = []
    for _ in range(1500):
        lion.zero_grad()
        loss = 0.5 * (A @ p.reshape(-1) - target).square().mean()
        loss.backward()
        lion.step()
        if lion.state[p]["step"] % 100 == 0:
            with torch.no_grad():
                values.append(optim.lion_lyapunov(float(0.5 * (A @ p.reshape(-1) - target).square().mean()), lion))
    assert all(math.isfinite(v) for v in values)
    fall = values[0] - values[-1]
    assert fall > 0
    assert all(b - a <= 0.02 * fall for a, b in itertools.pairwise(values))


def test_the_lyapunov_function_is_infinite_outside_and_needs_weight_decay():
    p = nn.Parameter(torch.tensor([5.0]))
    p.grad = torch.ones(1)
    lion = optim.Lion([p], weight_decay=1.0)
    lion.step()
    assert optim.lion_lyapunov(1.0, lion) == math.inf
    with pytest.raises(ValueError, match="weight_decay > 0"):
        optim.lion_lyapunov(1.0, optim.Lion([nn.Parameter(torch.ones(1))]))


def test_state_is_one_tensor():
    p = nn.Parameter(torch.zeros(10))
    p.grad = torch.ones(10)
    lion = optim.Lion([p])
    lion.step()
    assert sorted(lion.state[p]) == ["momentum", "step"]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"norm": "l7"}, "norm must be one of"), ({"p": 1.0, "norm": "lp"}, "p must be"), ({"epsilon": 0.0}, "epsilon")],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        optim.Lion([nn.Parameter(torch.zeros(1))], **options)


@pytest.mark.parametrize("norm", ["l2", "group", "spectral", "lp"])
@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_the_direction_does_not_depend_on_the_size_of_the_gradient(norm, size):
    g = torch.randn(6, 4, generator=torch.Generator().manual_seed(4))
    x = torch.zeros_like(g)
    torch.testing.assert_close(stepped(norm, x, size * g), stepped(norm, x, g), rtol=1e-4, atol=1e-5)
