"""float32 input of any size: results scale with it although its squares leave the range of the dtype."""

from __future__ import annotations

import pytest
import torch

from resolvent import factor
from resolvent.random import gaussian

LEFT, RIGHT = gaussian((40, 5), torch.float32, generator=0), gaussian((5, 30), torch.float32, generator=1)
A = LEFT * torch.tensor([10.0, 5.0, 2.0, 1.0, 0.5]) @ RIGHT
P = LEFT @ LEFT.T + 0.1 * torch.eye(40)
T = torch.einsum("ir,jr,kr->ijk", *(gaussian((n, 3), torch.float32, generator=n) for n in (8, 9, 10)))
INVERSE = torch.linalg.pinv(A.double(), rtol=1e-5)


def triplets(found):
    return (found[0] * found[1]) @ found[2]


METHODS = {
    "krylov": lambda c: (triplets(factor.randomized_svd(c * A, 5, generator=0)), A),
    "adaptive": lambda c: (triplets(factor.randomized_svd(c * A, rtol=1e-4, generator=0)), A),
    "nystrom": lambda c: (factor.nystrom(c * P, 40, generator=0).to_dense(), P),
    "nystrom within": lambda c: (factor.nystrom(c * P, rtol=1e-5, generator=0).to_dense(), P),
    "deim": lambda c: (factor.cur(c * A, 5, method="deim", generator=0).operator().to_dense(), A),
    "aca": lambda c: (factor.aca(c * A, rtol=1e-4, generator=0).to_dense(), A),
    "aca of all": lambda c: (factor.aca(c * A, rtol=1e-4, pivoting="full").to_dense(), A),
    "lu": lambda c: (factor.meta_factor(c * A, preset="lu").operator().to_dense(), A),
    "column row": lambda c: ((lambda f: f.C @ f.R)(factor.column_row(c * A)), A),
    "tucker": lambda c: (factor.tucker(c * T, rtol=1e-4).to_dense(), T),
    "train": lambda c: (factor.tt(c * T, rtol=1e-4).to_dense(), T),
    "rounded": lambda c: (factor.tt_round(factor.tt(c * T, 8), rtol=1e-4).to_dense(), T),
    "ring": lambda c: (factor.tensor_ring(c * T, rtol=1e-4).to_dense(), T),
    "cp": lambda c: (factor.cp(c * T, 3, generator=0).to_dense(), T),
}


@pytest.mark.parametrize("c", (1e-30, 1e20, 1e30))
@pytest.mark.parametrize("name", METHODS)
def test_result_scales_with_its_matrix(name, c):
    found, whole = METHODS[name](c)
    assert float((found.double() / c - whole.double()).norm() / whole.double().norm()) < 2e-4


@pytest.mark.parametrize("c", (1e-30, 1e20, 1e30))
def test_pseudoinverses(c):
    for found in (
        factor.pinv(c * A, method="randomized", generator=0).to_dense(),
        factor.meta_factor(c * A, preset="pinv").operator().to_dense(),
    ):
        assert float((found.double() * c - INVERSE).norm() / INVERSE.norm()) < 1e-3


@pytest.mark.parametrize("c", (1e-30, 1e20, 1e30))
def test_directions(c):
    found = factor.random_pivot_factor(c * A[:, :4], generator=0)
    torch.testing.assert_close(found.Q / c, A[:, :4] @ found.T, atol=1e-4, rtol=1e-4)
    one = factor.power_pca(c * P, 5)
    torch.testing.assert_close(one, factor.power_pca(P, 5), atol=1e-4, rtol=0)
    S = factor.spiked_tensor(20, 30, 10, 3.0, 4.0, generator=0).T.float()
    plain, scaled = factor.multiview_cluster(S), factor.multiview_cluster(c * S)
    assert bool((plain.labels == scaled.labels).all())
    torch.testing.assert_close(scaled.value / c, plain.value, rtol=1e-4, atol=0)


@pytest.mark.parametrize("c", (1e-25, 1e25))
def test_rows_that_are_new_to_a_truncated_svd(c):
    E = gaussian((2, 30), torch.float32, generator=9)
    svd = factor.TruncatedSVD(c * A, 7, generator=0).append_rows(c * E)
    wanted = torch.linalg.svdvals(torch.cat([A, E]))[:7]
    torch.testing.assert_close(svd.singular_values / c, wanted, rtol=1e-4, atol=1e-4)
