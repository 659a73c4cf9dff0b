"""Learning-rate schedules from the gradient norms of an earlier run."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray


def refine_schedule(
    grad_norms: ArrayLike, kind: Literal["sgd", "adam", "bound"] = "sgd", *, smooth: float = 0.1
) -> NDArray[np.float64]:
    r"""The learning-rate schedule that suits a sequence of gradient norms.

    With weights :math:`w_t = G_t^{-2}` ("sgd", 2-norms) or :math:`w_t = 1 / G_t` ("adam", 1-norms) it is
    :math:`\eta_t \propto w_t \sum_{p > t} w_p`.

    Parameters
    ----------
    grad_norms : (steps,) norms of an earlier run, all positive: see `GradNormRecorder`
    kind : "sgd", "adam", or "bound", which minimises `last_iterate_bound` over all schedules
    smooth : width of the median filter before it, as a share of the run; 0 leaves the norms as they are

    Returns
    -------
    (steps,) factors of the learning rate, the largest 1. The last one of "sgd" and "adam" is 0.

    Raises
    ------
    ValueError : fewer than two norms, one that is not positive and finite, `smooth` outside [0, 1).

    Notes
    -----
    Constant norms give linear decay exactly. Norms that fall give a warmup and a faster decay: where gradients are large, steps are
    small. O(steps), "bound" too: the paper minimises it numerically, but over the sums of the remaining rates it is a chain in which
    every step meets the next one only, so dynamic programming gives the minimum exactly. For Adam's family the norm that
    belongs to the theory is the 1-norm of the gradient.

    References
    ----------
    "When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement"

    Examples
    --------
    >>> refine_schedule([1.0, 1.0, 1.0, 1.0, 1.0], smooth=0).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    G = _norms(grad_norms)
    if kind not in ("sgd", "adam", "bound"):
        raise ValueError(f"kind must be 'sgd', 'adam' or 'bound', got {kind!r}")
    if not 0 <= smooth < 1:
        raise ValueError(f"smooth must lie in [0, 1), got {smooth!r}")
    if smooth:
        G = _median(G, smooth)
    # Relative norms: their squares must not leave the range of float64.
    G = G / np.exp(np.mean(np.log(G)))
    if kind == "bound":
        return _minimal_bound(G)
    w = G**-2.0 if kind == "sgd" else 1.0 / G
    after = np.concatenate([np.cumsum(w[::-1])[::-1][1:], [0.0]])
    schedule: NDArray[np.float64] = w * after
    return schedule / schedule.max()


def last_iterate_bound(schedule: ArrayLike, grad_norms: ArrayLike, distance: float = 1.0) -> float:
    r"""The bound on the last iterate's error of subgradient descent with a schedule, at the schedule's best scale.

    :math:`\frac{1}{2}\Big(\frac{D^2}{S_1} + \sum_{t < T} \frac{G_t^2 \eta_t^2}{S_{t+1}} + G_T^2 \eta_T\Big)` with
    :math:`S_t = \sum_{p \ge t} \eta_p`.

    Parameters
    ----------
    schedule : (steps,) rates, not negative, up to a common factor; zeros at the end leave those steps out
    grad_norms : (steps,) norms, positive
    distance : D, from the start to the solution

    Returns
    -------
    The bound on f(x_T) - f* for convex f, minimised over the factor.

    Raises
    ------
    ValueError : lengths that differ, negative rates.

    Notes
    -----
    The paper writes it as D^2 / (2 S) + sum G^2 eta^2 / (2 S) + 1/2 sum_k eta_k / (S_{k+1} S_k) sum_{p >= k} G_p^2 eta_p^2; since
    eta_k / (S_{k+1} S_k) = 1 / S_{k+1} - 1 / S_k, summation by parts leaves the short form.

    References
    ----------
    "When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement"

    Examples
    --------
    >>> round(last_iterate_bound([4, 3, 2, 1], [1, 1, 1, 1]), 4)
    1.0328
    """
    G, rates = _norms(grad_norms), np.asarray(schedule, dtype=np.float64)
    if rates.shape != G.shape:
        raise ValueError(f"schedule must have as many entries as grad_norms, got {rates.shape} and {G.shape}")
    if not np.isfinite(rates).all() or (rates < 0).any() or not (rates > 0).any():
        raise ValueError("schedule must hold finite rates of at least 0, one of them positive")
    end = int(np.flatnonzero(rates)[-1]) + 1
    near, rest = _parts(rates[:end] / rates.max(), G[:end])
    return float(distance * math.sqrt(near * rest))


def _parts(rates: NDArray[np.float64], G: NDArray[np.float64]) -> tuple[float, float]:
    """1 / S_1 and the sum over the gradients; the bound at the best scale is D times the root of their product."""
    tail = np.cumsum(rates[::-1])[::-1]
    q = (G * rates) ** 2
    return 1 / tail[0], float((q[:-1] / tail[1:]).sum() + G[-1] ** 2 * rates[-1])


def _minimal_bound(G: NDArray[np.float64]) -> NDArray[np.float64]:
    """The schedule with the least bound, backwards from the last step.

    In the tail sums S the bound's second part is a sum of G_t^2 (S_t - S_{t+1})^2 / S_{t+1}, in which every step meets the next one
    only. The least cost of all steps from t on is c_t S_t, and the best ratio S_t / S_{t+1} is sqrt(1 + c_{t+1} / G_t^2).
    """
    T = len(G)
    ratio, cost = np.empty(T), float(G[-1] ** 2)
    for t in range(T - 2, -1, -1):
        ratio[t] = math.sqrt(1 + cost / G[t] ** 2)
        cost = 2 * cost / (ratio[t] + 1)
    # From the front, where the sums are large: S_1 = 1.
    tail = np.concatenate([[1.0], 1.0 / np.cumprod(ratio[:-1])])
    schedule = np.concatenate([tail[:-1] - tail[1:], tail[-1:]])
    best: NDArray[np.float64] = schedule / schedule.max()
    return best


def _norms(values: ArrayLike) -> NDArray[np.float64]:
    G = np.asarray(values, dtype=np.float64)
    if G.ndim != 1 or len(G) < 2:
        raise ValueError(f"grad_norms must be a vector of at least two norms, got shape {G.shape}")
    if not (np.isfinite(G).all() and (G > 0).all()):
        raise ValueError("grad_norms must be positive and finite: leave out steps without a gradient")
    return G


def _median(G: NDArray[np.float64], smooth: float) -> NDArray[np.float64]:
    """Median filter, the start continued by its first value and the end by its mirror image."""
    from scipy.ndimage import median_filter

    width = 2 * (int(smooth * len(G)) // 2) + 1
    if width == 1:
        return G
    pad = min(2 * width, len(G) - 1)
    filtered: NDArray[np.float64] = median_filter(np.pad(G, (0, pad), mode="reflect"), size=width, mode="nearest")[
        :-pad
    ]
    return filtered
