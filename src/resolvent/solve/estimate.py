"""Linear estimators of least variance for a bounded bias, their strength chosen by cross validation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from resolvent.info import Info
from resolvent.operators.arrays import as_tensor, check_finite, give_back_array
from resolvent.random import GeneratorLike, as_generator
from resolvent.solve.shrinkage import Bias, checked_strength, exponent, factors

Validation = int | Literal["gcv"]


@dataclass(frozen=True)
class EstimateInfo(Info):
    """Report of `linear_estimator`: `Info` and what the cross validation saw.

    Attributes
    ----------
    strength : that of the estimator
    flatness : :math:`|L|_F^2`, its variance for noise of variance 1
    grid : strengths that were tried, empty where it was given
    scores : mean squared error of each by cross validation

    Examples
    --------
    >>> EstimateInfo("frobenius", strength=0.1).strength
    0.1
    """

    strength: float = 0.0
    flatness: float = 0.0
    grid: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()


class _Factors(NamedTuple):
    """X = U diag(s) V^H with what is zero to working precision set to zero."""

    U: Tensor
    s: Tensor
    Vh: Tensor


def linear_estimator(
    X: Any,
    y: Any,
    bias: Bias = "frobenius",
    strength: Any = None,
    *,
    cv: Validation = 5,
    generator: GeneratorLike = 0,
    return_info: bool = False,
) -> Any:
    r"""Coefficients :math:`L y` with :math:`L = \mathrm{argmin} |L|_F` among all with :math:`|L X - I|_p \le C`.

    Parameters
    ----------
    X : (*batch, n, d) real matrix, of any rank
    y : (n,), or (*batch, n, k)
    bias : the Schatten norm of the bias: "frobenius" (ridge regression), "nuclear", "spectral" or p, see
        `schatten_filter`
    strength : see `schatten_filter`; a number or a 0-d tensor, None chooses by cross validation
    cv : number of folds, or "gcv" (generalised cross validation, from one SVD)
    generator : of the folds
    return_info : also return an `EstimateInfo`

    Returns
    -------
    (*batch, d) or (*batch, d, k) of the kind of X, or with the info as a pair.

    Raises
    ------
    ValueError : shapes that do not fit, NaN, a strength out of range, too few rows for the folds, a batch without a
        strength, a gradient to a rank-deficient X where the filter is not smooth at 0
    TypeError : complex input, or dtypes that differ

    Notes
    -----
    One SVD, then :math:`V \mathrm{diag}(a) U^T y` with the factors of `schatten_filter`: 2 n d min(n, d) multiples of a
    flop; in cross validation one SVD for each fold serves all strengths. Where X has not full column rank, the bias is
    bounded on its row space. First-order gradients to X, y and the strength, also at repeated singular values: the
    derivative of a function of singular values needs their divided differences only.

    References
    ----------
    "Flat Minima in Linear Estimation and an Extended Gauss Markov Theorem"

    Examples
    --------
    >>> X, y = torch.tensor([[2.0, 0.0], [0.0, 0.5], [0.0, 0.0]]), torch.ones(3)
    >>> linear_estimator(X, y, "nuclear", 1.0), linear_estimator(X, y, "spectral", 0.5)
    (tensor([0.5000, 0.5000]), tensor([0.2500, 1.0000]))
    """
    A, b, kind, single = _data(X, y)
    p = exponent(bias)
    grid: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    if strength is None:
        with torch.no_grad():
            grid, scores = _validated(A.detach(), b.detach(), p, cv, generator)
        strength = grid[min(range(len(grid)), key=scores.__getitem__)]
    alpha = checked_strength(strength, p, A)
    if alpha.ndim:
        raise ValueError(f"strength must be a number, got shape {tuple(alpha.shape)}")
    if torch.is_grad_enabled() and (A.requires_grad or alpha.requires_grad):
        L = _Estimator.apply(A, alpha, p)
        coefficients, flatness = L @ b, float((L.detach() ** 2).sum())
    else:
        f = _factors(A)
        a = factors(f.s, p, alpha)
        coefficients, flatness = f.Vh.mT @ (a[..., None] * (f.U.mT @ b)), float((a**2).sum())
    value = give_back_array(coefficients[..., 0] if single else coefficients, kind)
    if not return_info:
        return value
    return value, EstimateInfo(str(bias), strength=float(alpha), flatness=flatness, grid=grid, scores=scores)


def _data(X: Any, y: Any) -> tuple[Tensor, Tensor, Any, bool]:
    A, kind = as_tensor(X, "X")
    b, _ = as_tensor(y, "y")
    if A.ndim < 2 or 0 in A.shape[-2:]:
        raise ValueError(f"X must have shape (..., n, d) with n, d of at least 1, got {tuple(A.shape)}")
    single = b.ndim == 1
    b = b[:, None] if single else b
    if b.ndim < 2 or b.shape[-2] != A.shape[-2]:
        raise ValueError(f"y must have n = {A.shape[-2]} rows, got shape {tuple(b.shape)}")
    if A.is_complex() or b.is_complex():
        raise TypeError(f"X and y must be real, got {A.dtype} and {b.dtype}")
    if A.dtype != b.dtype:
        if kind == "torch" and isinstance(y, Tensor):
            raise TypeError(f"X has dtype {A.dtype}, y {b.dtype}; convert one of them")
        b = b.to(A.dtype)
    check_finite(A, "X")
    check_finite(b, "y")
    return A, b, kind, single


def _factors(A: Tensor) -> _Factors:
    U, s, Vh = torch.linalg.svd(A, full_matrices=False)
    cut = torch.finfo(s.dtype).eps * max(A.shape[-2:]) * s[..., :1]
    return _Factors(U, torch.where(s > cut, s, 0), Vh)


def _validated(
    A: Tensor, b: Tensor, p: float, cv: Validation, generator: GeneratorLike
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Strengths and their mean squared errors on rows that were left out."""
    if A.ndim != 2 or b.ndim != 2:
        raise ValueError(f"cross validation takes one matrix, got a batch {tuple(A.shape[:-2])}: give a strength")
    n = A.shape[0]
    if cv != "gcv" and (isinstance(cv, bool) or not isinstance(cv, int) or not 2 <= cv <= n):
        raise ValueError(f"cv must be 'gcv' or from 2 to the number of rows, {n}, got {cv!r}")
    if p == math.inf:
        grid = torch.linspace(0, 1, 101, dtype=torch.float64)
    else:
        size = float(torch.linalg.matrix_norm(A)) ** 2 / min(A.shape)
        if size == 0:
            raise ValueError("X is zero: no strength can be chosen")
        grid = torch.cat([torch.zeros(1), torch.logspace(-8, 4, 97, dtype=torch.float64)]) * size
    alphas = grid.to(A)
    if cv == "gcv":
        f = _factors(A)
        filtered = factors(f.s, p, alphas[:, None])
        residual = _residuals(f.U * f.s, filtered, f.U.mT @ b, b)
        left = n - (filtered * f.s).sum(1)
        # Where every row has a parameter of its own, the criterion is 0 / 0.
        safe = left > n * 1e-8
        scores = torch.where(safe, n * residual / torch.where(safe, left, 1) ** 2, math.inf)
        if not bool(torch.isfinite(scores).any()):
            raise ValueError("generalised cross validation fails where every estimator interpolates: use folds")
    else:
        order = torch.randperm(n, generator=as_generator(generator)).to(A.device)
        scores = torch.zeros_like(alphas)
        for fold in order.tensor_split(cv):
            kept = torch.ones(n, dtype=torch.bool, device=A.device)
            kept[fold] = False
            f = _factors(A[kept])
            scores += _residuals(A[fold] @ f.Vh.mT, factors(f.s, p, alphas[:, None]), f.U.mT @ b[kept], b[fold])
        scores = scores / n
    return tuple(grid.tolist()), tuple((scores / b.shape[1]).tolist())


