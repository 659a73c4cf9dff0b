"""meta_factor: every preset reconstructs, projectors project, W is invisible, replacements, gradients."""

from __future__ import annotations

import math
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from resolvent.factor import meta_factor
from resolvent.random import gaussian

_CASE = runpy.run_path(str(Path(__file__).with_name("lowrank_case.py")))
error, geometric, tail, with_values = (_CASE[name] for name in ("error", "geometric", "tail", "with_values"))

PRESETS = ("svd", "qr", "utv", "cur", "nystrom", "lu", "pinv")


def matrices():
    row = gaussian((20,), generator=3)
    return {
        "random": gaussian((30, 20), generator=0),
        "wide": gaussian((12, 30), generator=1),
        "condition 1e4": with_values(30, 20, torch.logspace(0, -4, 20, dtype=torch.float64)),
        "circulant": torch.stack([row.roll(i) for i in range(20)]),
        "rank 6": with_values(30, 20, torch.linspace(1, 2, 6)),
        "complex": with_values(30, 20, torch.linspace(1, 2, 6), dtype=torch.complex128),
    }


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", list(matrices()))
def test_presets(preset, name):
    A = matrices()[name]
    found = meta_factor(A, preset=preset, generator=0)
    wanted = torch.linalg.pinv(A, rtol=1e-10) if preset == "pinv" else A
    assert error(wanted, found.F @ found.G @ found.H.mH) < 1e-11
    for projector, check in (
        (found.column_projector.to_dense(), lambda P: P @ wanted),
        (found.row_projector.to_dense(), lambda P: wanted @ P),
    ):
        assert error(projector, projector @ projector) < 1e-11
        assert error(wanted, check(projector)) < 1e-11
    assert error(found.F, found.F @ found.Y.mH @ found.F) < 1e-11
    assert error(found.Y, found.Y @ found.F.mH @ found.Y) < 1e-11
    assert error(found.H, found.H @ found.X.mH @ found.H) < 1e-11


def test_cholesky():
    L = gaussian((9, 4), generator=0)
    found = meta_factor(L @ L.mT, preset="cholesky")
    assert found.F.shape == (9, 4) and found.F is not None
    torch.testing.assert_close(found.F @ found.F.mT, L @ L.mT)
    for A, word in ((gaussian((4, 4), generator=0), "Hermitian"), (torch.diag(torch.tensor([1.0, -1.0])), "semidef")):
        with pytest.raises(ValueError, match=word):
            meta_factor(A, preset="cholesky")
    with pytest.raises(ValueError, match="semidef"):
        meta_factor(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), preset="cholesky")


@pytest.mark.parametrize(
    ("core", "shape"), [("one-sided", "lower"), ("svd", "diagonal"), ("qr", "upper"), ("lu", "lower")]
)
def test_cores_of_utv(core, shape):
    A = gaussian((12, 9), generator=0)
    found = meta_factor(A, preset="utv", core=core)
    torch.testing.assert_close(found.F @ found.G @ found.H.mT, A)
    assert error(found.F, found.F @ (found.F.mT @ found.F)) < 1e-12 or core == "lu"
    if shape != "lower":
        assert float(found.G.tril(-1).abs().max()) < 1e-12
    if shape != "upper":
        assert float(found.G.triu(1).abs().max()) < 1e-12


def test_low_rank():
    s = geometric(20)
    A = with_values(30, 20, s)
    for k in (3, 8):
        errors = {p: error(A, meta_factor(A, preset=p, rank=k, generator=0).operator().to_dense()) for p in PRESETS[:6]}
        assert errors["svd"] == pytest.approx(tail(s, k), rel=1e-10)
        assert max(errors["qr"], errors["utv"], errors["cur"]) < 2 * tail(s, k)


def test_given_bases_and_invisible_cores():
    A = with_values(12, 10, torch.linspace(1, 2, 4))
    F = torch.cat([torch.linalg.svd(A).U[:, :4], gaussian((12, 2), generator=0)], 1)
    H = torch.linalg.svd(A).Vh[:5].mH
    B, D = gaussian((12, 6), generator=1), gaussian((10, 5), generator=2)
    plain = meta_factor(A, F, H, B=B, D=D)
    assert error(A, plain.operator().to_dense()) < 1e-11
    # Oblique: not symmetric, as the orthogonal projector of B = F is.
    P = plain.column_projector.to_dense()
    assert error(P, P @ P) < 1e-11 and error(P, P.mT) > 0.1
    straight = meta_factor(A, F, H).column_projector.to_dense()
    assert error(straight, straight.mT) < 1e-12
    # The columns of F are dependent: W changes the core, and not the product.
    twice = torch.cat([F, F], 1)
    W = gaussian((12, 5), generator=3)
    quiet, masked = meta_factor(A, twice, H), meta_factor(A, twice, H, W=W)
    assert error(quiet.G, masked.G) > 0.1
    assert error(A, masked.operator().to_dense()) < 1e-11


