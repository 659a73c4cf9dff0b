"""sketch_and_solve, linf_rows, occ_probe: exact cases, both guarantees over 200 seeds, the certificate, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.autograd import gradcheck

from resolvent import sketch
from resolvent.errors import ConvergenceError
from resolvent.random import gaussian


def exact(A, b):
    return torch.linalg.lstsq(A, b).solution


def measured(A, b, x):
    """The ratio of the coordinate-wise guarantee and the excess of the residual, by the exact solution."""
    best = exact(A, b[:, None])[:, 0]
    rest = (A @ best - b).norm()
    ratio = (x - best).abs().max() * len(x) ** 0.5 * torch.linalg.svdvals(A)[-1] / rest
    return float(ratio), float((A @ x - b).norm() / rest - 1)


def solve(*args, **options):
    """What is found, and the measured error, whether it met the bound or not."""
    try:
        x, info = sketch.sketch_and_solve(*args, **options, return_info=True)
    except ConvergenceError as error:
        return error.best, error.error
    return x, info.error


def hard(n, d, m):
    """Unit vectors, and a right side on m / d of the other rows."""
    A = torch.eye(n, d, dtype=torch.float64)
    b = torch.zeros(n, dtype=torch.float64)
    b[d : d + m // d] = (m // d) ** -0.5
    return A, b


def test_rows():
    assert sketch.linf_rows(10, 1000, 0.1, 0.01) == math.ceil(1000 * math.log(1e5) ** 3)
    assert sketch.linf_rows(10, 1000, 0.1, 0.01, analysis="gaussian") == math.ceil(11 + 2000 * math.log(2000))


@pytest.mark.parametrize("guarantee", ["linf", "l2"])
def test_the_guarantees_over_200_seeds(guarantee):
    n, d, eps, delta = 2048, 5, 0.6, 0.1
    m = sketch.linf_rows(d, n, eps, delta, analysis="gaussian") if guarantee == "linf" else 60
    for A, b in ((gaussian((n, d), generator=0), gaussian((n,), generator=1)), hard(n, d, m)):
        failed = 0
        for seed in range(200):
            x, _ = solve(A, b, eps=eps, delta=delta, guarantee=guarantee, generator=seed)
            failed += measured(A, b, x)[guarantee == "l2"] > eps
        assert failed < 33  # delta is 20 of 200


def test_the_certificate_is_the_error():
    A, b = (
        gaussian((1000, 6), generator=0) @ torch.diag(torch.logspace(0, 3, 6).double()),
        gaussian((1000,), generator=1),
    )
    for kind in ("srht", "srct", "gaussian", "osnap", "count_sketch"):
        for guarantee in ("linf", "l2"):
            x, error = solve(A, b, 400, kind, guarantee, eps=10, generator=0)
            assert error == pytest.approx(measured(A, b, x)[guarantee == "l2"], rel=0.5), (kind, guarantee)


def test_a_full_transform_solves_exactly():
    A, b = gaussian((64, 5), generator=0), gaussian((64, 3), generator=1)
    x, info = sketch.sketch_and_solve(A, b, 64, generator=0, return_info=True)
    torch.testing.assert_close(x, exact(A, b))
    assert info.converged and info.error < 1e-12
    # a system that can be solved comes out exactly from any sketch
    X = gaussian((5, 2), generator=2)
    torch.testing.assert_close(sketch.sketch_and_solve(A, A @ X, 20, "osnap", generator=0), X)


def test_invariances():
    A, b = gaussian((500, 4), generator=0), gaussian((500,), generator=1)
    T, shift = gaussian((4, 4), generator=2), gaussian((4,), generator=3)
    options = {"m": 200, "eps": 10, "generator": 7}
    x = sketch.sketch_and_solve(A, b, **options)
    torch.testing.assert_close(sketch.sketch_and_solve(A @ T, b, **options), torch.linalg.solve(T, x))
    torch.testing.assert_close(sketch.sketch_and_solve(A, b + A @ shift, **options), x + shift)
    torch.testing.assert_close(sketch.sketch_and_solve(A, 3 * b, **options), 3 * x)


@pytest.mark.parametrize("guarantee", ["linf", "l2"])
@pytest.mark.parametrize("scales", [(1.0, 1e25), (1e-5, 1e-30), (1e25, 1e25)])
def test_the_certificate_of_single_precision_at_any_scale(guarantee, scales):
    A, b = gaussian((500, 4), torch.float32, generator=0), gaussian((500,), torch.float32, generator=1)
    options = {"m": 200, "eps": 10, "generator": 7, "guarantee": guarantee, "return_info": True}
    x, info = sketch.sketch_and_solve(A, b, **options)
    y, other = sketch.sketch_and_solve(A * scales[0], b * scales[1], **options)
    assert info.error > 1e-3 and other.error == pytest.approx(info.error, rel=1e-2)
    torch.testing.assert_close(y / (scales[1] / scales[0]), x, rtol=1e-4, atol=1e-5)


def test_kinds_operators_and_dtypes():
    A, b = gaussian((500, 4), generator=0), gaussian((500,), generator=1)
    options = {"m": 200, "eps": 10, "generator": 7}
    x = sketch.sketch_and_solve(A, b, **options)
    found = sketch.sketch_and_solve(A.numpy(), b.numpy(), **options)
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, x)
    np.testing.assert_allclose(sketch.sketch_and_solve(sp.csr_array(A.numpy()), b.numpy(), **options), x)
    S = sketch.make_sketch("srht", 200, 500, generator=7, dtype=torch.float64)
    torch.testing.assert_close(sketch.sketch_and_solve(A, b, sketch=S, eps=10), x)
    single = sketch.sketch_and_solve(A.float(), b.float(), **options)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), x, rtol=1e-4, atol=1e-5)
    C = torch.complex(A, A.flip(0))
    z = sketch.sketch_and_solve(C, b, 400, eps=10, generator=0)
    assert z.dtype == torch.complex128
    assert float((z - exact(C, b[:, None].to(C.dtype))[:, 0]).norm()) < 0.2


def test_gradients():
    A, b = gaussian((40, 3), generator=0).requires_grad_(), gaussian((40,), generator=1).requires_grad_()
    assert gradcheck(lambda A, b: sketch.sketch_and_solve(A, b, 16, "gaussian", eps=1e3, generator=0), (A, b))


def test_a_missed_bound_carries_the_best():
    A, b = gaussian((1000, 20), generator=0), gaussian((1000,), generator=1)
    with pytest.raises(ConvergenceError, match="asked for eps") as caught:
        sketch.sketch_and_solve(A, b, 40, eps=0.01, generator=0)
    assert caught.value.error > 0.01 and caught.value.best.shape == (20,) and not caught.value.info.converged


def test_probe_tells_dense_from_sparse():
    m, n = 256, 1024
    for kind in ("gaussian", "rademacher", "srht", "srct"):
        found = sketch.occ_probe(sketch.make_sketch(kind, m, n, generator=0), generator=1)
        assert 1 < found.beta < 6 and found.beta == max(found.random, found.structured)
    found = sketch.occ_probe(sketch.count_sketch(m, n, generator=0), generator=1)
    assert found.structured > 6 and found.random < 5
    # an orthogonal sketch keeps every inner product
    assert sketch.occ_probe(torch.eye(16, dtype=torch.float64), pairs=70, generator=0).beta < 1e-13
    # two columns that are equal: their product is off by one, beta = sqrt(m)
    same = torch.ones(1, 2, dtype=torch.float64)
    assert sketch.occ_probe(same, pairs=3, generator=0).structured == pytest.approx(1)


def test_bad_input():
    A, b = torch.ones(6, 2), torch.ones(6)
    A[0, 0] = 2
    for call, word in (
        (lambda: sketch.sketch_and_solve(A.T, b), "n >= d"),
        (lambda: sketch.sketch_and_solve(A, b[:5]), "b must have shape"),
        (lambda: sketch.sketch_and_solve(A, b * math.nan), "b has 6 entries"),
        (lambda: sketch.sketch_and_solve(A, b, 1), "m must be an int of at least d = 2"),
        (lambda: sketch.sketch_and_solve(A, b, guarantee="l1"), "guarantee must be"),
        (lambda: sketch.sketch_and_solve(torch.ones(6, 2), b), "full column rank"),
        (lambda: sketch.sketch_and_solve(A, b, sketch=sketch.gaussian(3, 5)), "sketch must have shape"),
        (lambda: sketch.sketch_and_solve(A, b, eps=0), "eps must be positive"),
        (lambda: sketch.linf_rows(2, 5, analysis="exact"), "analysis must be"),
        (lambda: sketch.linf_rows(0, 5), "d must be an int"),
        (lambda: sketch.linf_rows(2, 5, delta=1), "delta must lie"),
        (lambda: sketch.occ_probe(torch.eye(2), pairs=0), "pairs must be"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    with pytest.raises(TypeError, match="b has dtype"):
        sketch.sketch_and_solve(A, b.double())
