"""Hamming profiles against the loop over all pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resolvent.search import hamming_profile


def by_hand(text, pattern, wildcard=None):
    t, p = np.asarray(text), np.asarray(pattern)
    windows = np.lib.stride_tricks.sliding_window_view(t, len(p))
    differ = windows != p
    if wildcard is not None:
        differ &= (windows != wildcard) & (p != wildcard)
    return differ.sum(1)


def zipf(n, alphabet, seed):
    weight = 1 / np.arange(1, alphabet + 1)
    return np.random.default_rng(seed).choice(alphabet, size=n, p=weight / weight.sum())


CASES = [(40, 1, 3), (40, 40, 3), (500, 20, 2), (3000, 700, 2), (3000, 700, 50), (5000, 33, 1000), (20_000, 3000, 4)]


def planted(n, m, alphabet):
    """A pattern that fits nearly at one place and half at another."""
    text, pattern = zipf(n, alphabet, 0), zipf(m, alphabet, 1)
    if n >= 2 * m:
        pattern[: m // 2] = text[5 : 5 + m // 2]
        text[n - m :] = pattern
        text[n - m // 2 - 1] += 1
    return text, pattern


@pytest.mark.parametrize(("n", "m", "alphabet"), CASES)
def test_exact_agrees_with_the_loop(n, m, alphabet):
    text, pattern = planted(n, m, alphabet)
    out, info = hamming_profile(text, pattern, return_info=True)
    assert out.dtype == np.int32 and (out == by_hand(text, pattern)).all() and info.error < 0.25


@pytest.mark.parametrize(("n", "m", "alphabet"), CASES)
@pytest.mark.parametrize("k", [0, 1, 5, 100, 10_000])
def test_bounded_is_the_exact_answer_cut_at_k(n, m, alphabet, k):
    text, pattern = planted(n, m, alphabet)
    assert (hamming_profile(text, pattern, k=k) == np.minimum(by_hand(text, pattern), k + 1)).all()


def test_bounded_beyond_the_pattern_is_exact():
    text, pattern = planted(500, 20, 2)
    assert (hamming_profile(text, pattern, k=20) == by_hand(text, pattern)).all()


@pytest.mark.parametrize("period", [1, 2, 7])
def test_bounded_jumps_over_periodic_texts(period, monkeypatch):
    """Comparisons in a random order decide nothing here: every shift is nearly equal."""
    monkeypatch.setattr("resolvent.search.hamming._whole_cost", lambda s: np.inf)
    text = np.arange(4000) % period
    text[::501] = 99
    pattern = (np.arange(1000) % period).copy()
    pattern[17] = 55
    for k in (0, 3, 10):
        assert (hamming_profile(text, pattern, k=k) == np.minimum(by_hand(text, pattern), k + 1)).all()


@pytest.mark.parametrize("maps", [None, 60])
def test_approximate_within_eps_at_nearly_all_places(maps):
    text, pattern = planted(20_000, 1500, 300)
    true = by_hand(text, pattern)
    out, info = hamming_profile(text, pattern, eps=0.1, maps=maps, generator=0, return_info=True)
    assert (np.abs(out - true) <= 0.1 * true).mean() > 0.99
    assert maps is None or info.matvecs >= maps


def test_approximate_counts_near_places_exactly():
    text, pattern = planted(20_000, 1500, 300)
    true = by_hand(text, pattern)
    out = hamming_profile(text, pattern, eps=0.3, maps=5, generator=0)
    near = true <= 38
    assert near.any() and (out[near] == true[near]).all()


@pytest.mark.parametrize("where", ["pattern", "text", "both", "all"])
def test_wildcards_match_everything(where):
    text, pattern = planted(2000, 100, 8)
    r = np.random.default_rng(3)
    if where in ("text", "both"):
        text[r.random(2000) < 0.2] = -7
    if where in ("pattern", "both"):
        pattern[r.random(100) < 0.3] = -7
    if where == "all":
        pattern[:] = -7
    out = hamming_profile(text, pattern, method="exact", wildcard=-7)
    assert (out == by_hand(text, pattern, -7)).all()


def test_symbols_far_apart_need_no_table():
    text, pattern = planted(2000, 100, 8)
    spread = np.array([-(2**62), -5, 0, 7, 2**40, 2**41, 2**61, 2**62])
    assert (hamming_profile(spread[text % 8], spread[pattern % 8]) == by_hand(text % 8, pattern % 8)).all()


@pytest.mark.parametrize("pair", [("aäb€😀ab", "äb€"), (b"banana", b"ana")])
def test_strings_and_bytes(pair):
    text, pattern = ([ord(c) for c in s] if isinstance(s, str) else list(s) for s in pair)
    assert (hamming_profile(*pair) == by_hand(text, pattern)).all()
    assert hamming_profile("a?c", "abc", method="exact", wildcard="?").tolist() == [0]


def test_reversing_both_reverses_the_profile_and_renaming_changes_nothing():
    text, pattern = planted(1000, 90, 5)
    out = hamming_profile(text, pattern)
    assert (hamming_profile(text[::-1], pattern[::-1])[::-1] == out).all()
    assert (hamming_profile(1000 - 3 * text, 1000 - 3 * pattern) == out).all()


def test_tensors_come_back_as_tensors_and_seeds_repeat():
    text, pattern = map(torch.from_numpy, planted(1000, 90, 5))
    assert isinstance(hamming_profile(text, pattern), torch.Tensor)
    one, two = (hamming_profile(text, pattern, eps=0.2, maps=3, generator=4) for _ in range(2))
    assert (one == two).all()


def test_single_precision_that_rounds_is_computed_again(monkeypatch):
    from resolvent.search import hamming

    text, pattern = planted(20_000, 3000, 4)
    rough, dtypes = hamming._correlated, []

    def noisy(pairs, n, m, dtype):
        dtypes.append(dtype)
        return rough(pairs, n, m, dtype) + (0.3 if dtype == torch.float32 else 0.0)

    monkeypatch.setattr(hamming, "_correlated", noisy)
    assert (hamming_profile(text, pattern) == by_hand(text, pattern)).all() and dtypes == [torch.float32, torch.float64]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("abc", ""), ValueError, "pattern must have from 1 to 3"),
        (("abc", "abcd"), ValueError, "pattern must have from 1 to 3"),
        (("abc", b"a"), TypeError, "pattern must be of the kind of text"),
        (([1.5], [1.5]), TypeError, "text must be a str, bytes"),
    ],
)
def test_bad_texts_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        hamming_profile(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": -1}, "k must be"),
        ({"eps": 1.5}, "eps must lie"),
        ({"method": "fft"}, "method must be"),
        ({"method": "bounded"}, "k must be given"),
        ({"method": "approx"}, "eps must be given"),
        ({"k": 1, "eps": 0.1}, "eps belongs to method='approx', the method is 'bounded'"),
        ({"method": "exact", "k": 1}, "k belongs to method='bounded'"),
        ({"wildcard": "a", "k": 1}, "wildcard needs"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        hamming_profile("abc", "a", **options)
