"""procrustes: planted motions, SciPy's answers, reflections, gradients, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial.transform
import torch

from resolvent.factor import procrustes
from resolvent.random import gaussian


def rotation(p, seed, dtype=torch.float64):
    Q = torch.linalg.qr(gaussian((p, p), dtype, generator=seed)).Q
    if not dtype.is_complex and np.linalg.det(Q.numpy()) < 0:
        Q[:, 0] *= -1
    return Q


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_a_planted_motion_comes_back(dtype):
    A, Q = gaussian((9, 4), dtype, generator=0), rotation(4, 1, dtype)
    shift = gaussian((4,), dtype, generator=2)
    found = procrustes(A, 2.5 * A @ Q + shift, scale=True, center=True)
    bound = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found.Q, Q, rtol=0, atol=bound)
    torch.testing.assert_close(found.shift, shift, rtol=0, atol=bound)
    assert float(found.scale) == pytest.approx(2.5, rel=bound) and float(found.distance) < 10 * bound


def test_same_as_scipy():
    rng = np.random.default_rng(0)
    A, B = rng.normal(size=(2, 8, 3))
    found = procrustes(A, B)
    expected, total = scipy.linalg.orthogonal_procrustes(A, B)
    np.testing.assert_allclose(found.Q, expected, atol=1e-12)
    assert found.distance == pytest.approx(np.linalg.norm(A @ expected - B))
    scaled = procrustes(A, B, scale=True)
    assert scaled.scale == pytest.approx(total / np.linalg.norm(A) ** 2)
    for flip in (1, -1):
        mirror = B * [1, 1, flip]
        turn, distance = scipy.spatial.transform.Rotation.align_vectors(mirror, A)
        kabsch = procrustes(A, mirror, rotation_only=True)
        np.testing.assert_allclose(kabsch.Q.T, turn.as_matrix(), atol=1e-10)
        assert kabsch.distance == pytest.approx(distance) and np.linalg.det(kabsch.Q) == pytest.approx(1)


def test_the_scale_is_the_best_one_and_never_negative():
    A, B = gaussian((7, 3), generator=0), gaussian((7, 3), generator=1)
    found = procrustes(A, B, scale=True, rotation_only=True)
    for factor in (0.99, 1.01):
        assert float(torch.linalg.vector_norm(factor * found.scale * A @ found.Q - B)) > float(found.distance)
    # A reflection of one axis: no rotation of a line has a positive factor.
    line = torch.tensor([[1.0], [-1.0]])
    assert float(procrustes(line, -line, scale=True, rotation_only=True).scale) == 0
    assert float(procrustes(line, -line, scale=True).Q) == -1


def test_batches_and_extreme_sizes():
    A, B = gaussian((2, 3, 6, 4), generator=0), gaussian((2, 3, 6, 4), generator=1)
    all_of = procrustes(A, B, scale=True, rotation_only=True, center=True)
    one = procrustes(A[1, 2], B[1, 2], scale=True, rotation_only=True, center=True)
    for whole, single in zip(all_of, one, strict=True):
        torch.testing.assert_close(whole[1, 2], single)
    for a, b in ((1e-30, 1.0), (1e30, 1e30), (1e-30, 1e-30)):
        tiny = procrustes((a * A).float(), (b * B).float(), scale=True)
        usual = procrustes(A, B, scale=True)
        torch.testing.assert_close(tiny.Q, usual.Q.float(), rtol=0, atol=1e-4)
        torch.testing.assert_close(tiny.scale, (usual.scale * b / a).float(), rtol=1e-4, atol=0)
        torch.testing.assert_close(tiny.distance, (usual.distance * b).float(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("options", [{}, {"scale": True}, {"scale": True, "rotation_only": True, "center": True}])
def test_gradient(options):
    for seed in (0, 3):
        A, B = (gaussian((6, 3), generator=seed + i).requires_grad_() for i in range(2))
        assert torch.autograd.gradcheck(lambda A, B: tuple(procrustes(A, B, **options)), (A, B))
    if not options:
        A, B = (gaussian((4, 3), torch.complex128, generator=i).requires_grad_() for i in range(2))
        assert torch.autograd.gradcheck(lambda A, B: procrustes(A, B).Q, (A, B))


def test_gradient_where_singular_values_meet():
    Q = rotation(3, 0)
    A = torch.eye(3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda A: procrustes(A, Q).Q, A)


def test_refusals():
    A = torch.eye(3)
    with pytest.raises(ValueError, match="one shape"):
        procrustes(A, torch.ones(3, 2))
    with pytest.raises(ValueError, match="A has 9 entries"):
        procrustes(A * float("nan"), A)
    with pytest.raises(ValueError, match="real points"):
        procrustes(A.cfloat(), A.cfloat(), rotation_only=True)
    with pytest.raises(ValueError, match="A must not be zero once centred"):
        procrustes(torch.ones(4, 2), torch.ones(4, 2), scale=True, center=True)
    with pytest.raises(TypeError, match="float16"):
        procrustes(A.half(), A.half())
    with pytest.raises(ValueError, match="not unique"):
        procrustes(torch.diag(torch.tensor([1.0, 0.0, 0.0])).requires_grad_(), A)
