"""What the papers on magic unitaries and on spaces of matrices of constant rank claim, measured."""

import math

import torch

from resolvent import factor
from resolvent.claims import Measured, Scale, claim
from resolvent.errors import ConvergenceError


@claim(
    paper="Flat matrix models for quantum permutation groups",
    method=factor.magic_unitary,
    says="the Weyl models for n = 2 and 3 satisfy all magic relations, for 100 random unitaries (largest defect)",
    at_most=1e-12,
)
def magic_relations(scale: Scale) -> Measured:
    worst = 0.0
    for n in scale(quick=(2, 3), full=(2, 3, 4)):
        u = factor.magic_unitary((n, n), "weyl", count=100, generator=0)
        worst = max(worst, float(factor.magic_defect(u).max()))
    return Measured(worst, "defect")


@claim(
    paper="Flat matrix models for quantum permutation groups",
    method=factor.sinkhorn_projections,
    says="from 100 random starts at least 95 reach a defect of 1e-10, for every N from 3 to 6 (smallest share, percent)",
    at_least=95.0,
)
def starts_that_converge(scale: Scale) -> Measured:
    shares = []
    for N in scale(quick=(3, 4, 5), full=(3, 4, 5, 6)):
        count = scale(quick=20, full=100)
        try:
            factor.sinkhorn_projections(N, count=count, restarts=0, generator=N)
            shares.append(100.0)
        except ConvergenceError as error:
            shares.append(100 * float((error.error <= 1e-10).sum()) / count)
    return Measured(min(shares), "percent", f"by N: {', '.join(f'{s:.0f}' for s in shares)}")


@claim(
    paper="Flat matrix models for quantum permutation groups",
    method=factor.sinkhorn_projections,
    says="for N = 7 the turns of rows and columns alone reach a defect of 1e-10 (median of 5 starts)",
    at_most=1e-10,
    known_miss="the defect falls like a power of the number of turns and then hardly at all, to 2e-2 after 200, 2e-3 after "
    "3200 and between 2e-4 and 2e-3 after 12800; least squares from there do not reach a solution either, those from 200 "
    "turns end at 1e-13 in about a third of the starts. N <= 5 converges linearly, N = 6 from most starts",
)
def turns_alone(scale: Scale) -> Measured:
    turns = scale(quick=100, full=3000)
    try:
        _, info = factor.sinkhorn_projections(
            7, count=5, method="sinkhorn", max_iter=turns, generator=0, return_info=True
        )
        defect = info.error
    except ConvergenceError as error:
        defect = float(error.error.median())
    return Measured(defect, "defect", f"{turns} turns")


@claim(
    paper="Flat matrix models for quantum permutation groups",
    method=factor.haar_moments,
    says="the Pauli model generates S_4^+, not S_4: the moments are 1, 2, 5, 14 (Catalan), where permutations have "
    "1, 2, 5, 15 (distance from the Catalan numbers)",
    at_most=0.0,
)
def catalan_moments(scale: Scale) -> Measured:
    V = factor.magic_unitary((2, 2), "weyl", vectors=True, count=scale(quick=300, full=2000), generator=0)
    return _moments(V)


@claim(
    paper="Flat matrix models for quantum permutation groups",
    method=factor.haar_moments,
    says="random flat models of size 4 generate S_4^+ too, as the paper conjectures (distance from the Catalan numbers)",
    at_most=0.0,
)
def catalan_moments_of_random_models(scale: Scale) -> Measured:
    count = scale(quick=40, full=300)
    return _moments(factor.sinkhorn_projections(4, vectors=True, count=count, generator=0))


def _moments(V: torch.Tensor) -> Measured:
    found = factor.haar_moments(V, 4)
    # The next eigenvalue tells how clear the count is.
    nearest = float((found.eigenvalues[3][14] - 1).abs())
    distance = sum(abs(a - b) for a, b in zip(found.moments, (1, 2, 5, 14), strict=True))
    note = f"{found.moments}; the next eigenvalue of T_4 is {nearest:.2f} from 1"
    return Measured(distance if math.isfinite(nearest) else math.nan, "distance", note)


# Fields of at least min(r - 1, r / 2 + 2) elements.
PAIRS = [(5, 2), (6, 2), (7, 2), (7, 4)]


@claim(
    paper="On affine spaces of alternating matrices with constant rank",
    method=factor.constant_rank_space,
    says="dimension s (n - s - 1) and no rank but r = 2s, in every single point over F_3 and F_5, n <= 7 (spaces that fail)",
    at_most=0.0,
)
def every_point_has_the_rank(scale: Scale) -> Measured:
    failed, points = 0, 0
    for n, r in PAIRS:
        for p in (3, 5):
            space = factor.constant_rank_space(n, r, field=p)
            found = space.certify("exhaustive")
            points += found.points
            failed += space.dimension != r // 2 * (n - r // 2 - 1) or found.ranks != (r, r)
    return Measured(failed, "spaces", f"{points} points")


@claim(
    paper="On affine spaces of alternating matrices with constant rank",
    method=factor.constant_rank_space,
    says="no further direction can be added: of 100 random ones for each space, those that break the rank (percent)",
    at_least=100.0,
)
def nothing_can_be_added(scale: Scale) -> Measured:
    refused = []
    for n, r in PAIRS:
        for p in (3, 5):
            space = factor.constant_rank_space(n, r, field=p)
            refused.append(space.grow(100, generator=n * r).refused)
    return Measured(min(refused), "percent", f"{sum(refused)} of {100 * len(refused)} directions")


@claim(
    paper="On affine spaces of alternating matrices with constant rank",
    method=factor.constant_rank_space,
    says="over the reals random points with coordinates up to 1000 have rank r to rounding, by singular values, and exactly, by "
    "elimination (points that have not)",
    at_most=0.0,
)
def real_points(scale: Scale) -> Measured:
    wrong, count = 0, scale(quick=1000, full=10_000)
    for n, r in PAIRS:
        space = factor.constant_rank_space(n, r)
        A = space.sample(count, bound=1000, generator=0)
        wrong += int((torch.linalg.matrix_rank(A.double()) != r).sum())
        wrong += space.certify("sample", count=count, generator=1).ranks != (r, r)
    return Measured(wrong, "points")


@claim(
    paper="On affine spaces of alternating matrices with constant rank",
    method=factor.constant_rank_space,
    says="spaces of rank at least r have codimension (r/2)^2, without a point below r over F_3, and nothing can be added "
    "(spaces that fail)",
    at_most=0.0,
)
def at_least_a_rank(scale: Scale) -> Measured:
    failed = 0
    for n, r in scale(quick=((4, 2), (5, 4)), full=((4, 2), (5, 2), (5, 4), (6, 4), (6, 6))):
        space = factor.constant_rank_space(n, r, field=3, mode="at_least")
        failed += n * (n - 1) // 2 - space.dimension != (r // 2) ** 2
        failed += space.certify("exhaustive").ranks[0] < r or space.grow(100, generator=0).refused < 100
    return Measured(failed, "spaces")
