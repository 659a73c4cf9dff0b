"""The Walsh-Hadamard transform of a signal with few coefficients, from few of its samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from scipy.special import gammainccinv

from resolvent.errors import ConvergenceError
from resolvent.operators.arrays import as_tensor, check_finite
from resolvent.operators.magnitude import unit_of
from resolvent.random import GeneratorLike, as_generator
from resolvent.sketch.walsh import wht

if TYPE_CHECKING:
    from resolvent.sketch.sparse_walsh_plan import SamplePlan

Detector = Literal["auto", "noiseless", "majority", "ml", "coded"]
_DETECTORS = ("auto", "noiseless", "majority", "ml", "coded")

# Groups that may be added where peeling gets stuck and the number of groups is left to the method.
_MORE_GROUPS = 3
# The search of the maximum likelihood goes through this many bits of the index at most; "auto" stops earlier.
_SEARCH_BITS, _SEARCH_BITS_AUTO = 24, 14
# Chance that noise alone makes any bin of a whole run look as if it held something.
_FALSE_ALARM = 1e-3


@dataclass(frozen=True)
class SparseSpectrum:
    """The coefficients found by `sparse_wht`.

    Attributes
    ----------
    indices : (K,) int64, ascending
    values : (K,) coefficients, in the dtype of the samples
    queries : number of different samples that were asked for
    noise_std : standard deviation of the noise of one sample, given or estimated
    groups : subsampling groups used
    bins : bins of each group

    Examples
    --------
    >>> x = np.array([1.0, 1.0, -1.0, -1.0] * 64)
    >>> sparse_wht(x, 8, 1, generator=0).as_dict()
    {2: 1.0}
    """

    indices: Any
    values: Any
    queries: int
    noise_std: float
    groups: int
    bins: int

    def as_dict(self) -> dict[int, float]:
        """Index to value."""
        return dict(zip(self.indices.tolist(), self.values.tolist(), strict=True))


def sparse_wht(
    f: Any,
    n: int,
    k: int,
    *,
    noise_std: float | None = 0.0,
    detector: Detector = "auto",
    groups: int | None = None,
    bins: int | None = None,
    offsets: int | None = None,
    generator: GeneratorLike = None,
) -> SparseSpectrum:
    r"""The Walsh-Hadamard coefficients :math:`X` of a signal :math:`x_m = \sum_k X_k (-1)^{\langle m, k\rangle}` of
    length :math:`2^n` with about `k` of them, from about :math:`k n` samples.

    Parameters
    ----------
    f : the signal: an array of 2^n real numbers, or a callable that takes a vector of int64 indices (NumPy) and returns
        the samples there; it is called once, and once more for each group that is added, with new indices only
    n : bits of an index, 1 to 62
    k : expected number of coefficients; a bound that is not too loose will do
    noise_std : standard deviation of the Gaussian noise of one sample. Default 0, an exact signal; None estimates it from
        the bins of least energy
    detector : how a bin with one coefficient is read. "noiseless": n + 4 offsets, a bit of the index is the sign at one of
        them. "majority": random offsets, each with its n shifts, vote on every bit. "ml": random offsets and a search
        of all 2^(n - b) indices of the bin, the fewest samples. "coded": offsets that spell a convolutional code,
        decoded by Viterbi's algorithm in O(n), for any n. Default "auto": "noiseless" for an exact signal, else
        "ml" where it is cheap and "coded" beyond
    groups : subsampling groups, at least 2; default 3, and up to 3 more where peeling gets stuck
    bins : bins B of a group, a power of two; default the first at or above k, at least 8. The noise of a bin is
        ``noise_std / sqrt(B)``: more bins find smaller coefficients
    offsets : "ml": number of offsets, default 2 n; "majority": random offsets, each with n shifts, default
        max(3, n / 4); the others have fixed numbers
    generator : of hash matrices and offsets

    Returns
    -------
    SparseSpectrum : arrays of the kind, device and dtype of the samples.

    Raises
    ------
    ValueError : shapes and ranges; samples that are not finite or that require a gradient.
    ConvergenceError : bins were left that no coefficient explains: there are more than about ``2 B`` coefficients, or more
        noise than said. Carries the spectrum found; `error` is the share of the energy that is left.

    Notes
    -----
    Each group hashes index k to the bin M^T k of a random binary matrix M, by a short transform of samples at
    ``M l + d``. Bins with one coefficient are found by their energies (quantiles of the chi-square law), read, and peeled
    from all groups until nothing is left: ``groups * B * (offsets)`` samples and as many operations, times log B.
    A last least squares over all groups refines the values of a noisy signal. "majority" weighs its votes by the
    product of the two numbers compared, where the paper counts signs: the same cost, and less noise is let in.
    Coefficients below about ``noise_std / sqrt(B)`` are lost in the noise. There is no gradient.

    References
    ----------
    "SPRIGHT: A Fast and Robust Framework for Sparse Walsh-Hadamard Transform"

    Examples
    --------
    >>> def majority_of_three(m):  # of bits 0, 20 and 39, as +1 and -1
    ...     ones = (m & 1) + (m >> 20 & 1) + (m >> 39 & 1)
    ...     return np.where(ones >= 2, -1.0, 1.0)
    >>> found = sparse_wht(majority_of_three, 40, 4, generator=0)
    >>> [(bin(k).count("1"), v) for k, v in found.as_dict().items()]
    [(1, 0.5), (1, 0.5), (1, 0.5), (3, -0.5)]
    """
    from resolvent.sketch.sparse_walsh_plan import SamplePlan

    samples = _Samples(f, n)
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k must be an int of at least 1, got {k!r}")
    if noise_std is not None and not 0 <= noise_std < float("inf"):
        raise ValueError(f"noise_std must be None or a finite number of at least 0, got {noise_std}")
    if groups is not None and not groups >= 2:
        raise ValueError(f"groups must be at least 2, got {groups}")
    b = _bits_of_bins(k, n, bins)
    plan = SamplePlan(n, b, _detector(detector, noise_std, n, b), offsets, as_generator(generator))
    attempts = range(3, 4 + _MORE_GROUPS) if groups is None else (groups,)
    for count in attempts:
        while len(plan.columns) < count:
            plan.add_group()
        found, left = _attempt(samples, plan, noise_std)
        if not left:
            return found
    raise ConvergenceError(
        f"sparse_wht: {len(found.indices)} coefficients found, but {left:.1e} of the energy is left in bins that none of "
        f"them explains: give a larger k (now {k}) or bins (now {1 << b}), or the noise_std of the signal",
        best=found,
        error=left,
    )


def _bits_of_bins(k: int, n: int, bins: int | None) -> int:
    if bins is None:
        return min(n, max((k - 1).bit_length(), 3))
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 2 or bins & (bins - 1) or bins > 1 << n:
        raise ValueError(f"bins must be a power of two from 2 to 2^n = {1 << n}, got {bins!r}")
    return bins.bit_length() - 1


def _detector(detector: str, noise_std: float | None, n: int, b: int) -> str:
    if detector not in _DETECTORS:
        raise ValueError(f"detector must be one of {', '.join(_DETECTORS)}, got {detector!r}")
    if detector == "ml" and n - b > _SEARCH_BITS:
        raise ValueError(f"detector 'ml' searches 2^(n - b) = 2^{n - b} indices, at most 2^{_SEARCH_BITS}: use 'coded'")
    if detector != "auto":
        return detector
    if noise_std == 0:
        return "noiseless"
    return "ml" if n - b <= _SEARCH_BITS_AUTO else "coded"


class _Samples:
    """The signal, asked once for every index."""

    def __init__(self, f: Any, n: Any) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= 62:
            raise ValueError(f"n must be an int from 1 to 62, got {n!r}")
        self.ask: Callable[[np.ndarray], Any] | None = None
        # What was asked for before: later attempts go on from there.
        self.known, self.values = np.empty(0, np.int64), np.empty(0)
        if callable(f) and not isinstance(f, torch.Tensor | np.ndarray):
            self.ask = f
        else:
            self.signal, self.kind = as_tensor(f, "f")
            if self.signal.requires_grad:
                raise ValueError("sparse_wht has no gradient: detach f")
            if tuple(self.signal.shape) != (1 << n,):
                raise ValueError(f"f must have shape (2^n,) = ({1 << n},), got {tuple(self.signal.shape)}")

    def at_all(self, places: np.ndarray) -> tuple[np.ndarray, int]:
        """Float64 samples at int64 `places`, where some may be equal, and how many different ones there are."""
        if self.ask is None:
            return self._at(places.ravel()).reshape(places.shape), _distinct(places, len(self.signal))
        distinct, where = np.unique(places, return_inverse=True)
        fresh = ~np.isin(distinct, self.known, assume_unique=True)
        found = np.empty(len(distinct))
        if fresh.any():
            found[fresh] = self._at(distinct[fresh])
        if not fresh.all():
            found[~fresh] = self.values[np.searchsorted(self.known, distinct[~fresh])]
        self.known, self.values = distinct, found
        return found[where.reshape(places.shape)], len(distinct)

    def _at(self, places: np.ndarray) -> np.ndarray:
        if self.ask is None:
            if self.signal.device.type == "cpu" and self.signal.dtype in (torch.float32, torch.float64):
                # NumPy starts no threads for a few thousand numbers.
                found = torch.from_numpy(self.signal.numpy()[places])
            else:
                found = self.signal[torch.from_numpy(places).to(self.signal.device)]
        else:
            found, self.kind = as_tensor(self.ask(places), "f(indices)")
            if tuple(found.shape) != places.shape:
                raise ValueError(f"f(indices) must have shape {places.shape}, got {tuple(found.shape)}")
        if found.is_complex():
            raise ValueError("f must be real, got complex samples; transform real and imaginary parts apart")
        check_finite(found, "f")
        self.like = found
        return np.asarray(found.double().cpu().numpy())

    def give_back(self, values: np.ndarray) -> Any:
        t = torch.from_numpy(values)
        if self.kind == "torch":
            return t.to(self.like.device, self.like.dtype if t.is_floating_point() else t.dtype)
        return t.to(self.like.dtype).numpy() if t.is_floating_point() else values


def _distinct(places: np.ndarray, size: int) -> int:
    """How many different numbers below `size` there are: by marks where these are few, else by sorting."""
    if size > 256 * places.size:
        return len(np.unique(places))
    marks = np.zeros(size, np.bool_)
    marks[places.ravel()] = True
    return int(np.count_nonzero(marks))


def _attempt(samples: _Samples, plan: SamplePlan, noise_std: float | None) -> tuple[SparseSpectrum, float]:
    """What the groups of the plan find, and the share of the energy that they leave."""
    from resolvent.sketch import sparse_walsh_kernel as kernel
    from resolvent.sketch import sparse_walsh_plan as plans

    asked = plan.sample_places()
    x, queries = samples.at_all(asked)
    # Near one, so that energies stay within range.
    unit = unit_of(torch.from_numpy(x))
    x, noise_std = x / unit, None if noise_std is None else noise_std / unit
    groups, P, B = asked.shape
    mixed = wht(torch.from_numpy(x)).numpy() / B
    bins = np.ascontiguousarray(mixed.transpose(0, 2, 1))
    eps = float(torch.finfo(samples.like.dtype).eps)
    # Rounding errors of the samples and of the sums count as noise too.
    rounding = (16 * eps * float(np.abs(x).max(initial=0))) ** 2
    variance = rounding + (_noise_of_bins(bins) if noise_std is None else noise_std**2 / B)
    chance = _FALSE_ALARM / (groups * B)
    zero, single = (variance * 2 * float(gammainccinv(dof / 2, chance)) for dof in (P, max(P - 1, 1)))
    energy = float(np.square(bins).sum()) or 1.0
    where_read = {"majority": kernel.SHIFTS, "noiseless": kernel.SHIFTS, "ml": kernel.SEARCH, "coded": kernel.CODED}
    offsets, columns = np.stack(plan.offsets), np.array(plan.columns, np.int64)
    dual = np.array(plan.duals, np.int64) if plan.duals else np.zeros((groups, 1), np.int64)
    seen = plans.projected(offsets, dual[:, plan.b :]) if plan.duals else offsets
    found, values = kernel.peel(
        bins, offsets, columns, plan.n, where_read[plan.detector], plan.chains, dual, seen, plan.places, plans.code_bits(), zero, single
    )  # fmt: skip
    found, order = np.unique(found, return_inverse=True)
    values = np.bincount(order, values, minlength=len(found))
    if noise_std != 0:
        kernel.refit(bins, offsets, columns, found, values, 12)
    # What was taken for a coefficient and corrected later is left as noise.
    kept = np.abs(values) > 4 * np.sqrt(variance / (groups * P))
    spectrum = SparseSpectrum(
        samples.give_back(found[kept]),
        samples.give_back(values[kept] * unit),
        queries,
        float(np.sqrt(max(variance - rounding, 0) * B)) * unit,
        groups,
        B,
    )
    return spectrum, _unexplained(
        np.square(bins).sum(2), P, variance, zero * (1 + 4 / P), noise_std is not None
    ) / energy


def _unexplained(rest: np.ndarray, P: int, variance: float, limit: float, known: bool) -> float:
    """Energy of the bins that is more than noise: in single bins, or in all together where the noise is known."""
    single = float(rest[rest > limit].sum())
    if single or not known:
        return single
    expected = variance * P * rest.size
    # Many coefficients, each too small to be seen in its bin, show in the sum; 5 % is left to a rough `noise_std`.
    return (
        max(float(rest.sum()) - expected, 0) if rest.sum() > expected * (1.05 + 4 * np.sqrt(2 / (P * rest.size))) else 0
    )


def _noise_of_bins(bins: np.ndarray) -> float:
    """Variance of one number in the bins that hold none: the run of small energies that one law explains."""
    P = bins.shape[2]
    energies = np.sort(np.square(bins).mean(2).ravel())
    mean, count = energies[0], 1
    spread = 1 + 5 * np.sqrt(2 / P)
    while count < len(energies) and energies[count] <= spread * mean:
        count += 1
        mean += (energies[count - 1] - mean) / count
    return float(mean)
