"""`norm`: every matrix norm under one name, for tensors, batches, structures and operators that only multiply.

>>> import torch
>>> from resolvent.spectra import norm
>>> A = torch.tensor([[1.0, -2.0], [3.0, 4.0]], dtype=torch.float64)
>>> norm(A, 1), norm(A, ("induced", float("inf"), 1))
(tensor(6., dtype=torch.float64), tensor(8., dtype=torch.float64))
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.info import Info
from resolvent.operators import Operator, as_operator
from resolvent.operators.arrays import give_back
from resolvent.random import GeneratorLike
from resolvent.spectra.entrywise import column_norms, entry_norm
from resolvent.spectra.induced import induced_norm, one_norm_estimate
from resolvent.spectra.schatten import ky_fan, require_convergence, schatten, smallest_singular

Order = float | str | tuple

_KNOWN = "'fro', 'nuc', inf, -inf, 1, -1, 2, -2, ('schatten', p), ('ky-fan', k), ('entrywise', p) or ('induced', p, q)"


def norm(
    A: Any,
    ord: Order = 2,
    *,
    rtol: float | None = None,
    method: Literal["auto", "estimate"] = "auto",
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    r"""Norm of a matrix or operator.

    ==========================  ===============================================================
    ord                         value
    ==========================  ===============================================================
    2 (default), -2             largest, smallest singular value
    "fro"                       :math:`(\sum |a_{ij}|^2)^{1/2}`
    "nuc"                       sum of the singular values
    1, -1                       largest, smallest column sum :math:`\sum_i |a_{ij}|`
    inf, -inf                   largest, smallest row sum
    ("schatten", p)             :math:`(\sum \sigma_i^p)^{1/p}`, p > 0 or inf
    ("ky-fan", k)               sum of the k largest singular values
    ("entrywise", p)            :math:`(\sum |a_{ij}|^p)^{1/p}`, p > 0; inf is the largest entry
    ("induced", p, q)           :math:`\max_x \|A x\|_q / \|x\|_p`, p and q in [1, inf]
    ==========================  ===============================================================

    Parameters
    ----------
    A : (*batch, m, n) operator or anything `as_operator` takes
    ord : one of the above; the numbers and names of `torch.linalg.matrix_norm` mean the same
    rtol : relative error of iterated norms (2, Ky Fan and induced ones of what is large); each has its own default
    method : "estimate" gives a lower bound of the 1- or inf-norm of an operator from about ten products
    generator : randomness of starting vectors; the same seed gives the same result
    return_info : also return an `Info`

    Returns
    -------
    (*batch,) tensor, 0-d without a batch; a Python float or an array where `A` was NumPy's.
        An empty matrix has norm zero.

    Raises
    ------
    ValueError
        An unknown `ord`, p or k out of its range, NaN in `A`, the smallest of no columns.
    ConvergenceError
        The tolerance was not reached. Induced norms raise it where the proved upper bound stays above the best value
        found: in general they are NP-hard. `best` is then a lower bound, `error` its distance to the upper one.

    Notes
    -----
    Norms of entries and columns read the matrix once, or take n products where it is not stored; powers that would
    overflow or underflow are scaled. The spectral norm is LAPACK's up to side 256, then Golub-Kahan-Lanczos with a
    measured error. Schatten norms of an operator too large to be formed (more than 4096 on both sides) are estimates
    by stochastic Lanczos quadrature with a 95 percent interval, by default of 1 percent. Kronecker products, diagonals,
    block diagonals, low-rank and unitary operators use closed forms.

    Induced norms are exact for p = 1, q = inf, p = q = 2, and (inf -> q), (p -> 1) of real matrices of at most 20
    columns, or rows; nonnegative matrices with p >= q are certified by a Schur test; else interpolation and, for
    (inf -> 1), the semidefinite bound of Grothendieck limit the error.

    Gradients are exact (first order where the norm is iterated); at a tie they are a subgradient.

    References
    ----------
    "Estimating the Matrix p-Norm"
    "A Block Algorithm for Matrix 1-Norm Estimation, with an Application to 1-Norm Pseudospectra"

    Examples
    --------
    >>> import torch
    >>> A = torch.diag(torch.tensor([3.0, 4.0]))
    >>> norm(A), norm(A, "fro"), norm(A, "nuc")
    (tensor(4.), tensor(5.), tensor(7.))
    >>> import numpy as np
    >>> norm(np.ones((2, 3)), ("induced", float("inf"), 1))
    6.0
    """
    op = as_operator(A, name="A")
    order = _parse(ord, op)
    if method not in ("auto", "estimate"):
        raise ValueError(f"method must be 'auto' or 'estimate', got {method!r}")
    try:
        value, info = _compute(op, *order, method, rtol, generator)
    except ConvergenceError as error:
        error.best = give_back(error.best, op.kind)
        raise
    result = give_back(value, op.kind)
    return (result, info) if return_info else result


def _parse(ord: Order, A: Operator) -> tuple[str, list[float]]:
    """A checked kind with its exponents, equal norms brought to one name."""
    if isinstance(ord, str) and ord in ("fro", "nuc"):
        return ("entrywise", [2.0]) if ord == "fro" else ("schatten", [1.0])
    if isinstance(ord, int | float) and not isinstance(ord, bool) and ord in (1, -1, 2, -2, math.inf, -math.inf):
        return ("induced", [float(ord)] * 2) if ord > 0 else ("smallest", [float(-ord)])
    sizes = {"schatten": 1, "entrywise": 1, "ky-fan": 1, "induced": 2}
    if not isinstance(ord, tuple | list) or not ord or sizes.get(str(ord[0])) != len(ord) - 1:
        raise ValueError(f"ord must be {_KNOWN}, got {ord!r}")
    name, *given = ord
    if name == "ky-fan":
        k, side = given[0], min(A.shape[-2:])
        if not isinstance(k, int) or isinstance(k, bool) or not (1 <= k <= side or side == 0):
            raise ValueError(f"ord ('ky-fan', k) needs an int k in 1..{side}, got {k!r}")
        return ("induced", [2.0, 2.0]) if k == 1 else (name, [k])
    least = 1 if name == "induced" else 0
    for p in given:
        if not isinstance(p, int | float) or isinstance(p, bool) or not (p >= least and p > 0):
            raise ValueError(f"ord {name!r} needs exponents {'>= 1' if least else '> 0'} or inf, got {p!r}")
    if name == "schatten" and given[0] == 2:
        return "entrywise", [2.0]
    if name == "schatten" and given[0] == math.inf:
        return "induced", [2.0, 2.0]
    return name, [float(p) for p in given]


def _empty(A: Operator, kind: str) -> Tensor:
    if kind == "smallest":
        raise ValueError(f"A has no smallest column, row or singular value: its shape is {tuple(A.shape)}")
    return torch.zeros(A.batch_shape, dtype=torch.empty(0, dtype=A.dtype).real.dtype, device=A.device)


def _estimate(A: Operator, kind: str, exponents: list[float], generator: GeneratorLike) -> tuple[Tensor, Info]:
    if kind != "induced" or exponents not in ([1.0, 1.0], [math.inf] * 2):
        raise ValueError("method='estimate' is for ord 1 and inf; the other norms have no such estimate")
    if A.batch_shape:
        raise ValueError(f"method='estimate' takes one matrix, got shape {tuple(A.shape)}")
    return one_norm_estimate(A if exponents[0] == 1 else A.H, generator)


def _compute(
    A: Operator, kind: str, exponents: list[float], method: str, rtol: float | None, generator: GeneratorLike
) -> tuple[Tensor, Info]:
    if 0 in A.shape[-2:]:
        value, info = _empty(A, kind), Info("empty")
    elif method == "estimate":
        value, info = _estimate(A, kind, exponents, generator)
    elif kind == "entrywise":
        value, info = entry_norm(A, exponents[0]), Info("entries")
    elif kind == "schatten":
        value, info = schatten(A, exponents[0], rtol, generator)
    elif kind == "ky-fan":
        value, info = ky_fan(A, int(exponents[0]), rtol, generator)
    elif kind == "smallest" and exponents[0] == 2:
        value, info = smallest_singular(A), Info("dense")
    elif kind == "smallest":
        value, info = column_norms(A if exponents[0] == 1 else A.H, 1).amin(-1), Info("columns")
    else:
        value, info = induced_norm(A, exponents[0], exponents[1], rtol, generator)
    if bool(torch.isnan(value.detach()).any()):
        raise ValueError("A has NaN entries, or its product returned NaN")
    if method != "estimate":
        require_convergence("norm", value, info, A)
    return value, info
