"""Reduced bases: parametric systems solved in the span of a few solutions, by code that stays a black box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.operators.arrays import as_tensor, check_finite, give_back, give_back_array
from resolvent.operators.convert import as_operator
from resolvent.operators.operator import Operator
from resolvent.random import GeneratorLike
from resolvent.solve.galerkin import Projection, Reduced, ReducedSystem, Stability
from resolvent.solve.linear import solve
from resolvent.solve.separate import Entries, SeparatedMatrix, separate_matrix
from resolvent.solve.separate_vector import CHECKS, SeparatedVector, VectorEntries, checked_weights, separate_vector


class ReducedSolution(NamedTuple):
    """A solution on a reduced basis.

    Attributes
    ----------
    x : (n,) the solution
    coordinates : (N,) in the basis
    error : estimated bound on its relative error, ``|x - exact| / |x|``
    """

    x: Any
    coordinates: Any
    error: float


class ReducedOutput(NamedTuple):
    """An output of a solution on a reduced basis.

    Attributes
    ----------
    value : the output
    error : estimated bound on its absolute error
    """

    value: Any
    error: Any


class ReducedBasis:
    r"""Solve :math:`A(\mu) x(\mu) = b(\mu)` for many parameters in the span U of a few solutions.

    .. math:: U^H A(\mu) U y = U^H b(\mu), \qquad x \approx U y, \qquad
        A(\mu) \approx \sum_m \beta_m(\mu) A(\mu_m), \quad b(\mu) \approx \sum_q \gamma_q(\mu) b(\mu_q)

    Parameters
    ----------
    A : callable ``mu -> (n, n)`` matrix or operator with cheap entries; or what `separate_matrix` made of it
    b : (n,), or a callable ``mu -> (n,)``
    train : parameters, as many as describe the set that mu is from; numbers or tuples of them, unless `stability` is given
    output : (n,) or a callable ``mu -> (n,)``: the functional l of `output`, l^H x
    rtol : estimated relative error of x at the training parameters; default 1e-6 in float64 and 1e-3 in float32, none where
        `max_basis` alone is given
    max_basis : at most so many solutions; default 100
    projection : "galerkin"; "symmetric", U^T for U^H, for complex symmetric A; "minimum_residual", least squares
    matrix_rtol : of the separations; default rtol over 30 times the mean size of A over `stability`, from 1e-11 in float64 on
    entries, b_entries, output_entries : callables ``(mu, rows, columns) -> values``, ``(mu, rows) -> values`` of some
        entries of A, b, l; None takes them out of the whole
    solver, adjoint_solver : callables ``mu -> x`` that solve with A(mu) and, for outputs, A(mu)^H; None: `solve`
    stability : a lower bound of the smallest singular value of A: a number, or a callable of mu. None: computed at 16
        parameters with a dense SVD, and 0.9 of what interpolates them
    dual : correct the output by a second basis, for A^H z = l
    generator : of `separate_matrix`

    Attributes
    ----------
    points : the parameters of the basis, in the order in which the greedy selection took them
    basis : (n, N) orthonormal
    history : the largest estimated relative error over `train` before each solution was taken in, and after the last
    matrix : the `SeparatedMatrix`

    Raises
    ------
    ValueError : shapes that do not fit, no parameters, A singular.
    ConvergenceError : `rtol` was not reached; `best` is the reduced basis.

    Notes
    -----
    The parameter with the largest estimated error is solved for and its solution taken into the basis, until none is above
    `rtol`. The code of A is called for A(mu_m) U, for solutions and for M entries a parameter: fast multipole or
    H-matrix code is used as it is. Estimates are residual norms over `stability`, with the errors of the separations added,
    which are measured at each parameter by as many entries again, in random places; they are bounds as far as these two
    are. A residual has coordinates in an orthonormal frame of all A_m U and b_q, of r of them, and is exact down to rounding
    errors, where the usual expansion of its square stops at sqrt(eps). An output with `dual` has the product of two
    residuals as its error. Later a parameter costs 2 (M + Q) entries, r M N + r N^2 + N^3 flops, and n N for x. There is no
    gradient.

    References
    ----------
    "A nonintrusive Reduced Basis Method applied to aeroacoustic simulations"

    Examples
    --------
    >>> from resolvent.solve import Scattering
    >>> disk = Scattering(32)
    >>> found = ReducedBasis(disk.matrix, disk.rhs, [(1 + i / 10, 0.2) for i in range(11)], rtol=1e-4, generator=0)
    >>> x, _, error = found.solve((1.55, 0.2))
    >>> bool((x - disk.series((1.55, 0.2))).norm() / x.norm() <= error), error < 1e-3, len(found.points) <= 6
    (True, True, True)
    """

    def __init__(
        self,
        A: Callable[[Any], Any] | SeparatedMatrix,
        b: Any,
        train: Sequence[Any],
        *,
        output: Any = None,
        rtol: float | None = None,
        max_basis: int | None = None,
        projection: Projection = "galerkin",
        matrix_rtol: float | None = None,
        entries: Entries | None = None,
        b_entries: VectorEntries | None = None,
        output_entries: VectorEntries | None = None,
        solver: Callable[[Any], Any] | None = None,
        adjoint_solver: Callable[[Any], Any] | None = None,
        stability: float | Callable[[Any], float] | None = None,
        dual: bool = True,
        generator: GeneratorLike = None,
    ) -> None:
        train = list(train)
        if not train:
            raise ValueError("train must hold at least one parameter")
        if projection not in get_args(Projection):
            raise ValueError(f"projection must be one of {get_args(Projection)}, got {projection!r}")
        if rtol is not None and not 0 < rtol < 1:
            raise ValueError(f"rtol must be between 0 and 1, got {rtol}")
        if max_basis is not None and max_basis < 1:
            raise ValueError(f"max_basis must be at least 1, got {max_basis}")
        with torch.no_grad():
            self._required = rtol is not None or max_basis is None
            self._most = 100 if max_basis is None else max_basis
            self._code: Callable[[Any], Any] = A.to_operator if isinstance(A, SeparatedMatrix) else A
            shape = self._operator(train[0]).shape
            if shape[0] != shape[1]:
                raise ValueError(f"A must be square, got shape {tuple(shape)}")
            self._stability = Stability(stability, self._dense, train)
            self._begin(A, train, rtol, matrix_rtol, entries, generator)
            self._projection: Projection = projection
            n, dtype = self.matrix.matrices[0].shape[0], self.matrix.matrices[0].dtype
            self._b = separate_vector(b, train, self._fine, b_entries, "b", dtype)
            if self._b.vectors.shape[0] != n:
                raise ValueError(f"b must have {n} entries, got {self._b.vectors.shape[0]}")
            self._sample = self._sampled()
            betas, missed = self._betas(train)
            sigmas = self._stability.at(train).to(betas.real)
            self._primal = ReducedSystem(self.matrix.matrices, self._b.vectors, projection)
            self.points, self.history = self._greedy(
                self._primal, self._b, (betas, missed), train, sigmas, solver or self._solved
            )
            self._dual: ReducedSystem | None = None
            self._l: SeparatedVector | None = None
            self._l_basis: Tensor | None = None
            if output is not None:
                self._l = separate_vector(output, train, self._fine, output_entries, "output", dtype)
                if self._l.vectors.shape[0] != n:
                    raise ValueError(f"output must have {n} entries, got {self._l.vectors.shape[0]}")
                self._l_basis = self._l.vectors.mH @ self._primal.U
                self._l_factor = torch.linalg.qr(self._l.vectors).R
            if self._l is not None and dual:
                self._dual = ReducedSystem([B.H for B in self.matrix.matrices], self._l.vectors, projection)
                given = adjoint_solver or self._solved_adjoint
                self._greedy(self._dual, self._l, (betas.conj(), missed), train, sigmas, given)
                self._dual_frame = self._dual.U.mH @ self._primal.frame
        if self._required and self.history[-1] > self._wanted:
            raise ConvergenceError(
                f"ReducedBasis: {len(self.points)} solutions reach {self.history[-1]:.3g}, asked for {self._wanted:.3g}",
                best=self,
                error=self.history[-1],
            )

    @property
    def basis(self) -> Any:
        """(n, N) orthonormal columns."""
        return give_back_array(self._primal.U, self.matrix.interpolant.kind)

    @property
    def primal(self) -> tuple[ReducedSystem, SeparatedVector]:
        """The reduced system and the separated right side, for inspection."""
        return self._primal, self._b

    def solve(self, mu: Any) -> ReducedSolution:
        """The solution at a parameter, with its error.

        Parameters
        ----------
        mu : a parameter, also one that was not in `train`

        Returns
        -------
        ReducedSolution
        """
        with torch.no_grad():
            found, sigma, _, left_out = self._at([mu])
            error = self._errors(found, sigma, left_out)[0]
            kind, y = self.matrix.interpolant.kind, found.coordinates[0]
            return ReducedSolution(give_back_array(self._primal.U @ y, kind), give_back_array(y, kind), float(error))

    def output(self, mu: Any) -> ReducedOutput:
        r"""The output :math:`l^H x` at a parameter, without x.

        Parameters
        ----------
        mu : a parameter

        Returns
        -------
        ReducedOutput
            The error is absolute: the residual of x times that of the dual solution over `stability`, or times |l| without
            a dual basis.

        Raises
        ------
        ValueError : no `output` was given.
        """
        values, errors = self._outputs([mu])
        return ReducedOutput(give_back(values[0], self.matrix.interpolant.kind), float(errors[0]))

    def outputs(self, parameters: Sequence[Any]) -> ReducedOutput:
        """`output` at many parameters at once, in a few operations for all of them.

        Parameters
        ----------
        parameters : P parameters

        Returns
        -------
        ReducedOutput
            With (P,) values and errors.
        """
        values, errors = self._outputs(list(parameters))
        return ReducedOutput(*(give_back_array(t, self.matrix.interpolant.kind) for t in (values, errors)))

    def _outputs(self, parameters: list[Any]) -> tuple[Tensor, Tensor]:
        if self._l is None or self._l_basis is None:
            raise ValueError("no output: give output= to ReducedBasis")
        if not parameters:
            raise ValueError("parameters must hold at least one parameter")
        with torch.no_grad():
            found, sigmas, missed, left_out = self._at(parameters)
            weights, beside = self._l.weights(parameters)
            values = ((weights.conj() @ self._l_basis) * found.coordinates).sum(dim=1)
            sizes = torch.linalg.vector_norm(weights @ self._l_factor.mT, dim=1)
            residuals = torch.linalg.vector_norm(found.residuals, dim=1) + left_out
            errors = beside * sizes * torch.linalg.vector_norm(found.coordinates, dim=1)
            if self._dual is None:
                return values, errors + residuals * sizes / sigmas
            other = self._dual.solve(found.betas.conj(), weights)
            # Residuals are in the span of the frame, where their coordinates are known.
            values = values + ((other.coordinates.conj() @ self._dual_frame) * found.residuals).sum(dim=1)
            others = torch.linalg.vector_norm(other.residuals, dim=1) + _left_out(other, missed, beside)
            # What the separations leave out of the residual is not corrected.
            uncorrected = left_out * torch.linalg.vector_norm(other.coordinates, dim=1)
            return values, errors + residuals * others / sigmas + uncorrected

    def residual(self, mu: Any) -> float:
        """The relative norm of the residual, with the separated operator, as small as rounding errors let it be."""
        with torch.no_grad():
            found, *_ = self._at([mu])
            return float(torch.linalg.vector_norm(found.residuals[0]) / found.sides[0])

    def _begin(
        self,
        A: Callable[[Any], Any] | SeparatedMatrix,
        train: list[Any],
        rtol: float | None,
        matrix_rtol: float | None,
        entries: Entries | None,
        generator: GeneratorLike,
    ) -> None:
        first = self._operator(train[0])
        if matrix_rtol is not None and not 0 < matrix_rtol < 1:
            raise ValueError(f"matrix_rtol must be between 0 and 1, got {matrix_rtol}")
        single = torch.finfo(first.dtype).eps > 1e-10
        aim = rtol if rtol is not None else 1e-3 if single else 1e-6
        self._wanted = 0.0 if rtol is None and not self._required else float(aim)
        # What the separation misses counts as much as the matrix is ill-conditioned.
        spread = _mean_size(first._dense()) / float(self._stability.at(train).min())
        least = 1e-5 if single else 1e-11
        self._fine = matrix_rtol if matrix_rtol is not None else min(max(aim / (30 * spread), least), aim / 10)
        if isinstance(A, SeparatedMatrix):
            self.matrix = A
            return
        try:
            self.matrix = separate_matrix(A, train, rtol=self._fine, entries=entries, generator=generator)
        except ConvergenceError as stopped:
            # Not asked for by the user: the estimates tell what it costs.
            if matrix_rtol is not None or not isinstance(stopped.best, SeparatedMatrix):
                raise
            self.matrix = stopped.best

    def _greedy(
        self,
        system: ReducedSystem,
        side: SeparatedVector,
        operators: tuple[Tensor, Tensor],
        train: list[Any],
        sigmas: Tensor,
        solver: Callable[[Any], Any],
    ) -> tuple[tuple[Any, ...], tuple[float, ...]]:
        betas, missed = operators
        gammas, beside = side.weights(train)
        points: list[Any] = []
        history: list[float] = []
        while True:
            found = system.solve(betas, gammas)
            errors = self._errors(found, sigmas, _left_out(found, missed, beside))
            # Without a basis all relative errors are 1: the largest solution is the first.
            worst = int((errors if points else found.sides / sigmas).argmax())
            history.append(float(errors.max()))
            if history[-1] <= self._wanted or len(points) == self._most:
                return tuple(points), tuple(history)
            x = as_tensor(solver(train[worst]), "solver")[0]
            if x.shape != system.U.shape[:1]:
                raise ValueError(f"a solution must have {len(system.U)} entries, got shape {tuple(x.shape)}")
            check_finite(x, "solver")
            if not system.extend(x.to(system.U.dtype)):
                # Solutions there already: what is left is the error of the separation.
                return tuple(points), tuple(history)
            points.append(train[worst])

    def _at(self, parameters: list[Any]) -> tuple[Reduced, Tensor, Tensor, Tensor]:
        """Reduced solutions, bounds of the smallest singular values, what the separations of A and of all miss."""
        (betas, missed), (gammas, beside) = self._betas(parameters), self._b.weights(parameters)
        found = self._primal.solve(betas, gammas)
        return found, self._stability.at(parameters).to(found.sides), missed, _left_out(found, missed, beside)

    def _betas(self, parameters: list[Any]) -> tuple[Tensor, Tensor]:
        """(P, M) weights, and (P,) estimated errors of products of the separation with unit vectors."""
        A, (rows, columns, snapshots, gram) = self.matrix, self._sample
        values = [as_tensor(A.entries(mu, rows, columns), "entries")[0] for mu in parameters]
        betas, missed = checked_weights(A.interpolant, values, snapshots, A.error, "entries")
        sizes = ((betas.conj() @ gram) * betas).sum(dim=1).real.clamp_min(0).sqrt()
        return betas, missed * sizes

    def _sampled(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rows and columns of the entries that decide the weights, then of those that check them; A(mu_m) there.

        And the inner products of the matrices, over n.
        """
        A = self.matrix
        known = [B._dense() for B in A.matrices]
        n = known[0].shape[-1]
        places = known[0].reshape(-1).nonzero()[:, 0]
        chosen = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))[: max(CHECKS, len(known))]
        more = places[chosen.to(places.device)]
        rows, columns = torch.cat([A.rows, more // n]), torch.cat([A.columns, more % n])
        gram = torch.stack([torch.stack([torch.vdot(B.reshape(-1), C.reshape(-1)) for C in known]) for B in known])
        return rows, columns, torch.stack([B[rows, columns] for B in known], dim=1), gram / n

    def _errors(self, found: Reduced, sigmas: Tensor, left_out: Tensor) -> Tensor:
        bounds = (torch.linalg.vector_norm(found.residuals, dim=1) + left_out) / sigmas
        sizes = torch.linalg.vector_norm(found.coordinates, dim=1)
        # 0 / 0: a right side of zero has a solution of zero without an error
        return torch.where(sizes > 0, bounds / sizes, torch.where(found.sides > 0, 1.0, 0.0))

    def _operator(self, mu: Any) -> Operator:
        return as_operator(self._code(mu))

    def _dense(self, mu: Any) -> Tensor:
        return self._operator(mu)._dense()

    def _solved(self, mu: Any) -> Any:
        return solve(self._operator(mu), (self._b.weights([mu])[0] @ self._b.vectors.mT)[0])

    def _solved_adjoint(self, mu: Any) -> Any:
        if self._l is None:
            raise ValueError("no output: give output= to ReducedBasis")
        return solve(self._operator(mu).H, (self._l.weights([mu])[0] @ self._l.vectors.mT)[0])


def _left_out(found: Reduced, missed: Tensor, beside: Tensor) -> Tensor:
    """(P,) what the separated operators and right sides add to the residuals."""
    return missed * torch.linalg.vector_norm(found.coordinates, dim=1) + beside * found.sides


def _mean_size(A: Tensor) -> float:
    """The root mean square of the singular values."""
    return float(torch.linalg.matrix_norm(A)) / len(A) ** 0.5
