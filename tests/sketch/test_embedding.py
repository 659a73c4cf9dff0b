"""distortion, distance_distortion, recommended_size: direct computation, invariances, guarantees over 200 seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from resolvent import sketch
from resolvent.random import gaussian

KINDS = ("gaussian", "rademacher", "sparse_sign", "count_sketch", "osnap", "srht", "srct", "fjlt")


def test_distortion_by_its_definition():
    S, A = gaussian((40, 60), generator=0) / 40**0.5, gaussian((60, 7), generator=1)
    Q = torch.linalg.qr(A).Q
    exact = (torch.linalg.svdvals(S @ Q) ** 2 - 1).abs().max()
    torch.testing.assert_close(sketch.distortion(S, A), exact)
    # only the range counts
    torch.testing.assert_close(sketch.distortion(S, A @ gaussian((7, 7), generator=2)), exact)
    torch.testing.assert_close(sketch.distortion(S, torch.cat([A, A[:, :3]], 1)), exact)
    torch.testing.assert_close(sketch.distortion(S, torch.stack([A, 2 * A])), exact.expand(2))
    assert sketch.distortion(S.numpy(), A.numpy()) == pytest.approx(float(exact))
    # fewer rows than dimensions: some direction is lost
    assert float(sketch.distortion(S[:5], A)) >= 1 - 1e-12
    assert float(sketch.distortion(torch.eye(60).double(), A)) < 1e-13
    assert float(sketch.distortion(S, torch.zeros(60, 2).double())) == 0
    single = sketch.distortion(S.float(), A.float())
    assert single.dtype == torch.float32 and float(single) == pytest.approx(float(exact), abs=1e-5)
    Z = torch.complex(A, A.flip(0))
    torch.testing.assert_close(sketch.distortion(S, 1j * Z), sketch.distortion(S, Z))


def test_distance_distortion_by_its_definition():
    S, X = gaussian((30, 50), generator=0) / 30**0.5, gaussian((20, 50), generator=1)
    i, j = torch.triu_indices(20, 20, 1)
    exact = ((S @ (X[i] - X[j]).T).norm(dim=0) / (X[i] - X[j]).norm(dim=1) - 1).abs().max()
    torch.testing.assert_close(sketch.distance_distortion(S, X), exact)
    torch.testing.assert_close(sketch.distance_distortion(S, torch.cat([X, X]) + 5), exact)
    assert sketch.distance_distortion(S.numpy(), np.asarray(X)) == pytest.approx(float(exact))
    assert float(sketch.distance_distortion(S, X[:1])) == 0 == float(sketch.distance_distortion(S, X[[0, 0]]))
    many = gaussian((1500, 6), generator=2)
    D = torch.diag(torch.tensor([1.0, 1, 1, 1, 1, 3]).double())
    pairs = torch.cdist(many @ D, many @ D) / torch.cdist(many, many).fill_diagonal_(1)
    torch.testing.assert_close(sketch.distance_distortion(D, many), (pairs.fill_diagonal_(1) - 1).abs().max())


def test_scale_and_place_of_the_points_change_nothing():
    S, X = gaussian((30, 50), generator=0) / 30**0.5, gaussian((20, 50), generator=1)
    exact = float(sketch.distance_distortion(S, X))
    for scale in (1e-200, 1e200):
        assert float(sketch.distance_distortion(S, X * scale)) == pytest.approx(exact, rel=1e-9)
    # Differences of single precision, not of two long vectors.
    far = (X + 1000).float()
    wanted = float(sketch.distance_distortion(S, far.double()))
    assert float(sketch.distance_distortion(S.float(), far)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_guarantee_for_subspaces_over_200_seeds(kind):
    d, eps, delta = 3, 0.5, 0.05
    n = {"gaussian": 128, "rademacher": 128, "srht": 1 << 14, "count_sketch": 4096}.get(kind, 1024)
    m = sketch.recommended_size(d, eps, delta, kind, n=n if kind == "srht" else None)
    assert m < n or kind in ("gaussian", "rademacher")
    g = torch.Generator().manual_seed(0)
    # one subspace on few coordinates, one spread over all, one in between
    bases = [torch.eye(n, d), torch.randn(n, d, generator=g), torch.randn(n, d, generator=g) ** 9]
    Q = torch.cat([torch.linalg.qr(A).Q for A in bases], 1)
    failed = torch.zeros(3)
    for seed in range(200):
        SQ = (sketch.make_sketch(kind, m, n, generator=seed) @ Q).view(m, 3, d).movedim(1, 0).double()
        failed += (torch.linalg.eigvalsh(SQ.mT @ SQ) - 1).abs().amax(1) > eps
    # delta is 10 of 200; a binomial with that mean stays below 20 but for a chance of one in 500
    assert float(failed.max()) < 20


def test_a_smaller_sketch_misses_the_guarantee():
    """The size is no idle upper bound: an eighth of it fails most of the time."""
    d, eps, n = 40, 0.5, 1024
    m = sketch.recommended_size(d, eps, 0.05) // 8
    A = gaussian((n, d), generator=0)
    found = [float(sketch.distortion(sketch.gaussian(m, n, generator=s, dtype=torch.float64), A)) for s in range(20)]
    assert sum(f > eps for f in found) > 10


def test_the_guarantee_for_points_over_200_seeds():
    points, eps, delta, n = 30, 0.5, 0.1, 256
    X = torch.cat([torch.eye(15, n), gaussian((15, n), torch.float32, generator=0)])
    i, j = torch.triu_indices(points, points, 1)
    V = (X[i] - X[j]).mT / (X[i] - X[j]).norm(dim=1)
    for kind in ("gaussian", "rademacher"):
        m = sketch.recommended_size(points, eps, delta, kind, of="points")
        assert m == math.ceil(math.log(points * (points - 1) / delta) / (eps**2 / 4 - eps**3 / 6))
        lengths = [(sketch.make_sketch(kind, m, n, generator=s) @ V).square().sum(0) for s in range(200)]
        assert sum(float((found - 1).abs().max()) > eps for found in lengths) < 34


def test_sizes_grow_as_they_should():
    size = sketch.recommended_size
    for kind in KINDS:
        n = 1 << 40
        assert size(20, 0.3, 0.01, kind, n=n) > size(10, 0.3, 0.01, kind, n=n) > size(10, 0.6, 0.01, kind, n=n)
        assert size(10, 0.3, 0.001, kind, n=n) > size(10, 0.3, 0.01, kind, n=n)
        assert size(50, 0.3, 0.01, kind, n=100) in (100, 128)
        assert size(5, 0.3, 0.01, kind, of="points", n=n) >= 1


def test_bad_input():
    S = torch.eye(3)
    for call, word in (
        (lambda: sketch.distortion(S, torch.ones(4, 2)), "A must have shape"),
        (lambda: sketch.distortion(S, torch.full((3, 1), math.nan)), "NaN"),
        (lambda: sketch.distance_distortion(S, torch.ones(2, 4)), "X must have shape"),
        (lambda: sketch.recommended_size(0), "d must be an int"),
        (lambda: sketch.recommended_size(3, eps=2), "eps must lie"),
        (lambda: sketch.recommended_size(3, delta=0), "delta must lie"),
        (lambda: sketch.recommended_size(3, kind="dense"), "kind must be one of"),
        (lambda: sketch.recommended_size(3, kind="srht"), "n must be given"),
        (lambda: sketch.recommended_size(3, of="lines"), "of must be"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    learned = torch.ones(3, 1, requires_grad=True)
    for function in (sketch.distortion, sketch.distance_distortion):
        with pytest.raises(RuntimeError, match="no gradient"):
            function(S, learned.T if function is sketch.distance_distortion else learned)
