"""Diagonalizing what should not be diagonalized, after a small perturbation; the matrices that need it."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.functions.pseudospectrum import _matrix
from resolvent.operators import lu
from resolvent.operators.arrays import give_back_array
from resolvent.random import GeneratorLike, as_generator, gaussian

# Of the size allowed: what the search begins with, and its first step.
_START, _STEP = 0.1, 0.3


class Diagonalized(NamedTuple):
    """A + E = V diag(eigenvalues) V^-1.

    Attributes
    ----------
    eigenvalues : (n,) complex; of a real A in conjugate pairs
    V : (n, n) complex, unit columns
    E : (n, n), of the dtype of A
    """

    eigenvalues: Any
    V: Any
    E: Any


class Hippo(NamedTuple):
    """x' = A x + B u: (n, n) and (n,)."""

    A: Any
    B: Any


def perturb_then_diagonalize(
    A: Any,
    size: float = 0.1,
    method: Literal["optimize", "random"] = "optimize",
    *,
    penalty: float = 0.0,
    steps: int = 60,
    generator: GeneratorLike = None,
) -> Diagonalized:
    r"""Diagonalize A + E with well-conditioned eigenvectors, where those of A are hopeless.

    Parameters
    ----------
    A : (n, n) matrix or operator; it is made dense
    size : :math:`\|E\|_2 \le` size :math:`\|A\|_2`, positive
    method : "optimize" minimizes :math:`\kappa_2(V) +` penalty :math:`\|E\|_2`; "random" takes a Gaussian E of that size
    penalty : the paper's gamma, at least 0. With 0, `size` alone decides between condition and error
    steps : of the descent, at least 1; one eigenvalue decomposition with its derivative each
    generator : of E, or of the E that the descent begins with

    Returns
    -------
    `Diagonalized`: ``eigenvalues, V, E``; V^-1 B and C V are input and output of the diagonal model.

    Raises
    ------
    ValueError : A is not one finite square matrix or zero; size, method, penalty or steps out of range.
    ConvergenceError : V diag V^-1 misses A + E by more than 1000 eps cond(V): no useful E was found; try a larger size.

    Notes
    -----
    There is an E with :math:`\kappa_2(V) \le 4 n^{3/2} (1 + 1 / \text{size})` (Davies' conjecture; Banks, Kulkarni,
    Mukherjee and Srivastava). The descent follows the normalized gradient of the logarithm of the objective through the
    eigenvalue decomposition, with momentum and steps that shrink to zero, in the ball of radius size ||A||, and keeps
    the best E. On HiPPO matrices the transfer function then moves 5 to 100 times less than with a random E. O(steps n^3).
    Eigenvalues may cross to the right half-plane, by at most the norm of E times cond(V). No gradients.

    References
    ----------
    "Robustifying State-space Models for Long Sequences via Approximate Diagonalization";
    "Gaussian Regularization of the Pseudospectrum and Davies' Conjecture"

    Examples
    --------
    >>> import torch
    >>> A = hippo("legs", 16).A
    >>> w, V, E = perturb_then_diagonalize(A, 0.05, generator=0)
    >>> bool(torch.linalg.cond(torch.linalg.eig(A).eigenvectors) > 1e9), bool(torch.linalg.cond(V) < 100)
    (True, True)
    """
    M, kind = _matrix(A)
    M = M.detach()
    if M.ndim != 2 or len(M) == 0:
        raise ValueError(f"A must have shape (n, n) with n at least 1, got {tuple(M.shape)}")
    if method not in ("optimize", "random"):
        raise ValueError(f"method must be 'optimize' or 'random', got {method!r}")
    if not (0 < size < math.inf) or not (0 <= penalty < math.inf):
        raise ValueError(f"size must be positive and penalty at least 0, got {size} and {penalty}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a positive int, got {steps!r}")
    norm = torch.linalg.matrix_norm(M, 2)
    if not bool(norm > 0):
        raise ValueError("A is zero: it is diagonal already, and size is relative to its norm")
    radius = size * norm
    # The descent divides small differences by the condition number: in double precision, whatever comes in.
    double = M.to(torch.promote_types(M.dtype, torch.float64))
    E = gaussian(M.shape, double.dtype, M.device, as_generator(generator, M.device))
    E = E * (radius.double() / torch.linalg.matrix_norm(E, 2))
    if method == "optimize":
        E = _descend(double, _START * E, radius.double(), penalty, steps)
    E = E.to(M.dtype)
    w, V = torch.linalg.eig(M + E)
    if not M.is_complex():
        w, V = _in_pairs(w, V)
    condition = float(torch.linalg.cond(V))
    eps = torch.finfo(M.dtype).eps
    made = Diagonalized(*(give_back_array(t, kind) for t in (w, V, E)))
    if not condition < 1e-3 / eps:
        raise ConvergenceError(
            f"perturb_then_diagonalize: the eigenvectors of A + E have condition {condition:.2g}; try a larger size",
            best=made,
            error=condition * eps,
        )
    missed = torch.linalg.matrix_norm(lu.solve(V, V * w, left=False) - (M + E), 2) / norm
    if float(missed) > 1000 * eps * len(M) * condition:
        raise ConvergenceError(
            f"perturb_then_diagonalize: V diag V^-1 misses A + E by {float(missed):.2g} of ||A||",
            best=made,
            error=float(missed),
        )
    return made


