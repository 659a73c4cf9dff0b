"""The protocol of tuned comparisons: what it searches, what it counts."""

import math

import pytest
import torch
from torch import nn

from resolvent import optim

X = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
LABELS = (X[:, 0] + X[:, 1] > 0).long()


def task(target: float = 0.05) -> optim.Task:
    return optim.Task(lambda: nn.Linear(3, 2), (X, LABELS), optim.error_rate(X, LABELS), target)


def sgd(model: nn.Module, s: dict[str, float]) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=s["lr"], momentum=1 - s.get("one_minus_momentum", 1.0))


def test_settings_fill_the_space_and_depend_on_the_seed_alone():
    space = {"lr": optim.Range(1e-3, 10.0), "warmup": optim.Range(0.0, 0.5, "linear"), "power": (1.0, 2.0)}
    found = optim.draw_settings(space, 64, seed=3)
    assert found == optim.draw_settings(space, 64, seed=3) != optim.draw_settings(space, 64, seed=4)
    assert {s["power"] for s in found} == {1.0, 2.0}
    logs = sorted(math.log10(s["lr"]) for s in found)
    # A low-discrepancy sequence: every sixteenth of the range holds a few points.
    assert all(1 <= sum(-3 + i / 4 <= v < -3 + (i + 1) / 4 for v in logs) <= 8 for i in range(16))


def test_the_count_is_that_of_a_run_by_hand():
    space = {"lr": optim.Range(0.3, 0.3)}
    found = optim.steps_to_target(task(), {"SGD": sgd}, [50], space, steps=60, trials=1, seeds=1, every=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    batches = optim.training.minibatches(X, LABELS, 50, 0)
    for step in range(60):
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / 60)
        x, y = next(batches)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        if optim.error_rate(X, LABELS)(model) <= 0.05:
            break
    assert found.of("SGD", 50).steps == step + 1 < 60


def test_a_larger_batch_with_momentum_needs_no_more_steps_and_everything_is_listed():
    space = {"lr": optim.Range(1e-2, 1.0), "one_minus_momentum": optim.Range(0.1, 1.0)}
    makes = {"SGD": sgd, "Adam": lambda model, s: torch.optim.Adam(model.parameters(), lr=s["lr"])}
    found = optim.steps_to_target(task(), makes, [8, 200], space, steps=80, trials=6, seeds=3, every=2)
    assert [(r.optimizer, r.batch_size) for r in found] == [("SGD", 8), ("Adam", 8), ("SGD", 200), ("Adam", 200)]
    assert all(0 < r.trials <= 1 and 0 < r.success <= 1 for r in found)
    assert "steps to target" in str(found) and len(str(found).splitlines()) == 5
    with pytest.raises(KeyError, match="no run of 'Lion'"):
        found.of("Lion", 8)


def test_a_target_out_of_reach_is_never_reached():
    found = optim.steps_to_target(
        task(-1.0), {"SGD": sgd}, [50], {"lr": optim.Range(0.1, 1.0)}, steps=5, trials=2, seeds=2
    )
    row = found.of("SGD", 50)
    assert row.steps == math.inf and row.success == 0 and row.trials == 0
    assert "never" in str(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizers": {}}, "at least one optimizer"),
        ({"trials": 0}, "trials must be"),
        ({"space": {"other": {"lr": optim.Range(1.0, 1.0)}}}, "no entry for 'SGD'"),
        ({"space": {}}, "at least one setting"),
    ],
)
def test_bad_input_is_named(change, message):
    settings = {"optimizers": {"SGD": sgd}, "space": {"lr": optim.Range(1.0, 1.0)}, **change}
    with pytest.raises(ValueError, match=message):
        optim.steps_to_target(task(), batch_sizes=[8], steps=2, **settings)


def test_a_range_must_be_in_order():
    with pytest.raises(ValueError, match="in order"):
        optim.Range(1.0, 0.5)
