"""The inverse of an empirical Fisher matrix that is never formed: products, entries, pruning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from resolvent.operators import Operator
from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.optim.optimizer import check
from resolvent.optim.work import HALF

Mode = Literal["static", "dynamic"]

# Columns that are widened to double at a time: 4 MiB of 64 gradients.
_COLUMNS = 8192


def inverse_fisher(grads: Any, damp: float = 1e-5, *, mode: Mode = "static") -> InverseFisherOperator:
    r"""The inverse of a damped empirical Fisher matrix, :math:`F = \lambda I + \frac1m \sum_i g_i g_i^T`.

    Parameters
    ----------
    grads : (m, d) gradients, one a row; of single samples or of batches
    damp : lambda, above 0
    mode : "static": products, the diagonal and entries in O(m), after O(d m^2) work. "dynamic": the gradients themselves and their m x m
        products; `update` replaces the oldest gradient in O(d m + m^3)

    Returns
    -------
    An operator of shape (d, d), of the kind of `grads`.

    Raises
    ------
    ValueError : not (m, d), NaN or infinity, damp not above 0, or gradients with a graph: there is no derivative with respect to them.

    Notes
    -----
    With the Cholesky factor L of :math:`m I + G G^T/\lambda`, rows of G the gradients, :math:`F^{-1} = I/\lambda - W^T W` where
    :math:`W = L^{-1} G / \lambda`: the rows of W are the vectors of Woodbury's recursion, found by matrix products. A product costs 2 d m
    multiplications. The m x m matrices are in double. Along the gradients F^-1 is the small difference of large numbers: the
    absolute error is the precision of the dtype times :math:`1/\lambda`.

    References
    ----------
    "M-FAC: Efficient Matrix-Free Approximations of Second-Order Information"

    Examples
    --------
    >>> F_inv = inverse_fisher(torch.tensor([[2.0, 0.0, 0.0]]), damp=0.5)
    >>> F_inv @ torch.tensor([9.0, 1.0, 1.0])
    tensor([2., 2., 2.])
    >>> F_inv.diagonal(), round(F_inv.entry(0, 0), 4)
    (tensor([0.2222, 2.0000, 2.0000]), 0.2222)
    """
    G, kind = as_tensor(grads, "grads")
    if G.ndim != 2 or 0 in G.shape:
        raise ValueError(f"grads must have shape (m, d) with m and d of at least 1, got {tuple(G.shape)}")
    if G.is_complex():
        raise TypeError("grads must be real, got a complex dtype; use torch.view_as_real")
    if G.requires_grad:
        raise ValueError("grads must not require gradients: there is no derivative with respect to them; detach them")
    check_finite(G, "grads")
    check("damp", damp, above=True)
    if mode not in ("static", "dynamic"):
        raise ValueError(f"mode must be 'static' or 'dynamic', got {mode!r}")
    G = G.float() if G.dtype in HALF else G
    m = len(G)
    if mode == "dynamic":
        return InverseFisherOperator(G.clone(), damp, m, kind, gram=gram(G))
    factor = cholesky(gram(G), damp, m)
    W = torch.empty_like(G)
    for part in columns(G.shape[1]):
        W[:, part] = torch.linalg.solve_triangular(factor, G[:, part].double() / damp, upper=False).to(W.dtype)
    # The diagonal of an inverse is at least the inverse of the diagonal, whatever is lost in the difference.
    floor = 1 / (damp + torch.linalg.vector_norm(G, dim=0).square_() / m)
    return InverseFisherOperator(W, damp, m, kind, floor=floor)


class InverseFisherOperator(Operator):
    """What `inverse_fisher` gives: an `Operator` with the diagonal, entries, pruning and (if dynamic) updates.

    Parameters
    ----------
    rows : (m, d), W of a static one, the gradients of a dynamic one
    damp : above 0
    m : what the sum of the outer products is divided by
    kind : of the results
    gram : (m, m) products of the gradients, in double; None makes it static
    floor : (d,), bounds of the diagonal from below

    Examples
    --------
    >>> F_inv = inverse_fisher(torch.eye(3)[:2], damp=1.0, mode="dynamic")
    >>> F_inv.update(torch.tensor([0.0, 0.0, 2.0]))  # in the place of the first
    >>> F_inv.diagonal()
    tensor([1.0000, 0.6667, 0.3333])
    """

    def __init__(
        self, rows: Tensor, damp: float, m: int, kind: Any, *, gram: Tensor | None = None, floor: Tensor | None = None
    ) -> None:
        d = rows.shape[1]
        super().__init__(
            (d, d), dtype=rows.dtype, device=rows.device, kind=kind, hermitian=True, positive=True, parts=(rows,)
        )
        self.damp, self.m = float(damp), m
        self._gram_matrix, self._floor = gram, floor
        self._factor = None if gram is None else cholesky(gram, damp, m)
        self._oldest = 0

    @property
    def mode(self) -> Mode:
        """How it was made."""
        return "static" if self._factor is None else "dynamic"

    @property
    def rows(self) -> Tensor:
        """(m, d): the gradients, or the rows of W."""
        found: Tensor = self._parts[0]
        return found

    def _matmul(self, X: Tensor) -> Tensor:
        inner = self.rows @ X
        if self._factor is not None:
            inner = torch.cholesky_solve(inner.double(), self._factor).div_(self.damp**2).to(X.dtype)
        return X / self.damp - self.rows.T @ inner

    def _adjoint(self) -> Operator:
        return self

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Operator:
        gram = None if self._gram_matrix is None else self._gram_matrix.to(fn(self.rows).device)
        floor = None if self._floor is None else fn(self._floor)
        found = InverseFisherOperator(fn(self.rows), self.damp, self.m, self.kind, gram=gram, floor=floor)
        found._oldest = self._oldest
        return found

    def _whitened(self, index: Tensor | slice) -> Tensor:
        """Columns of W, in double."""
        rows = self.rows[:, index].double()
        if self._factor is None:
            return rows
        return torch.linalg.solve_triangular(self._factor, rows / self.damp, upper=False)

    def _diagonal(self) -> Tensor:
        d = self.shape[-1]
        found = torch.empty(d, dtype=self.dtype, device=self.device)
        for part in columns(d):
            found[part] = (1 / self.damp - self._whitened(part).square().sum(0)).to(self.dtype)
        floor = self._floor
        if floor is None:
            floor = 1 / (self.damp + torch.linalg.vector_norm(self.rows, dim=0).square_() / self.m)
        return torch.maximum(found, floor)

    def _entries(self, rows: Tensor, cols: Tensor) -> Tensor:
        product = self._whitened(rows).T @ self._whitened(cols)
        return ((rows[:, None] == cols[None, :]) / self.damp - product).to(self.dtype)

    def diagonal(self) -> Any:
        """The diagonal, positive whatever the rounding errors.

        Returns
        -------
        (d,), in O(d m) of a static operator, O(d m^2) of a dynamic one.
        """
        return give_back(self._diagonal(), self.kind)

    def entry(self, i: int, j: int) -> float:
        """One entry of the inverse, in O(m) of a static operator, O(m^2) of a dynamic one.

        Parameters
        ----------
        i, j : from 0 to d - 1; negative ones count from the end

        Returns
        -------
        A number.
        """
        d = self.shape[-1]
        for name, k in (("i", i), ("j", j)):
            if not -d <= k < d:
                raise ValueError(f"{name} must be from {-d} to {d - 1}, got {k}")
        at = torch.tensor([i % d, j % d], device=self.device)
        return float(self._entries(at[:1], at[1:]))

    def update(self, grad: Any) -> None:
        """Replace the oldest gradient, in the order of the rows and then of the updates.

        Parameters
        ----------
        grad : (d,) the new one

        Raises
        ------
        ValueError : a static operator, another size, NaN or infinity.
        """
        if self._gram_matrix is None:
            raise ValueError("a static operator keeps no gradients; make it with mode='dynamic'")
        g = self._vector(grad, "grad")
        self.rows[self._oldest] = g
        dots = self.rows.mv(g).double()
        self._gram_matrix[self._oldest] = dots
        self._gram_matrix[:, self._oldest] = dots
        self._factor = cholesky(self._gram_matrix, self.damp, self.m)
        self._oldest = (self._oldest + 1) % len(self.rows)

    def pruning_scores(self, weights: Any) -> Any:
        r"""By how much the loss grows where one weight is removed and the others make up for it:
        :math:`w_i^2 / (2 [F^{-1}]_{ii})`.

        Parameters
        ----------
        weights : (d,)

        Returns
        -------
        (d,) scores, smallest for the weights to remove first.
        """
        w = self._vector(weights, "weights")
        return give_back(w.square() / (2 * self._diagonal()), self.kind)

    def prune(self, weights: Any, fraction: float) -> Any:
        r"""Remove the weights of the smallest scores at once, and move the others as the sum of their single
        corrections :math:`-w_i F^{-1} e_i / [F^{-1}]_{ii}` says.

        Parameters
        ----------
        weights : (d,)
        fraction : of the weights to remove, from 0 to 1

        Returns
        -------
        (d,) weights, floor(fraction * d) of them exactly zero.
        """
        check("fraction", fraction, 0.0, 1.0)
        w = self._vector(weights, "weights")
        diagonal = self._diagonal()
        drop = torch.argsort(w.square() / diagonal, stable=True)[: int(fraction * len(w))]
        pull = torch.zeros_like(w)
        pull[drop] = -w[drop] / diagonal[drop]
        kept = w + self._matmul(pull[:, None])[:, 0]
        kept[drop] = 0
        return give_back(kept, self.kind)

    def _vector(self, x: Any, name: str) -> Tensor:
        found, _ = as_tensor(x, name)
        if found.shape != self.shape[-1:]:
            raise ValueError(f"{name} must have shape ({self.shape[-1]},), got {tuple(found.shape)}")
        check_finite(found, name)
        return found.detach().to(dtype=self.dtype, device=self.device)


def columns(d: int) -> Iterator[slice]:
    """Slices of columns that are worked on at a time."""
    return (slice(start, min(start + _COLUMNS, d)) for start in range(0, d, _COLUMNS))


def gram(G: Tensor) -> Tensor:
    """Products of the rows, in double."""
    found = torch.zeros(len(G), len(G), dtype=torch.float64, device=G.device)
    for part in columns(G.shape[1]):
        C = G[:, part].double()
        found.addmm_(C, C.T)
    return found


def cholesky(products: Tensor, damp: float, m: int) -> Tensor:
    """The factor of m I + products / damp, whose eigenvalues are at least m."""
    K = products / damp
    K.diagonal().add_(m)
    factor, failed = torch.linalg.cholesky_ex(K)
    if bool(failed) and bool(torch.isfinite(K).all()):
        # Products of float32 gradients that are nearly parallel can lose the sign of their smallest eigenvalues.
        w, Q = torch.linalg.eigh(K)
        factor = torch.linalg.qr(w.clamp_min(m).sqrt()[:, None] * Q.T).R
        factor = (factor * factor.diagonal().sign()[:, None]).T.contiguous()
    return factor