def hippo(
    kind: Literal["legs", "legs_normal", "legt", "lagt"],
    n: int,
    *,
    dtype: torch.dtype = torch.float64,
    device: Any = None,
) -> Hippo:
    r"""State matrices that remember a function by its coefficients in orthogonal polynomials.

    Parameters
    ----------
    kind : "legs": Legendre polynomials of :math:`2 e^{-t} - 1`, the past seen exponentially dimmed; "legt": of a sliding
        window of length 1; "lagt": Laguerre polynomials; "legs_normal": A + p p^T, :math:`p_k = (k + 1/2)^{1/2}`, and
        B / 2, the normal matrix that S4D diagonalizes instead of "legs"
    n : the number of coefficients, at least 1
    dtype, device : of the tensors

    Returns
    -------
    `Hippo`: A (n, n) and B (n,) of :math:`x' = A x + B u`.

    Raises
    ------
    ValueError : an unknown kind, or n below 1.

    Notes
    -----
    "legs": :math:`A_{jk} = -((2j+1)(2k+1))^{1/2}` below the diagonal, -(j + 1) on it, and :math:`B_j = (2j+1)^{1/2}`.
    Its eigenvectors have entries that grow like :math:`2^{4n/3}`.

    References
    ----------
    "HiPPO: Recurrent Memory with Optimal Polynomial Projections";
    "On the Parameterization and Initialization of Diagonal State Space Models"

    Examples
    --------
    >>> hippo("legs", 2).A
    tensor([[-1.0000,  0.0000],
            [-1.7321, -2.0000]], dtype=torch.float64)
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n must be a positive int, got {n!r}")
    k = torch.arange(n, dtype=torch.float64)
    root = (2 * k + 1).sqrt()
    if kind in ("legs", "legs_normal"):
        A, B = -(root[:, None] * root).tril(-1) - torch.diag(k + 1), root
        if kind == "legs_normal":
            p = (k + 0.5).sqrt()
            A, B = A + p[:, None] * p, B / 2
    elif kind == "legt":
        sign = 1 - 2 * ((k[:, None] - k) % 2)
        A, B = -(root[:, None] * root) * torch.where(k[:, None] < k, sign, torch.ones_like(sign)), root
    elif kind == "lagt":
        A, B = (
            0.5 * torch.eye(n, dtype=torch.float64) - torch.ones(n, n, dtype=torch.float64).tril(),
            torch.ones_like(k),
        )
    else:
        raise ValueError(f"kind must be 'legs', 'legs_normal', 'legt' or 'lagt', got {kind!r}")
    A = A + 0.0  # no negative zeros
    return Hippo(A.to(dtype=dtype, device=device), B.to(dtype=dtype, device=device))


def _descend(A: Tensor, E: Tensor, radius: Tensor, penalty: float, steps: int) -> Tensor:
    best, found, momentum = math.inf, E, torch.zeros_like(E)
    for step in range(steps + 1):
        with torch.enable_grad():
            E = E.detach().requires_grad_()
            try:
                V = torch.linalg.eig(A + E).eigenvectors
                s = torch.linalg.svdvals(V)
                objective = (s[0] / s[-1] + penalty * torch.linalg.matrix_norm(E, 2)).log()
                (G,) = torch.autograd.grad(objective, E)
            except RuntimeError as error:
                raise ConvergenceError(
                    "perturb_then_diagonalize: an eigenvalue decomposition failed; try another generator or a larger size",
                    best=found,
                ) from error
        E = E.detach()
        if float(objective.detach()) < best:
            best, found = float(objective.detach()), E
        size = torch.linalg.matrix_norm(G)
        if not bool(torch.isfinite(size)) or not bool(size > 0):
            break
        momentum = 0.8 * momentum + 0.2 * G / size
        length = _STEP * (1 - step / steps) * radius
        E = E - length * momentum / torch.linalg.matrix_norm(momentum, 2)
        E = E * (radius / torch.linalg.matrix_norm(E, 2)).clamp(max=1)
    return found


def _in_pairs(w: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """Conjugate pairs to the bit, for models that keep one of each."""
    upper = (w.imag > 0).nonzero()[:, 0]
    lower = (w.imag < 0).nonzero()[:, 0]
    # Real eigenproblems give a pair side by side, the positive imaginary part first.
    if len(upper) == len(lower) and torch.equal(upper + 1, lower):
        w, V = w.clone(), V.clone()
        w[lower], V[:, lower] = w[upper].conj(), V[:, upper].conj()
    return w, V
