"""Distillation of embeddings: losses against sums, gradients, limiting cases, training, towers, bad input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from resolvent.random import gaussian
from resolvent.search import (
    DistilledEncoder,
    align_tower,
    cosine_loss,
    distill_embeddings,
    relative_similarity_loss,
    similarity_loss,
)

F64 = torch.float64


def unit(x):
    return x / x.norm(dim=1, keepdim=True)


def order_by_sums(s, t, margin):
    S, T = unit(s) @ unit(s).T, unit(t) @ unit(t).T
    pairs = list(itertools.combinations(range(len(s)), 2))
    hinges = [max(0.0, float(S[q] - S[p]) + margin) for p in pairs for q in pairs if T[p] > T[q]]
    return sum(hinges) / len(hinges)


def test_the_losses_are_their_sums():
    s, t = gaussian((9, 4), generator=0), gaussian((9, 7), generator=1)
    for margin in (0.0, 0.015, 0.5):
        assert float(relative_similarity_loss(s, t, margin)) == pytest.approx(order_by_sums(s, t, margin), rel=1e-12)
    expected = np.mean(
        [(float(unit(s)[i] @ unit(s)[j] - unit(t)[i] @ unit(t)[j])) ** 2 for i in range(9) for j in range(9)]
    )
    assert float(similarity_loss(s, t)) == pytest.approx(expected, rel=1e-12)
    expected = np.mean([1 - float(unit(s)[i] @ unit(t[:, :4])[i]) for i in range(9)])
    assert float(cosine_loss(s, t[:, :4])) == pytest.approx(expected, rel=1e-12)


def test_blocks_of_pairs_change_nothing(monkeypatch):
    from resolvent.search import distill_losses

    s, t = gaussian((14, 4), generator=0), gaussian((14, 7), generator=1)
    t[5] = t[3]  # pairs that the teacher finds equally alike
    whole = relative_similarity_loss(s, t)
    monkeypatch.setattr(distill_losses, "_BLOCK", 400)
    torch.testing.assert_close(relative_similarity_loss(s, t), whole, rtol=1e-12, atol=0)
    assert float(whole) == pytest.approx(order_by_sums(s, t, 0.015), rel=1e-9)


def test_shifts_are_a_mean_over_pairs_that_share_a_row():
    s, t = gaussian((12, 4), generator=0), gaussian((12, 7), generator=1)
    S, T = unit(s) @ unit(s).T, unit(t) @ unit(t).T
    hinges = [
        max(0.0, float(S[i, k] - S[i, j]) + 0.015)
        for i in range(12)
        for j in range(12)
        for k in range(12)
        if i not in (j, k) and T[i, j] > T[i, k]
    ]
    few, many = (float(relative_similarity_loss(s, t, shifts=n, generator=0)) for n in (3, 2000))
    # Shifts are uniform, and long ones compare fewer places: near the mean over all, not equal to it.
    assert many == pytest.approx(np.mean(hinges), rel=0.15) and few == pytest.approx(many, rel=0.5)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_only_directions_count_in_float32_too(scale):
    s, t = gaussian((9, 4), generator=0), gaussian((9, 4), generator=1)
    lengths = 1 + torch.rand(9, 1, generator=torch.Generator().manual_seed(0))
    for loss in (cosine_loss, similarity_loss, relative_similarity_loss):
        found = loss((s * lengths * scale).float(), t.float() * scale)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), loss(s, t), rtol=1e-5, atol=1e-6)


def test_gradients():
    s, t = gaussian((6, 3), generator=0).requires_grad_(), gaussian((6, 3), generator=1)
    for loss in (cosine_loss, similarity_loss, relative_similarity_loss):
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, t), (s,))
    assert torch.autograd.gradcheck(lambda x: relative_similarity_loss(x, t, shifts=2, generator=0), (s,))


def test_a_rotation_of_the_teacher_has_no_loss_but_the_cosine():
    t = gaussian((8, 5), generator=0)
    turned = t @ torch.linalg.qr(gaussian((5, 5), generator=1)).Q
    assert float(similarity_loss(turned, t)) < 1e-28 and float(relative_similarity_loss(turned, t, 0.0)) < 1e-14
    assert float(cosine_loss(turned, t)) > 0.1


def problem(n=500):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(n, 6, generator=g)
    lift = torch.randn(6, 40, generator=g)
    wide = [torch.randn(6, 64, generator=g) for _ in range(2)]
    return z @ lift, [torch.relu(z @ w) for w in wide]


def student():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(40, 48), torch.nn.ReLU())


def found_again(own, goal, k=10):
    own, goal = (x @ x.T - 9 * torch.eye(len(x)) for x in (unit(own), unit(goal)))
    a, b = own.topk(k).indices, goal.topk(k).indices
    return float((a[:, :, None] == b[:, None]).any(2).double().mean())


def test_training_finds_the_teachers_neighbours_in_every_size_and_repeats():
    x, teachers = problem()
    target = torch.cat([unit(t) for t in teachers], 1)
    options = dict(dims=(12, 6), epochs=(1, 4, 6), batch=16, rate=1e-2, generator=0)
    first = distill_embeddings(student(), teachers, x, **options)
    assert first.dims == (128, 12, 6)
    for dim in first.dims:
        got = first.encode(x[:300], dim)
        torch.testing.assert_close(got.norm(dim=1), torch.ones(300))
        untrained = found_again(DistilledEncoder(student(), 48, (dim,), generator=0).encode(x[:300]), target[:300])
        assert found_again(got, target[:300]) > max(0.6, untrained + 0.05), dim


def test_a_seed_repeats_the_training():
    x, teachers = problem(100)
    first, again = (
        distill_embeddings(student(), teachers, x, (6,), batch=40, generator=3, return_losses=True) for _ in range(2)
    )
    assert first[1] == again[1] and torch.equal(first[0].encode(x), again[0].encode(x))


def test_kinds_of_texts_and_teachers_give_the_same_training():
    x, teachers = problem(100)
    options = dict(dims=(4,), epochs=(1, 1, 1), batch=32, generator=0)

    class Rows(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = student()

        def forward(self, batch):
            if sp.issparse(batch):
                batch = batch.toarray()
            return self.inner(torch.stack([torch.as_tensor(row) for row in batch]).float())

    results = []
    for texts in (x, x.numpy(), sp.csr_array(x.numpy()), list(x)):
        results.append(distill_embeddings(Rows(), teachers, texts, **options).encode(texts, 4))
    assert isinstance(results[0], torch.Tensor) and all(isinstance(r, np.ndarray) for r in results[1:])
    for other in results[1:]:
        np.testing.assert_array_equal(results[0].numpy(), other)
    calls = distill_embeddings(Rows(), [lambda b: torch.relu(b[:, :8]) + 0.1, teachers[0]], x, **options)
    assert calls.dims == (72, 4)


def test_what_is_frozen_stays():
    x, teachers = problem(100)
    net = student()
    before = [p.clone() for p in net.parameters()]
    distill_embeddings(net, teachers, x, (4,), epochs=(1, 0, 2), reduce_to="student", generator=0)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    distill_embeddings(net, teachers, x, (4,), epochs=(1, 1, 1), trainable=[net[0].bias], generator=0)
    assert torch.equal(before[0], net[0].weight) and not torch.equal(before[1], net[0].bias)


def test_a_second_tower_joins_the_vectors():
    x, teachers = problem()
    encoder = distill_embeddings(student(), teachers, x, (12,), epochs=(1, 4, 4), batch=16, rate=1e-2, generator=0)
    images = x @ torch.linalg.qr(torch.randn(40, 40, generator=torch.Generator().manual_seed(5))).Q
    torch.manual_seed(1)
    tower = torch.nn.Sequential(torch.nn.Linear(40, 48), torch.nn.ReLU())
    before = {name: p.clone() for name, p in encoder.state_dict().items()}
    both = align_tower(encoder, tower, images[:400], x[:400], epochs=12, batch=16, rate=1e-2, generator=0)
    assert all(torch.equal(p, before[name]) for name, p in encoder.state_dict().items())
    for dim in encoder.dims:
        text, image = encoder.encode(x[400:], dim), both.encode(images[400:], dim)
        assert float(((image @ text.T).argmax(1) == torch.arange(100)).double().mean()) > 0.7


def test_bad_input():
    x, teachers = problem(40)
    s, t = x[:5, :3], x[:5, :4]
    for call, match in (
        (lambda: cosine_loss(s, t), "shape of teacher"),
        (lambda: similarity_loss(s, t[:4]), "same number of rows"),
        (lambda: similarity_loss(s * torch.tensor([1, 1, 0, 1, 1])[:, None], t), "zero vector.*row 2"),
        (lambda: similarity_loss(s * torch.nan, t), "NaN"),
        (lambda: relative_similarity_loss(s, t, -1.0), "margin"),
        (lambda: relative_similarity_loss(s, t, shifts=0), "shifts"),
        (lambda: distill_embeddings(student(), teachers, x[:30]), "30 vectors"),
        (lambda: distill_embeddings(student(), [], x), "at least one"),
        (lambda: distill_embeddings(student(), teachers, x, weights=(0, 0, 0)), "weights"),
        (lambda: distill_embeddings(student(), teachers, x, (0,)), "dims"),
        (lambda: distill_embeddings(student(), teachers, x, epochs=(1, -1, 1)), "epochs"),
        (lambda: distill_embeddings(student(), teachers, x, batch=2), "batch"),
        (lambda: distill_embeddings(student(), teachers, x, reduce_to="self"), "reduce_to"),
        (lambda: distill_embeddings(torch.nn.Flatten(0), teachers, x), "student must return"),
        (lambda: DistilledEncoder(student(), 48, (4,)).encode(x, 5), r"one of \(4,\)"),
        (lambda: align_tower(DistilledEncoder(student(), 48, (4,)), student(), x[:5], x), "as many"),
        (lambda: align_tower(DistilledEncoder(student(), 48, (4,)), torch.nn.Linear(40, 7), x, x), "48 features"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
