"""CoRe against the authors' package, and its parts."""

import pytest
import torch
from torch import nn

from resolvent.optim import CoRe

PATHS = pytest.mark.parametrize(
    "options", [{}, {"foreach": True}, {"foreach": False}], ids=["fused", "foreach", "single"]
)


def steps(make, count=15):
    draw = torch.Generator().manual_seed(2)
    params = [nn.Parameter(torch.randn(s, generator=draw, dtype=torch.float64)) for s in ((8, 5), (7,))]
    optimizer = make(params)
    for _ in range(count):
        for p in params:
            p.grad = torch.randn(p.shape, generator=draw, dtype=torch.float64) + 0.3
        optimizer.step()
    return optimizer, [p.detach() for p in params]


@PATHS
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"step_sizes": (1e-4, 0.5), "weight_decay": 0.3, "betas": (0.5, 0.9, 4.0, 0.9)},
        {"betas": (0.7, 0.8, 10.0, -1.0), "weight_decay": 0.0},
        {"score_history": 4, "frozen": 0.3, "step_sizes": (1e-4, 0.5)},
    ],
    ids=["defaults", "other", "sign", "frozen"],
)
def test_it_is_that_of_its_authors(options, settings):
    theirs = pytest.importorskip("core_optimizer").CoRe
    _, ours = steps(lambda p: CoRe(p, **settings, **options))
    _, reference = steps(lambda p: theirs(p, **settings, foreach=False))
    for a, b in zip(ours, reference, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-10)


@PATHS
def test_step_sizes_stay_in_their_bounds(options):
    optimizer, _ = steps(lambda p: CoRe(p, step_sizes=(5e-4, 2e-3), **options), 40)
    for state in optimizer.state.values():
        assert float(state["step_size"].min()) >= 5e-4 - 1e-12 and float(state["step_size"].max()) <= 2e-3 + 1e-12
        assert state["step_size"].unique().numel() > 1


def test_with_factors_of_one_it_is_adam():
    settings = {"etas": (1.0, 1.0), "betas": (0.9, 0.9, 1.0, 0.99), "weight_decay": 0.0}
    _, ours = steps(lambda p: CoRe(p, lr=1e-3, **settings))
    _, adam = steps(lambda p: torch.optim.Adam(p, lr=1e-3, betas=(0.9, 0.99)))
    for a, b in zip(ours, adam, strict=True):
        assert torch.allclose(a, b, rtol=1e-12)


def test_the_numbers_with_the_highest_scores_stand_still():
    x = nn.Parameter(torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    weights = torch.tensor([1.0, 100.0, 2.0, 3.0], dtype=torch.float64)
    optimizer = CoRe([x], score_history=5, frozen=0.25, weight_decay=0.0)
    for t in range(12):
        optimizer.zero_grad()
        (weights * x).sum().backward()
        before = x.detach().clone()
        optimizer.step()
        if t >= 5:
            assert (x.detach() == before).tolist() == [False, True, False, False]


def test_a_schedule_multiplies_all_step_sizes():
    x, y = (nn.Parameter(torch.ones(3)) for _ in range(2))
    full, half = CoRe([x], weight_decay=0.0), CoRe([y], weight_decay=0.0)
    half.param_groups[0]["lr"] = 5e-4
    for p, optimizer in ((x, full), (y, half)):
        p.grad = torch.ones(3)
        optimizer.step()
    assert torch.allclose((1 - x.detach()) / 2, 1 - y.detach(), rtol=1e-3)
    with pytest.raises(ValueError, match="lr"):
        CoRe([x], lr=0.0)
