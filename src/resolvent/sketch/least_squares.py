"""Least squares of a sketched system, with a guarantee for the residual or for every coordinate of the solution."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.info import Info
from resolvent.operators.arrays import as_tensor, check_finite, give_back_array
from resolvent.operators.convert import as_operator
from resolvent.operators.elementary import Dense
from resolvent.operators.magnitude import moderate
from resolvent.operators.operator import Operator
from resolvent.random import GeneratorLike, as_generator
from resolvent.random import gaussian as normal_entries
from resolvent.sketch.transforms import make_sketch

# Columns of a matrix-free A that are formed at a time.
_COLUMNS = 64


def linf_rows(
    d: int, n: int, eps: float = 0.5, delta: float = 0.01, *, analysis: Literal["theorem", "gaussian"] = "theorem"
) -> int:
    r"""How many rows a dense sketch needs for the coordinate-wise guarantee of `sketch_and_solve`.

    Parameters
    ----------
    d, n : columns and rows of A
    eps : bound on :math:`\sqrt d\, \|x' - x\|_\infty / (\|A x - b\|_2 \|A^+\|_2)`
    delta : probability of failure, in (0, 1)
    analysis : "theorem": :math:`\varepsilon^{-2} d \ln^3(n/\delta)` with the constant one, for SRHT, circulant and Gaussian
        sketches. "gaussian": what a Gaussian sketch needs, :math:`d + 1 + 2 \varepsilon^{-2} d \ln(2 d/\delta)`, which
        other dense sketches need too in practice.

    Returns
    -------
    int

    Raises
    ------
    ValueError : arguments out of range

    Notes
    -----
    Given the sketch S A, the error of a Gaussian sketch is normal: each coordinate has a standard deviation of at most
    about :math:`\|A x - b\| \|A^+\| / \sqrt{m - d - 1}`, and the largest of d of them exceeds it
    :math:`\sqrt{2 \ln(2 d/\delta)}` times with a probability of at most delta.

    References
    ----------
    "A Nearly-Optimal Bound for Fast Regression with ell_infty Guarantee"

    Examples
    --------
    >>> linf_rows(32, 8192, 0.5, 0.05), linf_rows(32, 8192, 0.5, 0.05, analysis="gaussian")
    (221552, 1865)
    """
    for name, size in (("d", d), ("n", n)):
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {size!r}")
    if not eps > 0:
        raise ValueError(f"eps must be positive, got {eps!r}")
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie in (0, 1), got {delta!r}")
    if analysis == "theorem":
        return math.ceil(d * math.log(n / delta) ** 3 / eps**2)
    if analysis == "gaussian":
        return math.ceil(d + 1 + 2 * d * math.log(2 * d / delta) / eps**2)
    raise ValueError(f"analysis must be 'theorem' or 'gaussian', got {analysis!r}")


def sketch_and_solve(
    A: Any,
    b: Any,
    m: int | None = None,
    sketch: str | Operator = "srht",
    guarantee: Literal["linf", "l2"] = "linf",
    *,
    eps: float = 0.5,
    delta: float = 0.01,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    r"""Least squares from a sketch: :math:`x' = \arg\min_x \|S A x - S b\|_2`, with a measured error.

    Parameters
    ----------
    A : (n, d) matrix or operator of full column rank, n >= d
    b : (n,) or (n, k)
    m : rows of the sketch; default what `linf_rows` ("gaussian") gives for "linf" (with eps at most 1), and
        :math:`d + 1 + (\sqrt d + \sqrt{2 \ln(1/\delta)})^2 / (2 \varepsilon) + 2 d \ln(2 d/\delta)` for "l2", both at
        most n
    sketch : a kind of `make_sketch`, or an operator of shape (m, n)
    guarantee : what the error is measured against, with x the exact solution
        "linf": :math:`\|x' - x\|_\infty \le (\varepsilon / \sqrt d)\, \|A x - b\|_2 \|A^+\|_2`;
        "l2": :math:`\|A x' - b\|_2 \le (1 + \varepsilon) \|A x - b\|_2`
    eps : the bound
    delta : the probability of missing it that m is chosen for
    generator : a torch.Generator, an int or None
    return_info : also return an `Info`

    Returns
    -------
    (d,) or (d, k), NumPy if A and b are. With `return_info` a pair with `Info`, whose error is the measured eps, the
    worst of the columns of b.

    Raises
    ------
    ConvergenceError : the measured error is above `eps`; it carries the x found
    ValueError : shapes that do not fit, NaN or infinite entries, S A without full column rank
    TypeError : A and b of different precision

    Notes
    -----
    One product S A, a QR decomposition R of it, and one pass over A for the certificate: a step of refinement,
    :math:`e = R^{-1} R^{-H} A^H (b - A x')`, is the error of x' up to a factor 1 +- distortion.
    Dense sketches ("srht", "srct", "gaussian", "rademacher") spread every entry of b over all equations and keep single
    coordinates; sparse ones ("count_sketch", "osnap") keep the residual, but one large entry of b can meet a row of A
    and shift one coordinate. Gradients flow to A and b through x'.

    References
    ----------
    "A Nearly-Optimal Bound for Fast Regression with ell_infty Guarantee"

    Examples
    --------
    >>> import torch
    >>> g = torch.Generator().manual_seed(0)
    >>> A, b = torch.randn(4000, 3, generator=g), torch.ones(4000)
    >>> x = sketch_and_solve(A, b, eps=0.4, generator=0)
    >>> bool((x - torch.linalg.lstsq(A, b[:, None]).solution[:, 0]).abs().max() < 0.2)
    True
    """
    operator, rhs, kind, single = _system(A, b)
    n, d = operator.shape
    if guarantee not in ("linf", "l2"):
        raise ValueError(f"guarantee must be 'linf' or 'l2', got {guarantee!r}")
    S = _chosen(sketch, m, (n, d), guarantee, eps, delta, generator, operator)
    rhs, unit = moderate(rhs)
    SA = S._matmul(operator.data) if isinstance(operator, Dense) else _by_columns(S, operator)
    Q, R = torch.linalg.qr(SA)
    smallest = _smallest_singular(R)
    X = torch.linalg.solve_triangular(R, Q.mH @ S._matmul(rhs), upper=True)
    with torch.no_grad():
        error = _certificate(operator, rhs, X, R, smallest, guarantee)
    X = X if unit == 1 else X * unit
    found = give_back_array(X[:, 0] if single else X, kind)
    info = Info(
        f"sketch_and_solve ({guarantee})", (3 if isinstance(operator, Dense) else d + 2), 1, error, error <= eps
    )
    if not info.converged:
        raise ConvergenceError(
            f"sketch_and_solve: measured an error of {error:.3g} with m = {S.shape[0]}, asked for eps = {eps:.3g}",
            best=found,
            error=error,
            info=info,
        )
    return (found, info) if return_info else found


class OccProbe(NamedTuple):
    """How well a sketch keeps inner products, as multiples of :math:`\\|a\\| \\|b\\| / \\sqrt m`.

    Attributes
    ----------
    beta : the largest multiple over all pairs
    random : over pairs of Gaussian vectors
    structured : over pairs of a unit vector and a vector of s equal entries
    """

    beta: float
    random: float
    structured: float


def occ_probe(S: Any, *, pairs: int = 1000, generator: GeneratorLike = None) -> OccProbe:
    r"""Estimate beta of an oblivious coordinate-wise embedding.

    S is one with beta if :math:`|\langle S a, S b \rangle - \langle a, b \rangle| \le (\beta / \sqrt m) \|a\| \|b\|` for
    fixed a, b with high probability. Dense sketches have a beta of the order of a root of logarithms, sparse ones one
    that grows as :math:`\sqrt m`.

    Parameters
    ----------
    S : (m, n) operator or anything `as_operator` takes, drawn without a look at the pairs
    pairs : of each sort
    generator : a torch.Generator, an int or None, independent of that of S

    Returns
    -------
    OccProbe
        ``(beta, random, structured)``, the largest values met.

    Raises
    ------
    ValueError : `pairs` is not a positive int

    Notes
    -----
    Half of the pairs are Gaussian vectors, half are a unit vector and a vector with s equal entries elsewhere, s = 1, 4,
    16, ... in turn: where one of those meets the unit vector in a row of a sparse S, the error is 1 / sqrt(s). A product
    with 4 vectors for each pair, in blocks. A maximum over `pairs` draws shows events of probability 1 / `pairs`.

    References
    ----------
    "A Nearly-Optimal Bound for Fast Regression with ell_infty Guarantee"

    Examples
    --------
    >>> from resolvent.sketch import count_sketch, srht
    >>> dense, sparse = (occ_probe(kind(256, 1024, generator=0), generator=1).beta for kind in (srht, count_sketch))
    >>> dense < 6 < sparse
    True
    """
    operator = as_operator(S, name="S")
    if isinstance(pairs, bool) or not isinstance(pairs, int | np.integer) or pairs < 1:
        raise ValueError(f"pairs must be an int of at least 1, got {pairs!r}")
    g = as_generator(generator)
    worst = {"random": 0.0, "structured": 0.0}
    for start in range(0, pairs, _COLUMNS):
        count = min(_COLUMNS, pairs - start)
        for sort in worst:
            a, b = (_random_pairs if sort == "random" else _structured_pairs)(operator, count, g)
            worst[sort] = max(worst[sort], _beta(operator, a, b))
    return OccProbe(max(worst.values()), worst["random"], worst["structured"])


def _beta(S: Operator, a: Tensor, b: Tensor) -> float:
    with torch.no_grad():
        gap = ((S._matmul(a).conj() * S._matmul(b)).sum(0) - (a.conj() * b).sum(0)).abs()
        size = torch.linalg.vector_norm(a, dim=0) * torch.linalg.vector_norm(b, dim=0)
        return float((gap / size).max()) * math.sqrt(S.shape[-2])


def _random_pairs(S: Operator, count: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    a, b = normal_entries((2, S.shape[-1], count), S.dtype, S.device, g)
    return a, b


def _structured_pairs(S: Operator, count: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    n = S.shape[-1]
    order = torch.rand(n, count, generator=g, device=g.device).argsort(0).to(S.device)
    rank = order.argsort(0)
    sizes = torch.tensor([4 ** (c % max(1, (n.bit_length() + 1) // 2)) for c in range(count)], device=S.device)
    return (rank == 0).to(S.dtype), ((rank > 0) & (rank <= sizes)).to(S.dtype) if n > 1 else (rank == 0).to(S.dtype)


def _system(A: Any, b: Any) -> tuple[Operator, Tensor, Any, bool]:
    operator = as_operator(A, name="A")
    rhs, kind = as_tensor(b, "b")
    if operator.ndim != 2 or operator.shape[0] < operator.shape[1] or operator.shape[1] < 1:
        raise ValueError(f"A must have shape (n, d) with n >= d >= 1, got {tuple(operator.shape)}")
    if rhs.ndim not in (1, 2) or rhs.shape[0] != operator.shape[0]:
        raise ValueError(f"b must have shape (n,) or (n, k) with n = {operator.shape[0]}, got {tuple(rhs.shape)}")
    if rhs.device != operator.device:
        raise ValueError(f"b is on {rhs.device}, A on {operator.device}; move one of them")
    check_finite(rhs, "b")
    if torch.finfo(rhs.dtype).bits != torch.finfo(operator.dtype).bits:
        raise TypeError(f"b has dtype {rhs.dtype}, A {operator.dtype}; convert one of them")
    dtype = torch.promote_types(rhs.dtype, operator.dtype)
    if operator.dtype != dtype:
        operator = operator.to(dtype)
    both = "numpy" if kind == "numpy" and operator.kind == "numpy" else "torch"
    columns = rhs.to(dtype)
    return operator, columns[:, None] if rhs.ndim == 1 else columns, both, rhs.ndim == 1


def _chosen(
    sketch: str | Operator,
    m: int | None,
    shape: tuple[int, int],
    guarantee: str,
    eps: float,
    delta: float,
    generator: GeneratorLike,
    A: Operator,
) -> Operator:
    n, d = shape
    wanted = linf_rows(d, n, min(eps, 1.0), delta, analysis="gaussian")
    if isinstance(sketch, Operator):
        if sketch.shape[-1] != n or sketch.ndim != 2 or sketch.shape[0] < d or m not in (None, sketch.shape[0]):
            raise ValueError(f"sketch must have shape (m, {n}) with m >= d = {d}, got {tuple(sketch.shape)}")
        return sketch if sketch.dtype == A.dtype else sketch.to(A.dtype)
    if guarantee == "l2":
        # The last term: rows of a structured transform that see a subspace in the same way must all be met.
        excess = (math.sqrt(d) + math.sqrt(2 * math.log(1 / delta))) ** 2 / (2 * eps)
        wanted = math.ceil(d + 1 + excess + 2 * d * math.log(2 * d / delta))
    rows = min(wanted, n) if m is None else m
    if isinstance(rows, bool) or not isinstance(rows, int | np.integer) or rows < d:
        raise ValueError(f"m must be an int of at least d = {d}, got {m!r}")
    return make_sketch(sketch, int(rows), n, generator=generator, dtype=A.dtype, device=A.device)


def _by_columns(S: Operator, A: Operator) -> Tensor:
    """S A of an operator, some columns of A at a time."""
    d = A.shape[-1]
    unit = torch.eye(d, dtype=A.dtype, device=A.device)
    return torch.cat([S._matmul(A._matmul(unit[:, j : j + _COLUMNS])) for j in range(0, d, _COLUMNS)], -1)


def _smallest_singular(R: Tensor) -> float:
    s = torch.linalg.svdvals(R.detach())
    if float(s[-1]) <= len(s) * torch.finfo(R.dtype).eps * float(s[0]):
        raise ValueError(
            f"the sketch of A has singular values {s[0]:.3g} to {s[-1]:.3g}: A must have full column rank, and m must be "
            "large enough for this sketch to keep it"
        )
    return float(s[-1])


def _certificate(A: Operator, b: Tensor, X: Tensor, R: Tensor, smallest: float, guarantee: str) -> float:
    """The measured eps, the worst of the columns."""
    left = b - A._matmul(X)
    half = torch.linalg.solve_triangular(R.mH, A.H._matmul(left), upper=False)
    # the part of the residual that lies in the range of A, and the rest, which the exact solution leaves too
    inside, total = (torch.linalg.vector_norm(t, dim=0) for t in (half, left))
    rest = (total.square() - inside.square()).clamp_min(0).sqrt()
    # A system that can be solved leaves rounding errors only: they are no error of the sketch.
    rounding = 100 * torch.finfo(X.dtype).eps * math.sqrt(len(b)) * torch.linalg.vector_norm(b, dim=0)
    exact = total <= rounding
    if guarantee == "l2":
        ratio = total / torch.where(exact, 1, rest) - 1
    else:
        shift = torch.linalg.solve_triangular(R, half, upper=True).abs().amax(0)
        ratio = shift * math.sqrt(X.shape[0]) * smallest / torch.where(exact, 1, rest)
    return float(torch.where(exact, 0, ratio).max()) if ratio.numel() else 0.0


__all__ = ["OccProbe", "linf_rows", "occ_probe", "sketch_and_solve"]
