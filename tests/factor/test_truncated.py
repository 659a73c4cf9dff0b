"""Updates of a truncated SVD against the dense update of Zha and Simon and against new decompositions."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from resolvent import factor
from resolvent.factor import TruncatedSVD
from resolvent.operators import Dense, Sparse


def random(m, n, density, seed=0):
    return sp.random_array((m, n), density=density, rng=np.random.default_rng(seed), format="csr")


def low_rank(m, n, r, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(m, r, dtype=dtype, generator=g) @ torch.randn(r, n, dtype=dtype, generator=g)


def dense_rows(U, s, V, E):
    """The update of Zha and Simon with dense bases."""
    k, C = len(s), E @ V
    Q, R = np.linalg.qr(E.T - V @ C.T)
    F, t, Gh = np.linalg.svd(np.block([[np.diag(s), np.zeros((k, len(R)))], [C, R.T]]))
    F, G = F[:, :k], Gh[:k].T
    return np.vstack([U @ F[:k], F[k:]]), t[:k], np.hstack([V, Q]) @ G


def aligned(P, Q):
    return np.abs(np.abs((P * Q).sum(0)) - 1).max()


def test_rows_and_columns_as_the_dense_update():
    A = random(300, 200, 0.05)
    svd = TruncatedSVD(A[:200, :150], 8, generator=0)
    U, s, V = svd.left(), svd.singular_values, svd.right()
    for i in range(200, 300, 20):
        E = A[i : i + 20, :150]
        svd.append_rows(E)
        U, s, V = dense_rows(U, s, V, E.toarray())
    for j in range(150, 200, 10):
        E = A[:, j : j + 10]
        svd.append_columns(E)
        V, s, U = dense_rows(V, s, U, E.toarray().T)
    assert np.allclose(svd.singular_values, s, rtol=1e-11)
    assert aligned(svd.left(), U) < 1e-9 and aligned(svd.right(), V) < 1e-9
    for Q in (svd.left(), svd.right()):
        assert np.abs(Q.T @ Q - np.eye(8)).max() < 1e-11


def test_exact_where_nothing_is_cut_off():
    A = low_rank(40, 30, 5)
    svd = TruncatedSVD(A[:25, :20], 5)
    svd.append_rows(A[25:, :20]).append_columns(A[:, 20:])
    torch.testing.assert_close(svd.singular_values, torch.linalg.svdvals(A)[:5])
    torch.testing.assert_close(svd.operator()._dense(), A)
    D, E = low_rank(40, 2, 2, 1), low_rank(30, 2, 2, 2)
    svd = TruncatedSVD(A, 7).add_lowrank(D, E)
    torch.testing.assert_close(svd.operator()._dense(), A + D @ E.T)
    svd.add_lowrank(-D, E)
    torch.testing.assert_close(svd.operator()._dense(), A)


@pytest.mark.parametrize("method", ("lanczos", "random"))
def test_few_directions_of_many_rows(method):
    A = low_rank(200, 60, 12)
    # Nine directions of the rows are new, so ten hold them all.
    svd = TruncatedSVD(A[:3], 3, method=method, rank=10, generator=0).append_rows(A[3:])
    U, s, V = (np.asarray(t) for t in torch.linalg.svd(A[:3], full_matrices=False))
    wanted = dense_rows(U, s, V.T, A[3:].numpy())[1]
    assert np.allclose(svd.singular_values, wanted, rtol=1e-10)


def test_sparse_rows_touch_only_their_columns():
    svd = TruncatedSVD(random(400, 300, 0.05), 6, generator=0)
    before = svd._right._memory.clone()
    E = sp.csr_array(([1.0, 2.0, 1.0], ([0, 0, 1], [3, 7, 7])), shape=(2, 300))
    svd.append_rows(E)
    changed = (svd._right._memory != before).any(1).nonzero().flatten()
    assert changed.tolist() == [3, 7]


def test_ill_conditioned_turns_are_multiplied_out():
    svd = TruncatedSVD(torch.diag(torch.tensor([1.0, 0.5, 0.1, 0.1]).double()), 2)
    # The new rows push both old directions out, to the last bit of them.
    svd.append_rows(1e6 * torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, -1.0]]).double())
    torch.testing.assert_close(svd.singular_values, torch.full((2,), 2**0.5 * 1e6, dtype=torch.float64))
    for Q in (svd.left(), svd.right()):
        torch.testing.assert_close(Q.mH @ Q, torch.eye(2).double())


def test_repeated_and_dependent_rows():
    A = random(60, 50, 0.2).toarray()
    svd = TruncatedSVD(A[:40], 40)
    svd.append_rows(np.vstack([A[:3], A[:3]]))
    assert np.allclose(svd.singular_values, np.linalg.svd(np.vstack([A[:40], A[:3], A[:3]]))[1][:40])


def test_kinds_dtypes_and_queries():
    A = random(50, 40, 0.2).astype(np.float32)
    svd = TruncatedSVD(A[:45], 4, generator=0).append_rows(A[45:])
    assert svd.singular_values.dtype == np.float32 and svd.left(3).shape == (4,) and svd.right([1, 2]).shape == (2, 4)
    assert np.allclose(svd.left(slice(2, 4)), svd.left()[2:4], atol=1e-6) and svd.shape == (50, 40)
    sparse = TruncatedSVD(Sparse(A[:45]), 4, generator=0).append_rows(Dense(torch.from_numpy(A[45:].toarray())))
    assert np.allclose(sparse.singular_values, svd.singular_values, rtol=1e-5)
    C = low_rank(20, 10, 3, dtype=torch.complex128)
    svd = TruncatedSVD(C[:12], 3).append_rows(C[12:].to_sparse())
    torch.testing.assert_close(svd.operator()._dense(), C)


def test_float32_is_as_accurate_as_float32():
    A = low_rank(200, 100, 10, dtype=torch.float32)
    svd = TruncatedSVD(A[:100], 10)
    for i in range(100, 200, 10):
        svd.append_rows(A[i : i + 10])
    torch.testing.assert_close(svd.singular_values.double(), torch.linalg.svdvals(A.double())[:10], rtol=1e-5, atol=0)
    Q = svd.right()
    assert float((Q.mH @ Q - torch.eye(10)).abs().max()) < 1e-5


def test_bad_input():
    A = torch.eye(4, dtype=torch.float64)
    svd = TruncatedSVD(A, 2)
    for call, error, word in (
        (lambda: TruncatedSVD(A), ValueError, "k must be given"),
        (lambda: TruncatedSVD(A, 5), ValueError, "k must be"),
        (lambda: TruncatedSVD(A, 2, method="fast"), ValueError, "method"),
        (lambda: TruncatedSVD(A, 2, rank=0), ValueError, "rank"),
        (lambda: TruncatedSVD(A.clone().requires_grad_(), 2), ValueError, "gradient"),
        (lambda: TruncatedSVD((A, torch.ones(4), 2 * A)), ValueError, "orthonormal"),
        (lambda: TruncatedSVD((A, torch.arange(4.0), A)), ValueError, "descending"),
        (lambda: TruncatedSVD((A, torch.ones(3), A)), ValueError, "shapes"),
        (lambda: svd.append_rows(torch.ones(1, 3).double()), ValueError, "E must have shape"),
        (lambda: svd.append_rows(torch.full((1, 4), torch.nan)), ValueError, "NaN"),
        (lambda: svd.append_rows(torch.ones(1, 4, dtype=torch.complex128)), TypeError, "complex"),
        (lambda: svd.add_lowrank(A[:, :1], A[:, :2]), ValueError, "E must have shape"),
        (lambda: svd.append_rows(A.clone().requires_grad_()), ValueError, "gradient"),
    ):
        with pytest.raises(error, match=word):
            call()
    assert svd.append_rows(torch.ones(0, 4).double()).shape == (4, 4)
    assert factor.TruncatedSVD is TruncatedSVD


def test_known_triplets_are_checked():
    with pytest.raises(ValueError, match="NaN"):
        factor.TruncatedSVD((torch.eye(3, 2), torch.tensor([float("nan"), 1.0]), torch.eye(2, 3)))
    with pytest.raises(ValueError, match="gradient"):
        factor.TruncatedSVD((torch.eye(3, 2), torch.ones(2, requires_grad=True), torch.eye(2, 3)))
