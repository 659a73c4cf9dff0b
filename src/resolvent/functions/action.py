"""Actions of exponentials, e^{tA} B, without forming them: the choice of the method, many times in one sweep."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.functions.action_sweep import DEAR, Method, Task, closed_form, exponentiated, swept
from resolvent.info import Info
from resolvent.operators.arrays import Kind, as_tensor, check_finite, give_back_array, real_dtype
from resolvent.operators.blocks import Block
from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.operators.elementary import Dense
from resolvent.operators.operator import Operator

# Sides up to which a dense exponential costs less than products that lead nowhere.
_RESCUED = 1000


def expm_multiply(
    A: OperatorLike,
    B: Any,
    t: Any = 1.0,
    *,
    rtol: float | None = None,
    method: Method = "auto",
    max_products: int = 200_000,
    return_info: bool = False,
) -> Any:
    r"""Apply a matrix exponential without forming it: :math:`e^{tA} B`.

    Parameters
    ----------
    A : (n, n) operator or anything `as_operator` takes; (*batch, n, n) where it is a dense matrix
    B : (n,) or (n, k), of the precision of `A`
    t : one time, or several in one sweep (sorted or not); negative is allowed, and so is complex, as in
        ``t=-1j * time``; several complex times lie on one line through zero
    rtol : bound on the relative 2-norm error of each column; default 1e-12 in float64, 1e-5 in float32
    method : "auto" looks at the structure, then at the cost of a product; "chebyshev", "taylor", "krylov"
    max_products : columns that `A` may be multiplied with
    return_info : also return an `Info`

    Returns
    -------
    The kind, dtype and device of `B` (complex where `A` or `t` is); a leading axis of times if `t` is a sequence.

    Raises
    ------
    ValueError : shapes that do not fit, NaN or infinity, complex times that do not lie on one line, a too small `rtol`
    OverflowError : the result is beyond the range of its dtype
    ConvergenceError : the error stayed above `rtol`; carries the best value and the error reached

    Warns
    -----
    AccuracyWarning : :math:`\epsilon\, t \|A\|` exceeds `rtol`: rounding `A` alone may change the result by more

    Notes
    -----
    Cheap products: the series in Chebyshev polynomials of an ellipse around the numerical range of `A` (Gershgorin's
    discs or a dozen Krylov steps give it), for a Hermitian matrix about :math:`\sqrt{t\|A\| \log(1/rtol)}` products, for
    ``e^{-itH}`` about :math:`t\|A\|/2`; Taylor's series where the ellipse is a disc. One term is one pass over the matrix and
    two vectors. The sizes of the polynomials are measured: from them the rest of the series and what cancelled in it are
    bounded; where too much cancels, time is cut into steps. Dear products: Krylov spaces of up to 40 (Hermitian) or
    60 vectors with steps in time, stopped by the term that leads out of the space. Small matrices and structures with a
    closed form are exponentiated, and so are sides up to 1000 where products do not reach the tolerance. Rounding limits
    the accuracy to eps times the condition number of the problem.

    Gradients of first order flow to `B`, `t` and the tensors inside `A`; of those the price is one sweep back and two
    blocks of q vectors, q about half the number of products (Gauss quadrature of the integral of Duhamel). Closed forms have
    gradients of every order.

    References
    ----------
    "Computing the Action of the Matrix Exponential, with an Application to Exponential Integrators";
    "An accurate and efficient scheme for propagating the time dependent Schrödinger equation";
    "Analysis of some Krylov subspace approximations to the matrix exponential operator"

    Examples
    --------
    >>> from resolvent.operators import Laplacian, path_graph
    >>> L = Laplacian(path_graph(100, dtype=torch.float64))
    >>> source = torch.zeros(100, dtype=torch.float64)
    >>> source[50] = 1
    >>> heat = expm_multiply(-L, source, t=[0.1, 1.0, 10.0])
    >>> heat.shape, heat.sum(1)
    (torch.Size([3, 100]), tensor([1.0000, 1.0000, 1.0000], dtype=torch.float64))
    """
    task = _task(A, B, t, rtol, method, max_products)
    value, info = closed_form(task) if method == "auto" else (None, None)
    if value is None or info is None:
        value, info = _swept(task)
    value = value if task.columns else value[..., 0]
    value = give_back_array(value if task.several else value[0], task.kind)
    _check(value, info, task.rtol, "expm_multiply")
    return (value, info) if return_info else value


def _swept(task: Task) -> tuple[Tensor, Info]:
    """By products; a small matrix for which they do not get there is exponentiated after all."""
    n = task.A.shape[-1]
    if task.method != "auto" or n > _RESCUED or task.A.batch_shape:
        return swept(task)
    value, info = swept(replace(task, limit=min(task.limit, 20 * n * task.B.shape[1])))
    return (value, info) if info.converged else exponentiated(task)


def _task(A: Any, B: Any, t: Any, rtol: float | None, method: str, limit: int) -> Task:
    A = as_operator(A, name="A")
    n = A.shape[-1]
    if A.shape[-2] != n:
        raise ValueError(f"A must be square, got shape {tuple(A.shape)}")
    if method not in ("auto", "krylov", "chebyshev", "taylor"):
        raise ValueError(f"method must be auto, krylov, chebyshev or taylor, got {method!r}")
    X, kind = as_tensor(B, "B")
    if X.ndim not in (1, 2) or X.shape[0] != n:
        raise ValueError(f"B must have shape ({n},) or ({n}, k), got {tuple(X.shape)}")
    check_finite(X, "B")
    A, X = matched(A, X, kind)
    phase, times, several, tensor = _times(t)
    eps = torch.finfo(X.dtype).eps
    rtol = (1e-12 if eps < 1e-10 else 1e-5) if rtol is None else rtol
    if not 8 * eps <= rtol < 1:
        raise ValueError(f"rtol must be at least 8 eps = {8 * eps:.2g} and less than 1 for {X.dtype}, got {rtol}")
    columns = X.ndim == 2
    X = X if columns else X[:, None]
    return Task(A, X, phase, times, tensor, rtol, method, limit, kind, columns, several, n)  # type: ignore[arg-type]


def matched(A: Operator, X: Tensor, kind: Kind) -> tuple[Operator, Tensor]:
    """Operator and vectors of one precision on one device; NumPy's promote, torch's must agree."""
    if A.device != X.device:
        raise ValueError(f"B is on {X.device}, A on {A.device}; move one of them")
    if torch.finfo(A.dtype).bits != torch.finfo(X.dtype).bits:
        if kind == "torch":
            raise TypeError(f"B has dtype {X.dtype}, A {A.dtype}; convert one of them")
        real = torch.promote_types(real_dtype(A.dtype), real_dtype(X.dtype))
        A = A.to(real.to_complex() if A.is_complex else real) if real_dtype(A.dtype) != real else A
        X = X.to(real.to_complex() if X.is_complex() else real)
    return A, X.to(A.dtype) if A.is_complex else X


def _times(t: Any) -> tuple[complex, np.ndarray, bool, Tensor | None]:
    """A phase and real times whose products are t, whether t is a sequence, and t itself if it wants a gradient."""
    tensor, _ = as_tensor(t, "t")
    if tensor.ndim > 1 or tensor.numel() == 0:
        raise ValueError(f"t must be one time or a sequence of at least one, got shape {tuple(tensor.shape)}")
    check_finite(tensor, "t")
    wide = tensor.detach().to("cpu", torch.complex128 if tensor.is_complex() else torch.float64).numpy().reshape(-1)
    phase: complex = 1.0
    if np.iscomplexobj(wide):
        largest = wide[np.abs(wide).argmax()]
        if largest.imag == 0 or largest.real == 0:
            phase = 1j if largest.real == 0 and largest != 0 else 1 + 0j
        else:
            phase = complex(largest / abs(largest))
        wide = wide / phase
        if (np.abs(wide.imag) > 1e-14 * np.abs(wide)).any():
            raise ValueError("complex times t must lie on one line through zero; pass others in calls of their own")
        # A real line is told by its type: complex times give complex results.
        wide = np.ascontiguousarray(wide.real)
    return phase, wide, tensor.ndim == 1, tensor if tensor.requires_grad else None


def phi_multiply(
    A: OperatorLike,
    B: Any,
    t: float = 1.0,
    *,
    rtol: float | None = None,
    method: Method = "auto",
    max_products: int = 200_000,
    return_info: bool = False,
) -> Any:
    r"""Apply phi functions without forming them: :math:`\sum_{k=0}^p t^k \varphi_k(tA)\, b_k`.

    With :math:`\varphi_0(z) = e^z` and :math:`\varphi_k(z) = \int_0^1 e^{(1-s)z} s^{k-1} / (k-1)!\, ds` this is the solution at time t of
    :math:`u' = A u + \sum_{k \ge 1} t^{k-1} / (k-1)!\, b_k`, :math:`u(0) = b_0`.

    Parameters
    ----------
    A : (n, n) operator or anything `as_operator` takes
    B : sequence b_0, ..., b_p, each (n,), or each (n, k); None stands for zero
    t : the time, real
    rtol : bound on the relative 2-norm error of each column; default 1e-12 in float64, 1e-5 in float32
    method, max_products, return_info : as in `expm_multiply`

    Returns
    -------
    (n,) or (n, k), of the kind, dtype and device of the vectors

    Raises
    ------
    ValueError : shapes that do not fit, no vector at all, NaN or infinity
    ConvergenceError, OverflowError : as in `expm_multiply`

    Notes
    -----
    One exponential of a matrix with p rows more per column (Al-Mohy and Higham): the top of
    ``exp(t [[A, W], [0, J]]) [b_0; e_p]`` with W = [b_p, ..., b_1] and J a shift. W and the shift are scaled to the size of the
    times, which changes no result and keeps the numerical range small. Its gradients are those of `expm_multiply`.

    References
    ----------
    "Computing the Action of the Matrix Exponential, with an Application to Exponential Integrators"

    Examples
    --------
    >>> A = torch.zeros(2, 2, dtype=torch.float64)
    >>> b = torch.ones(2, dtype=torch.float64)
    >>> phi_multiply(A, [b, b, b], 2.0).round(decimals=6)
    tensor([5., 5.], dtype=torch.float64)
    """
    A = as_operator(A, name="A")
    if not isinstance(t, int | float) or isinstance(t, bool):
        raise TypeError(f"t must be a real number, got {type(t).__name__}")
    given = [None if b is None else as_tensor(b, f"B[{i}]") for i, b in enumerate(B)]
    known = [b for b in given if b is not None]
    if not known:
        raise ValueError("B must hold at least one vector or block that is not None")
    shape, kind = known[0][0].shape, known[0][1]
    for i, b in enumerate(given):
        if b is not None and b[0].shape != shape:
            raise ValueError(f"B[{i}] must have the shape of the others, {tuple(shape)}, got {tuple(b[0].shape)}")
    columns = [None if b is None else b[0] if len(shape) == 2 else b[0][:, None] for b in given]
    first = next(c for c in columns if c is not None)
    filled = [torch.zeros_like(first) if c is None else c for c in columns]
    if len(filled) == 1 or t == 0:
        start = filled[0] if len(shape) == 2 else filled[0][:, 0]
        found = expm_multiply(A, start, t, rtol=rtol, method=method, max_products=max_products, return_info=return_info)
        value, info = found if return_info else (found, None)
    else:
        augmented, X = _augmented(A, filled, float(t), kind)
        task = _task(
            augmented,
            X,
            t,
            rtol,
            "krylov" if method == "auto" and A.cost > DEAR * A.shape[-1] else method,
            max_products,
        )
        task.rows = A.shape[-1]
        value, info = swept(task)
        value = value[0, : A.shape[-1]] if len(shape) == 2 else value[0, : A.shape[-1], 0]
        _check(value, info, task.rtol, "phi_multiply")
    value = give_back_array(value, kind)
    return (value, info) if return_info else value


def _augmented(A: Operator, B: list[Tensor], t: float, kind: Kind) -> tuple[Operator, Tensor]:
    """[[A, W], [0, J]] and [b_0; e_p], for every column of the b_k an e_p of its own."""
    A, first = matched(A, B[0], kind)
    dtype = torch.promote_types(A.dtype, first.dtype)
    B = [b.to(dtype) for b in B]
    A = A if A.dtype == dtype else A.to(dtype)
    p, k = len(B) - 1, first.shape[1]
    tau = abs(t)
    W = torch.cat([B[j] * tau ** (j - 1) for j in range(p, 0, -1)], 1)
    # Coupled by a norm of about one over the time: neither the range of the matrix nor the tail of the vector is large.
    size = float(torch.linalg.matrix_norm(W.detach())) * tau
    size = size if size > 0 else 1.0
    J = torch.kron(
        torch.diag(torch.ones(p - 1, dtype=dtype, device=W.device), 1), torch.eye(k, dtype=dtype, device=W.device)
    )
    tail = torch.zeros(p * k, k, dtype=dtype, device=W.device)
    tail[(p - 1) * k :] = size * torch.eye(k, dtype=dtype, device=W.device)
    augmented = Block([[A, Dense(W / size)], [None, Dense(J / tau)]])
    augmented.kind = kind
    return augmented, torch.cat([B[0], tail])


def _check(value: Any, info: Info, rtol: float, name: str) -> None:
    if not info.converged:
        raise ConvergenceError(
            f"{name}: the error is {info.error:.3g}, {rtol:.3g} was asked for ({info.matvecs} products)",
            best=value,
            error=info.error,
            info=info,
        )
