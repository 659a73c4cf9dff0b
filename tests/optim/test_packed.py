"""Codes of 4 and 8 bits against the nearest level by brute force, and packed sides of a preconditioner."""

import pytest
import torch

from resolvent.optim import pack, rectify, unpack
from resolvent.optim.shampoo_bits import PackedSide
from resolvent.optim.shampoo_sides import FullSide, add_moment, from_blocks, ridged_root, to_blocks


def levels(bits):
    t = [-1 + 2 * j / (2**bits - 1) for j in range(2**bits)]
    found = [(1 if x > 0 else -1) * x * x for x in t]
    found[2 ** (bits - 1) - 1] = 0.0
    return torch.tensor(found)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("n", [1, 7, 64, 65, 130])
def test_every_number_goes_to_the_nearest_level(bits, n):
    x = torch.randn(3, n)
    codes, scales = pack(x, bits=bits)
    assert codes.shape == (3, (n + 1) // 2 if bits == 4 else n + n % 2) and codes.dtype == torch.uint8
    found = unpack(codes, scales, n, bits=bits)
    for row, values, scale in zip(x, found, scales.float(), strict=True):
        for start in range(0, n, 64):
            part, size = row[start : start + 64], scale[start // 64]
            assert size == pytest.approx(float(part.abs().max()), rel=2.0**-8)
            distance = (part[:, None] / size - levels(bits)).abs()
            nearest = distance.min(1).values
            assert torch.allclose((part - values[start : start + 64]).abs() / size, nearest, atol=1e-6)


def test_packing_is_stable_and_keeps_zero():
    x = torch.randn(200)
    once = unpack(*pack(x), 200)
    assert torch.allclose(unpack(*pack(once), 200), once, rtol=0.02, atol=1e-3)
    assert not unpack(*pack(torch.zeros(5, 70)), 70).any()
    assert pack(torch.zeros(2, 128))[0].nbytes == 128


def test_bad_input_is_refused():
    for wrong in (torch.tensor([1, 2]), [1.0], torch.tensor(1.0), torch.tensor([torch.nan])):
        with pytest.raises(ValueError, match="x"):
            pack(wrong)
    with pytest.raises(ValueError, match="bits"):
        pack(torch.ones(3), bits=5)
    with pytest.raises(ValueError, match="block"):
        pack(torch.ones(3), block=3)
    codes, scales = pack(torch.ones(100))
    with pytest.raises(ValueError, match="n = 70"):
        unpack(codes, scales, 70)


def test_rectification_squares_the_error():
    Q = torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64)).Q
    V = Q + 0.01 * torch.randn_like(Q) / 20**0.5
    errors = [float(torch.linalg.matrix_norm(W.T @ W - torch.eye(20), 2)) for W in (V, rectify(V, 1), rectify(V, 2))]
    # 3/4 e^2 in theory.
    assert errors[1] < errors[0] ** 2 and errors[2] < errors[1] ** 2 * 1.01


def test_blocks_cover_a_tensor():
    for shape in ((7, 5), (4, 3, 2), (8, 8), (1, 9)):
        x = torch.randn(shape)
        blocks = to_blocks(x, 4)
        assert max(blocks.shape[1:]) <= 4 and torch.equal(from_blocks(blocks, shape, 4), x)
        assert float(blocks.square().sum()) == pytest.approx(float(x.square().sum()))


@pytest.mark.parametrize("n", [10, 300])
def test_moments_fill_the_lower_triangle(n):
    S, X = torch.zeros(2, n, n), torch.randn(2, n, 5)
    expected = torch.zeros_like(S)
    for _ in range(2):
        add_moment(S, X, 0.9)
        expected = 0.9 * expected + 0.1 * X @ X.mT
    assert torch.allclose(S.tril(), expected.tril(), atol=1e-5)
    assert torch.allclose(ridged_root(S, 0.5, 1e-2), ridged_root(expected, 0.5, 1e-2), atol=1e-3)


def test_roots_have_a_ridge_and_take_zero():
    S = torch.diag(torch.tensor([4.0, 0.0], dtype=torch.float64))
    assert torch.allclose(ridged_root(S, 0.5, 0.01), torch.diag(torch.tensor([4.04, 0.04]).double() ** -0.5))
    assert torch.equal(ridged_root(torch.zeros(3, 3), 0.25, 1e-6), torch.eye(3))


def test_a_packed_side_follows_the_full_one():
    n = 96
    scales = torch.logspace(0, -1.5, n)
    Q = torch.linalg.qr(torch.randn(n, n)).Q
    for bits, bound in ((8, 0.05), (4, 0.2)):
        full, packed, state = FullSide("left"), PackedSide("left", bits), {}
        for _ in range(12):
            X = (Q * scales) @ torch.randn(1, n, 4 * n)
            for side in (full, packed):
                side.add(state, X, 0.9)
        roots = []
        for side in (full, packed):
            w, V = side.spectrum([state])
            root = (V * (w + 1e-4 * w.amax()) ** -0.25) @ V.mT
            side.keep_root(state, root, torch.float32)
            roots.append(side.root(state, torch.float32))
        assert torch.linalg.matrix_norm(roots[1] - roots[0]) < bound * torch.linalg.matrix_norm(roots[0])
        assert float(packed.trace(state)) == pytest.approx(float(full.trace(state)), rel=0.05)
