"""Hamming distances of a pattern to every place of a text."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resolvent.info import Info
from resolvent.random import GeneratorLike, as_generator

# Measured on one core: what a pair of equal symbols costs, and what a point of a transform costs per binary digit.
_PAIR = 1.5e-9
_POINT = 0.5e-9
# What the exact method may lose by rounding and still be certain of every integer.
_CERTAIN = 0.25
# Symbols within this range are ranked by a table, others by bisection.
_TABLE = 1 << 22
# Comparisons in a random order before a shift is left to the jumps.
_LOOK = 64


class _Symbols(NamedTuple):
    """Text and pattern by the rank of their symbols in the pattern: -1 does not occur there, -2 is the wildcard."""

    text: np.ndarray
    pattern: np.ndarray
    in_text: np.ndarray
    in_pattern: np.ndarray


def hamming_profile(
    text: Any,
    pattern: Any,
    *,
    method: Literal["auto", "exact", "bounded", "approx"] = "auto",
    k: int | None = None,
    eps: float | None = None,
    wildcard: Any = None,
    maps: int | None = None,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    r"""Count the mismatches of a pattern at every place of a text, :math:`D_i = |\{j : P_j \ne T_{i+j}\}|`.

    Parameters
    ----------
    text : (n,) integers, str or bytes
    pattern : (m,) of the same kind, 1 <= m <= n
    method : "exact"; "bounded" (distances above `k` are reported as k + 1); "approx" (within a factor 1 ± `eps`, with high
        probability at each place); "auto" is "bounded" if `k` is given, "approx" if `eps` is, else "exact"
    k : largest distance of interest, >= 0
    eps : relative error, between 0 and 1
    wildcard : a symbol that matches every symbol, in text and pattern ("exact" only)
    maps : random maps of "approx"; default by `eps` and by how often the rarest of the symbols counted apart occurs
    generator : torch.Generator, int or None
    return_info : also return `Info`: the correlations taken (matvecs) and how far the worst was from an integer (error)

    Returns
    -------
    (n - m + 1,) int32
        array, or tensor if the text is one

    Raises
    ------
    ValueError
        an empty pattern, one longer than the text, k < 0, eps outside (0, 1)

    Notes
    -----
    Exact (Abrahamson): a symbol that is frequent in both is counted by a correlation of indicators (FFT over blocks of
    the text, single precision where its rounding is certain, all symbols added before the inverse transform), a rare
    one pair by pair. Which is cheaper decides for each symbol, so that the cost is at most O(n sqrt(m log m)). The paper's
    packing of several symbols into one machine word buys nothing in floating point, where a shorter word is as much
    faster: single precision takes its place. Every value is rounded from within 0.25 of an integer, or computed again
    in double precision.
    Bounded: comparisons in a random order end at k + 1 mismatches; what is undecided after 64 is decided by at most
    k + 1 jumps over equal stretches (names of all substrings of length 2^l): O(n (k + log m)) at the worst, exact.
    Approx: frequent symbols exactly; matches of the rest by random signs, whose variance is at most the distance times
    the occurrences of a rare symbol, divided by the number of maps; places that are near are counted by "bounded".
    The exponent of the paper's approximation rests on fast matrix products and is not reached by anything practical.
    There are no gradients: distances are integers.

    References
    ----------
    "Faster Algorithms for Text-to-Pattern Hamming Distances"

    Examples
    --------
    >>> hamming_profile("abracadabra", "abr").tolist()
    [0, 3, 3, 2, 3, 2, 3, 0, 3]
    """
    t, p = _integers(text, "text"), _integers(pattern, "pattern")
    if isinstance(text, str | bytes) != isinstance(pattern, str | bytes) or isinstance(text, str) != isinstance(
        pattern, str
    ):
        raise TypeError(f"pattern must be of the kind of text, {type(text).__name__}, got {type(pattern).__name__}")
    if not 1 <= len(p) <= len(t):
        raise ValueError(f"pattern must have from 1 to {len(t)} symbols (the length of the text), got {len(p)}")
    chosen = _method(method, k, eps, wildcard)
    symbols = _symbols(
        t,
        p,
        None
        if wildcard is None
        else int(_integers([wildcard] if isinstance(wildcard, int) else wildcard, "wildcard")[0]),
    )
    if chosen == "bounded":
        out, correlations, error = _bounded(symbols, int(k or 0), as_generator(generator)), 0, 0.0
    elif chosen == "approx":
        out, correlations, error = _approximate(symbols, float(eps or 0), maps, as_generator(generator))
    else:
        out, correlations, error = _exact(symbols)
    result: Any = torch.from_numpy(out).to(text.device) if isinstance(text, Tensor) else out
    return (result, Info(chosen, correlations, 0, error, True)) if return_info else result


def _method(method: str, k: int | None, eps: float | None, wildcard: Any) -> str:
    if method not in ("auto", "exact", "bounded", "approx"):
        raise ValueError(f"method must be 'auto', 'exact', 'bounded' or 'approx', got {method!r}")
    if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 0):
        raise ValueError(f"k must be an integer of at least 0, got {k!r}")
    if eps is not None and not 0 < eps < 1:
        raise ValueError(f"eps must lie between 0 and 1, got {eps}")
    if method == "auto":
        method = "bounded" if k is not None else "approx" if eps is not None else "exact"
    for name, value, owner in (("k", k, "bounded"), ("eps", eps, "approx")):
        if method == owner and value is None:
            raise ValueError(f"{name} must be given for method={owner!r}")
        if method != owner and value is not None:
            raise ValueError(f"{name} belongs to method={owner!r}, the method is {method!r}")
    if wildcard is not None and method != "exact":
        raise ValueError(f"wildcard needs method='exact', got {method!r}")
    return method


def _integers(symbols: Any, name: str) -> np.ndarray:
    if isinstance(symbols, str):
        return np.frombuffer(symbols.encode("utf-32-le"), np.uint32).astype(np.int64)
    if isinstance(symbols, bytes | bytearray):
        return np.frombuffer(symbols, np.uint8).astype(np.int64)
    array = symbols.detach().cpu().numpy() if isinstance(symbols, Tensor) else np.asarray(symbols)
    if array.dtype.kind not in "iub" or array.ndim != 1:
        raise TypeError(
            f"{name} must be a str, bytes or a one-dimensional array of integers, got {array.dtype} of shape {array.shape}"
        )
    return array.astype(np.int64)


def _symbols(text: np.ndarray, pattern: np.ndarray, wildcard: int | None) -> _Symbols:
    values = np.unique(pattern)
    if wildcard is not None:
        values = values[values != wildcard]
    low, high = (int(values[0]), int(values[-1])) if len(values) else (0, 0)
    table = np.full(high - low + 3, -1, np.int32) if high - low < _TABLE else None
    if table is not None:
        table[values - low + 1] = np.arange(len(values), dtype=np.int32)

    def ranks(a: np.ndarray) -> np.ndarray:
        if table is not None:
            return table[(a - (low - 1)).clip(0, len(table) - 1)]
        place = np.searchsorted(values, a).clip(max=max(len(values) - 1, 0))
        return np.where(values[place] == a, place, -1).astype(np.int32)

    t, p = ranks(text), ranks(pattern)
    if wildcard is not None:
        t[text == wildcard] = p[pattern == wildcard] = -2
    count = [np.bincount(a[a >= 0], minlength=len(values)) for a in (t, p)]
    return _Symbols(t, p, *count)


def _exact(s: _Symbols) -> tuple[np.ndarray, int, float]:
    n, m = len(s.text), len(s.pattern)
    frequent = s.in_text * s.in_pattern * _PAIR > _transform_cost(n, m)
    matches, error = _frequent(s, np.flatnonzero(frequent))
    _add_rare(s, ~frequent, matches)
    return (_comparable(s) - matches).astype(np.int32), int(frequent.sum()), error


def _transform_cost(n: int, m: int) -> float:
    size = _block(n, m)
    blocks = -(-(n - m + 1) // (size - m + 1))
    return _POINT * blocks * size * math.log2(size)


def _block(n: int, m: int) -> int:
    """Points of a transform: some multiple of the pattern, in the cache, and no longer than the text needs."""
    return 1 << min(max((4 * m - 1).bit_length(), 13), (n - 1).bit_length() + 1)


def _comparable(s: _Symbols) -> np.ndarray | int:
    """Pairs of which neither side is a wildcard."""
    m = len(s.pattern)
    wild_text, wild_pattern = s.text == -2, s.pattern == -2
    if not wild_text.any() and not wild_pattern.any():
        return m
    if not wild_pattern.any():
        solid = np.concatenate([[0], np.cumsum(~wild_text)])
        return solid[m:] - solid[:-m]
    if not wild_text.any():
        return int((~wild_pattern).sum())
    return _correlations([(~wild_text, ~wild_pattern)], len(s.text), m)[0]


def _frequent(s: _Symbols, chosen: np.ndarray) -> tuple[np.ndarray, float]:
    n, m = len(s.text), len(s.pattern)
    if not len(chosen):
        return np.zeros(n - m + 1, np.int64), 0.0
    return _correlations([(s.text == a, s.pattern == a) for a in chosen], n, m)


def _correlations(pairs: list[tuple[np.ndarray, np.ndarray]], n: int, m: int) -> tuple[np.ndarray, float]:
    """Sum over pairs of the correlations of 0-1 sequences, and how far it was from integers before it was rounded."""
    error = 1.0
    for dtype in (torch.float32, torch.float64):
        found = _correlated([(t, p) for t, p in pairs], n, m, dtype)
        whole = found.round()
        error = float((found - whole).abs().max())
        if error < _CERTAIN / 2:
            return whole.to(torch.int64).numpy(), error
    raise ArithmeticError(f"text is too long for exact correlations in double precision: {error:.2g} from an integer")


def _correlated(pairs: list[tuple[np.ndarray, np.ndarray]], n: int, m: int, dtype: torch.dtype) -> Tensor:
    """Sum over pairs (t, p) of sum_j t[i + j] p[j], i = 0 .. n - m, by transforms of overlapping blocks."""
    size = _block(n, m)
    step = size - m + 1
    blocks = -(-(n - m + 1) // step)
    padded = torch.zeros((blocks - 1) * step + size, dtype=dtype)
    total: Tensor | None = None
    for t, p in pairs:
        padded[:n] = torch.from_numpy(t)
        kernel = torch.fft.rfft(torch.from_numpy(p).to(dtype), size).conj()
        part = torch.fft.rfft(padded.unfold(0, size, step))
        total = part.mul_(kernel) if total is None else total.addcmul_(part, kernel)
    if total is None:
        return torch.zeros(n - m + 1, dtype=dtype)
    return torch.fft.irfft(total, size)[:, :step].reshape(-1)[: n - m + 1]


def _add_rare(s: _Symbols, rare: np.ndarray, matches: np.ndarray) -> None:
    """Count the pairs of equal rare symbols one by one."""
    from resolvent.search.hamming_kernel import count_pairs

    if not rare.any():
        return
    own = np.flatnonzero(s.pattern >= 0)
    places = own[np.argsort(s.pattern[own], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(s.in_pattern)])
    # Places beyond the known symbols belong to wildcards and are never reached; their number bounds a shift.
    count_pairs(s.text, starts, places, rare, matches, len(s.pattern), torch.get_num_threads())


def _bounded(s: _Symbols, k: int, g: torch.Generator) -> np.ndarray:
    from resolvent.search.hamming_kernel import joint_names, jumps, sampled

    n, m = len(s.text), len(s.pattern)
    if k >= m:
        return _exact(s)[0]
    order = torch.randperm(m, generator=g).numpy()
    out, undecided = np.empty(n - m + 1, np.int32), np.empty(n - m + 1, np.bool_)
    sampled(s.text, s.pattern, order, k, min(m, _LOOK + 4 * k), out, undecided)
    left = np.flatnonzero(undecided)
    if not len(left):
        return out
    # Many undecided shifts with many jumps each cost more than all distances do.
    if len(left) * (k + 1) * math.log2(m + 1) * 4 * _PAIR > _whole_cost(s):
        return np.minimum(_exact(s)[0], k + 1)
    names, lengths = joint_names(s.text, s.pattern)
    found = np.empty(len(left), np.int32)
    jumps(names, lengths, n, m, k, left, found)
    out[left] = found
    return out


def _whole_cost(s: _Symbols) -> float:
    pairs = s.in_text * s.in_pattern * _PAIR
    return float(np.minimum(pairs, _transform_cost(len(s.text), len(s.pattern))).sum())


def _approximate(s: _Symbols, eps: float, maps: int | None, g: torch.Generator) -> tuple[np.ndarray, int, float]:
    n, m = len(s.text), len(s.pattern)
    each = _transform_cost(n, m)
    # As many symbols are counted apart as there will be maps: both cost one correlation.
    order = np.argsort(-s.in_pattern, kind="stable")
    near = max(1, math.isqrt(m))

    def wanted(apart: int) -> int:
        top = int(s.in_pattern[order[apart]]) if apart < len(order) else 0
        # A normal deviate of 2.6: 99 places of 100.
        return math.ceil(6.8 * top / (near * eps * eps))

    apart = next((a for a in range(len(order) + 1) if a >= wanted(a)), len(order))
    light = np.zeros(len(order), bool)
    light[order[apart:]] = True
    count = wanted(apart) if maps is None else maps
    direct = float((s.in_text * s.in_pattern * _PAIR)[light].sum())
    if maps is None and direct <= count * each:
        # Pair by pair is cheaper than the maps, and exact.
        return _exact(s)
    matches, error = _frequent(s, order[:apart])
    estimate = matches.astype(np.float64)
    for _ in range(count):
        sign = np.where(light, torch.randint(2, (len(order),), generator=g).numpy() * 2 - 1, 0).astype(np.float32)
        signed = np.append(sign, np.float32(0))
        estimate += _correlated([(signed[s.text], signed[s.pattern])], n, m, torch.float32).numpy() / count
    out = np.clip(np.rint(m - estimate), 0, m).astype(np.int32)
    # Where the distance is small its relative error is not: those places are counted.
    close = _bounded(s, near, g)
    return np.where(close <= near, close, np.maximum(out, near + 1)), apart + count, error
