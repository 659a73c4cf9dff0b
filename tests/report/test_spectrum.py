"""The spectrum of a shuffled matrix, and the threads it is computed on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resolvent.report.spectrum import one_thread, shuffled_spectrum, spectrum_of


def gaussian(m: int, n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(300, 300), (200, 900), (9000, 100)])
def test_shuffling_keeps_the_entries(shape: tuple[int, int]) -> None:
    A = gaussian(*shape).float() ** 3
    s = shuffled_spectrum(A)
    assert len(s) == min(shape) and (np.diff(s) <= 0).all()
    assert np.sqrt((s**2).sum()) == pytest.approx(float(torch.linalg.norm(A)), rel=1e-4)


def test_shuffling_noise_leaves_its_law_and_shuffling_structure_leaves_noise() -> None:
    noise = gaussian(600, 300)
    assert np.abs(shuffled_spectrum(noise) / spectrum_of(noise).values - 1).max() < 0.1
    low = (gaussian(600, 5) @ gaussian(5, 300, 1)).float()
    s = shuffled_spectrum(low)
    # the edge of the Marchenko-Pastur law with the variance of the entries
    assert s[0] == pytest.approx(float(low.std()) * (600**0.5 + 300**0.5), rel=0.1)
    assert s[0] < 0.5 * spectrum_of(low).values[0]


def test_rows_that_are_alike_in_all_blocks_are_torn_apart() -> None:
    A = gaussian(1, 64).expand(40000, 64).float() - 0.3
    s = shuffled_spectrum(A - A.mean())
    assert s[1] / s[-1] < 1.3


def test_an_outlier_entry_stays_a_spike_and_the_seed_decides() -> None:
    A = gaussian(400, 300)
    A[7, 9] = 300
    assert shuffled_spectrum(A)[0] == pytest.approx(300, rel=0.02)
    assert (shuffled_spectrum(A) == shuffled_spectrum(A)).all()
    assert (shuffled_spectrum(A, generator=1) != shuffled_spectrum(A)).any()


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_the_range_of_doubles(scale: float) -> None:
    A = gaussian(60, 40)
    exponent = spectrum_of(scale * A).exponent
    s = shuffled_spectrum(scale * A, exponent) * 2.0 ** (exponent // 2) * 2.0 ** (exponent - exponent // 2) / scale
    assert s == pytest.approx(shuffled_spectrum(A), rel=1e-3)
    assert shuffled_spectrum((A + 1j * A).to(torch.complex64)).shape == (40,)


def test_threads_come_back_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="inside"), one_thread():
        raise ValueError("inside")
    assert torch.get_num_threads() == before
