"""Sparse principal components: directions of large variance that have few nonzero entries."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.info import Info
from resolvent.operators import Operator, as_operator
from resolvent.operators.arrays import give_back, real_dtype
from resolvent.operators.gradient import records
from resolvent.random import GeneratorLike, as_generator

# Supports that "exact" is ready to compare, and how many of them at a time.
_SUPPORTS, _CHUNK = 500_000, 4096
# Coordinates of largest variance that are tried as starts.
_STARTS = 8


class SparsePCA(NamedTuple):
    """Of :func:`sparse_pca`.

    Attributes
    ----------
    components : (n, c), columns of length one with at most so many nonzeros as were asked for
    variances : (c,) x^H A x of each column, within what the columns before have left
    """

    components: Any
    variances: Any


def sparse_pca(
    A: Any,
    nonzeros: int | Sequence[int],
    components: int = 1,
    *,
    method: Literal["power", "exact"] = "power",
    max_iter: int = 1000,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    r"""Sparse principal components, :math:`\max x^H A x` over :math:`\|x\|_2 = 1, \|x\|_0 \le k`, one after the other.

    Parameters
    ----------
    A : (n, n) positive semidefinite matrix or operator, such as a covariance
    nonzeros : k, from 1 to n; or one for each component
    components : how many
    method : "power", the truncated power method, finds a support that no step of it improves; "exact" compares all
        supports, of which there may be up to 500000
    max_iter : steps of "power" from one start
    generator : of the vector from which powers lead to the first start
    return_info : also return `Info`; iterations count the steps, or the supports

    Returns
    -------
    SparsePCA (components, variances), of the kind of A

    Raises
    ------
    ValueError : A is not one Hermitian matrix or has a negative diagonal entry, an argument is out of range, too many
        supports for "exact", or a gradient is wanted: there is none.
    ConvergenceError : a start was still rising after `max_iter` steps; carries the best components.

    Notes
    -----
    A product with A, its k largest entries, and the leading eigenvector of A on these, until the variance rises no
    more: it rises in every step, as A is positive, so that some tens of steps are enough. Starts: what 30
    powers make of a random vector, its support cut to 8 k, 4 k, 2 k and k in turn, and the coordinates of largest variance. The problem is NP-hard: the result
    is a local maximum, the global one for "exact". Later components maximise what is left by the projection
    (I - Q Q^H) A (I - Q Q^H) onto the complement of those before, with Q orthonormal, which stays positive as
    subtracting x x^H does not. Not differentiable.

    References
    ----------
    "Truncated Power Method for Sparse Eigenvalue Problems"
    "Deflation Methods for Sparse PCA"

    Examples
    --------
    >>> A = torch.diag(torch.tensor([1.0, 2.0, 2.0, 1.0]))
    >>> A[1, 2] = A[2, 1] = 1.0
    >>> found = sparse_pca(A, 2)
    >>> found.components[:, 0].abs(), found.variances
    (tensor([0.0000, 0.7071, 0.7071, 0.0000]), tensor([3.]))
    """
    op = as_operator(A, name="A")
    wanted = _checked(op, nonzeros, components, method, max_iter)
    source = as_generator(generator, op.device)
    with torch.no_grad():
        op = op.detach()
        rest = _Rest(op, source)
        if bool((rest.diagonal < 0).any()):
            raise ValueError(f"A must be positive semidefinite, its diagonal has {float(rest.diagonal.min()):.3g}")
        steps, risen = 0, True
        for k in wanted:
            if method == "exact":
                support, count = _best_support(rest, k)
            else:
                support, count, ended = _climbed(rest, k, max_iter, source)
                risen = risen and ended
            steps += count
            rest.take(support)
    found = SparsePCA(*give_back((torch.stack(rest.found, 1), torch.stack(rest.values)), op.kind))
    info = Info("truncated power" if method == "power" else "exact", rest.products, steps, 0.0, risen)
    if not risen:
        message = f"sparse_pca: the variance still rises after {max_iter} steps"
        raise ConvergenceError(message, best=found, error=math.nan, info=info)
    return (found, info) if return_info else found


class _Rest:
    """A on the complement of the components so far."""

    def __init__(self, A: Operator, source: torch.Generator) -> None:
        self.A, self.products = A, 0
        n = A.shape[-1]
        self.Q = torch.zeros(n, 0, dtype=A.dtype, device=A.device)
        self.AQ = self.Q
        self.found: list[Tensor] = []
        self.values: list[Tensor] = []
        known = A._diagonal()
        if known is None:
            from resolvent.spectra.diagonal import diagonal

            # An estimate is enough to choose starts.
            known = diagonal(A, rtol=0.1, generator=source).real.clamp(min=0)
        self.diagonal = known.real

    def product(self, x: Tensor) -> Tensor:
        self.products += 1
        y = self.A._matmul((x - self.Q @ (self.Q.mH @ x))[:, None])[:, 0]
        return y - self.Q @ (self.Q.mH @ y)

    def blocks(self, supports: Tensor) -> Tensor:
        """Principal submatrices (..., k, k) of the projected matrix."""
        if supports.ndim == 1:
            block = self.A._entries(supports, supports)
        else:
            block = self.A._dense()[supports[..., :, None], supports[..., None, :]]
        Q, AQ = self.Q[supports], self.AQ[supports]
        cross = AQ @ Q.mH
        return block - cross - cross.mH + Q @ ((self.Q.mH @ self.AQ) @ Q.mH)

    def leading(self, support: Tensor) -> tuple[Tensor, Tensor]:
        """The largest value on a support, and its vector."""
        values, vectors = torch.linalg.eigh(self.blocks(support))
        x = torch.zeros(len(self.Q), dtype=vectors.dtype, device=vectors.device)
        x[support] = vectors[:, -1]
        return values[-1], x

    def take(self, support: Tensor) -> None:
        """Make the component of a support the next, and leave what is orthogonal to it."""
        value, x = self.leading(support)
        self.found.append(x)
        self.values.append(value.clamp(min=0))
        fresh = x - self.Q @ (self.Q.mH @ x)
        fresh = fresh - self.Q @ (self.Q.mH @ fresh)
        length = torch.linalg.vector_norm(fresh)
        if bool(length > 100 * torch.finfo(length.dtype).eps):
            self.Q = torch.cat([self.Q, (fresh / length)[:, None]], 1)
            self.AQ = torch.cat([self.AQ, self.A._matmul(self.Q[:, -1:])], 1)
            self.products += 1


def _climbed(rest: _Rest, k: int, max_iter: int, source: torch.Generator) -> tuple[Tensor, int, bool]:
    """The best support over all starts, the steps, and whether all came to an end."""
    best, value, steps, ended = torch.arange(k), -math.inf, 0, True
    # Of a rise that is more than rounding.
    least = 10 * torch.finfo(rest.diagonal.dtype).eps * float(rest.diagonal.max())
    for start in _starts(rest, k, source):
        support, reached, last = start, -math.inf, False
        for _ in range(max_iter):
            steps += 1
            now, x = rest.leading(support)
            if not float(now) > reached + least:
                last = True
                break
            reached = float(now)
            if reached > value:
                best, value = support, reached
            support = _top(rest.product(x), k)
        ended = ended and last
    return best, steps, ended


def _starts(rest: _Rest, k: int, source: torch.Generator) -> Iterator[Tensor]:
    n = len(rest.diagonal)
    # The largest directions of the complement, by a few products.
    x = torch.randn(n, dtype=rest.A.dtype, device=rest.A.device, generator=source)
    for _ in range(30):
        y = rest.product(x)
        size = torch.linalg.vector_norm(y)
        if not bool(size > 0):
            break
        x = y / size
    yield _top(x, k)
    for factor in (8, 4, 2):
        if factor * k < n:
            support = _top(x, factor * k)
            _, x = rest.leading(support)
    yield _top(x, k)
    for j in rest.diagonal.topk(min(_STARTS, n)).indices:
        unit = torch.zeros(n, dtype=rest.A.dtype, device=rest.A.device)
        unit[j] = 1
        yield _top(rest.product(unit), k)


def _top(x: Tensor, k: int) -> Tensor:
    return x.abs().topk(k).indices.sort().values


def _best_support(rest: _Rest, k: int) -> tuple[Tensor, int]:
    """The support of the largest value among all."""
    n = len(rest.diagonal)
    best, value, count = torch.arange(k), -math.inf, 0
    every = itertools.combinations(range(n), k)
    while some := list(itertools.islice(every, _CHUNK)):
        supports = torch.tensor(some, device=rest.diagonal.device)
        tops = torch.linalg.eigvalsh(rest.blocks(supports))[:, -1]
        place = int(tops.argmax())
        if float(tops[place]) > value:
            best, value = supports[place], float(tops[place])
        count += len(some)
    return best, count


def _checked(A: Operator, nonzeros: Any, components: int, method: str, max_iter: int) -> list[int]:
    """The number of nonzeros of every component."""
    n = A.shape[-1]
    if A.batch_shape or A.shape[-2] != n or n < 1:
        raise ValueError(f"A must be one square matrix, got shape {tuple(A.shape)}")
    if real_dtype(A.dtype) not in (torch.float32, torch.float64):
        raise ValueError(f"A has dtype {A.dtype}; convert it to float32")
    if records(A):
        raise ValueError("sparse_pca has no gradient: detach A")
    for name, value in (("components", components), ("max_iter", max_iter)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
    if components > n:
        raise ValueError(f"components must be at most {n}, got {components}")
    wanted = [nonzeros] * components if isinstance(nonzeros, int) else list(nonzeros)
    if len(wanted) != components or any(
        isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= n for k in wanted
    ):
        raise ValueError(f"nonzeros must be an int from 1 to {n}, or {components} of them, got {nonzeros!r}")
    if method not in ("power", "exact"):
        raise ValueError(f"method must be 'power' or 'exact', got {method!r}")
    if method == "exact" and (most := max(math.comb(n, k) for k in wanted)) > _SUPPORTS:
        raise ValueError(f"method 'exact' compares at most {_SUPPORTS} supports, here are {most}")
    if not A.hermitian:
        probe = torch.ones(n, 2, dtype=A.dtype, device=A.device)
        probe[:, 1] = torch.linspace(-1, 2, n)
        with torch.no_grad():
            forward, back = A.detach()._matmul(probe), A.detach().H._matmul(probe)
        if not bool(torch.isfinite(forward.abs()).all()):
            raise ValueError("A contains NaN or infinity")
        size = torch.linalg.vector_norm(forward) + torch.linalg.vector_norm(back)
        if bool(torch.linalg.vector_norm(forward - back) > 1e4 * n * torch.finfo(A.dtype).eps * size):
            raise ValueError("A must be Hermitian: its products differ from those of its adjoint")
    return wanted
