"""Matrix sensing problems with many spurious local minima, known one by one."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from resolvent.factor.lifted import LiftedSensing, lifted_sensing
from resolvent.factor.measurements import entry_measurements
from resolvent.operators import Operator


class SpuriousInstance(NamedTuple):
    """Of :func:`spurious_instance`.

    Attributes
    ----------
    measure : (m, n n) operator
    y : (m,) its measurements of z z^T
    truth : (n,) z
    points : (p, n) the spurious local minima of ``||A(x x^T) - y||^2``, one of x and -x
    """

    measure: Operator
    y: Tensor
    truth: Tensor
    points: Tensor


def spurious_instance(n: int, eps: float) -> SpuriousInstance:
    r"""Perturbed matrix completion of rank one, with :math:`2^{(n+1)/2} - 2` spurious local minima for small eps.

    Parameters
    ----------
    n : odd, from 3 to 21
    eps : the weight, between 0 and 1, of the entries (i, j) with i and j odd and different (counted from 1); the others
        have weight 1

    Returns
    -------
    SpuriousInstance

    Raises
    ------
    ValueError : n is not odd or out of range, or eps is not between 0 and 1.

    Notes
    -----
    The solution z has ones at odd and zeros at even places. The minima have its sizes, nearly, and other signs; they
    are found by Newton's method from the patterns of signs, and those are left out that are no minima any more.

    References
    ----------
    "Over-parametrization via Lifting for Low-rank Matrix Sensing: Conversion of Spurious Solutions to Strict Saddle Points"

    Examples
    --------
    >>> spurious_instance(5, 0.1).points.round().int().tolist()
    [[1, 0, 1, 0, -1], [1, 0, -1, 0, 1], [1, 0, -1, 0, -1]]
    """
    if isinstance(n, bool) or not isinstance(n, int) or n % 2 == 0 or not 3 <= n <= 21:
        raise ValueError(f"n must be an odd int from 3 to 21, got {n!r}")
    if not 0 < eps < 1:
        raise ValueError(f"eps must lie between 0 and 1, got {eps!r}")
    rows, cols = torch.triu_indices(n, n)
    weak = (rows % 2 == 0) & (cols % 2 == 0) & (rows != cols)
    weights = torch.where(weak, eps, 1.0).double()
    # One measurement for an entry and its mirror image counts twice.
    measure = entry_measurements(rows, cols, (n, n), torch.where(rows == cols, weights, weights * 2**0.5))
    z = (torch.arange(n) % 2 == 0).double()
    y = measure @ torch.outer(z, z).reshape(-1)
    problem = lifted_sensing(measure, y, n, order=1)
    points = []
    for signs in itertools.product((1.0, -1.0), repeat=(n + 1) // 2 - 1):
        if min(signs) > 0:
            continue
        x = torch.zeros(n, dtype=torch.float64)
        x[::2] = torch.tensor([1.0, *signs], dtype=torch.float64)
        found = _newton(problem, x)
        if found is not None and bool((found[::2].sign() == x[::2]).all()):
            points.append(found)
    return SpuriousInstance(measure, y, z, torch.stack(points) if points else z.new_zeros(0, n))


def _newton(problem: LiftedSensing, x: Tensor) -> Tensor | None:
    """The stationary point near x, if it is a minimum with a misfit."""
    for _ in range(60):
        P, Q, S = problem.forms(x)
        gradient, H = 4 * (P - Q) @ x, 4 * (P - Q) + 8 * S
        if float(torch.linalg.vector_norm(gradient)) < 1e-13:
            break
        x = x - torch.linalg.lstsq(H, gradient[:, None]).solution[:, 0]
    P, Q, S = problem.forms(x)
    minimum = float(torch.linalg.eigvalsh(4 * (P - Q) + 8 * S)[0]) >= -1e-8
    stationary = float(torch.linalg.vector_norm((P - Q) @ x)) < 1e-10
    return x if minimum and stationary and float(problem.misfit(x)) > 1e-8 else None
