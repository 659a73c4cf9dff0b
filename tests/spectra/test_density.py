"""density: exact, Lanczos and kernel polynomial rules against known spectra; bands that cover; atoms; moments."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from resolvent.operators import Diagonal, Kronecker, MatrixFree, Tridiagonal, as_operator
from resolvent.random import gaussian, rademacher
from resolvent.spectra import density
from resolvent.spectra.kpm import chebyshev_moments, jackson, spectral_interval


def semicircle(n=400, dtype=torch.float64, seed=0):
    X = gaussian((n, n), dtype, generator=seed)
    return (X + X.mH) / math.sqrt(2 * n)


def free(d):
    return MatrixFree((len(d),) * 2, lambda X: d[:, None] * X, dtype=d.dtype, hermitian=True)


def test_exact_density():
    w = torch.tensor([0.0, 0.0, 1.0, 3.0], dtype=torch.float64)
    law = density(torch.diag(w))
    assert law.method == "exact" and law.support == (0.0, 3.0)
    torch.testing.assert_close(
        law.cdf(torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.9, 3.0])), torch.tensor([0, 0.5, 0.5, 0.75, 0.75, 1])
    )
    low, high = law.cdf_band(torch.tensor(0.5))
    assert float(low) == float(high) == 0.5
    torch.testing.assert_close(law.moments(3), torch.stack([(w**j).mean() for j in range(4)]))
    assert law.mean == 1.0 and law.variance == pytest.approx(1.5)
    (zero,) = law.atoms(0.3)
    assert zero.value == pytest.approx(0) and zero.weight == pytest.approx(0.5)
    assert law.integrate(torch.exp)[0] == pytest.approx(float(w.exp().mean()))


@pytest.mark.parametrize("method", ["slq", "kpm", "exact"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_semicircle(method, dtype):
    law = density(semicircle(dtype=dtype), method=method, generator=0)
    x = torch.linspace(-1.5, 1.5, 13, dtype=torch.float64)
    exact_cdf = 0.5 + x * (4 - x**2).sqrt() / (4 * math.pi) + (x / 2).asin() / math.pi
    assert float((law.cdf(x) - exact_cdf).abs().max()) < 0.03
    pdf = (4 - x**2).sqrt() / (2 * math.pi)
    assert float((law.pdf(x, sigma=0.15) - pdf).abs().max()) < 0.06
    assert float(law.cdf(torch.tensor(-9.0))) == 0 and float(law.cdf(torch.tensor(9.0))) == pytest.approx(1)


def test_gauss_moments_are_those_of_the_probes():
    M = semicircle(300)
    law = density(M, method="slq", probes=8, steps=8, generator=0)
    Z = rademacher((300, 8), generator=0)
    exact = torch.stack([(Z * (torch.linalg.matrix_power(M, j) @ Z)).mean() for j in range(16)])
    torch.testing.assert_close(law.moments(15), exact)
    assert float(law.moments(0)[0]) == pytest.approx(1)


@pytest.mark.parametrize("name", ["uniform", "two levels", "clusters"])
def test_the_cdf_band_covers(name):
    n = 400
    i = torch.arange(n, dtype=torch.float64)
    d = {"uniform": i / n, "two levels": (i < 100) * 1.0, "clusters": (i // 50) + 1e-3 * torch.sin(i)}[name]
    x = torch.linspace(float(d.min()) - 0.01, float(d.max()) + 0.013, 21, dtype=torch.float64)
    Q = torch.linalg.qr(gaussian((n, n), generator=0)).Q
    A = as_operator((Q * d) @ Q.mT)
    exact = (d <= x[:, None] + 1e-9).double().mean(1)
    misses, total = 0, 0
    for seed in range(100):
        low, high = density(A, method="slq", probes=6, steps=15, generator=seed).cdf_band(x)
        misses += int(((exact < low - 1e-9) | (exact > high + 1e-9)).sum())
        total += len(x)
    assert misses <= 0.085 * total


def test_the_band_is_narrow_where_steps_resolve():
    d = (torch.arange(2000) < 500).double()
    law = density(free(d), method="slq", generator=0)
    low, high = law.cdf_band(torch.tensor(0.5))
    assert float(high - low) < 1.01 and abs(float(law.cdf(torch.tensor(0.5))) - 0.75) < 0.3
    big = density(free(torch.linspace(0, 1, 5000, dtype=torch.float64)), probes=8, steps=60, generator=0)
    low, high = big.cdf_band(torch.tensor(0.5))
    assert float(high - low) < 0.1 and float(low) <= 0.5 <= float(high)


def test_atoms_of_a_large_operator():
    n = 4000
    d = torch.linspace(1, 2, n, dtype=torch.float64)
    d[:1000], d[1000:1200] = 0.0, 3.0
    H = gaussian((n, 1), generator=5)
    H = H / H.norm()
    A = MatrixFree((n, n), lambda X: _mirror(H, d[:, None] * _mirror(H, X)), dtype=torch.float64, hermitian=True)
    zero, three = density(A, probes=8, steps=60, generator=0).atoms(0.02)
    assert zero.value == pytest.approx(0, abs=1e-6) and three.value == pytest.approx(3, abs=1e-6)
    assert abs(zero.weight - 0.25) < 5 * zero.error + 1e-3 and abs(three.weight - 0.05) < 5 * three.error + 1e-3
    # Two probes' spread is small, and the errors say so.
    assert zero.error < 0.02


def _mirror(h, X):
    return X - 2 * h @ (h.mT @ X)


def test_ghosts_do_not_move_the_measure():
    d = torch.linspace(0, 1, 1600, dtype=torch.float64)
    d[-3:] = torch.tensor([50.0, 70.0, 100.0], dtype=torch.float64)
    law = density(free(d), method="slq", steps=200, probes=4, generator=0)
    # After 200 steps 100 has come back many times; its weight is still that of one eigenvalue in 1600 (signs: exactly).
    heavy = (law.weights * (law.nodes > 99)).sum(1)
    torch.testing.assert_close(heavy, torch.full((4,), 1 / 1600, dtype=torch.float64), rtol=1e-6, atol=0)
    assert int((law.nodes > 99).sum()) > 4


def test_kernel_polynomials():
    g = jackson(64)
    assert bool((g > 0).all()) and float(g[0]) == pytest.approx(1)
    w = torch.linspace(-2, 5, 90, dtype=torch.float64)
    A = as_operator(torch.diag(w))
    Z = torch.ones(90, 1, dtype=torch.float64)
    low, high = spectral_interval(A, gaussian((90, 4), generator=0))
    assert low < -2 and high > 5
    moments = chebyshev_moments(A, Z.clone(), 6, (low, high))
    angles = torch.acos((w - (high + low) / 2) / ((high - low) / 2))
    exact = torch.stack([torch.cos(j * angles).mean() for j in range(12)])
    torch.testing.assert_close(moments[0], exact, rtol=1e-10, atol=1e-12)
    law = density(A, method="kpm", probes=3, steps=20, generator=0)
    torch.testing.assert_close(law.weights.sum(1), torch.ones(3, dtype=torch.float64))
    assert law.mean == pytest.approx(float(w.mean()), abs=0.05)
    with pytest.raises(ValueError, match="slq"):
        law.atoms()


def test_structures_are_exact():
    T = Tridiagonal(-torch.ones(1999, dtype=torch.float64), torch.full((2000,), 2.0, dtype=torch.float64))
    law = density(T)
    assert law.method == "exact" and law.mean == pytest.approx(2)
    assert law.support[0] == pytest.approx(2 - 2 * math.cos(math.pi / 2001), rel=1e-6)
    pair = density(Kronecker(Diagonal(torch.tensor([1.0, 2.0])), Diagonal(torch.linspace(1, 2, 1000))))
    assert pair.nodes.shape == (1, 2000) and pair.support == (1.0, 4.0)


def test_pdf_integrates_to_one_and_band_holds_it():
    law = density(semicircle(), method="slq", generator=0)
    x = torch.linspace(-3, 3, 2001, dtype=torch.float64)
    assert float(torch.trapezoid(law.pdf(x), x)) == pytest.approx(1, abs=1e-6)
    low, high = law.pdf_band(x)
    assert bool((low <= law.pdf(x) + 1e-12).all() and (law.pdf(x) <= high + 1e-12).all())
    with pytest.raises(ValueError, match="sigma"):
        law.pdf(x, sigma=0.0)


def test_repeatable_numpy_and_constant_spectra():
    M = semicircle(200).numpy()
    one, two = (density(M, method="slq", generator=7) for _ in range(2))
    assert torch.equal(one.nodes, two.nodes)
    assert isinstance(one.cdf(np.array([0.0])), np.ndarray) and isinstance(one.cdf(0.0), float)
    flat = density(3 * torch.eye(50), method="slq", generator=0)
    (atom,) = flat.atoms()
    assert atom.value == pytest.approx(3) and atom.weight == pytest.approx(1)
    nothing = density(torch.zeros(20, 20), method="slq", generator=0)
    assert nothing.support == (0.0, 0.0) and float(nothing.cdf(torch.tensor(0.1))) == 1


def test_bad_input():
    with pytest.raises(ValueError, match="square"):
        density(torch.ones(2, 3))
    with pytest.raises(ValueError, match="Hermitian"):
        density(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="batch"):
        density(torch.eye(2).expand(3, 2, 2))
    for bad in ({"method": "magic"}, {"probes": 0}, {"steps": 0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            density(torch.eye(3), **bad)
    with pytest.raises(ValueError, match="k must"):
        density(torch.eye(3)).moments(-1)
    with pytest.raises(ValueError, match="min_weight"):
        density(torch.eye(3)).atoms(0)
