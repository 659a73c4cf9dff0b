"""The pool of training points."""

import pytest
import torch

from resolvent.optim import RehearsalSelector


def test_new_points_come_first_and_all_are_seen():
    pool = RehearsalSelector(40, generator=0)
    seen = set()
    for _ in range(10):
        ids = pool.draw(10)
        assert len(set(ids.tolist())) == len(ids) == 10
        seen |= set(ids.tolist())
        pool.update(ids, torch.ones(len(ids)))
    assert len(seen) == 40
    new = pool.add(6)
    assert new.tolist() == list(range(40, 46)) and len(pool) == 46
    assert len(set(new.tolist()) & set(pool.draw(12).tolist())) == 6


def test_hard_points_are_repeated_and_easy_ones_set_aside():
    pool, counts = RehearsalSelector(100, generator=1), torch.zeros(100)
    for _ in range(80):
        ids = pool.draw(20)
        counts[ids] += 1
        pool.update(ids, torch.where(ids < 15, 2.0, 0.02))
    assert counts[:15].mean() > 5 * counts[15:].mean()
    assert int(pool.aside.sum()) > 60 and not pool.aside[:15].any()
    assert pool.weight.max() <= 10.0


def test_a_point_set_aside_comes_back_when_it_is_forgotten():
    pool = RehearsalSelector(50, revisit=0.2, generator=2)
    for _ in range(60):
        ids = pool.draw(20)
        pool.update(ids, torch.where(ids < 5, 1.0, 0.01))
    assert pool.aside[10:].float().mean() > 0.8
    for _ in range(40):
        ids = pool.draw(20)
        pool.update(ids, torch.ones(len(ids)))
    assert pool.aside.float().mean() < 0.2


def test_it_goes_on_alike_from_its_state():
    pool, twin = RehearsalSelector(30, generator=3), RehearsalSelector(30)
    pool.update(pool.draw(10), torch.rand(10))
    twin.load_state_dict(pool.state_dict())
    for _ in range(5):
        ids = pool.draw(8)
        assert torch.equal(ids, twin.draw(8))
        pool.update(ids, ids.float())
        twin.update(ids, ids.float())


def test_bad_input():
    pool = RehearsalSelector(5)
    for call, word in [
        (lambda: pool.draw(0), "k"), (lambda: pool.update(torch.arange(2), torch.ones(3)), "losses"),
        (lambda: pool.update(torch.arange(2), torch.tensor([1.0, -1.0])), "losses"), (lambda: RehearsalSelector(-1), "n"),
        (lambda: RehearsalSelector(3, thresholds=(1.0, 0.5)), "thresholds"), (lambda: pool.add(-1), "n"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=word):
            call()
