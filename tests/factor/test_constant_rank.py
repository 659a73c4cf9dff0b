"""constant_rank_space and what it promises: ranks by SVD and by brute force, proofs, maximality."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from resolvent.factor import AffineSpace, constant_rank_dimension, constant_rank_space
from resolvent.factor.constant_rank_kernel import ranks_of

PAIRS = [(3, 2), (4, 2), (5, 2), (5, 4), (6, 4), (7, 2), (7, 4)]
KINDS = [
    ("symmetric", 3, 1),
    ("symmetric", 4, 2),
    ("symmetric", 4, 3),
    ("general", 3, 2),
    ("general", (2, 4), 2),
    ("general", (4, 2), 1),
]


@pytest.mark.parametrize(("n", "r"), PAIRS)
@pytest.mark.parametrize("mode", ["exact", "at_least"])
def test_alternating_spaces(n, r, mode):
    space = constant_rank_space(n, r, field=5, mode=mode)
    A = space.sample(50, generator=0)
    assert bool(((A + A.mT) % 5 == 0).all()) and not bool(A.diagonal(dim1=1, dim2=2).any())
    assert space.dimension == constant_rank_dimension(n, r, mode=mode)
    low, high = space.certify("sample", generator=0).ranks
    assert low >= r and (mode == "at_least" or high == r)
    assert space.certify("identity").proof
    real = constant_rank_space(n, r, mode=mode).sample(200, bound=50, generator=0)
    ranks = torch.linalg.matrix_rank(real.double())
    assert bool((ranks >= r).all()) and (mode == "at_least" or bool((ranks == r).all()))


@pytest.mark.parametrize(("kind", "n", "r"), KINDS)
@pytest.mark.parametrize("mode", ["exact", "at_least"])
def test_other_kinds(kind, n, r, mode):
    space = constant_rank_space(n, r, field=3, kind=kind, mode=mode)
    found = space.certify("exhaustive")
    assert found.ranks[0] == r and (mode == "at_least" or found.ranks[1] == r)
    assert found.points == 3**space.dimension and space.certify("identity").ranks[1] >= found.ranks[1]
    if kind == "symmetric":
        assert bool((space.basis == space.basis.mT).all())
    if kind == "general" or mode == "exact":
        assert space.dimension == constant_rank_dimension(n, r, kind=kind, mode=mode)


def test_exhaustive_against_points_one_by_one():
    space = constant_rank_space(4, 2, field=3, mode="at_least")
    seen = set()
    for c in product(range(3), repeat=space.dimension):
        A = space.offset + torch.einsum("i,inm->nm", torch.tensor(c), space.basis)
        assert space.contains(A)
        # The Pfaffian of an alternating 4 x 4 matrix.
        a = A.tolist()
        pfaffian = a[0][1] * a[2][3] - a[0][2] * a[1][3] + a[0][3] * a[1][2]
        seen.add(4 if pfaffian % 3 else 2)
    assert space.certify("exhaustive").ranks == (min(seen), max(seen)) == (2, 4)


def test_ranks_modulo_a_prime():
    A = np.array([[[1, 2], [2, 4]], [[1, 2], [2, 1]], [[0, 0], [0, 0]], [[0, 3], [3, 0]]])
    assert ranks_of(A.copy() % 3, 3).tolist() == [1, 1, 0, 0]
    assert ranks_of(A.copy() % 7, 7).tolist() == [1, 2, 0, 2]
    big = 2**31 - 1
    low = np.random.default_rng(0).integers(-1000, 1000, (5, 8, 3))
    assert ranks_of((low @ low.swapaxes(1, 2)) % big, big).tolist() == [3] * 5


def test_contains():
    for field in ("real", 5):
        space = constant_rank_space(5, 2, field=field)
        assert space.contains(space.sample(1, generator=1)[0]) and not space.contains(torch.zeros(5, 5))
        assert not space.contains(2 * space.offset)
    assert constant_rank_space(2, 2).contains(np.array([[0.0, 1.0], [-1.0, 0.0]]))


def test_grow():
    full = constant_rank_space(6, 2, field=3)
    assert full.grow(30, generator=0).refused == 30
    # Without one direction there is room for one more, and the space comes back to its size.
    plane = constant_rank_space(3, 2, field=3)
    grown = AffineSpace(plane.offset, plane.basis[:1], 3, 2, "alternating", "exact").grow(50, generator=0).space
    assert grown.dimension == 2 and grown.certify("exhaustive").ranks == (2, 2)
    assert bool(((grown.basis + grown.basis.mT) % 3 == 0).all())
    assert constant_rank_space(4, 2, field=3, mode="at_least").grow(20, generator=0).refused == 20


def test_a_false_promise_is_found():
    space = constant_rank_space(6, 2, field=3)
    wrong = AffineSpace(space.offset, constant_rank_space(6, 4, field=3).basis, 3, 2, "alternating", "exact")
    assert wrong.certify("exhaustive").ranks != (2, 2)
    with pytest.raises(ValueError, match="no minor"):
        wrong.certify("identity")


def test_bad_input():
    space = constant_rank_space(5, 2, field=3)
    for call, word in (
        (lambda: constant_rank_space(5, 3), "even"),
        (lambda: constant_rank_space(5, 6), "r must"),
        (lambda: constant_rank_space(0, 2), "n must"),
        (lambda: constant_rank_space((3, 4), 2), "one int"),
        (lambda: constant_rank_space(5, 2, field=4), "prime"),
        (lambda: constant_rank_space(5, 2, kind="skew"), "kind"),
        (lambda: constant_rank_space(5, 2, mode="most"), "mode"),
        (lambda: constant_rank_dimension(6, 4, field=3), "no theorem"),
        (lambda: constant_rank_dimension(9, 6, field=3), "no theorem"),
        (lambda: space.contains(torch.eye(4)), "shape"),
        (lambda: space.contains(torch.full((5, 5), 0.5)), "integers"),
        (lambda: space.certify("guess"), "method"),
        (lambda: constant_rank_space(5, 2).certify("exhaustive"), "infinitely"),
        (lambda: constant_rank_space(5, 2).grow(1), "finite field"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