def _residuals(features: Tensor, filtered: Tensor, inside: Tensor, b: Tensor) -> Tensor:
    """Sums of squares of b - features diag(a) inside for every row a of `filtered`."""
    predicted = torch.einsum("ik,gk,kj->gij", features, filtered, inside)
    return ((b - predicted) ** 2).sum((1, 2))


class _Estimator(torch.autograd.Function):
    """L = V diag(a(s)) U^T."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, alpha: Tensor, p: float) -> Tensor:
        f = _factors(A)
        ctx.p = p
        ctx.save_for_backward(*f, alpha)
        return f.Vh.mT @ (factors(f.s, p, alpha)[..., None] * f.U.mT)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        U, s, Vh, alpha = ctx.saved_tensors
        p = ctx.p
        with torch.enable_grad():
            x, c = s.detach().requires_grad_(), alpha.detach().requires_grad_()
            a = factors(x, p, c)
            (slope,) = torch.autograd.grad(a.sum(), x, retain_graph=True)
            inside = (Vh @ grad @ U).diagonal(dim1=-2, dim2=-1)
            (to_alpha,) = torch.autograd.grad((a * inside).sum(), c, allow_unused=True)
        if not ctx.needs_input_grad[0]:
            return None, to_alpha, None
        zero = s == 0
        if bool(zero.any()) and (p == math.inf or float(alpha) == 0):
            raise ValueError("X has not full rank: this estimator has no gradient to it, only those with a strength do")
        # At 0 every other filter begins as s / alpha.
        steep = 1 / torch.where(alpha > 0, alpha, 1)
        a = a.detach()
        ratio = torch.where(zero, steep, a / torch.where(zero, 1, s))
        slope = torch.where(zero, steep, slope)
        gap, total = s[..., :, None] - s[..., None, :], s[..., :, None] + s[..., None, :]
        near = gap.abs() <= torch.finfo(s.dtype).eps ** 0.5 * total
        even = torch.where(
            near,
            (slope[..., :, None] + slope[..., None, :]) / 2,
            (a[..., :, None] - a[..., None, :]) / torch.where(near, 1, gap),
        )
        odd = torch.where(total > 0, (a[..., :, None] + a[..., None, :]) / torch.where(total > 0, total, 1), steep)
        G = grad.mT
        M = U.mT @ G @ Vh.mT
        core = U @ (even * (M + M.mT) / 2 + odd * (M - M.mT) / 2) @ Vh
        # The parts outside of the column and the row space; one of them is empty for thin factors.
        left = G @ Vh.mT - U @ M
        right = U.mT @ G - M @ Vh
        return core + (left * ratio[..., None, :]) @ Vh + U @ (ratio[..., :, None] * right), to_alpha, None


class SchattenRegressor:
    """`linear_estimator` as a regressor with an intercept and kernels, in the manner of scikit-learn.

    Parameters
    ----------
    bias, strength, cv, generator : see `linear_estimator`
    fit_intercept : centre the features and the targets
    kernel : function (X (m, d), Z (n, d)) -> (m, n) of a positive semidefinite kernel, or None for the linear one. The
        estimator then acts on the features of the kernel, which its Gram matrix gives.

    Attributes
    ----------
    coef_ : (d,) or (k, d); with a kernel, the weights of the rows that it was fitted to
    intercept_ : number or (k,)
    strength_ : the strength chosen

    Notes
    -----
    Linear: see `linear_estimator`. A kernel costs an eigendecomposition of its Gram matrix, 9 n^3 flops, once; the
    folds use its features. No gradients: use `linear_estimator`.

    References
    ----------
    "Flat Minima in Linear Estimation and an Extended Gauss Markov Theorem"

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> round(SchattenRegressor("nuclear").fit(X[:200], y[:200]).score(X[200:], y[200:]), 1)
    0.5
    """

    def __init__(
        self,
        bias: Bias = "frobenius",
        strength: float | None = None,
        *,
        cv: Validation = 5,
        fit_intercept: bool = True,
        kernel: Callable[[Any, Any], Any] | None = None,
        generator: GeneratorLike = 0,
    ) -> None:
        self.bias, self.strength, self.cv = bias, strength, cv
        self.fit_intercept, self.kernel, self.generator = fit_intercept, kernel, generator

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name."""
        return {k: getattr(self, k) for k in ("bias", "strength", "cv", "fit_intercept", "kernel", "generator")}

    def set_params(self, **parameters: Any) -> SchattenRegressor:
        """Change parameters."""
        for name, value in parameters.items():
            if name not in self.get_params():
                raise ValueError(f"{name!r} is not a parameter; there are {', '.join(self.get_params())}")
            setattr(self, name, value)
        return self

    @torch.no_grad()
    def fit(self, X: Any, y: Any) -> SchattenRegressor:
        """Fit to rows X (n, d) and targets y (n,) or (n, k)."""
        A, b, self._kind, self._single = _data(X, y)
        if A.ndim != 2 or b.ndim != 2:
            raise ValueError(f"X must have shape (n, d), got {tuple(A.shape)}")
        centre = b.mean(0) if self.fit_intercept else b.new_zeros(b.shape[1])
        if self.kernel is None:
            middle = A.mean(0) if self.fit_intercept else A.new_zeros(A.shape[1])
            features, back = A - middle, None
        else:
            gram, _ = as_tensor(self.kernel(X, X), "kernel(X, X)")
            if tuple(gram.shape) != (len(A), len(A)):
                raise ValueError(f"kernel(X, X) must have shape {(len(A),) * 2}, got {tuple(gram.shape)}")
            self._rows, middle = X, gram.to(A).mean(0)
            features, back = _kernel_features(gram.to(A), self.fit_intercept)
        found, info = linear_estimator(
            features, b - centre, self.bias, self.strength, cv=self.cv, generator=self.generator, return_info=True
        )
        if back is not None:
            found = back @ found
        self._coefficients, self._intercept = found, centre - middle @ found
        if not self.fit_intercept:
            self._intercept = centre
        self.strength_, self.info_ = info.strength, info
        self.coef_ = give_back_array(found[:, 0] if self._single else found.mT, self._kind)
        self.intercept_ = float(self._intercept[0]) if self._single else give_back_array(self._intercept, self._kind)
        return self

    @torch.no_grad()
    def predict(self, X: Any) -> Any:
        """Predictions (m,) or (m, k) for rows X (m, d)."""
        if not hasattr(self, "_coefficients"):
            raise ValueError("this regressor has not been fitted: call fit first")
        A, kind = as_tensor(X if self.kernel is None else self.kernel(X, self._rows), "X")
        if A.ndim != 2 or A.shape[1] != len(self._coefficients):
            raise ValueError(f"X must have {len(self._coefficients)} columns, got shape {tuple(A.shape)}")
        found = A.to(self._coefficients) @ self._coefficients + self._intercept
        return give_back_array(found[:, 0] if self._single else found, kind)

    def score(self, X: Any, y: Any) -> float:
        """The coefficient of determination R^2, over all targets together."""
        b, _ = as_tensor(y, "y")
        found, _ = as_tensor(self.predict(X), "X")
        return 1 - float(((b - found) ** 2).sum() / ((b - b.mean(0)) ** 2).sum())


def _kernel_features(gram: Tensor, centred: bool) -> tuple[Tensor, Tensor]:
    """Features F with F F^T = the (centred) Gram matrix, and the map from their weights to weights of the rows."""
    gram = (gram + gram.mT) / 2
    if centred:
        rows = gram.mean(0)
        gram = gram - rows - rows[:, None] + rows.mean()
    w, U = torch.linalg.eigh(gram)
    cut = torch.finfo(w.dtype).eps * len(w) * w.abs().max()
    if float(w[0]) < -10 * float(cut):
        raise ValueError(f"kernel(X, X) must be positive semidefinite, it has the eigenvalue {float(w[0]):.3g}")
    keep = w > cut
    root = w[keep].sqrt()
    # The weights of centred features add up to zero, which is what makes the intercept their only constant.
    return U[:, keep] * root, U[:, keep] / root
