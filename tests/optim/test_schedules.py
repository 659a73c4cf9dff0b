"""Schedules: exact cases, the paper's bound term by term, torch's conventions."""

import numpy as np
import pytest
import torch
from torch import nn

from resolvent import optim

RNG = np.random.default_rng(0)


def paper_bound(rates: np.ndarray, G: np.ndarray) -> float:
    """The bound as the paper writes it, with D = 1, term by term."""
    T = len(rates)
    S = [rates[k:].sum() for k in range(T)] + [0.0]
    value = 1 / (2 * S[0]) + (G**2 * rates**2).sum() / (2 * S[0])
    for k in range(T - 1):
        value += 0.5 * rates[k] / (S[k + 1] * S[k]) * (G[k:] ** 2 * rates[k:] ** 2).sum()
    return value


def test_the_short_form_of_the_bound_is_the_papers():
    rates, G = RNG.uniform(0.1, 1, 30), RNG.uniform(0.5, 2, 30)
    scales = np.geomspace(1e-3, 1e2, 20_001)
    want = min(paper_bound(c * rates, G) for c in scales[::20])
    assert optim.last_iterate_bound(rates, G) == pytest.approx(want, rel=1e-4)
    assert optim.last_iterate_bound(7 * rates, G, 3.0) == pytest.approx(3 * optim.last_iterate_bound(rates, G))


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_constant_norms_give_linear_decay(kind):
    np.testing.assert_allclose(optim.refine_schedule(np.full(101, 3.7), kind), np.linspace(1, 0, 101), atol=1e-12)


def test_falling_norms_give_a_warmup_and_rising_norms_none():
    assert optim.refine_schedule(np.geomspace(10, 1, 200), smooth=0).argmax() > 40
    assert optim.refine_schedule(np.geomspace(1, 10, 200), smooth=0).argmax() == 0


def test_norms_of_any_size_give_the_same_schedule():
    G = RNG.uniform(0.5, 2, 50)
    for scale in (1e-200, 1e200):
        np.testing.assert_allclose(optim.refine_schedule(scale * G), optim.refine_schedule(G), rtol=1e-9)


def test_the_numerical_minimum_is_stationary_and_below_both_closed_forms():
    for G in (RNG.uniform(0.5, 2, 60), np.geomspace(4, 0.5, 60), np.geomspace(0.5, 4, 60)):
        best = optim.refine_schedule(G, "bound", smooth=0)
        value = optim.last_iterate_bound(best, G)
        assert value <= optim.last_iterate_bound(optim.refine_schedule(G, smooth=0), G)
        assert value <= optim.last_iterate_bound(1 - np.arange(60) / 60, G)
        for _ in range(20):
            other = np.maximum(best * (1 + 0.01 * RNG.standard_normal(60)), 0)
            assert optim.last_iterate_bound(other, G) >= value * (1 - 1e-6)


def test_a_spike_is_filtered_away():
    G = np.ones(200)
    G[77] = 1e3
    np.testing.assert_allclose(optim.refine_schedule(G, smooth=0.1), np.linspace(1, 0, 200), atol=1e-12)


def made(lr: float = 0.5) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        [{"params": [nn.Parameter(torch.zeros(2))]}, {"params": [nn.Parameter(torch.zeros(1))], "lr": 2 * lr}], lr=lr
    )


def rates_of(schedule, optimizer, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        assert optimizer.param_groups[1]["lr"] == pytest.approx(2 * found[-1])
        optimizer.step()
        schedule.step()
    return found


def test_linear_decay_with_warmup_and_its_end():
    optimizer = made()
    schedule = optim.LinearDecay(optimizer, 10, warmup=0.2)
    want = 0.5 * np.minimum((np.arange(10) + 1) / 3, 1 - np.arange(10) / 10)
    np.testing.assert_allclose(rates_of(schedule, optimizer, 10), want)
    assert optimizer.param_groups[0]["lr"] == 0.0
    with pytest.raises(ValueError, match="total_steps is 10"):
        schedule.step()


def test_refined_schedule_follows_its_numbers_and_resumes():
    factors = RNG.uniform(0, 1, 8)
    optimizer = made()
    schedule = optim.RefinedSchedule(optimizer, factors)
    first = rates_of(schedule, optimizer, 4)
    again = made()
    resumed = optim.RefinedSchedule(again, np.ones(8))
    resumed.load_state_dict(schedule.state_dict())
    again.load_state_dict(optimizer.state_dict())
    np.testing.assert_allclose(first + rates_of(resumed, again, 4), 0.5 * factors)
    with pytest.raises(ValueError, match="has 8 steps"):
        resumed.step()


def test_schedules_drive_the_optimizers_of_the_room():
    p = nn.Parameter(torch.zeros(1))
    lion = optim.Lion([p], lr=1.0)
    schedule = optim.LinearDecay(lion, 4)
    moved = []
    for _ in range(4):
        before = p.item()
        p.grad = torch.ones(1)
        lion.step()
        schedule.step()
        moved.append(before - p.item())
    assert moved == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize(("norm", "order"), [("l2", 2), ("l1", 1)])
def test_the_recorder_keeps_the_norm_of_the_whole_gradient(norm, order):
    optimizer = made()
    recorder = optim.GradNormRecorder(optimizer, norm)
    want = []
    for _ in range(3):
        grads = [torch.randn(2), torch.randn(1)]
        for group, g in zip(optimizer.param_groups, grads, strict=True):
            group["params"][0].grad = g
        want.append(float(torch.linalg.vector_norm(torch.cat(grads), order)))
        optimizer.step()
    np.testing.assert_allclose(recorder.norms, want, rtol=1e-6)
    again = optim.GradNormRecorder(made(), norm)
    again.load_state_dict(recorder.state_dict())
    np.testing.assert_allclose(again.norms, want, rtol=1e-6)
    recorder.close()
    optimizer.step()
    assert len(recorder.norms) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optim.refine_schedule([1.0]), "at least two"),
        (lambda: optim.refine_schedule([1.0, 0.0]), "positive and finite"),
        (lambda: optim.refine_schedule([1.0, 2.0], "rmsprop"), "kind must be"),
        (lambda: optim.refine_schedule([1.0, 2.0], smooth=1.0), "smooth"),
        (lambda: optim.last_iterate_bound([1.0], [1.0, 1.0]), "as many entries"),
        (lambda: optim.last_iterate_bound([0.0, 0.0], [1.0, 1.0]), "one of them positive"),
        (lambda: optim.LinearDecay(made(), 0), "total_steps"),
        (lambda: optim.LinearDecay(made(), 5, warmup=5), "warmup"),
        (lambda: optim.RefinedSchedule(made(), [-1.0]), "schedule must be"),
        (lambda: optim.GradNormRecorder(made(), "max"), "norm must be"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
