"""Scattering: the series of a disk, convergence, reciprocity, energy, single entries, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resolvent.solve import Scattering


def solved(problem, mu):
    return torch.linalg.solve(problem.matrix(mu), problem.rhs(mu))


# The second wavenumber is that of a standing wave inside, where one equation alone has no solution.
@pytest.mark.parametrize("k", [1.0, 2.404825557695773, 8.0])
@pytest.mark.parametrize("absorption", [0.0, 0.7])
def test_a_disk_by_separation_of_variables(k, absorption):
    for radius in (1.0, 0.6):
        disk = Scattering(72, (radius, radius), angle=0.4)
        torch.testing.assert_close(solved(disk, (k, absorption)), disk.series((k, absorption)), rtol=0, atol=1e-11)


def test_an_ellipse_converges_fast():
    mu = (3.0, 0.2)
    fine = solved(Scattering(96, (1.0, 0.6), 0.7), mu)
    gaps = [float((solved(Scattering(n, (1.0, 0.6), 0.7), mu) - fine[:: 96 // n]).abs().max()) for n in (24, 48)]
    assert gaps[0] < 1e-2
    assert gaps[1] < 1e-4 * gaps[0]


def amplitude(angle, direction, mu):
    body = Scattering(80, (1.0, 0.5), angle)
    return complex(body.far_field(mu, direction).conj() @ solved(body, mu))


@pytest.mark.parametrize("mu", [(2.0, 0.0), (4.0, 0.5)])
def test_waves_go_both_ways_alike(mu):
    there, back = amplitude(0.3, 1.9, mu), amplitude(1.9 + np.pi, 0.3 + np.pi, mu)
    assert abs(there - back) < 1e-10 * abs(there)


def test_energy():
    angles = 2 * np.pi * np.arange(64) / 64
    for absorption in (0.0, 0.5):
        body = Scattering(80, (1.0, 0.5), 0.3)
        mu = (3.0, absorption)
        u = solved(body, mu)
        scattered = np.mean([abs(complex(body.far_field(mu, a).conj() @ u)) ** 2 for a in angles]) / 4
        lost = complex(body.far_field(mu, 0.3).conj() @ u).imag
        absorbed = mu[0] * absorption * float((u.abs() ** 2 * torch.from_numpy(body.speed)).sum()) * 2 * np.pi / 80
        assert lost == pytest.approx(scattered / mu[0] * mu[0] + absorbed, rel=1e-9)


def test_the_far_field_of_a_disk():
    import scipy.special

    mu, k = (2.5, 0.0), 2.5
    disk = Scattering(64)
    m = np.arange(-25, 26)
    c = -scipy.special.jvp(m, k) / scipy.special.h1vp(m, k)
    # H_m(kr) ~ sqrt(2 / (pi k r)) exp(i (k r - m pi / 2 - pi / 4))
    for angle in (0.0, 1.0, 3.0):
        exact = np.sqrt(2 / (np.pi * k)) * np.exp(-1j * np.pi / 4) * (c * np.exp(1j * m * angle)).sum()
        found = complex(disk.far_field(mu, angle).conj() @ solved(disk, mu))
        assert np.exp(1j * np.pi / 4) / np.sqrt(8 * np.pi * k) * found == pytest.approx(exact, rel=1e-10)


def test_single_entries():
    body = Scattering(24, (1.0, 0.5))
    A = body.matrix((2.0, 0.3))
    i, j = torch.tensor([0, 3, 7, 7]), torch.tensor([0, 1, 7, 20])
    torch.testing.assert_close(body.entries((2.0, 0.3), i, j), A[i, j], rtol=0, atol=1e-14)
    torch.testing.assert_close(body.rhs((2.0, 0.3), i), body.rhs((2.0, 0.3))[i], rtol=0, atol=0)


def test_bad_input():
    for call, word in (
        (lambda: Scattering(9), "n must"),
        (lambda: Scattering(4), "n must"),
        (lambda: Scattering(16, (1.0, -1.0)), "radii"),
        (lambda: Scattering(16).matrix((0.0, 0.0)), "wavenumber"),
        (lambda: Scattering(16).rhs((1.0, -1.0)), "absorption"),
        (lambda: Scattering(16, (1.0, 2.0)).series((1.0, 0.0)), "disk"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
