"""Matrix sensing lifted to tensor powers: spurious minima become saddles, with a way down from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.factor.measurements import check_measure, check_measured
from resolvent.operators import Dense, Kronecker, Operator
from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.operators.gradient import records

# Numbers in the outer product w w^T of a lifted point, which its gradient forms.
_LARGEST = 1 << 24


class Escape(NamedTuple):
    """Of :meth:`LiftedSensing.escape`.

    Attributes
    ----------
    x : the point found, of the shape of the one left
    misfit : ``||A(x x^T) - y||^2`` there
    steps : of gradient descent in the lifted space
    curvature : the smallest eigenvalue of the lifted Hessian at the start
    """

    x: Any
    misfit: float
    steps: int
    curvature: float


class LiftedSensing:
    r"""The problem :math:`h(w) = \|\langle A^{\otimes l}, w w^T\rangle - y^{\otimes l}\|^2` over tensors w of order l.

    Made by :func:`lifted_sensing`. A matrix X of rank r is the vector x of its n r entries, row by row, and
    :math:`w = x^{\otimes l}` is its lift.

    Attributes
    ----------
    order : l
    shape : (n, r) of X
    """

    def __init__(self, matrices: Tensor, y: Tensor, order: int, shape: tuple[int, int]) -> None:
        self.order, self.shape = order, shape
        self._A, self._y = matrices, y
        self._n = matrices.shape[-1]
        self._weighted = torch.einsum("m,mij->ij", y, matrices)

    def misfit(self, x: Any) -> Any:
        """``||A(X X^T) - y||^2``, the objective that is lifted. Differentiable in x."""
        t, kind = self._point(x)
        return give_back((((self._A @ t) @ t) - self._y).square().sum(), kind)

    def lift(self, x: Any) -> Any:
        """The tensor power of x, of shape (n r, ..., n r)."""
        t, kind = self._point(x)
        w = t
        for _ in range(self.order - 1):
            w = w[..., None] * t
        return give_back(w, kind)

    def objective(self, w: Any) -> Any:
        """h at any tensor w of order l. Differentiable in w."""
        t, kind = self._tensor(w)
        product, gram = self._forms(t)
        outer = t.reshape(-1, 1) * t.reshape(1, -1)
        value = (gram * outer).sum() - 2 * (product * t.reshape(-1)).sum() + (self._y @ self._y) ** self.order
        return give_back(value, kind)

    def gradient(self, w: Any) -> Any:
        """The gradient of h at any tensor w of order l."""
        t, kind = self._tensor(w)
        product, gram = self._forms(t)
        return give_back((4 * (gram @ t.reshape(-1) - product)).reshape(t.shape), kind)

    def hessian(self, x: Any) -> Operator:
        r"""The Hessian of h at the lift of x, a sum of three Kronecker powers that is never formed:
        :math:`4 P^{\otimes l} - 4 Q^{\otimes l} + 8 S^{\otimes l}` with :math:`P = A^*A(xx^T)`, :math:`Q = A^* y` and
        :math:`S = \sum_i A_i x x^T A_i`."""
        t, _ = self._point(x)
        powers = [Kronecker(*[Dense(G).declare(hermitian=True)] * self.order) for G in self.forms(t)]
        H = 4.0 * powers[0] - 4.0 * powers[1] + 8.0 * powers[2]
        return H.declare(hermitian=True)

    def hessian_min(self, x: Any, *, rtol: float | None = None) -> tuple[float, Any]:
        """The smallest eigenvalue of `hessian` and its eigenvector, by Lanczos where it is large."""
        from resolvent.spectra import eigsh

        t, kind = self._point(x)
        H = self.hessian(t.detach())
        # Sums of Kronecker powers have clusters of eigenvalues, which Lanczos separates slowly.
        method: Literal["dense", "auto"] = "dense" if H.shape[-1] <= 800 else "auto"
        with torch.no_grad():
            values, vectors = eigsh(H, 1, which="SA", rtol=rtol, generator=0, method=method)
        return float(values[0]), give_back(vectors[:, 0].reshape([self._n] * self.order), kind)

    def required_order(self, x: Any, *, largest: int = 999) -> int | None:
        r"""The smallest odd order at which the lift of x is known to be a strict saddle, or None up to `largest`.

        The curvature along the lift of a direction u is :math:`4 (p^l - q^l) + 8 s^l` with p, q and s the values of the
        forms P, Q and S of `hessian` at u: negative for all large odd l where q is above both |p| and s. Tried are the
        lowest eigenvector of P - Q, as in the paper, and the direction that maximises q / s.
        """
        t, _ = self._point(x)
        found = [
            order
            for u in self._directions(t)
            if (order := next((k for k in range(1, largest + 1, 2) if self.curvature(t, u, k) < 0), None)) is not None
        ]
        return min(found, default=None)

    def curvature(self, x: Any, u: Any, order: int | None = None) -> float:
        """The Rayleigh quotient of the Hessian at the lift of x along the lift of u, for any order."""
        t, _ = self._point(x)
        u = self._point(u)[0]
        if not bool(u.any()):
            raise ValueError("u must not be zero: it is a direction")
        u = u / torch.linalg.vector_norm(u)
        p, q, s = (float(u @ G @ u) for G in self.forms(t))
        k = self.order if order is None else order
        return 4 * (p**k - q**k) + 8 * s**k

    def project(self, w: Any) -> Any:
        """The x whose lift is the best approximation of a symmetric tensor w that the power method finds."""
        t, kind = self._tensor(w)
        if not bool(t.any()):
            raise ValueError("w must not be zero: every direction is as near to it as any other")
        unfolded = t.reshape(self._n, -1)
        u = torch.linalg.svd(unfolded, full_matrices=False)[0][:, 0]
        for _ in range(200):
            v = self._contracted(t, u)
            v = v / torch.linalg.vector_norm(v)
            near = bool(torch.linalg.vector_norm(v - u) <= 1e-14)
            u = v
            if near:
                break
        size = self._contracted(t, u) @ u
        return give_back((torch.sign(size) * size.abs() ** (1 / self.order) * u).reshape(self._outer_shape()), kind)

    def descend(self, x: Any, *, rtol: float = 1e-10, max_steps: int = 5000) -> Any:
        """Gradient descent from x in the space that is not lifted, until the gradient has decreased by `rtol`.

        Raises
        ------
        ConvergenceError : it has not after `max_steps`; `best` is the last point.
        """
        t, kind = self._point(x)
        found, left = self._descended(t.detach(), rtol, max_steps)
        found = give_back(found.reshape(self._outer_shape()), kind)
        if left > rtol:
            raise ConvergenceError(
                f"descend: the gradient is {left:.2g} of its parts at the start after {max_steps} steps, asked for {rtol:.2g}",
                best=found,
                error=left,
            )
        return found

    def _descended(self, x: Tensor, rtol: float, max_steps: int) -> tuple[Tensor, float]:
        """Where descent from x ends, and its gradient relative to that of the parts at x; 0 if no step decreases it."""

        def value_and_gradient(x: Tensor) -> tuple[Tensor, Tensor]:
            Ax = self._A @ x
            residual = Ax @ x - self._y
            return residual @ residual, 4 * (residual @ Ax)

        # The size of the gradient's two parts at x: a start that is nearly a solution has a small gradient.
        scale = 4 * float(torch.linalg.matrix_norm(self._weighted) * torch.linalg.vector_norm(x))
        found, steps = _gradient_descent(value_and_gradient, x, rtol * scale, max_steps)
        left = float(torch.linalg.vector_norm(value_and_gradient(found)[1])) if steps == max_steps else 0.0
        return found, left / scale if left else 0.0

    def escape(self, x: Any, *, shift: float = 0.1, rtol: float = 1e-4, max_steps: int = 2000) -> Escape:
        """Leave a spurious minimum x: descend from near its lift, project, and descend on from there.

        Parameters
        ----------
        x : the point to leave
        shift : of the lift along the lowest eigenvector of the Hessian, relative to the lift's length
        rtol : the descent in the lifted space ends when its gradient has decreased by this factor
        max_steps : of that descent

        Raises
        ------
        ValueError : the lift of x is no strict saddle at this order, or w w^T has more than 2^24 entries.
        """
        t, kind = self._point(x)
        t = t.detach()
        lowest, v = self.hessian_min(t)
        w = self.lift(t)
        if lowest >= 0:
            needed = self.required_order(t)
            hint = "none up to 999 is known to" if needed is None else f"order {needed} does"
            raise ValueError(
                f"the lifted Hessian is positive at order {self.order} ({lowest:.2g}): {hint} leave this point"
            )
        v = torch.as_tensor(v)
        # Both ways along v go down at first, and may end in different places.
        v = v * (shift * torch.linalg.vector_norm(w) / torch.linalg.vector_norm(v))
        tried = []
        for sign in (1.0, -1.0):
            near = (w + sign * v).reshape(-1)
            tolerance = rtol * float(torch.linalg.vector_norm(self._lifted(near)[1]))
            found, steps = _gradient_descent(self._lifted, near, tolerance, max_steps)
            z, _ = self._descended(self.project(found.reshape(w.shape)).reshape(-1), 1e-10, 5000)
            z = z.reshape(self._outer_shape())
            tried.append((float(self.misfit(z)), steps, z))
        misfit, steps, z = min(tried, key=lambda one: one[0])
        return Escape(give_back(z, kind), misfit, steps, lowest)

    def _lifted(self, w: Tensor) -> tuple[Tensor, Tensor]:
        t = w.reshape([self._n] * self.order)
        product, gram = self._forms(t)
        pulled = gram @ w
        return pulled @ w - 2 * (product @ w) + (self._y @ self._y) ** self.order, 4 * (pulled - product)

    def _forms(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Q^(x l) w, and the matrix of the l-th power of A^* A applied to w w^T."""
        n, k = self._n, self.order
        flat = w.reshape(-1)
        if len(flat) ** 2 > _LARGEST:
            raise ValueError(
                f"w w^T has {len(flat) ** 2} entries at order {k}, the most is {_LARGEST}; lower the order"
            )
        G = torch.einsum("mij,mkl->ijkl", self._A, self._A).reshape(n * n, n * n)
        T = (flat[:, None] * flat).reshape([n] * (2 * k))
        paired = [axis for a in range(k) for axis in (a, k + a)]
        back = [*range(0, 2 * k, 2), *range(1, 2 * k, 2)]
        T = Kronecker(*[Dense(G)] * k)._matmul(T.permute(paired).reshape(-1, 1))
        gram = T.reshape([n] * (2 * k)).permute(back).reshape(len(flat), len(flat))
        product = Kronecker(*[Dense(self._weighted)] * k)._matmul(flat[:, None])[:, 0]
        return product, gram

    def forms(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """P, Q and S of `hessian` at the vector x."""
        Ax = self._A @ x
        return torch.einsum("m,mij->ij", Ax @ x, self._A), self._weighted, Ax.mT @ Ax

    def _directions(self, x: Tensor) -> list[Tensor]:
        P, Q, S = self.forms(x)
        lowest = torch.linalg.eigh(P - Q).eigenvectors[:, 0]
        w, V = torch.linalg.eigh(S)
        root = V * w.clamp(min=float(w[-1]) * 1e-8).rsqrt()
        best = root @ torch.linalg.eigh(root.mT @ Q @ root).eigenvectors[:, -1]
        return [lowest, best]

    def _contracted(self, w: Tensor, u: Tensor) -> Tensor:
        """w with u in all places but the first."""
        for _ in range(self.order - 1):
            w = w @ u
        return w

    def _outer_shape(self) -> tuple[int, ...]:
        return (self._n,) if self.shape[1] == 1 else self.shape

    def _point(self, x: Any) -> tuple[Tensor, Any]:
        t, kind = as_tensor(x, "x")
        if tuple(t.shape) not in (self.shape, (self._n,)):
            raise ValueError(f"x must have shape {self._outer_shape()}, got {tuple(t.shape)}")
        check_finite(t, "x")
        return t.reshape(-1).to(self._A.dtype), kind

    def _tensor(self, w: Any) -> tuple[Tensor, Any]:
        t, kind = as_tensor(w, "w")
        wanted = (self._n,) * self.order
        if tuple(t.shape) != wanted:
            raise ValueError(f"w must have shape {wanted}, got {tuple(t.shape)}")
        check_finite(t, "w")
        return t.to(self._A.dtype), kind


def lifted_sensing(measure: Any, y: Any, n: int, *, rank: int = 1, order: int = 3) -> LiftedSensing:
    r"""Matrix sensing :math:`\min_X \|A(X X^T) - y\|^2` lifted to tensors of odd order.

    Parameters
    ----------
    measure : (m, n n) operator on the entries of a symmetric matrix row by row
    y : (m,)
    n : rows of X
    rank : columns of X
    order : l, odd; 1 is the problem itself

    Returns
    -------
    LiftedSensing

    Raises
    ------
    ValueError : sizes that do not match, an order that is not odd, or a gradient of `measure` is wanted: there is none.

    Notes
    -----
    A local minimum X of the problem that is far from the solution lifts to a strict saddle once l is large enough: the
    smallest such order is `LiftedSensing.required_order`, for any l and without a tensor. Hessians at lifts cost
    l (n r)^(l + 1) a product; objective and gradient at a general w form w w^T, with (n r)^(2 l) entries.

    References
    ----------
    "Over-parametrization via Lifting for Low-rank Matrix Sensing: Conversion of Spurious Solutions to Strict Saddle Points"

    Examples
    --------
    >>> from resolvent.factor import spurious_instance
    >>> trap = spurious_instance(3, 0.5)
    >>> lifted = lifted_sensing(trap.measure, trap.y, 3, order=3)
    >>> x = trap.points[0]
    >>> lifted_sensing(trap.measure, trap.y, 3, order=1).hessian_min(x)[0] > 0, lifted.hessian_min(x)[0] < 0
    (True, True)
    >>> lifted.escape(x).misfit < 1e-12
    True
    """
    A = check_measure(measure, (n, n))
    target = check_measured(y, A)
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= n:
        raise ValueError(f"rank must be an int from 1 to {n}, got {rank!r}")
    if isinstance(order, bool) or not isinstance(order, int) or order < 1 or order % 2 == 0:
        raise ValueError(f"order must be an odd int of at least 1, got {order!r}")
    if records(A):
        raise ValueError("lifted_sensing has no gradient in measure: detach it")
    matrices = A.detach().H._matmul(torch.eye(A.shape[0], dtype=A.dtype, device=A.device)).mT.reshape(-1, n, n)
    # Only the symmetric part acts on X X^T. A tensor power of one that is not would act on w w^T.
    matrices = (matrices + matrices.mT) / 2
    if rank > 1:
        # <A, X X^T> is the form of A (x) I at the entries of X, so that rank r is rank one in n r dimensions.
        eye = torch.eye(rank, dtype=A.dtype, device=A.device)
        matrices = torch.einsum("mij,ab->miajb", matrices, eye).reshape(len(matrices), n * rank, n * rank)
    return LiftedSensing(matrices, target, order, (n, rank))


def _gradient_descent(
    value_and_gradient: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor, tolerance: float, max_steps: int
) -> tuple[Tensor, int]:
    """Steps along the gradient, halved until they decrease the value enough and doubled after success, until the
    gradient is below the tolerance."""
    value, gradient = value_and_gradient(x)
    size = 1.0 / max(float(torch.linalg.vector_norm(gradient)), 1e-300)
    for step in range(max_steps):
        square = float(gradient @ gradient)
        if square <= tolerance * tolerance:
            return x, step
        while True:
            new = x - size * gradient
            found, slope = value_and_gradient(new)
            if float(found) <= float(value) - 0.5 * size * square:
                break
            size /= 2
            if size * square <= 1e-17 * abs(float(value)) or size < 1e-300:
                # The value does not decrease any more in these numbers.
                return x, step
        x, value, gradient = new, found, slope
        size *= 2
    if not bool(torch.isfinite(x).all()):
        raise ConvergenceError("gradient descent left the range of the numbers")
    return x, max_steps
