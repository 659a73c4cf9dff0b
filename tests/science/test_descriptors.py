"""Symmetry functions: sums by hand, invariances, gradients."""

import itertools
import math

import pytest
import torch

from resolvent.science import eeacsf, element_properties

Z = torch.tensor([8, 1, 1, 17, 26])


def molecule(n=5, seed=0):
    return 1.5 * torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(x, z, i, rc, eta, zeta, lam, column, gamma):
    """One angular feature of one atom, as the formula stands."""
    H = element_properties(z)[:, column]
    total = 0.0
    for j, k in itertools.combinations([a for a in range(len(z)) if a != i], 2):
        u, v = x[j] - x[i], x[k] - x[i]
        a, b = float(u.norm()), float(v.norm())
        if a >= rc or b >= rc:
            continue
        cosine = float(u @ v) / a / b
        cut = math.exp(1 - 1 / (1 - (a / rc) ** 2)) * math.exp(1 - 1 / (1 - (b / rc) ** 2))
        weight = abs(float(H[j] + gamma * H[k]))
        total += weight * 2 ** (1 - zeta) * (1 + lam * cosine) ** zeta * math.exp(-eta * (a * a + b * b)) * cut
    return total


def test_sums_by_hand():
    x, rc = molecule(), 3.5
    found = eeacsf(x, Z, rc, radial_etas=[0.3], angular_etas=[0.2], zetas=[4.0], properties=["one", "period"])
    assert found.shape == (5, 2 + 2 * 3)
    H = element_properties(Z)
    for i in range(5):
        r = (x - x[i]).norm(dim=1)
        near = [j for j in range(5) if j != i and r[j] < rc]
        cut = {j: math.exp(-0.3 * r[j] ** 2 + 1 - 1 / (1 - (r[j] / rc) ** 2)) for j in near}
        expected = [sum(float(H[j, c]) * cut[j] for j in near) for c in (0, 1)]
        for lam in (1.0, -1.0):
            expected += [by_hand(x, Z, i, rc, 0.2, 4.0, lam, c, g) for c, g in ((0, 1), (1, 1), (1, -1))]
        assert torch.allclose(found[i], torch.tensor(expected, dtype=torch.float64), rtol=1e-10)


def test_rotation_translation_reflection_and_order_do_not_matter():
    x = molecule()
    found = eeacsf(x, Z)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    assert torch.allclose(eeacsf(x @ turn + 3.0, Z), found, rtol=1e-9, atol=1e-12)
    order = torch.tensor([3, 0, 4, 2, 1])
    assert torch.allclose(eeacsf(x[order], Z[order]), found[order], rtol=1e-10)


def test_places_to_fill_up_change_nothing():
    x, other = molecule(), molecule(3, 1)
    filled = torch.cat([other, torch.zeros(2, 3, dtype=torch.float64)])
    found = eeacsf(torch.stack([x, filled]), torch.stack([Z, torch.tensor([6, 1, 9, 0, 0])]))
    assert torch.allclose(found[0], eeacsf(x, Z))
    assert torch.allclose(found[1, :3], eeacsf(other, torch.tensor([6, 1, 9])))
    assert not found[1, 3:].any()


def test_an_atom_that_leaves_the_cutoff_leaves_smoothly():
    def feature(r):
        x = torch.tensor([[0.0, 0.0, 0.0], [r, 0.0, 0.0]], dtype=torch.float64)
        return float(eeacsf(x, torch.tensor([1, 8]), 3.0)[0].abs().max())

    assert feature(3.0001) == 0.0 and feature(2.999) < 1e-100 and feature(1.0) > 1.0


def test_gradients():
    x = molecule(4).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: eeacsf(y, Z[:4], 4.0, angular_etas=[0.1], zetas=[2.0]), x)


def test_float32_is_kept_and_accurate():
    x = molecule()
    found = eeacsf(x.float(), Z)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), eeacsf(x, Z), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("z", "row"),
    [
        (2, [1, 1, 8, 0, 0]), (6, [1, 2, 4, 4, 0]), (20, [1, 4, 2, 6, 0]), (21, [1, 4, 2, 6, 1]), (30, [1, 4, 2, 6, 10]),
        (31, [1, 4, 3, 5, 0]), (54, [1, 5, 8, 0, 0]), (57, [1, 6, 2, 6, 1]), (72, [1, 6, 2, 6, 2]), (79, [1, 6, 2, 6, 9]),
        (81, [1, 6, 3, 5, 0]), (118, [1, 7, 8, 0, 0]), (0, [0, 0, 0, 0, 0]),
    ],
)  # fmt: skip
def test_places_in_the_periodic_table(z, row):
    assert element_properties(torch.tensor(z)).tolist() == row


def test_bad_input():
    x = molecule()
    for arguments, word in [
        ((x[:, :2], Z), "positions"), ((x, Z[:3]), "Z must"), ((x, Z, -1.0), "cutoff"), ((x, Z + 100), "Z must"),
        ((torch.zeros(2, 3), Z[:2]), "same place"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=word):
            eeacsf(*arguments)
    with pytest.raises(ValueError, match="properties"):
        eeacsf(x, Z, properties=["mass"])
    with pytest.raises(ValueError, match="zetas"):
        eeacsf(x, Z, zetas=[0.5])
