"""Matrices that depend on parameters, as sums of a few of themselves: their code stays a black box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.operators.algebra import Scaled, Sum
from resolvent.operators.arrays import as_tensor, give_back
from resolvent.operators.convert import as_operator
from resolvent.operators.operator import Operator
from resolvent.random import GeneratorLike, as_generator, gaussian
from resolvent.solve.interpolation import EIM, Separated

Entries = Callable[[Any, Tensor, Tensor], Any]

# Rounds of looking at whole matrices for entries that the sample has missed.
_ROUNDS = 6
# Entries added for each parameter looked at.
_ADDED = 20


@dataclass(frozen=True)
class SeparatedMatrix:
    r""":math:`A(\mu) \approx \sum_m \beta_m(\mu) A(\mu_m)`, with weights from as many entries of :math:`A(\mu)`.

    Attributes
    ----------
    points : the parameters mu_m
    matrices : the operators A(mu_m)
    rows, columns : (M,) the places of the entries that the weights need
    interpolant : the `Separated` form of the entries, for inspection
    error : the largest error of a product with a random vector over the checked training parameters, relative

    Examples
    --------
    >>> import torch
    >>> matrix = lambda mu: torch.eye(3, dtype=torch.float64) + mu * torch.ones(3, 3, dtype=torch.float64)
    >>> found = separate_matrix(matrix, [0.0, 1.0, 2.0])
    >>> len(found.points), [round(float(b), 6) for b in found.beta(1.0).sort().values]
    (2, [0.5, 0.5])
    """

    points: tuple[Any, ...]
    matrices: tuple[Operator, ...]
    rows: Tensor
    columns: Tensor
    interpolant: Separated
    error: float
    entries: Entries

    def beta(self, mu: Any) -> Any:
        """The weights of A(mu): a system of M entries, and nothing else of A(mu).

        Parameters
        ----------
        mu : a parameter

        Returns
        -------
        (M,) weights, complex for complex matrices
        """
        return give_back(self._weights(mu), self.interpolant.kind)

    def _weights(self, mu: Any) -> Tensor:
        found = self.interpolant.coefficients(_values(self.entries, mu, self.rows, self.columns))
        return found if isinstance(found, Tensor) else torch.from_numpy(found)

    def to_operator(self, mu: Any) -> Operator:
        """A(mu) as an operator: the sum of the operators A(mu_m), never added up.

        Parameters
        ----------
        mu : a parameter

        Returns
        -------
        Operator
        """
        return Sum(*(Scaled(b, A) for b, A in zip(self._weights(mu), self.matrices, strict=True)))

    def matrix(self, mu: Any) -> Any:
        """The sum as one array, for solvers that need one: M passes over the dense matrices."""
        weights = self._weights(mu)
        total = sum(b * A._dense() for b, A in zip(weights, self.matrices, strict=True))
        return give_back(total, self.interpolant.kind)

    def condition(self) -> float:
        """The condition number of the M x M system: errors of entries grow by at most that."""
        return float(torch.linalg.cond(self.interpolant.core))


def separate_matrix(
    A: Callable[[Any], Any],
    train: Sequence[Any],
    *,
    rtol: float | None = None,
    max_terms: int | None = None,
    entries: Entries | None = None,
    sample: int = 5000,
    generator: GeneratorLike = None,
) -> SeparatedMatrix:
    r"""Separate the parameter of a matrix from its assembly.

    .. math:: A(\mu) \approx \sum_{m=1}^M \beta_m(\mu) A(\mu_m)

    Parameters
    ----------
    A : callable ``mu -> (n, p)`` matrix: a tensor, an array, a sparse matrix, an operator with cheap entries; all of
        one shape and one pattern
    train : parameters of any kind, as many as describe the set that mu is from
    rtol : relative error of products with random vectors at the training parameters; default 1e-8 in float64, 1e-4 in
        float32, none where `max_terms` alone is given
    max_terms : at most so many matrices
    entries : callable ``(mu, rows, columns) -> values`` of some entries without the whole matrix; None takes them
        out of A(mu)
    sample : entries that the selection looks at to start with
    generator : of the sample and of the vectors

    Returns
    -------
    SeparatedMatrix

    Raises
    ------
    ValueError : shapes that do not fit, no parameters, all matrices zero.
    ConvergenceError : the tolerance was not reached; carries the sum that was found.

    Notes
    -----
    Empirical interpolation of g(mu, e), where e runs over the entries: the greedy parameters are those of the snapshots,
    the greedy entries those that an evaluation looks at. The symmetric form of the interpolant has the matrices of the
    given code as its basis, so that this code is called for A(mu_m) and for M entries, and never changed. A random
    sample of the entries is enriched by those in which whole matrices, looked at in turn, differ most. The cost is one
    matrix for each training parameter, once, and M^3 + M entries for each mu afterwards. Sums inherit the symmetry of
    A, and the exact values at the mu_m. Gradients with respect to mu flow through `entries`.

    References
    ----------
    "A nonintrusive method to approximate linear systems with nonlinear parameter dependence"

    Examples
    --------
    >>> import torch
    >>> t = torch.linspace(0, 1, 40, dtype=torch.float64)
    >>> kernel = lambda mu: torch.exp(-mu * (t[:, None] - t) ** 2)
    >>> found = separate_matrix(kernel, torch.linspace(1, 4, 30).tolist(), rtol=1e-6, generator=0)
    >>> x = torch.ones(40, dtype=torch.float64)
    >>> bool((found.to_operator(2.5) @ x - kernel(2.5) @ x).abs().max() < 1e-5), len(found.points) < 8
    (True, True)
    """
    train = list(train)
    if not train:
        raise ValueError("train must hold at least one parameter")
    if sample < 1:
        raise ValueError(f"sample must be at least 1, got {sample}")
    g = as_generator(generator)
    work = _Training(A, train, entries, g)
    if rtol is None:
        single = torch.finfo(work.dtype).eps > 1e-10
        wanted = 0.0 if max_terms is not None else 1e-4 if single else 1e-8
    elif 0 < float(rtol) < 1:
        wanted = float(rtol)
    else:
        raise ValueError(f"rtol must be between 0 and 1, got {rtol}")
    most = min(len(train), max_terms or len(train))
    if max_terms is not None and max_terms < 1:
        raise ValueError(f"max_terms must be at least 1, got {max_terms}")
    with torch.no_grad():
        found = work.run(wanted, most, sample)
    if (rtol is not None or max_terms is None) and found.error > wanted:
        raise ConvergenceError(
            f"separate_matrix: {len(found.points)} of {len(train)} matrices reach {found.error:.3g}, asked for "
            f"{wanted:.3g}: train needs more parameters, or A no few terms",
            best=found,
            error=found.error,
        )
    return found


def _values(entries: Entries, mu: Any, rows: Tensor, columns: Tensor) -> Tensor:
    values, _ = as_tensor(entries(mu, rows, columns), "entries")
    if values.shape != rows.shape:
        raise ValueError(f"entries must return {len(rows)} values, got shape {tuple(values.shape)}")
    return values


class _Training:
    """The black box, and what has been looked at."""

    def __init__(self, A: Callable[[Any], Any], train: list[Any], entries: Entries | None, g: torch.Generator) -> None:
        self.A, self.train, self.generator = A, train, g
        first = self.operator(train[0])
        self.shape, self.dtype, self.kind, self.device = first.shape, first.dtype, first.kind, first.device
        self.entries = entries if entries is not None else self._from_matrix
        self.own = entries is None
        self.snapshots: dict[int, Operator] = {}

    def operator(self, mu: Any) -> Operator:
        found = as_operator(self.A(mu))
        if found.batch_shape or (hasattr(self, "shape") and found.shape != self.shape):
            raise ValueError(f"A({mu}) must be a matrix of the shape of the others, got {tuple(found.shape)}")
        return found

    def _from_matrix(self, mu: Any, rows: Tensor, columns: Tensor) -> Any:
        return self.operator(mu)._dense()[rows, columns]

    def run(self, wanted: float, most: int, sample: int) -> SeparatedMatrix:
        places = self._start(sample)
        # A matrix for each parameter once: its products with random vectors, and its entries at the places.
        n, p = self.shape
        probes = gaussian((p, 4), self.dtype, self.device, self.generator)
        values, products = self._look(places, probes)
        for round_ in range(_ROUNDS):
            interpolant = self._select(values, wanted, most)
            found = self._assembled(interpolant, places, 0.0)
            snapshots = torch.stack([A @ probes for A in found.matrices], dim=-1)
            betas = interpolant.coefficients(interpolant.right)
            betas = betas if isinstance(betas, Tensor) else torch.from_numpy(betas)
            gaps = torch.stack([snapshots @ betas[:, j] - products[j] for j in range(len(self.train))])
            sizes = torch.linalg.vector_norm(products, dim=1).clamp_min(torch.finfo(gaps.real.dtype).tiny)
            errors = (torch.linalg.vector_norm(gaps, dim=1) / sizes).amax(dim=1)
            found = self._assembled(interpolant, places, float(errors.max()))
            if found.error <= wanted or round_ == _ROUNDS - 1 or len(places) >= n * p:
                return found
            worst = errors.argsort(descending=True)[:3].tolist()
            fresh = self._missed(found, worst, betas)
            new = torch.from_numpy(np.setdiff1d(fresh.cpu().numpy(), places.cpu().numpy())).to(places)
            if not len(new):
                return found
            more, _ = self._look(new, None)
            places, values = torch.cat([places, new]), torch.cat([values, more])
        return found

    def _start(self, sample: int) -> Tensor:
        """Places that are not zero in one of three matrices, at random."""
        total = self.shape[-2] * self.shape[-1]
        middle = {0, len(self.train) // 2, len(self.train) - 1}
        nonzero = torch.zeros(total, dtype=torch.bool, device=self.device)
        for j in middle:
            nonzero |= self.operator(self.train[j])._dense().reshape(-1) != 0
        places = nonzero.nonzero()[:, 0]
        if not len(places):
            raise ValueError("A is zero at the first, the middle and the last parameter: there is nothing to separate")
        if len(places) > sample:
            chosen = torch.randperm(len(places), generator=self.generator, device=self.generator.device)[:sample]
            places = places[chosen.to(places.device)]
        return places

    def _look(self, places: Tensor, probes: Tensor | None) -> tuple[Tensor, Tensor]:
        rows, columns = places // self.shape[-1], places % self.shape[-1]
        values, products = [], []
        for mu in self.train:
            if not self.own:
                values.append(_values(self.entries, mu, rows, columns).to(self.dtype))
                if probes is None:
                    continue
            matrix = self.operator(mu)
            if self.own:
                values.append(matrix._dense()[rows, columns])
            if probes is not None:
                products.append(matrix @ probes)
        return torch.stack(values, dim=1), torch.stack(products) if products else torch.empty(0)

    def _select(self, values: Tensor, wanted: float, most: int) -> Separated:
        # Errors in many entries add up in a product: the selection aims below the tolerance of products.
        most = min(most, *values.shape)
        try:
            return EIM(values, rtol=max(wanted / 10, 0.0), max_terms=most)
        except ConvergenceError as stopped:
            best = stopped.best
            if not isinstance(best, Separated):
                raise
            return best

    def _missed(self, found: SeparatedMatrix, worst: list[int], betas: Tensor) -> Tensor:
        places = []
        for j in worst:
            weighted = sum(b * A._dense() for b, A in zip(betas[:, j], found.matrices, strict=True))
            gap = (weighted - self.operator(self.train[j])._dense()).abs().reshape(-1)
            places.append(gap.topk(min(_ADDED, len(gap))).indices)
        return torch.cat(places).unique()

    def _assembled(self, interpolant: Separated, places: Tensor, error: float) -> SeparatedMatrix:
        points = tuple(self.train[j] for j in interpolant.y_points)
        chosen = places[list(interpolant.x_points)]
        for j in interpolant.y_points:
            if j not in self.snapshots:
                self.snapshots[j] = self.operator(self.train[j])
        return SeparatedMatrix(
            points,
            tuple(self.snapshots[j] for j in interpolant.y_points),
            chosen // self.shape[-1],
            chosen % self.shape[-1],
            replace(interpolant, kind=self.kind),
            error,
            self.entries,
        )
