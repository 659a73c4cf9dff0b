"""The nearest Kronecker product of a second moment against the SVD of the rearranged matrix."""

import numpy as np
import pytest
import torch

from resolvent.errors import ConvergenceError
from resolvent.optim import kronecker_approximation, kronecker_similarity


def samples(m=5, n=4, count=30, dtype=torch.float64):
    left, right = torch.randn(m, m, dtype=dtype), torch.randn(n, n, dtype=dtype)
    return left @ torch.randn(count, m, n, dtype=dtype) @ right + 0.3 * torch.randn(count, m, n, dtype=dtype)


def moment(G):
    flat = G.flatten(1)
    return flat.T @ flat / len(G)


def rearranged(H, m, n):
    """Rows are pairs of row indices, columns pairs of column indices: L kron R becomes vec(L) vec(R)^T."""
    return H.reshape(m, n, m, n).permute(0, 2, 1, 3).reshape(m * m, n * n)


def cosine(A, B):
    return float((A * B).sum() / A.norm() / B.norm())


def test_the_optimal_factors_are_the_leading_singular_pair():
    G = samples()
    H = moment(G)
    L, R, info = kronecker_approximation(G, return_info=True)
    U, s, Vh = torch.linalg.svd(rearranged(H, 5, 4))
    best = s[0] * torch.outer(U[:, 0], Vh[0])
    assert torch.allclose(torch.outer(L.flatten(), R.flatten()), best, rtol=1e-8, atol=1e-8 * float(s[0]))
    assert info.converged and info.error <= 1e-10 and L.norm() == pytest.approx(float(R.norm()))
    assert torch.linalg.eigvalsh(L).min() > -1e-10 and torch.equal(L, L.T)


def test_one_step_from_the_identity_is_shampoo_squared():
    G = samples()
    L, R = kronecker_approximation(G, "shampoo2")
    left, right = (G @ G.mT).mean(0), (G.mT @ G).mean(0)
    assert torch.allclose(torch.kron(L, R), torch.kron(left, right) / left.trace())
    # A power step from I: the rearranged H times vec(I) is E[G G^T], its transpose times vec(I) is E[G^T G].
    K = rearranged(moment(G), 5, 4)
    assert torch.allclose((K @ torch.eye(4, dtype=K.dtype).flatten()).reshape(5, 5), left)
    assert torch.allclose((K.T @ torch.eye(5, dtype=K.dtype).flatten()).reshape(4, 4), right)


def test_the_original_is_the_square_root():
    G = samples()
    L, R = kronecker_approximation(G, "shampoo")
    assert torch.allclose(L @ L, (G @ G.mT).mean(0)) and torch.allclose(R @ R, (G.mT @ G).mean(0))


@pytest.mark.parametrize("method", ["optimal", "shampoo2", "shampoo"])
def test_similarity_is_that_of_the_formed_matrices(method):
    G = samples()
    L, R = kronecker_approximation(G, method)
    assert kronecker_similarity(G, L, R) == pytest.approx(cosine(moment(G), torch.kron(L, R)), rel=1e-12)


def test_an_exact_product_is_found_and_the_order_is_right():
    left, right = torch.diag(torch.tensor([1.0, 4.0])), torch.diag(torch.tensor([9.0, 1.0, 4.0]))
    # All sign patterns of the square roots have the moment left kron right, whose entries are independent.
    G = torch.stack(
        [6**0.5 * left.sqrt()[i, i] * right.sqrt()[j, j] * torch.eye(2)[i][:, None] * torch.eye(3)[j]
         for i in range(2) for j in range(3)]
    )  # fmt: skip
    for method in ("optimal", "shampoo2"):
        L, R = kronecker_approximation(G, method)
        assert torch.allclose(torch.kron(L, R), torch.kron(left, right), rtol=1e-4)


def test_kinds_precisions_and_zero():
    G = samples(dtype=torch.float32)
    L, R = kronecker_approximation(G.numpy())
    assert isinstance(L, np.ndarray) and L.dtype == np.float32
    wide, _ = kronecker_approximation(G.double())
    assert np.allclose(L, wide, rtol=1e-4, atol=1e-4)
    L, R = kronecker_approximation(torch.zeros(3, 2, 2))
    assert not L.any() and not R.any() and kronecker_similarity(torch.zeros(3, 2, 2), L, R) == 0.0


def test_bad_input_is_refused():
    G = samples()
    with pytest.raises(ValueError, match="samples"):
        kronecker_approximation(G[0])
    with pytest.raises(ValueError, match="method"):
        kronecker_approximation(G, "best")
    with pytest.raises(ValueError, match="detach"):
        kronecker_approximation(G.requires_grad_())
    with pytest.raises(ValueError, match="rtol"):
        kronecker_approximation(G.detach(), rtol=0.0)
    with pytest.raises(ValueError, match="R must"):
        kronecker_similarity(G.detach(), torch.eye(5), torch.eye(5))


def test_no_gap_is_reported():
    # Two samples with orthogonal rows and columns of nearly one size: two equal singular values.
    G = torch.zeros(2, 2, 2, dtype=torch.float64)
    G[0, 0, 0], G[1, 1, 1] = 1.0, 1.0 + 1e-6
    with pytest.raises(ConvergenceError) as caught:
        kronecker_approximation(G)
    assert caught.value.best[0].shape == (2, 2)
