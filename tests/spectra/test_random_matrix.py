"""Marchenko-Pastur and the semicircle: against quadrature, samples, duality; the fit finds variance and spikes."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from resolvent.spectra import MarchenkoPastur, marchenko_pastur
from resolvent.spectra.random_matrix import Semicircle


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("ratio", [1e-6, 1e-3, 0.0099**2, 0.01, 0.3, 1.0, 1.5, 8.0])
def test_cdf_is_the_integral_of_the_density(ratio):
    law = MarchenkoPastur(ratio, 2.0)
    a = math.sqrt(ratio)
    for share in (0.001, 0.1, 0.5, 0.9, 0.999):
        x = law.lower + share * (law.upper - law.lower)
        # x = 2 |1 + a e^{i theta}|^2 takes the square roots out of the integrand
        theta = 2 * math.atan2(math.sqrt(law.upper - x), math.sqrt(x - law.lower))
        above = 2 / math.pi * quad(lambda t: math.sin(t) ** 2 / abs(1 + a * np.exp(1j * t)) ** 2, 0, theta)[0]
        assert law.cdf(x) == pytest.approx(1 - above, abs=2e-9)
    direct = quad(law.pdf, law.lower, law.lower + 0.4 * (law.upper - law.lower), limit=400)[0] + law.atom
    assert law.cdf(law.lower + 0.4 * (law.upper - law.lower)) == pytest.approx(direct, abs=1e-6)


@pytest.mark.parametrize("ratio", [1e-6, 0.2, 1.0, 3.0])
def test_ppf_inverts_cdf(ratio):
    law = MarchenkoPastur(ratio, 0.7)
    q = np.linspace(law.atom + 0.01, 0.99, 12)
    np.testing.assert_allclose(law.cdf(law.ppf(q)), q, atol=1e-11)
    assert law.ppf(1.0) == pytest.approx(law.upper) and math.isnan(law.ppf(1.5))
    assert law.ppf(0.0) == (0.0 if ratio > 1 else pytest.approx(law.lower))


def test_edges_atom_and_kinds():
    law = MarchenkoPastur(4.0, 0.5)
    assert law.edges == (0.5, 4.5) and law.atom == 0.75 and law.mean == 0.5
    assert law.cdf(-1.0) == 0 and law.cdf(0.0) == 0.75 and law.cdf(9.0) == 1 and law.pdf(9.0) == 0
    assert isinstance(law.cdf(np.ones(2)), np.ndarray)
    x = torch.ones(3, dtype=torch.float32)
    assert law.pdf(x).dtype == torch.float32
    y = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(MarchenkoPastur(0.5).cdf, y)
    (slope,) = torch.autograd.grad(MarchenkoPastur(0.5).cdf(y).sum(), y)
    torch.testing.assert_close(slope, MarchenkoPastur(0.5).pdf(y.detach()))


def test_semicircle():
    law = Semicircle(2.25)
    assert (law.lower, law.upper) == (-3.0, 3.0)
    for x in (-2.9, -1.0, 0.0, 2.0):
        assert law.cdf(x) == pytest.approx(quad(law.pdf, -3, x)[0], abs=1e-8)
    q = np.linspace(0.01, 0.99, 7)
    np.testing.assert_allclose(law.cdf(law.ppf(q)), q, atol=1e-12)
    g = random(400, 400)
    w = torch.linalg.eigvalsh((g + g.T) / math.sqrt(2 * 400))
    steps = (torch.arange(400) + 0.5) / 400
    assert float((Semicircle().cdf(w) - steps).abs().max()) < 0.01


@pytest.mark.parametrize("shape", [(300, 500), (500, 300), (384, 384)])
def test_fit_of_noise(shape):
    fit = marchenko_pastur(3 * random(*shape))
    assert fit.variance == pytest.approx(9, rel=0.02) and fit.distance < 0.012 and fit.spikes == 0
    assert fit.law.ratio == min(shape) / max(shape) and fit.outside < 0.02
    values = torch.linalg.svdvals(random(*shape)).numpy()
    scaled = marchenko_pastur(values * 3e120, shape=shape)
    assert scaled.distance == pytest.approx(fit.distance, abs=1e-9)


def test_fit_minimises_the_distance():
    s = torch.linalg.svdvals(random(60, 90)) ** 2 / 90
    fit = marchenko_pastur(s.sqrt() * math.sqrt(90), shape=(60, 90))
    steps = torch.arange(61, dtype=torch.float64) / 60
    best = math.inf
    for variance in np.linspace(0.5, 1.5, 400):
        theory = MarchenkoPastur(60 / 90, variance).cdf(s.flip(0))
        best = min(best, float(torch.maximum(steps[1:] - theory, theory - steps[:-1]).max()))
    assert fit.distance <= best + 1e-9


def test_spikes_are_counted_and_other_spectra_are_far():
    X = random(300, 500)
    u, v = torch.linalg.qr(random(300, 4, seed=1)).Q, torch.linalg.qr(random(500, 4, seed=2)).Q
    fit = marchenko_pastur(X + 60 * u @ v.T)
    assert fit.spikes == 4 and fit.variance == pytest.approx(1, rel=0.03) and fit.threshold > fit.law.upper
    decaying = X * torch.logspace(0, -2, 500, dtype=torch.float64)
    assert marchenko_pastur(decaying).distance > 0.2
    low_rank = random(100, 5) @ random(5, 80)
    assert marchenko_pastur(low_rank).distance > 0.4


def test_bad_input():
    with pytest.raises(ValueError, match="ratio"):
        MarchenkoPastur(0.0)
    with pytest.raises(ValueError, match="variance"):
        Semicircle(-1.0)
    with pytest.raises(ValueError, match="shape"):
        marchenko_pastur(torch.ones(3))
    with pytest.raises(ValueError, match="min"):
        marchenko_pastur(torch.ones(3), shape=(4, 5))
    with pytest.raises(ValueError, match="finite"):
        marchenko_pastur(torch.tensor([1.0, math.nan]), shape=(2, 2))
    with pytest.raises(ValueError, match="nonzero"):
        marchenko_pastur(torch.zeros(3, 3))
    with pytest.raises(ValueError, match="one"):
        marchenko_pastur(torch.ones(2, 3, 3))
