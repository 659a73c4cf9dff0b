"""Functions of a matrix with parameters, A(mu) = sum_k alpha_k(mu) A_k, from a few values: f(A(mu)) ~ sum_m
lambda_m(mu) f(A(mu_m))."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.functions.parametric_bound import Letters, Residual, letters_of
from resolvent.operators import lu
from resolvent.operators.arrays import Kind, as_tensor, check_finite, give_back_array
from resolvent.operators.convert import as_operator
from resolvent.random import GeneratorLike, as_generator, gaussian
from resolvent.spectra.logdet import logdet

# Samples of the joint numerical range that are kept; each random combination of the terms gives n.
_DIRECTIONS = 6400
# Evaluations beyond which the interpolation is of no use.
_MOST = 100


class ParametricFunction:
    """mu -> f(A(mu)), as a combination of values at chosen parameters; made by `parametric_function`.

    Attributes
    ----------
    points : (M, q) the parameters at which f was evaluated
    values : (M, ...) f(A(mu_m))
    directions : (M, d) the directions x of the interpolation: weights are exact for f(alpha(mu) . x)
    error : the largest residual of the interpolation over the training set, relative to the largest |f(alpha . x)|

    Examples
    --------
    >>> import torch
    >>> terms = [torch.eye(2).double(), torch.diag(torch.tensor([0.0, 1.0])).double()]
    >>> train = torch.linspace(0.5, 2, 20).double()[:, None]
    >>> inverse = parametric_function(terms, lambda mu: torch.cat([torch.ones(1), mu]), train)
    >>> inverse(torch.tensor([1.0]).double())
    tensor([[1.0000, 0.0000],
            [0.0000, 0.5000]], dtype=torch.float64)
    """

    def __init__(
        self,
        alpha: Callable[[Any], Any],
        scalar: Callable[[Tensor], Tensor],
        letters: Letters | None,
        rest: Residual | None,
        chosen: dict[str, Tensor],
        error: float,
        kind: Kind,
    ) -> None:
        self._alpha, self._scalar, self._kind = alpha, scalar, kind
        self._letters, self._residual = letters, rest
        self._points, self._values, self._directions = chosen["points"], chosen["values"], chosen["directions"]
        self._coefficients, self._parts = chosen["coefficients"], chosen["parts"]
        self._matrix = self._rows(self._coefficients)
        self.error = error

    @property
    def points(self) -> Any:
        return give_back_array(self._points, self._kind)

    @property
    def values(self) -> Any:
        return give_back_array(self._values, self._kind)

    @property
    def directions(self) -> Any:
        return give_back_array(self._directions, self._kind)

    @property
    def reference(self) -> Any:
        """(n, n) A_ref, whose norm the bound of "inv" is in; the identity where that is the 2-norm."""
        if self._letters is None:
            raise ValueError("only f='inv' and f='logdet' have a reference matrix")
        C = self._letters.root
        A = C @ C.mH if self._letters.definite else torch.eye(len(C), dtype=C.dtype, device=C.device)
        return give_back_array(A, self._kind)

    def __len__(self) -> int:
        return len(self._points)

    def __call__(self, mu: Any) -> Any:
        """f(A(mu)) for one parameter (q,) or several (k, q): of the shape of f, or (k, ...). Gradients in mu."""
        many, single = _parameters(mu, self._points.shape[1])
        weights = self._weights(_coefficients(self._alpha, many, self._kind)).to(self._values.dtype)
        value = (weights @ self._values.reshape(len(self), -1)).reshape(len(many), *self._values.shape[1:])
        return give_back_array(value[0] if single else value, self._kind)

    def weights(self, mu: Any) -> Any:
        """lambda(mu), (M,) or (k, M)."""
        many, single = _parameters(mu, self._points.shape[1])
        weights = self._weights(_coefficients(self._alpha, many, self._kind))
        return give_back_array(weights[0] if single else weights, self._kind)

    def bound(self, mu: Any) -> Any:
        """An upper bound of the error at mu, () or (k,): see `parametric_function`."""
        if self._letters is None:
            raise ValueError("a bound is known for f='inv' and f='logdet', not for a callable f")
        many, single = _parameters(mu, self._points.shape[1])
        with torch.no_grad():
            a = _coefficients(self._alpha, many, self._kind)
            weights = self._weights(a)
            found = self._letters.bound(a, self._coefficients, weights)
            if self._residual is not None:
                found = torch.minimum(found, self._residual.bound(a, weights))
        return give_back_array(found[0] if single else found, self._kind)

    def _rows(self, a: Tensor) -> Tensor:
        """The chosen functions at coefficients (k, d): (k, M)."""
        f = self._scalar(a.to(self._directions.dtype) @ self._directions.mT)
        parts = torch.stack([f.real, f.imag] if f.is_complex() else [f, f])
        parts = torch.cat([parts, torch.ones_like(parts[:1])])
        return parts.gather(0, self._parts.expand_as(parts[:1]))[0]

    def _weights(self, a: Tensor) -> Tensor:
        return lu.solve(self._matrix, self._rows(a), left=False)


def parametric_function(
    A: Callable[[Any], Any] | Sequence[Any],
    alpha: Callable[[Any], Any],
    train: Any,
    f: str | Callable[[Any], Any] = "inv",
    *,
    rank: int | None = None,
    tol: float = 1e-8,
    rhs: Any = None,
    scalar: Callable[[Tensor], Tensor] | None = None,
    generator: GeneratorLike = None,
) -> ParametricFunction:
    r"""Approximate :math:`f(A(\mu)) \approx \sum_m \lambda_m(\mu) f(A(\mu_m))`, :math:`A(\mu) = \sum_k \alpha_k(\mu) A_k`.

    Parameters
    ----------
    A : the d terms A_k, each (n, n), or a callable mu -> A(mu), from d values of which the terms are solved
    alpha : mu (q,) -> (d,) coefficients; torch functions make the result differentiable in mu
    train : (k, q) parameters that fill the range of use; the evaluations are chosen among them
    f : "inv", "logdet" (positive definite only), or a callable that takes A(mu) and returns a tensor, with `scalar`
    rank : at most this many evaluations of f; then `tol` is not enforced
    tol : the residual of the interpolation over `train`, relative to the largest |f|
    rhs : (n,) or (n, k), for "inv": the values are solutions :math:`A(\mu)^{-1} b`, not whole inverses
    scalar : for a callable f, what it is on numbers (tensors of them), as `torch.exp` for the exponential
    generator : of the random directions

    Returns
    -------
    `ParametricFunction`: ``F(mu)``, ``F.weights(mu)`` and ``F.bound(mu)``.

    Raises
    ------
    ValueError : shapes that do not fit, terms that the training set does not determine, A(mu) singular or not positive
        definite where it has to be.
    ConvergenceError : no `rank` was given and 100 evaluations did not reach `tol`; carries the best function.

    Notes
    -----
    Weights with :math:`\alpha(\mu)^i = \sum_m \lambda_m(\mu) \alpha(\mu_m)^i` for all multi-indices i carry every power
    of A(mu), hence every power series. The empirical interpolation method chooses parameters and functions in turn; its
    functions here are :math:`f(\alpha(\mu) \cdot x)`, the whole power series in a direction x at once, instead of single
    monomials, so that no order of truncation is chosen. The directions are points of the joint numerical range of the
    terms, :math:`x_k = v^H A_k v`, those that quadratic forms of A(mu) can meet.

    `bound`, never below the error: for "inv" the relative error of every :math:`A(\mu)^{-1} b` in the norm of A_ref, the
    matrix in the middle of the training set (in the 2-norm if it is not positive definite), from the residual
    :math:`\|\sum \lambda_m A_m^{-1} A(\mu) - I\|_F`, one to ten times the error; for "logdet" the absolute error, the sum
    over orders p of the smaller of :math:`\sum_{|i|=p} \binom{p}{i} |e_i| \prod \|L_k\|^{i_k}`, e_i the residual of the
    interpolation, and :math:`\rho(\mu)^p + \sum_m |\lambda_m| \rho(\mu_m)^p`. Terms that do not commute make the sum
    loose, by orders of magnitude; where it says nothing it is infinite.

    Offline: M evaluations of f and some decompositions, O(n^3). Online O(M^2 + M d) and the sum of M values.

    References
    ----------
    "Nonintrusive approximation of parametrized limits of matrix power algorithms -- application to matrix inverses and
    log-determinants"

    Examples
    --------
    >>> import torch
    >>> terms = [torch.eye(3).double(), torch.diag(torch.arange(3.0)).double()]
    >>> train = torch.linspace(1, 2, 30).double()[:, None]
    >>> F = parametric_function(terms, lambda mu: torch.cat([torch.ones(1), mu]), train, f="logdet")
    >>> bool((F(torch.tensor([1.5])) - torch.tensor(2.5 * 4.0).log()).abs() < 1e-6)
    True
    """
    points, kind = as_tensor(train, "train")
    check_finite(points, "train")
    if points.ndim != 2 or len(points) == 0:
        raise ValueError(f"train must have shape (k, q) with k at least 1, got {tuple(points.shape)}")
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        raise ValueError(f"rank must be a positive int or None, got {rank!r}")
    if not tol > 0:
        raise ValueError(f"tol must be positive, got {tol}")
    with torch.no_grad():
        a = _coefficients(alpha, points, kind)
        terms, dtype = _terms(A, a, points, kind)
        known = f in ("inv", "logdet") if isinstance(f, str) else False
        if isinstance(f, str) and not known:
            raise ValueError(f"f must be 'inv', 'logdet' or a callable, got {f!r}")
        if rhs is not None and f != "inv":
            raise ValueError("rhs is only for f='inv'")
        letters = letters_of(terms, a, f, dtype) if isinstance(f, str) else None
        if letters is not None:
            base = letters.matrices
            scalar = torch.reciprocal if f == "inv" else torch.log
        elif scalar is None:
            raise TypeError("a callable f needs scalar, what it is on numbers, for example torch.exp")
        else:
            base = terms
        x, parts, family = _family(base, a, scalar, f == "logdet", generator)
        rows, columns, error = _greedy(family, tol, rank)
        b = None if rhs is None else as_tensor(rhs, "rhs")[0].to(terms)
        evaluate = _evaluation(f, b, dtype)
        values = torch.stack([evaluate(torch.einsum("k,kij->ij", a[t].to(terms.dtype), terms).to(dtype)) for t in rows])
        if not bool(torch.isfinite(values).all()):
            raise ValueError("f(A(mu)) is not finite at a parameter of train")
        rest = Residual(letters, values, b) if letters is not None and f == "inv" else None
    chosen = {"points": points[rows], "values": values, "coefficients": a[rows]}
    chosen |= {"directions": x[columns], "parts": parts[columns]}
    made = ParametricFunction(alpha, scalar, letters, rest, chosen, error, kind)
    if rank is None and error > tol:
        raise ConvergenceError(
            f"parametric_function: {len(rows)} evaluations reach {error:.2g}, asked for {tol:.2g}",
            best=made,
            error=error,
        )
    return made


def _parameters(mu: Any, q: int) -> tuple[Tensor, bool]:
    t, _ = as_tensor(mu, "mu")
    check_finite(t, "mu")
    if t.ndim not in (1, 2) or t.shape[-1] != q:
        raise ValueError(f"mu must have shape ({q},) or (k, {q}), got {tuple(t.shape)}")
    return t.reshape(-1, q), t.ndim == 1


def _coefficients(alpha: Callable[[Any], Any], points: Tensor, kind: Kind) -> Tensor:
    """(k, d) in float64."""
    rows = [as_tensor(alpha(give_back_array(mu, kind)), "alpha(mu)")[0] for mu in points]
    if any(r.is_complex() or r.ndim != 1 or r.shape != rows[0].shape for r in rows):
        raise ValueError("alpha must give a real vector of the same length d at every mu")
    a = torch.stack(rows).to(torch.float64)
    check_finite(a, "alpha(mu)")
    return a


def _terms(A: Any, a: Tensor, points: Tensor, kind: Kind) -> tuple[Tensor, torch.dtype]:
    """The terms (d, n, n) in double precision, and their own dtype."""
    d = a.shape[1]
    if callable(A):
        # Of the training set, the d rows of alpha that determine the terms best.
        rows, rest = [], a.clone()
        for _ in range(min(d, len(a))):
            rows.append(int(rest.square().sum(1).argmax()))
            q = rest[rows[-1]] / torch.linalg.vector_norm(rest[rows[-1]])
            rest = rest - (rest @ q)[:, None] * q
        sample = a[rows]
        if len(rows) < d or float(torch.linalg.cond(sample)) > 1e10:
            raise ValueError(f"alpha(mu) over train does not span {d} dimensions: pass the terms A_k themselves")
        found = torch.stack([as_operator(A(give_back_array(points[t], kind)))._dense() for t in rows])
        double = found.to(torch.promote_types(found.dtype, torch.float64))
        terms = torch.einsum("km,mij->kij", lu.inv(sample).to(double.dtype), double)
    else:
        found = torch.stack([as_operator(term)._dense() for term in A])
        terms = found.to(torch.promote_types(found.dtype, torch.float64))
    if len(terms) != d or terms.ndim != 3 or terms.shape[1] != terms.shape[2]:
        raise ValueError(f"A must be {d} square matrices, as alpha(mu) has {d} entries, got shape {tuple(terms.shape)}")
    check_finite(terms, "A")
    return terms.detach(), found.dtype


def _family(
    base: Tensor, a: Tensor, scalar: Callable[[Tensor], Tensor], constant: bool, generator: GeneratorLike
) -> tuple[Tensor, Tensor, Tensor]:
    """Directions x (J, d), which part of f(alpha . x) is meant (0 real, 1 imaginary, 2 the constant one), values."""
    g = as_generator(generator, base.device)
    hermitian = torch.equal(base, base.mH)
    found = []
    # Quadratic forms with real vectors do not see what is skew.
    real = torch.float64 if hermitian else torch.complex128
    base = base if hermitian else base.to(real)
    for _ in range(min(64, max(4, _DIRECTIONS // base.shape[-1]))):
        c = gaussian((len(base),), real, base.device, g)
        mixed = torch.einsum("k,kij->ij", c.to(base.dtype), base)
        V = torch.linalg.eigh((mixed + mixed.mH) / 2).eigenvectors
        found.append(torch.einsum("ji,kjl,li->ik", V.conj(), base, V))
    x = torch.cat(found)
    if len(x) > _DIRECTIONS:
        x = x[torch.randperm(len(x), generator=g, device=g.device)[:_DIRECTIONS].to(x.device)]
    x = x.real if hermitian and x.is_complex() else x
    f = scalar(a.to(x.dtype) @ x.mT)
    pieces, kinds = [f.real, f.imag] if f.is_complex() else [f], [0, 1] if f.is_complex() else [0]
    parts = torch.cat([torch.full((len(x),), part, device=x.device) for part in kinds])
    family, x = torch.cat(pieces, 1), x.repeat(len(kinds), 1)
    if constant:
        size = family.abs().max()
        family = torch.cat([torch.ones_like(family[:, :1]) * size.clamp(min=1), family], 1)
        x, parts = torch.cat([x[:1], x]), torch.cat([parts.new_full((1,), 2), parts])
    if not bool(torch.isfinite(family).all()):
        raise ValueError("f is not finite at some alpha(mu) . x: A(mu) may be singular; narrow the range of train")
    return x, parts, family


def _greedy(family: Tensor, tol: float, rank: int | None) -> tuple[list[int], list[int], float]:
    """Empirical interpolation: the parameter and the function of the largest residual, in turn."""
    size = family.abs().max()
    most = min(_MOST if rank is None else rank, *family.shape)
    residual, rows, columns, error = family.clone(), [], [], 1.0
    for _ in range(most):
        at = int(residual.abs().argmax())
        t, j = divmod(at, family.shape[1])
        # Cross approximation: one rank-one step makes the residual zero in the row and the column of its pivot.
        residual = residual - residual[:, j, None] * (residual[t] / residual[t, j])
        rows.append(t)
        columns.append(j)
        error = float(residual.abs().max() / size)
        if error <= tol or error < 1e-14:
            break
    return rows, columns, error


def _evaluation(f: str | Callable[[Any], Any], b: Tensor | None, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    if callable(f):
        return lambda M: as_tensor(f(M), "f(A(mu))")[0].detach()
    if f == "logdet":
        return lambda M: logdet(M)
    if b is None:
        return lu.inv
    check_finite(b, "rhs")
    return lambda M: lu.solve(M, b.to(dtype))
