"""ProjectionMaintainer: exact answers, lazy and sketched ones, private medians, adaptive questions, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resolvent.sketch import ProjectionMaintainer
from resolvent.sketch.projection_maintenance import _private_median

N, M = 6, 9


def problem(seed=0, n=N, m=M):
    g = torch.Generator().manual_seed(100 + seed)
    A = torch.randn(m, n * n, generator=g, dtype=torch.float64)
    U = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64)).Q
    values = torch.rand(n, generator=g, dtype=torch.float64) + 0.5
    return A, U, values, g


def projection(A, U, values, form):
    """P as its definition says, with Kronecker products written out."""
    n = len(values)
    W = U @ torch.diag(values) @ U.T
    root = U @ torch.diag(values.sqrt()) @ U.T
    B = A @ (torch.kron(root, root) if form == "sqrt x sqrt" else torch.kron(W, torch.eye(n, dtype=A.dtype)))
    return B.T @ torch.linalg.solve(B @ B.T, B)


@pytest.mark.parametrize("form", ["sqrt x sqrt", "W x I"])
def test_exact_answers_follow_every_change(form):
    A, U, values, g = problem()
    kept = ProjectionMaintainer(A, values, U, form=form)
    for step in range(150):
        values = values.clone()
        values[torch.randperm(N, generator=g)[: 1 + step % 2]] *= 0.5 + torch.rand((), generator=g).double()
        if step % 40 == 20:
            U = torch.linalg.qr(torch.randn(N, N, generator=g, dtype=torch.float64)).Q
            kept.update(values, U)
        else:
            kept.update(values)
        h = torch.randn(N * N, generator=g, dtype=torch.float64)
        exact = projection(A, U, values, form) @ h
        torch.testing.assert_close(kept.query(h), exact, rtol=0, atol=1e-10)
        torch.testing.assert_close(kept.exact(h), exact, rtol=0, atol=1e-10)
        torch.testing.assert_close(kept.query(h, only=[3, 5]), exact[[3, 5]], rtol=0, atol=1e-10)


def test_it_is_a_projection():
    A, U, values, _ = problem()
    kept = ProjectionMaintainer(A, values, U)
    P = torch.stack([kept.query(e) for e in torch.eye(N * N, dtype=torch.float64)])
    torch.testing.assert_close(P, P.T)
    torch.testing.assert_close(P @ P, P)
    assert float(P.trace()) == pytest.approx(M)
    # W = I projects on the rows of A, whatever the eigenvectors are
    flat = ProjectionMaintainer(A, torch.ones(N), U)
    torch.testing.assert_close(flat.query(A[0]), A[0])
    scaled = ProjectionMaintainer(A, 7 * values, U)
    torch.testing.assert_close(scaled.query(A[1]), kept.query(A[1]))


def test_small_changes_wait_and_answers_stay_near():
    A, U, values, g = problem(1)
    kept = ProjectionMaintainer(A, values, U, eps=0.2, copies=1, sketch_rows=1, generator=0)
    held = kept._held_values.clone()
    kept.update(values * 1.05)
    assert kept.refreshes == 0 and torch.equal(kept._held_values, held)
    one = values.clone()
    one[2] *= 1.3
    kept.update(one)
    assert kept.refreshes == 1
    assert float((kept._held_values / one).log().abs().max()) <= np.log1p(0.1)
    for _ in range(100):
        one = one * torch.exp(0.05 * torch.randn(N, generator=g, dtype=torch.float64))
        kept.update(one)
        assert float((kept._held_values / one).log().abs().max()) <= np.log1p(0.1)
        gap = projection(A, U, kept._held_values, "sqrt x sqrt") - projection(A, U, one, "sqrt x sqrt")
        assert float(torch.linalg.matrix_norm(gap, 2)) < 0.2
    # what is held is what the factor is of
    P = kept._factor.T @ kept._factor
    torch.testing.assert_close(P, projection(A, U, kept._held_values, "sqrt x sqrt"), rtol=0, atol=1e-10)


def test_sketched_answers_over_many_seeds():
    A, U, values, _ = problem(2)
    P = projection(A, U, values, "sqrt x sqrt")
    eps, bad, total = 0.3, 0, 0
    for seed in range(200):
        kept = ProjectionMaintainer(A, values, U, eps=eps, rounds=81, generator=1000 + seed)
        assert (kept.copies, kept.sketch_rows) == (9, 30)
        h = torch.randn(N * N, generator=torch.Generator().manual_seed(5000 + seed), dtype=torch.float64)
        off = (kept.query(h) - P @ h).abs().max() / h.norm()
        bad += float(off) > eps
        total += 1
    assert bad <= 0.02 * total


def test_many_rows_recover_the_exact_answer():
    A, U, values, _ = problem(3)
    kept = ProjectionMaintainer(A, values, U, eps=0.5, copies=1, sketch_rows=200_000, generator=7)
    h = torch.randn(N * N, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    off = (kept.query(h) - kept.exact(h)).abs().max() / h.norm()
    assert float(off) < 0.01


def test_adaptive_questions_break_one_sketch_and_not_the_median():
    A, U, values, g = problem(4, n=10, m=20)
    worst = {}
    for copies in (1, None):
        kept = ProjectionMaintainer(A, values, U, eps=0.2, rounds=150, copies=copies, sketch_rows=40, generator=77)
        h, errors = torch.randn(100, generator=g, dtype=torch.float64), []
        for _ in range(150):
            off = kept.query(h) - kept.exact(h)
            errors.append(float(off.abs().max() / h.norm()))
            h = off / off.norm()
        worst[copies] = max(errors)
    assert worst[None] < 0.2 < worst[1]
    assert worst[1] > 2 * worst[None]


def test_private_median():
    g = torch.Generator().manual_seed(0)
    answers = torch.linspace(-1, 1, 21, dtype=torch.float64)[torch.randperm(21, generator=g)][:, None].repeat(1, 4000)
    found = _private_median(answers, torch.tensor(5.0, dtype=torch.float64), 1.0, g)
    assert abs(float(found.mean())) < 0.02
    # gap r of length 0.1 has the weight 0.1 exp(-|r - 10.5| / 2); the two outer ones are 4 long
    ranks = np.arange(22)
    lengths = np.where((ranks == 0) | (ranks == 21), 4.0, 0.1)
    weights = lengths * np.exp(-np.abs(ranks - 10.5) / 2)
    inner = float((found.abs() <= 0.1).double().mean())
    assert inner == pytest.approx(weights[10:12].sum() / weights.sum(), abs=0.04)
    sharp = _private_median(answers, torch.tensor(5.0, dtype=torch.float64), 50.0, g)
    assert float(sharp.abs().max()) <= 0.1 + 1e-12
    zero = _private_median(answers * 0, torch.tensor(0.0, dtype=torch.float64), 8.0, g)
    assert bool((zero == 0).all())


def test_kinds_and_single_precision():
    A, U, values, _ = problem()
    kept = ProjectionMaintainer(A.numpy().reshape(M, N, N), values.numpy(), U.numpy())
    h = np.ones(N * N)
    assert isinstance(kept.query(h), np.ndarray)
    np.testing.assert_allclose(kept.query(h), projection(A, U, values, "sqrt x sqrt").numpy() @ h, atol=1e-10)
    single = ProjectionMaintainer(A.float(), values, U).query(torch.ones(N * N))
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), kept.query(h), atol=1e-4)
    sketched = ProjectionMaintainer(A.float(), values, U, eps=0.3, generator=5)
    assert sketched.query(torch.ones(N * N)).dtype == torch.float32
    assert float(sketched.query(torch.zeros(N * N)).abs().max()) == 0


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda A, v: ProjectionMaintainer(A[:, :5], v), "shape"),
        (lambda A, v: ProjectionMaintainer(torch.ones(5, 4), torch.ones(2)), "at most"),
        (lambda A, v: ProjectionMaintainer(torch.ones(2, 36), v), "independent"),
        (lambda A, v: ProjectionMaintainer(A * 1j, v), "real"),
        (lambda A, v: ProjectionMaintainer(A, v[:2]), "values"),
        (lambda A, v: ProjectionMaintainer(A, -v), "positive"),
        (lambda A, v: ProjectionMaintainer(A, v, torch.ones(N, N)), "orthogonal"),
        (lambda A, v: ProjectionMaintainer(A, v, form="W"), "form"),
        (lambda A, v: ProjectionMaintainer(A, v, eps=1.0), "eps"),
        (lambda A, v: ProjectionMaintainer(A, v, copies=0), "copies"),
        (lambda A, v: ProjectionMaintainer(A, v, privacy=0), "privacy"),
        (lambda A, v: ProjectionMaintainer(A, v).update(v * float("nan")), "NaN"),
        (lambda A, v: ProjectionMaintainer(A, v).query(v), "h must"),
        (lambda A, v: ProjectionMaintainer(A, v).exact(v), "h must"),
        (lambda A, v: ProjectionMaintainer(A, v).query(torch.ones(N * N) * 1j), "h must be real"),
        (lambda A, v: ProjectionMaintainer(A, v).exact(torch.ones(N * N) / 0), "infinite"),
    ],
)
def test_bad_input(call, word):
    A, _, values, _ = problem()
    with pytest.raises(ValueError, match=word):
        call(A, values)
