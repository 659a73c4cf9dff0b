"""Complete dictionaries: a square basis in which all columns of a matrix are sparse.

>>> from resolvent import factor
>>> from resolvent.random import gaussian
>>> D0, X0 = gaussian((8, 8), generator=0), gaussian((8, 4000), generator=1)
>>> X0 = X0 * (gaussian((8, 4000), generator=2) > 0.5)
>>> D, X = factor.complete_dictionary(D0 @ X0, generator=0)
>>> bool(factor.dictionary_error(D, D0) < 1e-2)
True
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.functions.polar import polar
from resolvent.info import Info
from resolvent.operators import lu
from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.random import GeneratorLike, as_generator, gaussian

# Columns at a time: the product and its powers stay in the cache between the two matrix products.
_CHUNK = 4096
# A step of a random batch that is not this much shorter than the one before is noise: the batch doubles.
_SHORTER = 0.7


class CompleteDictionary(NamedTuple):
    """Of :func:`complete_dictionary`: ``Y = D X`` (exactly, without a threshold).

    Attributes
    ----------
    D : (n, n) dictionary, its order and signs arbitrary
    X : (n, N) sparse codes; rows of unit mean square if preconditioned
    """

    D: Any
    X: Any


def complete_dictionary(
    Y: Any,
    *,
    p: float = 3.0,
    group: Literal["orthogonal", "sphere"] = "orthogonal",
    precondition: bool = True,
    batch: int | None = None,
    start: Any = None,
    threshold: float = 0.0,
    rtol: float | None = None,
    max_iter: int = 300,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    r"""A square dictionary D with sparse codes, :math:`Y = D X`, by maximising :math:`\|A Y\|_p^p` over orthogonal A.

    Parameters
    ----------
    Y : (n, N) tensor or array of full row rank; N well above n^2 for a recovery
    p : above 2. The paper recommends 3; 4 is matching, stretching and projecting (MSP)
    group : "orthogonal" finds all atoms together; "sphere" one after the other, each orthogonal to those found
    precondition : whiten Y first, so that the dictionary may be any invertible matrix; False takes it as orthogonal
    batch : columns of a first random batch; it doubles where its noise stops the progress, to all columns in the
        end. None takes all at once
    start : (n, n) orthogonal (of the preconditioned problem), rows are atoms; None draws one
    threshold : codes of at most this absolute value become zero
    rtol : change of A in one step, in the Frobenius norm over sqrt(n); default 1e-6, in float32 1e-4
    max_iter : steps (for the sphere, of each atom)
    generator : for the start and the batches
    return_info : also return `Info`

    Returns
    -------
    CompleteDictionary (D, X) of the kind and dtype of Y; with `return_info`, (CompleteDictionary, Info).

    Raises
    ------
    ValueError : Y has not full row rank or is not finite, p <= 2, options that do not fit, Y records a gradient.
    ConvergenceError : still moving after `max_iter` steps; carries the best value.

    Notes
    -----
    A <- polar(|A Y|^(p-1) sign(A Y) Y^T), the generalised power method: every step increases the objective, and there
    is no step size. 4 n^2 N flops a step and one polar factor. For Bernoulli-Gaussian codes the maximisers are, as N
    grows, the signed permutations of the inverse of the dictionary; with finite N they are off by about
    sqrt(n / N). No gradient.

    References
    ----------
    "Complete Dictionary Learning via ell_p-norm Maximization"

    Examples
    --------
    >>> X0 = gaussian((5, 3000), generator=0) * (gaussian((5, 3000), generator=1) > 0.8)
    >>> (D, X), info = complete_dictionary(X0, generator=0, return_info=True)
    >>> bool(torch.dist(D @ X, X0) < 1e-10 * X0.norm()), info.iterations < 30
    (True, True)
    """
    T, kind = _checked(Y, p, group, threshold, max_iter, batch)
    n = T.shape[0]
    rtol = (1e-4 if T.dtype == torch.float32 else 1e-6) if rtol is None else rtol
    if not rtol > 0:
        raise ValueError(f"rtol must be positive, got {rtol}")
    rng = as_generator(generator, T.device)
    root, data = _whitened(T) if precondition else (None, T)
    A = polar(gaussian((n, n), T.dtype, T.device, rng))[0] if start is None else _given(start, T)
    method = f"p = {p:g}, {group}"
    if group == "orthogonal":
        A, count, moved = _group(A, data, p, batch, rtol, max_iter, rng)
    else:
        A, count, moved = _atoms(A, data, p, batch, rtol, max_iter, rng)
    X = A @ data
    D = A.mT if root is None else root @ A.mT
    if threshold > 0:
        X = torch.where(X.abs() > threshold, X, 0)
    info = Info(method, matvecs=2 * n * count, iterations=count, error=moved, converged=moved <= rtol)
    found = CompleteDictionary(*give_back((D.contiguous(), X), kind))
    if not info.converged:
        raise ConvergenceError(
            f"complete_dictionary: the last step moved by {moved:.2g} after {count}, asked for {rtol:.2g}; "
            "allow more steps, or a larger rtol",
            best=found,
            error=moved,
            info=info,
        )
    return (found, info) if return_info else found


def dictionary_error(D: Any, D0: Any) -> Any:
    r"""How far two dictionaries are from each other, up to order, signs and lengths: :math:`1 - \|P\|_4^4 / n`.

    Parameters
    ----------
    D, D0 : (n, n) invertible tensors or arrays. P is D^{-1} D0 with rows of length one

    Returns
    -------
    0-d tensor or float: 0 exactly if every atom of D0 is a multiple of one of D, below 1 - 1/n otherwise.

    Raises
    ------
    ValueError : shapes that do not fit, entries that are not finite or complex, D or D0 is singular (D0 in a row of P).

    Notes
    -----
    One linear system. For two orthogonal dictionaries it is symmetric in them, and it has a gradient.

    References
    ----------
    "Complete Dictionary Learning via ell_p-norm Maximization"

    Examples
    --------
    >>> dictionary_error(torch.eye(3), torch.tensor([[0.0, -2.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 3.0]]))
    tensor(0.)
    """
    (left, kind), (right, _) = as_tensor(D, "D"), as_tensor(D0, "D0")
    if left.ndim != 2 or left.shape[0] != left.shape[1] or left.shape != right.shape or not len(left):
        raise ValueError(f"D and D0 must have one shape (n, n), got {tuple(left.shape)} and {tuple(right.shape)}")
    if left.is_complex() or right.is_complex():
        raise ValueError(f"D and D0 must be real, got {left.dtype} and {right.dtype}")
    check_finite(left, "D")
    check_finite(right, "D0")
    try:
        P = lu.solve(left, right.to(left.dtype))
    except torch.linalg.LinAlgError:
        raise ValueError("D must be invertible; it is singular") from None
    size = P.detach().abs().amax(1, keepdim=True)
    if not bool((size > 0).all()):
        raise ValueError("D0 must be invertible; it is singular")
    P = P / size
    P = P / torch.linalg.vector_norm(P, dim=1, keepdim=True)
    return give_back(1 - P.pow(4).sum() / len(P), kind)


def _checked(Y: Any, p: float, group: str, threshold: float, max_iter: int, batch: int | None) -> tuple[Tensor, Any]:
    T, kind = as_tensor(Y, "Y")
    if T.ndim != 2 or T.is_complex() or T.shape[0] < 1 or T.shape[1] < T.shape[0]:
        raise ValueError(f"Y must be real of shape (n, N) with N >= n >= 1, got {tuple(T.shape)} of {T.dtype}")
    if T.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"Y has dtype {T.dtype}; convert it to float32")
    if torch.is_grad_enabled() and T.requires_grad:
        raise ValueError("complete_dictionary has no gradient: detach Y")
    check_finite(T, "Y")
    if not (math.isfinite(p) and p > 2):
        raise ValueError(f"p must be above 2: at 2 every orthogonal matrix is a maximiser; got {p}")
    if group not in ("orthogonal", "sphere"):
        raise ValueError(f'group must be "orthogonal" or "sphere", got {group!r}')
    if not threshold >= 0:
        raise ValueError(f"threshold must be at least 0, got {threshold}")
    if max_iter < 1:
        raise ValueError(f"max_iter must be at least 1, got {max_iter}")
    if batch is not None and batch < T.shape[0]:
        raise ValueError(f"batch must be at least n = {T.shape[0]}, got {batch}")
    return T, kind


def _given(start: Any, T: Tensor) -> Tensor:
    A = as_tensor(start, "start")[0].to(T.dtype).to(T.device)
    n = T.shape[0]
    if A.shape != (n, n):
        raise ValueError(f"start must have shape {(n, n)}, got {tuple(A.shape)}")
    gap = float((A @ A.mT - torch.eye(n, dtype=T.dtype, device=T.device)).abs().max())
    if not gap < 1e4 * torch.finfo(T.dtype).eps:
        raise ValueError(f"start must be orthogonal, start start^T is off the identity by {gap:.2g}")
    return A


def _whitened(T: Tensor) -> tuple[Tensor, Tensor]:
    """C^(1/2) and C^(-1/2) Y for C = Y Y^T / N."""
    n, N = T.shape
    C = torch.zeros(n, n, dtype=torch.float64, device=T.device)
    for part in T.split(_CHUNK, 1):
        # A Gram matrix has the square of the condition: double precision keeps float32's digits.
        part = part.double()
        C.addmm_(part, part.mT)
    w, V = torch.linalg.eigh(C / N)
    if not float(w[0]) > (n * torch.finfo(T.dtype).eps) ** 2 * float(w[-1]) + 8 * n * 2.2e-16 * float(w[-1]):
        raise ValueError(
            f"Y must have full row rank: the eigenvalues of its covariance reach from {float(w[0]):.2g} to {float(w[-1]):.2g}"
        )
    root, inverse = (V * w.sqrt()) @ V.mT, (V / w.sqrt()) @ V.mT
    return root.to(T.dtype), inverse.to(T.dtype) @ T


def _power(Z: Tensor, p: float) -> Tensor:
    """|z|^(p-1) sign(z), in place."""
    if p == 3:
        return Z.mul_(Z.abs())
    if p % 2 == 0:
        return Z.pow_(int(p) - 1)
    return Z.abs().pow_(p - 1).copysign_(Z)


def _direction(A: Tensor, data: Tensor, p: float) -> Tensor:
    """The gradient over p of the objective: |A Y|^(p-1) sign(A Y) Y^T."""
    G = torch.zeros_like(A)
    for part in data.split(_CHUNK, 1):
        G.addmm_(_power(A @ part, p), part.mT)
    return G


class _Columns:
    """All columns, or random batches that double when the steps stop getting shorter."""

    def __init__(self, data: Tensor, batch: int | None, rng: torch.Generator) -> None:
        self.data, self.rng = data, rng
        self.batch = batch
        self.last = math.inf

    @property
    def whole(self) -> bool:
        return self.batch is None

    def draw(self) -> Tensor:
        N = self.data.shape[1]
        if self.batch is None or 2 * self.batch > N:
            self.batch = None
            return self.data
        chosen = torch.randint(N, (self.batch,), generator=self.rng, device=self.rng.device)
        return self.data.index_select(1, chosen.to(self.data.device))

    def saw(self, moved: float) -> None:
        if self.batch is not None and moved > _SHORTER * self.last:
            self.batch, self.last = 2 * self.batch, math.inf
        else:
            self.last = moved


def _group(
    A: Tensor, data: Tensor, p: float, batch: int | None, rtol: float, max_iter: int, rng: torch.Generator
) -> tuple[Tensor, int, float]:
    columns, moved, count = _Columns(data, batch, rng), math.inf, 0
    while count < max_iter:
        count += 1
        part = columns.draw()
        new = polar(_direction(A, part, p))[0]
        moved = float(torch.dist(new, A)) / math.sqrt(len(A))
        A = new
        if moved <= rtol and columns.whole:
            break
        columns.saw(moved)
    # A short step of a batch says nothing about the whole.
    return A, count, moved if columns.whole else math.inf


def _atoms(
    A: Tensor, data: Tensor, p: float, batch: int | None, rtol: float, max_iter: int, rng: torch.Generator
) -> tuple[Tensor, int, float]:
    """Rows one by one, each on the sphere of the complement of those before; the longest count and the worst step."""
    found = A.new_zeros((0, A.shape[1]))
    most, worst = 0, 0.0
    for row in A:
        a = _complement(row[None], found)
        columns, moved = _Columns(data, batch, rng), math.inf
        for count in range(1, max_iter + 1):
            new = _complement(_direction(a, columns.draw(), p), found)
            moved = float(torch.dist(new, a))
            a = new
            most = max(most, count)
            if moved <= rtol and columns.whole:
                break
            columns.saw(moved)
        worst = max(worst, moved if columns.whole else math.inf)
        found = torch.cat([found, a])
    return found, most, worst


def _complement(a: Tensor, found: Tensor) -> Tensor:
    # Twice: once leaves what rounding of a nearly dependent row makes large.
    for _ in range(2):
        a = a - (a @ found.mT) @ found
        a = a / torch.linalg.vector_norm(a)
    return a
