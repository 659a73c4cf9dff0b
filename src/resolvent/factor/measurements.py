"""Linear measurements of a matrix, as operators on its entries row by row, and how well they keep its shape."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from resolvent.operators import Dense, MatrixFree, Operator, Sparse, as_operator
from resolvent.operators.arrays import as_tensor, check_finite
from resolvent.random import GeneratorLike, as_generator, gaussian

Shape = tuple[int, int]


class SignRip(NamedTuple):
    """Of :func:`sign_rip`.

    Attributes
    ----------
    delta : the largest deviation, relative to `scale`; infinite where `scale` is not positive
    scale : the mean of ``<D(X), X / ||X||_F>``; sqrt(2 / pi) for Gaussian measurements without noise
    """

    delta: float
    scale: float


def gaussian_measurements(
    m: int,
    shape: Shape,
    *,
    isotropic: bool = False,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    generator: GeneratorLike = None,
) -> Operator:
    r"""m inner products :math:`\langle A_i, X\rangle` with matrices of independent standard normal entries.

    Parameters
    ----------
    m : number of measurements
    shape : (n1, n2) of X
    isotropic : divide by sqrt(m), so that the squared length of the measurements is :math:`\|X\|_F^2` in the mean
    dtype, device : of the operator
    generator : randomness

    Returns
    -------
    Operator : (m, n1 n2), for the entries of X row by row

    Raises
    ------
    ValueError : a size is not a positive int.

    Notes
    -----
    m n1 n2 numbers.

    Examples
    --------
    >>> gaussian_measurements(5, (3, 4), generator=0).shape
    torch.Size([5, 12])
    """
    n1, n2 = check_sizes(m, shape)
    A = gaussian((m, n1 * n2), dtype, device, generator)
    return Dense(A / m**0.5 if isotropic else A)


def rank_one_measurements(a: Any, b: Any = None) -> Operator:
    r"""The m numbers :math:`a_i^T X b_i`, without the matrices :math:`a_i b_i^T`.

    Parameters
    ----------
    a : (m, n1) real
    b : (m, n2) real; default `a`

    Returns
    -------
    Operator : (m, n1 n2), for the entries of X row by row

    Raises
    ------
    ValueError : shapes that do not match, NaN or infinity.

    Notes
    -----
    A product costs m n1 n2 as one matrix product, and m (n1 + n2) numbers are kept.

    Examples
    --------
    >>> rank_one_measurements(torch.tensor([[1.0, 2.0]])) @ torch.ones(4)
    tensor([9.])
    """
    a, kind = as_tensor(a, "a")
    b = a if b is None else as_tensor(b, "b")[0]
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b):
        raise ValueError(f"a and b must have shapes (m, n1) and (m, n2), got {tuple(a.shape)} and {tuple(b.shape)}")
    if a.dtype != b.dtype or a.is_complex():
        raise ValueError(f"a and b must be real and of one dtype, got {a.dtype} and {b.dtype}")
    check_finite(a, "a")
    check_finite(b, "b")
    n1, n2 = a.shape[1], b.shape[1]

    def forward(x: Tensor) -> Tensor:
        inner = torch.einsum("mi,ijc->mjc", a, torch.as_tensor(x).reshape(n1, n2, -1))
        return torch.einsum("mjc,mj->mc", inner, b)

    def adjoint(y: Tensor) -> Tensor:
        return torch.einsum("mi,mc,mj->ijc", a, torch.as_tensor(y), b).reshape(n1 * n2, -1)

    return MatrixFree((len(a), n1 * n2), forward, adjoint, dtype=a.dtype, device=a.device, kind=kind)


def entry_measurements(
    rows: Any, cols: Any, shape: Shape, weights: Any = None, *, dtype: torch.dtype = torch.float64
) -> Operator:
    """The entries of X at given places, weighted.

    Parameters
    ----------
    rows, cols : (m,) ints
    shape : (n1, n2) of X
    weights : (m,) real; default ones
    dtype : of the default weights

    Returns
    -------
    Operator : (m, n1 n2), sparse, for the entries of X row by row

    Raises
    ------
    ValueError : an index out of range, or vectors of different lengths.

    Examples
    --------
    >>> entry_measurements([0, 1], [1, 0], (2, 2)) @ torch.arange(4.0).double()
    tensor([1., 2.], dtype=torch.float64)
    """
    rows, cols = torch.as_tensor(rows), torch.as_tensor(cols)
    n1, n2 = check_sizes(max(len(rows), 1), shape)
    values = torch.ones(len(rows), dtype=dtype) if weights is None else as_tensor(weights, "weights")[0]
    if rows.shape != cols.shape or rows.shape != values.shape or rows.ndim != 1:
        found = [tuple(t.shape) for t in (rows, cols, values)]
        raise ValueError(f"rows, cols and weights must be vectors of one length, got {found}")
    for name, t, n in (("row", rows, n1), ("column", cols, n2)):
        if len(t) and (int(t.min()) < 0 or int(t.max()) >= n):
            raise ValueError(f"a {name} index is out of range for {n} {name}s")
    places = torch.stack([torch.arange(len(rows)), rows.long() * n2 + cols.long()]).to(values.device)
    return Sparse(
        torch.sparse_coo_tensor(places, values, (len(rows), n1 * n2), is_coalesced=True, check_invariants=False)
    )


def sign_rip(
    measure: Any,
    shape: Shape,
    rank: int,
    *,
    trials: int = 20,
    noise: Any = None,
    generator: GeneratorLike = None,
) -> SignRip:
    r"""How far :math:`D(X) = \frac1m \sum_i \operatorname{sign}(\langle A_i, X\rangle - s_i) A_i` is from a multiple of
    :math:`X / \|X\|_F`, over random matrices of low rank.

    Parameters
    ----------
    measure : (m, n1 n2) operator
    shape : (n1, n2)
    rank : of the random matrices, whose Frobenius norm is 1, and of the directions in which deviations count
    trials : how many
    noise : (m,) the noise s of the measurements; default none
    generator : randomness

    Returns
    -------
    SignRip

    Raises
    ------
    ValueError : sizes that do not match, `trials` below 1, or noise that is not finite.

    Notes
    -----
    A lower bound of the constant of Sign-RIP, which is a maximum over all X. The deviation is the length of its `rank`
    leading singular values.

    References
    ----------
    "Global Convergence of Sub-gradient Method for Robust Matrix Recovery: Small Initialization, Noisy Measurements, and Over-parameterization"

    Examples
    --------
    >>> A = gaussian_measurements(4000, (5, 5), generator=0)
    >>> found = sign_rip(A, (5, 5), 1, generator=1)
    >>> found.delta < 0.2, abs(found.scale - (2 / torch.pi) ** 0.5) < 0.05
    (True, True)
    """
    A = check_measure(measure, shape)
    m, (n1, n2) = A.shape[0], shape
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= min(shape):
        raise ValueError(f"rank must be an int from 1 to {min(shape)}, got {rank!r}")
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise ValueError(f"trials must be a positive int, got {trials!r}")
    source = as_generator(generator, A.device)
    s = torch.zeros(m, dtype=A.dtype, device=A.device) if noise is None else as_tensor(noise, "noise")[0].to(A.device)
    if tuple(s.shape) != (m,):
        raise ValueError(f"noise must have shape ({m},), got {tuple(s.shape)}")
    check_finite(s, "noise")
    X = gaussian((trials, n1, rank), A.dtype, A.device, source) @ gaussian(
        (trials, rank, n2), A.dtype, A.device, source
    )
    X = X / torch.linalg.matrix_norm(X)[:, None, None]
    y = A._matmul(X.reshape(trials, -1).mT)
    D = (A.H._matmul(torch.sign(y - s[:, None])) / m).mT.reshape(trials, n1, n2)
    scale = (D * X).sum((-2, -1)).mean()
    far = torch.linalg.svdvals(D - scale * X)[:, :rank]
    delta = torch.linalg.vector_norm(far, dim=1).max() / scale
    return SignRip(float(delta) if bool(scale > 0) else float("inf"), float(scale))


def check_sizes(m: int, shape: Any) -> Shape:
    """A number of measurements and a shape that are positive."""
    if isinstance(m, bool) or not isinstance(m, int) or m < 1:
        raise ValueError(f"m must be a positive int, got {m!r}")
    if len(shape) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape):
        raise ValueError(f"shape must be two positive ints, got {shape!r}")
    return shape[0], shape[1]


def check_measure(measure: Any, shape: Any, name: str = "measure") -> Operator:
    """Measurements of matrices of this shape."""
    n1, n2 = check_sizes(1, shape)
    A = as_operator(measure, name="measure")
    if A.ndim != 2 or A.shape[1] != n1 * n2:
        raise ValueError(f"{name} must have shape (m, {n1 * n2}) for matrices of shape {shape}, got {tuple(A.shape)}")
    if A.is_complex:
        raise ValueError(f"{name} must be real, got {A.dtype}")
    return A


def check_measured(y: Any, A: Operator) -> Tensor:
    """The measurements in the dtype and on the device of the operator."""
    t, _ = as_tensor(y, "y")
    if tuple(t.shape) != (A.shape[0],):
        raise ValueError(f"y must have shape ({A.shape[0]},), got {tuple(t.shape)}")
    if t.is_complex():
        raise ValueError(f"y must be real, got {t.dtype}")
    check_finite(t, "y")
    if not bool(t.any()):
        raise ValueError("y is zero: nothing is there to be found")
    return t.to(A.device, A.dtype)
