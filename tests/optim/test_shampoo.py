"""Shampoo against its formula, its limits and a slower self, in 32, 8 and 4 bits."""

import pytest
import torch
from torch import nn

from resolvent.functions import inv_root, orthogonalize
from resolvent.optim import Shampoo
from resolvent.optim.shampoo_sides import add_moment

DOUBLE = torch.float64


def after(optimizer, p, grads):
    start = p.detach().clone()
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
    return p.detach() - start


def last_step(grads, **options):
    """The step that the last gradient makes, per learning rate."""
    p = nn.Parameter(torch.zeros_like(grads[0]))
    settings = {"lr": 1.0, "betas": (0.0, 0.9), "graft": None, "precond_interval": 1, "precision": "full", **options}
    optimizer = Shampoo([p], **settings)
    after(optimizer, p, grads[:-1])
    return -after(optimizer, p, grads[-1:]), optimizer.state[p]


def averages(grads, beta=0.9):
    weights = [beta ** (len(grads) - 1 - i) for i in range(len(grads))]
    total = sum(weights)
    left = sum(w * g @ g.T for w, g in zip(weights, grads, strict=True)) / total
    right = sum(w * g.T @ g for w, g in zip(weights, grads, strict=True)) / total
    return left, right


def ridged(S, eps):
    return S + eps * torch.linalg.eigvalsh(S)[-1] * torch.eye(len(S), dtype=S.dtype)


@pytest.mark.parametrize("exponent", ["optimal", "original"])
def test_the_step_is_the_formula(exponent):
    grads = [torch.randn(5, 4, dtype=DOUBLE) for _ in range(12)]
    found, _ = last_step(grads, exponent=exponent, eps=1e-4)
    left, right = averages(grads)
    p = 2 if exponent == "optimal" else 4
    size = left.trace().sqrt() if exponent == "optimal" else 1.0
    expected = size * inv_root(ridged(left, 1e-4), p) @ grads[-1] @ inv_root(ridged(right, 1e-4), p)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_without_accumulation_the_original_is_the_polar_factor():
    g = torch.randn(6, 4, dtype=DOUBLE)
    found, _ = last_step([g], exponent="original", eps=0.0)
    assert torch.allclose(found, orthogonalize(g), atol=1e-6)


def test_diagonal_gradients_take_the_steps_of_adagrad():
    # Where all gradients are diagonal, so are L and R, and L^(-1/4) G R^(-1/4) is g / sqrt(E g^2) on the diagonal.
    grads = [torch.diag(torch.randn(4, dtype=DOUBLE)) for _ in range(6)]
    found, _ = last_step(grads, exponent="original", eps=0.0)
    second = sum(0.9 ** (5 - i) * g.square() for i, g in enumerate(grads)) / sum(0.9**i for i in range(6))
    assert torch.allclose(found.diagonal(), (grads[-1] / second.sqrt()).diagonal(), rtol=1e-6)


def test_rotated_gradients_give_rotated_steps():
    grads = [torch.randn(5, 3, dtype=DOUBLE) for _ in range(8)]
    U, V = torch.linalg.qr(torch.randn(5, 5, dtype=DOUBLE)).Q, torch.linalg.qr(torch.randn(3, 3, dtype=DOUBLE)).Q
    plain, _ = last_step(grads)
    turned, _ = last_step([U @ g @ V for g in grads])
    assert torch.allclose(turned, U @ plain @ V, atol=1e-8)


def test_scaled_gradients_give_the_same_step():
    grads = [torch.randn(5, 3, dtype=DOUBLE) for _ in range(8)]
    for exponent in ("optimal", "original"):
        plain, _ = last_step(grads, exponent=exponent)
        larger, _ = last_step([1000 * g for g in grads], exponent=exponent)
        assert torch.allclose(larger, plain, rtol=1e-8)


@pytest.mark.parametrize("graft", ["adam", "sgd"])
def test_grafting_takes_the_size_of_another_step(graft):
    grads = [torch.randn(6, 4, dtype=DOUBLE) for _ in range(5)]
    p, q = nn.Parameter(torch.zeros(6, 4, dtype=DOUBLE)), nn.Parameter(torch.zeros(6, 4, dtype=DOUBLE))
    ours = Shampoo([p], lr=0.1, graft=graft, betas=(0.9, 0.95))
    after(ours, p, grads[:-1])
    found = after(ours, p, grads[-1:])
    if graft == "adam":
        adam = torch.optim.Adam([q], lr=0.1, betas=(0.9, 0.95))
        after(adam, q, grads[:-1])
        size = after(adam, q, grads[-1:]).norm()
    else:
        m = sum(0.1 * 0.9 ** (4 - i) * g for i, g in enumerate(grads)) / (1 - 0.9**5)
        size = 0.1 * m.norm()
    assert float(found.norm()) == pytest.approx(float(size), rel=1e-8)


