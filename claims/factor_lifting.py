"""What the paper on lifted matrix sensing claims, measured."""

import math

import torch

from resolvent import factor
from resolvent.claims import Measured, Scale, claim
from resolvent.random import gaussian


def traps(scale: Scale) -> list[tuple[float, factor.SpuriousInstance]]:
    sizes = scale(quick=(3, 5), full=(3, 5, 7))
    return [(eps, factor.spurious_instance(n, eps)) for n in sizes for eps in (0.1, 0.2, 0.3)]


@claim(
    paper="Over-parametrization via Lifting for Low-rank Matrix Sensing: Conversion of Spurious Solutions to Strict Saddle Points",
    method=factor.lifted_sensing,
    says="every spurious minimum of perturbed completion (n = 3, 5; eps = 0.1 to 0.3) lifts to a strict saddle at a large enough odd order: largest curvature down",
    at_most=-1e-3,
)
def saddles(scale: Scale) -> Measured:
    worst, orders = -math.inf, []
    for eps, trap in traps(scale):
        n = len(trap.truth)
        plain = factor.lifted_sensing(trap.measure, trap.y, n, order=1)
        for x in trap.points:
            order = plain.required_order(x)
            if order is None or plain.hessian_min(x)[0] < -1e-8 or len(trap.points) != 2 ** ((n - 1) // 2) - 1:
                return Measured(math.nan, note=f"n = {n}, eps = {eps}")
            P, Q, _ = plain.forms(x)
            u = torch.linalg.eigh(P - Q).eigenvectors[:, 0]
            worst = max(worst, plain.curvature(x, u, order))
        orders.append(f"{n}, {eps}: {order}")
    return Measured(worst, unit="curvature", note="order needed for n, eps " + "; ".join(orders))


@claim(
    paper="Over-parametrization via Lifting for Low-rank Matrix Sensing: Conversion of Spurious Solutions to Strict Saddle Points",
    method=factor.lifted_sensing,
    says="order 3 is enough from eps = 0.4 for n = 3 and from 0.3 for n = 5: smallest eigenvalue of the lifted Hessian",
    at_most=-1e-3,
)
def order_three(scale: Scale) -> Measured:
    found = []
    for n, eps in scale(quick=((3, 0.4), (3, 0.5), (5, 0.3)), full=((3, 0.4), (3, 0.5), (5, 0.3), (5, 0.35))):
        trap = factor.spurious_instance(n, eps)
        lifted = factor.lifted_sensing(trap.measure, trap.y, n, order=3)
        found += [lifted.hessian_min(x)[0] for x in trap.points]
    return Measured(max(found), unit="largest of them", note=f"{len(found)} spurious minima")


@claim(
    paper="Over-parametrization via Lifting for Low-rank Matrix Sensing: Conversion of Spurious Solutions to Strict Saddle Points",
    method=factor.lifted_sensing,
    says="order 3 is enough at eps = 0.1, 0.2, 0.3 for n = 3 as well: smallest eigenvalue of the lifted Hessian",
    at_most=-1e-3,
    known_miss="order 3 leaves a minimum there: 7.1, 4.6 and 1.2; orders 35, 9 and 5 are needed, as `required_order` predicts",
)
def order_three_small_eps(scale: Scale) -> Measured:
    found = []
    for eps in scale(quick=(0.1, 0.2, 0.3), full=(0.1, 0.15, 0.2, 0.25, 0.3)):
        trap = factor.spurious_instance(3, eps)
        lifted = factor.lifted_sensing(trap.measure, trap.y, 3, order=3)
        found += [lifted.hessian_min(x)[0] for x in trap.points]
    return Measured(max(found), unit="largest of them", note=", ".join(f"{value:.2f}" for value in found))


@claim(
    paper="Over-parametrization via Lifting for Low-rank Matrix Sensing: Conversion of Spurious Solutions to Strict Saddle Points",
    method=factor.lifted_sensing,
    says="the solution stays a minimum of the lifted problem: most negative curvature at orders 3 and 5",
    at_most=1e-8,
)
def solution_stays(scale: Scale) -> Measured:
    found = []
    for _, trap in traps(scale):
        n = len(trap.truth)
        for order in (3, 5):
            if n**order <= 300:
                found.append(-factor.lifted_sensing(trap.measure, trap.y, n, order=order).hessian_min(trap.truth)[0])
    return Measured(max(found), unit="curvature down", note=f"{len(found)} Hessians")


def starts(scale: Scale, n: int, eps: float):
    """Plain descent from random starts: the problem, where it ended, and where it was caught."""
    trap = factor.spurious_instance(n, eps)
    lifted = factor.lifted_sensing(trap.measure, trap.y, n, order=3)
    ends = [lifted.descend(gaussian((n,), generator=seed)) for seed in range(scale(quick=20, full=100))]
    return lifted, ends, [x for x in ends if lifted.misfit(x) > 1e-8]


@claim(
    paper="Over-parametrization via Lifting for Low-rank Matrix Sensing: Conversion of Spurious Solutions to Strict Saddle Points",
    method=factor.lifted_sensing,
    says="plain gradient descent from random starts ends in a spurious minimum in more than 30 percent of the cases",
    at_least=0.3,
)
def plain_descent(scale: Scale) -> Measured:
    _, ends, caught = starts(scale, 3, 0.4)
    return Measured(len(caught) / len(ends), unit="of the starts", note=f"n = 3, eps = 0.4, {len(ends)} starts")


@claim(
    paper="Over-parametrization via Lifting for Low-rank Matrix Sensing: Conversion of Spurious Solutions to Strict Saddle Points",
    method=factor.lifted_sensing,
    says="descent in the lifted space and a projection lead to the solution in at least 95 percent",
    at_least=0.95,
)
def lifted_descent(scale: Scale) -> Measured:
    free, total, left = 0, 0, []
    for n, eps in scale(quick=((3, 0.4),), full=((3, 0.4), (5, 0.3))):
        lifted, ends, caught = starts(scale, n, eps)
        total += len(ends)
        free += len(ends) - len(caught)
        for x in caught:
            # All that were caught in one minimum, or in its mirror image, leave it in the same way.
            gaps = [min(float((p - x).norm()), float((p + x).norm())) if len(p) == n else 1.0 for p, _ in left]
            near = [i for i, gap in enumerate(gaps) if gap < 1e-4]
            out = left[near[0]][1] if near else lifted.escape(x).misfit < 1e-10
            left.append((x, out))
            free += out
    return Measured(free / total, unit="of the starts", note=f"order 3, {len(left)} of {total} were caught")
