"""The nuclear norm of a representation without an SVD, and the matrix entropy that it replaces."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from resolvent.operators.arrays import Kind, as_tensor, check_finite, give_back
from resolvent.spectra.entropy import entropy_of_eigenvalues


def nuclear_norm_upper(
    X: Any,
    top: int | None = None,
    center: bool = True,
    normalize_rows: bool = True,
    *,
    per_token: bool = False,
) -> Any:
    """The L_{1,2} surrogate of the nuclear norm, ``sum_j ||x_j||_2`` over the largest columns: O(m n), no
    SVD.

    Parameters
    ----------
    X : (m, n) tokens by features, or a list of such matrices of any lengths m
    top : how many columns, the largest first; None means min(m, n), the paper's choice. With top = n it is a true
        bound: ``||X||_* <= sum_j ||x_j||_2``, equal exactly if the columns are orthogonal
    center : subtract the mean row first
    normalize_rows : then divide each row by its length; rows of zeros stay zero
    per_token : divide by the number of tokens m, so that sequences of different lengths compare

    Returns
    -------
    0-d tensor, a vector for a list; Python floats and arrays for NumPy.

    Raises
    ------
    ValueError : X has not two dimensions, is empty or not finite; top is not between 1 and n.

    Notes
    -----
    Two passes over X for a value; the bound concerns X after centring and normalising. Differentiable where
    no chosen column is zero. Data in pieces: `NuclearNormStream`.

    References
    ----------
    "Large Language Model Evaluation via Matrix Nuclear-Norm"

    Examples
    --------
    >>> nuclear_norm_upper(torch.diag(torch.tensor([3.0, 4.0])), center=False, normalize_rows=False)
    tensor(7.)
    """
    if isinstance(X, list | tuple):
        if not X:
            raise ValueError("X must hold at least one matrix")
        found = [_matrix(x, f"X[{i}]") for i, x in enumerate(X)]
        values = [_upper(t, top, center, normalize_rows, per_token) for t, _ in found]
        kind: Kind = "numpy" if all(k == "numpy" for _, k in found) else "torch"
        return give_back(torch.stack(values), kind)
    t, kind = _matrix(X, "X")
    return give_back(_upper(t, top, center, normalize_rows, per_token), kind)


def matrix_entropy(X: Any, *, center: bool = True, normalized: bool = True) -> Any:
    """The entropy of the covariance of normalised rows: how many directions a representation uses.

    Parameters
    ----------
    X : (m, n) tokens by features, or a list of such matrices of any lengths m
    center : subtract the mean row, then the rows are divided by their lengths
    normalized : divide by log min(m, n), its largest value, so that it lies between 0 and 1

    Returns
    -------
    0-d tensor, a vector for a list; Python floats and arrays for NumPy.

    Raises
    ------
    ValueError : X has not two dimensions, is empty, not finite or zero.

    Notes
    -----
    The von Neumann entropy of ``Sigma = R^H R / tr(R^H R)`` from the smaller of R^H R and R R^H: O(m n min(m, n)).
    Differentiable.

    References
    ----------
    "Large Language Model Evaluation via Matrix Nuclear-Norm"

    Examples
    --------
    >>> matrix_entropy(torch.eye(4), center=False)
    tensor(1.)
    """
    if isinstance(X, list | tuple):
        if not X:
            raise ValueError("X must hold at least one matrix")
        found = [_matrix(x, f"X[{i}]") for i, x in enumerate(X)]
        kind: Kind = "numpy" if all(k == "numpy" for _, k in found) else "torch"
        return give_back(torch.stack([_entropy(t, center, normalized) for t, _ in found]), kind)
    t, kind = _matrix(X, "X")
    return give_back(_entropy(t, center, normalized), kind)


class NuclearNormStream:
    """`nuclear_norm_upper` of a matrix whose rows come in pieces, in memory of a few rows.

    Parameters
    ----------
    mean : (n,) the mean row where it is known, for centring before the rows are normalised
    center : subtract the mean row; without a known `mean` this needs ``normalize_rows=False``, as a row cannot be
        normalised before the mean is known
    normalize_rows : divide each row by its length

    Examples
    --------
    >>> X = torch.arange(12.0).reshape(6, 2)
    >>> stream = NuclearNormStream(center=True, normalize_rows=False)
    >>> value = stream.update(X[:4]).update(X[4:]).value()
    >>> bool(torch.isclose(value, nuclear_norm_upper(X, normalize_rows=False)))
    True
    """

    def __init__(self, mean: Any = None, *, center: bool = True, normalize_rows: bool = True) -> None:
        if center and mean is None and normalize_rows:
            raise ValueError("rows cannot be normalised before the mean is known: give mean, or center=False")
        if mean is not None and not center:
            raise ValueError("mean is given, but center is False")
        self._mean = None if mean is None else as_tensor(mean, "mean")[0]
        self._center, self._normalize = center, normalize_rows
        self._rows = 0
        self._average: Tensor | None = None
        self._squares: Tensor | None = None
        self._kind: Kind = "torch"

    def update(self, rows: Any) -> NuclearNormStream:
        """Take in rows (k, n)."""
        t, self._kind = _matrix(rows, "rows")
        width = None if self._squares is None else len(self._squares)
        if width not in (None, t.shape[1]) or (self._mean is not None and self._mean.shape != t.shape[1:]):
            raise ValueError(f"rows must have the width of those before and of the mean, got {tuple(t.shape)}")
        if self._mean is not None:
            t = t - self._mean.to(t)
        if self._normalize:
            t = _unit_rows(t)
        k = t.shape[0]
        free = self._center and self._mean is None
        mean = t.mean(0) if free else torch.zeros_like(t[0])
        squares = (t - mean).abs().square().sum(0)
        if self._squares is None or self._average is None:
            self._average, self._squares = mean, squares
        else:
            # Deviations of two pieces about their common mean, without the cancellation of sums of squares.
            share = k / (self._rows + k)
            gap = mean - self._average
            self._squares = self._squares + squares + gap.abs().square() * (self._rows * share)
            self._average = self._average + gap * share
        self._rows += k
        return self

    def extend(self, pieces: Iterable[Any]) -> NuclearNormStream:
        """Take in several pieces of rows."""
        for rows in pieces:
            self.update(rows)
        return self

    def value(self, top: int | None = None, *, per_token: bool = False) -> Any:
        """The surrogate of the rows so far, as `nuclear_norm_upper` gives it."""
        if self._squares is None:
            raise ValueError("no rows have come yet")
        return give_back(_largest(self._squares, self._rows, top, per_token), self._kind)


def _matrix(x: Any, name: str) -> tuple[Tensor, Kind]:
    t, kind = as_tensor(x, name)
    if t.ndim != 2 or 0 in t.shape:
        raise ValueError(f"{name} must have shape (m, n), both at least 1, got {tuple(t.shape)}")
    check_finite(t, name)
    return t, kind


def _unit_rows(t: Tensor) -> Tensor:
    lengths = torch.linalg.vector_norm(t, dim=1, keepdim=True)
    return t / torch.where(lengths > 0, lengths, torch.ones_like(lengths))


def _prepared(t: Tensor, center: bool, normalize_rows: bool) -> Tensor:
    if center:
        t = t - t.mean(0)
    return _unit_rows(t) if normalize_rows else t


def _largest(squares: Tensor, m: int, top: int | None, per_token: bool) -> Tensor:
    n = len(squares)
    if top is not None and (isinstance(top, bool) or not isinstance(top, int) or not 1 <= top <= n):
        raise ValueError(f"top must be an int from 1 to the number of columns {n}, got {top!r}")
    count = min(m, n) if top is None else top
    chosen = squares if count == n else squares.topk(count).values
    # The root has no gradient at zero; a zero column adds nothing.
    value = torch.where(chosen > 0, torch.where(chosen > 0, chosen, 1.0).sqrt(), 0.0).sum()
    return value / m if per_token else value


def _upper(t: Tensor, top: int | None, center: bool, normalize_rows: bool, per_token: bool) -> Tensor:
    t = _prepared(t, center, normalize_rows)
    return _largest(t.abs().square().sum(0) if t.is_complex() else (t * t).sum(0), t.shape[0], top, per_token)


def _entropy(t: Tensor, center: bool, normalized: bool) -> Tensor:
    t = _prepared(t, center, True)
    small = t.mH @ t if t.shape[1] <= t.shape[0] else t @ t.mH
    value = entropy_of_eigenvalues(torch.linalg.eigvalsh(small), 1)
    bound = min(t.shape)
    return value / torch.log(torch.tensor(float(bound))).to(value) if normalized and bound > 1 else value