def test_vectors_and_long_matrices_take_the_steps_of_adam():
    shapes = [(7,), (30, 3), (1, 5), (5, 1)]
    ours, theirs = ([nn.Parameter(torch.ones(s, dtype=DOUBLE)) for s in shapes] for _ in range(2))
    optimizers = [
        Shampoo(ours, lr=0.1, betas=(0.9, 0.95), max_size=20, weight_decay=0.1),
        torch.optim.AdamW(theirs, lr=0.1, betas=(0.9, 0.95), weight_decay=0.1),
    ]
    for _ in range(5):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(ours, theirs, strict=True):
        assert torch.allclose(p, q, rtol=1e-10)


def test_blocks_are_independent():
    grads = [torch.randn(6, 4, dtype=DOUBLE) for _ in range(5)]
    whole, _ = last_step(grads, block=3)
    for rows in (slice(0, 3), slice(3, 6)):
        for columns in (slice(0, 2), slice(2, 4)):
            part, _ = last_step([g[rows, columns].contiguous() for g in grads], block=3)
            assert torch.allclose(whole[rows, columns], part, atol=1e-10)


def test_a_padded_block_changes_nothing():
    grads = [torch.randn(5, 3, dtype=DOUBLE) for _ in range(6)]
    whole, _ = last_step(grads, block=3)
    part, _ = last_step([g[:3].contiguous() for g in grads], block=3)
    assert torch.allclose(whole[:3], part, atol=1e-8) and torch.isfinite(whole).all()


def test_kernels_are_matrices():
    grads = [torch.randn(4, 3, 2, 2, dtype=DOUBLE) for _ in range(5)]
    found, _ = last_step(grads)
    flat, _ = last_step([g.flatten(1) for g in grads])
    assert torch.allclose(found.flatten(1), flat, atol=1e-12)


def test_roots_are_made_at_powers_of_two_and_then_at_the_interval():
    p = nn.Parameter(torch.zeros(4, 3))
    optimizer = Shampoo([p], precond_interval=10, precision="full")
    renewed, last = [], None
    for step in range(1, 32):
        p.grad = torch.randn(4, 3)
        optimizer.step()
        root = optimizer.state[p]["left_root"]
        if last is None or not torch.equal(root, last):
            renewed.append(step)
        last = root.clone()
    assert renewed == [1, 2, 4, 8, 10, 20, 30]
    assert optimizer.state[p]["updates"] == 31


@pytest.mark.parametrize("bits", [8, 4])
def test_few_bits_stay_near_32(bits):
    torch.manual_seed(1)
    left, right = torch.randn(80, 80) / 9, torch.randn(64, 64) / 8
    grads = [left @ torch.randn(80, 64) @ right for _ in range(30)]
    options = {"eps": 1e-3, "exponent": "original", "stat_interval": 1}
    wide, _ = last_step(grads, **options)
    narrow, packed = last_step(grads, bits=bits, **options)
    cosine = float((wide * narrow).sum() / wide.norm() / narrow.norm())
    assert cosine > (0.995 if bits == 8 else 0.95)
    assert "left_codes" in packed and packed["left_codes"].dtype == torch.uint8 and "left" not in packed


def test_small_sides_keep_32_bits():
    _, state = last_step([torch.randn(80, 20) for _ in range(2)], bits=4, stat_interval=1)
    assert "left_codes" in state and "right" in state


def test_bfloat16_products_stay_near_those_of_float32():
    torch.manual_seed(2)
    scales = torch.logspace(0, -1, 130)
    Q = torch.linalg.qr(torch.randn(130, 130)).Q
    grads = [(Q * scales) @ torch.randn(130, 130) * scales for _ in range(20)]
    options = {"eps": 1e-4, "betas": (0.9, 0.9), "precond_interval": 10}
    wide, _ = last_step(grads, **options)
    narrow, state = last_step(grads, precision="bfloat16", **options)
    assert state["left_root"].dtype == torch.bfloat16 and state["left"].dtype == torch.float32
    assert torch.linalg.matrix_norm(wide - narrow) < 0.2 * torch.linalg.matrix_norm(wide)


def test_statistics_in_strips_are_exact():
    S, X = torch.zeros(1, 257, 257, dtype=DOUBLE), torch.randn(1, 257, 9, dtype=DOUBLE)
    add_moment(S, X, 0.0)
    assert torch.allclose(S[0].tril(), (X[0] @ X[0].T).tril(), atol=1e-12)


def test_bad_hyper_parameters_are_refused():
    p = [nn.Parameter(torch.zeros(2, 2))]
    for name, value in {"bits": 5, "stat_interval": 0, "max_size": 0, "quant_block": 3, "precision": "half"}.items():
        with pytest.raises(ValueError, match=name):
            Shampoo(p, **{name: value})
