"""flip_graph_search and lift_scheme: known ranks, every step valid, repeatable, meta moves, pools, lifts with halves."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from resolvent.errors import ConvergenceError
from resolvent.factor import BilinearScheme, flip_graph_search, known_scheme, lift_scheme, matmul, standard_scheme
from resolvent.factor.flip_graph import _decoded, _encoded
from resolvent.factor.flip_graph_kernel import walk
from resolvent.factor.lifting import _fraction
from resolvent.random import gaussian


@pytest.mark.parametrize(
    ("n", "op", "ring", "target"),
    [
        (2, "gg", "ZT", 7),
        ((2, 2, 3), "gg", "ZT", 11),
        (2, "gg", 2, 7),
        ((2, 2, 3), "gg", 3, 11),
        (2, "sg", "ZT", 6),
        (2, "ss", 3, 5),
        (3, "gt", 2, 17),
        (3, "ug", 2, 17),
    ],
)
def test_known_ranks(n, op, ring, target):
    scheme, info = flip_graph_search(n, op, ring=ring, target=target, generator=0, return_info=True)
    assert (scheme.rank, scheme.verify(), info.converged) == (target, True, True)
    assert scheme.ternary == (ring == "ZT")


@pytest.mark.parametrize("ring", [0, 2, 3])
@pytest.mark.parametrize("op", ["gg", "kg", "ut"])
def test_every_stop_of_a_walk_is_a_scheme(ring, op):
    start = standard_scheme(op, 3)
    now = _encoded(start, ring, 6)
    assert _decoded(now, start, ring).verify()
    rank, state = now.rank, np.array([7], np.uint64)
    seen = set()
    for _ in range(40):
        spare = now.P.copy(), now.N.copy(), now.S.copy()
        rank, _, done = walk(now.P, now.N, now.S, rank, ring, 101, 0, 4, 20, 40, state, *spare, rank + 1)
        assert done == 101
        assert _decoded(now._replace(rank=rank), start, ring).verify()
        seen.add(rank)
    assert len(seen) > 1


def test_the_same_seed_gives_the_same_scheme():
    found = [
        flip_graph_search((2, 2, 3), target=11, generator=5, workers=workers, path_flips=20_000) for workers in (1, 4)
    ]
    for part in "UVW":
        np.testing.assert_array_equal(getattr(found[0], part), getattr(found[1], part))


def test_pool_and_meta():
    scheme, info = flip_graph_search(
        (2, 2, 3), ring=2, target=11, method="pool", pool_size=5, path_flips=20_000, generator=0, return_info=True
    )
    assert (scheme.rank, info.method) == (11, "pool")
    scheme, info = flip_graph_search((2, 2, 4), target=14, meta=True, path_flips=10_000, generator=0, return_info=True)
    assert (scheme.sizes, scheme.rank, scheme.ternary, scheme.verify()) == ((2, 2, 4), 14, True, True)
    assert len(info.ranks) > 1
    assert flip_graph_search((1, 2, 2), meta=True, max_flips=10_000, generator=0).rank == 4


def test_without_a_target_all_flips_are_spent():
    scheme, info = flip_graph_search(2, max_flips=30_000, path_flips=2000, generator=0, return_info=True)
    assert scheme.rank == 7
    assert info.flips >= 30_000


def test_a_start_is_kept_or_improved():
    start = known_scheme("winograd").extend(2)
    assert flip_graph_search((2, 2, 3), start=start, target=11, generator=0).rank == 11
    with pytest.raises(ValueError, match="start must be a scheme of"):
        flip_graph_search(2, start=start)
    with pytest.raises(ValueError, match="valid scheme"):
        flip_graph_search(2, start=BilinearScheme(start.U[:7, :4], start.V[:7, :4], start.W[:7, :4]))
    with pytest.raises(ValueError, match="-1, 0 and 1"):
        flip_graph_search(2, start=BilinearScheme(np.eye(4) * 2, np.eye(4), np.eye(4)))


def test_a_missed_target_is_an_error():
    with pytest.raises(ConvergenceError, match="rank 7") as caught:
        flip_graph_search(2, target=6, max_flips=40_000, path_flips=5000, generator=0)
    assert caught.value.best.verify()
    assert caught.value.error == 1


def test_bad_input():
    for keywords, message in (
        ({"ring": 5}, "ring must be"),
        ({"method": "x"}, "method must be"),
        ({"runners": 0}, "runners must be"),
        ({"plus_after": (5, 2)}, "plus_after must be"),
        ({"meta": True, "method": "pool"}, "meta needs"),
        ({"target": 1.5}, "target must be"),
    ):
        with pytest.raises(ValueError, match=message):
            flip_graph_search(2, **keywords)
    with pytest.raises(ValueError, match="do not fit"):
        flip_graph_search(9)


def test_lifts_of_two_and_three():
    for n, op, ring, target in ((2, "gg", 2, 7), (2, "gg", 3, 7), (2, "sg", 2, 6), (3, "ug", 2, 17)):
        lifted = lift_scheme(flip_graph_search(n, op, ring=ring, target=target, generator=1))
        assert (lifted.rank, lifted.modulus, lifted.verify()) == (target, 0, True)


def test_symmetric_times_symmetric_needs_halves():
    lifted = lift_scheme(flip_graph_search(2, "ss", ring=3, target=5, generator=0))
    assert lifted.verify()
    assert lifted.denominator % 2 == 0
    A, B = (X + X.mT for X in gaussian((2, 6, 2, 2), generator=0))
    torch.testing.assert_close(matmul(A, B, lifted), A @ B)


def test_a_lift_does_not_depend_on_the_residues_chosen():
    strassen = known_scheme("strassen")
    moved = BilinearScheme(strassen.U + 2, strassen.V - 4, strassen.W + 6, modulus=2)
    assert moved.verify()
    assert lift_scheme(moved).verify()


def test_reconstruction_of_fractions():
    for value in (Fraction(0), Fraction(1, 2), Fraction(-3, 4), Fraction(5), Fraction(-7, 10)):
        modulus = 3**11
        residue = value.numerator * pow(value.denominator, -1, modulus) % modulus
        assert _fraction(residue, modulus) == value


def test_what_cannot_be_lifted():
    strassen = known_scheme("strassen")
    with pytest.raises(ValueError, match="p must be 2 or 3"):
        lift_scheme(strassen)
    with pytest.raises(ValueError, match="Brent equations modulo 3"):
        lift_scheme(BilinearScheme(strassen.U * 2, strassen.V, strassen.W, modulus=3))
    with pytest.raises(ValueError, match="steps must keep"):
        lift_scheme(strassen, 3, steps=20)


def test_too_few_digits():
    failed = 0
    for seed in range(8):
        scheme = flip_graph_search(2, ring=3, target=7, generator=seed)
        try:
            assert lift_scheme(scheme, steps=1, tries=1).verify()
        except ConvergenceError as error:
            failed += 1
            assert error.best.modulus == 9
            assert error.best.verify()
            assert lift_scheme(scheme).verify()
    assert failed