def incidence(edges):
    B = torch.zeros(5, len(edges), dtype=torch.float64)
    for e, (i, j) in enumerate(edges):
        B[i - 1, e], B[j - 1, e] = 1, -1
    return B


def test_the_resistor_network_of_the_paper():
    edges = incidence([(1, 2), (2, 3), (1, 3), (3, 4), (4, 5), (3, 5)])
    laplacian = (edges * torch.tensor([2.0, 1.0, 3.0, 1.0, 4.0, 2.0], dtype=torch.float64)) @ edges.mT
    tree = incidence([(1, 2), (2, 3), (3, 4), (4, 5)])
    found = meta_factor(laplacian, tree, tree)
    other = incidence([(1, 3), (2, 3), (3, 5), (4, 5)])
    kept = found.compare(other)
    assert kept.exact and abs(float(torch.linalg.det(kept.interface))) == pytest.approx(1)
    replaced = found.replace(other)
    torch.testing.assert_close(replaced.operator().to_dense(), laplacian)
    torch.testing.assert_close(replaced.F, other)
    apart = incidence([(1, 2), (2, 3), (1, 3), (4, 5)])
    refused = found.compare(apart)
    assert not refused.exact
    assert refused.mismatch == pytest.approx(math.sqrt(390) / 6, rel=1e-12)
    assert refused.residual == pytest.approx(math.sqrt(105) / 3, rel=1e-12)
    with pytest.raises(ValueError, match="cannot replace"):
        found.replace(apart)
    # Any one-sided inverse tells the same: here one that looks outside of the span of F.
    left = torch.linalg.pinv(other)
    oblique = left.mT + gaussian((5, 4), generator=0) - (other @ left).mT @ gaussian((5, 4), generator=0)
    assert float((oblique - left.mT).norm()) > 0.1
    assert found.compare(other, oblique).exact


def test_float32_and_numpy():
    A = with_values(30, 20, torch.linspace(1, 2, 6), dtype=torch.float32)
    for preset in PRESETS[:6]:
        found = meta_factor(A, preset=preset, generator=0)
        assert found.G.dtype == torch.float32 and error(A, found.F @ found.G @ found.H.mT) < 2e-5
    arrays = meta_factor(A.numpy(), preset="qr")
    assert isinstance(arrays.F, np.ndarray) and isinstance(arrays.column_projector.to_dense(), np.ndarray)
    assert isinstance(arrays.replace(arrays.F).G, np.ndarray)


def test_gradients():
    A, F, H, B, W = (
        gaussian(shape, generator=i).requires_grad_()
        for i, shape in enumerate([(5, 4), (5, 3), (4, 3), (5, 3), (3, 3)])
    )
    assert gradcheck(lambda A, F, H, B, W: meta_factor(A, F, H, B=B, W=W).G, (A, F, H, B, W))


def test_bad_input():
    A = torch.eye(4, dtype=torch.float64)
    F = torch.eye(4, 2, dtype=torch.float64)
    outside = torch.eye(4, dtype=torch.float64)[:, 2:]
    for call, word in (
        (lambda: meta_factor(A), "preset"),
        (lambda: meta_factor(A, F), "preset"),
        (lambda: meta_factor(A, F, F, preset="svd"), "preset"),
        (lambda: meta_factor(A, preset="schur"), "preset"),
        (lambda: meta_factor(A, preset="svd", rank=5), "rank"),
        (lambda: meta_factor(A, preset="pinv", rank=2), "no rank"),
        (lambda: meta_factor(A, preset="utv", core="schur"), "core"),
        (lambda: meta_factor(A, F[:3], F), "F must have shape"),
        (lambda: meta_factor(A, F, F, B=outside), "rank"),
        (lambda: meta_factor(A, F, F, W=A), "W must have shape"),
        (lambda: meta_factor(A, F, F).compare(F, outside), "Y gives no"),
        (lambda: meta_factor(A, F, F).compare(F[:2]), "F must have shape"),
        (lambda: meta_factor(torch.ones(3), preset="svd"), "shape"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
