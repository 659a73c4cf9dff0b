"""complete_dictionary: recovery for several p, ascent, invariances, batches, the sphere, float32, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from resolvent.errors import ConvergenceError
from resolvent.factor import complete_dictionary, dictionary_error
from resolvent.functions import polar
from resolvent.random import as_generator, gaussian


def problem(n=8, N=6000, theta=0.25, seed=0, dtype=torch.float64):
    D = gaussian((n, n), dtype, generator=seed)
    X = gaussian((n, N), dtype, generator=seed + 1)
    return D, X * (torch.rand(n, N, generator=as_generator(seed + 2)) < theta)


@pytest.mark.parametrize("p", [2.5, 3, 4, 5])
@pytest.mark.parametrize("group", ["orthogonal", "sphere"])
def test_recovery(p, group):
    D0, X0 = problem()
    (D, X), info = complete_dictionary(D0 @ X0, p=p, group=group, generator=0, return_info=True)
    assert float(dictionary_error(D, D0)) < 0.01
    torch.testing.assert_close(D @ X, D0 @ X0, rtol=1e-9, atol=1e-9)
    assert info.converged and info.iterations < 100
    # The scale of a code cannot be known: unit mean square.
    torch.testing.assert_close(X.square().mean(1), torch.ones(8).double(), rtol=1e-8, atol=0)


def test_recovery_gets_better_with_more_columns():
    errors = []
    for N in (1000, 16000):
        D0, X0 = problem(N=N)
        errors.append(float(dictionary_error(complete_dictionary(D0 @ X0, generator=0).D, D0)))
    # Angles fall as N^(-1/2), so their squares as 1/N.
    assert errors[1] < errors[0] / 6


def test_every_step_increases_the_objective_and_the_limit_is_fixed():
    D0, X0 = problem(n=6, N=2000)
    Q = polar(D0)[0]
    Y, A = Q @ X0, polar(gaussian((6, 6), generator=5))[0]
    values = [float((A @ Y).abs().pow(3).sum())]
    for steps in (1, 2, 4, 8):
        with pytest.raises(ConvergenceError) as caught:
            complete_dictionary(Y, precondition=False, start=A, rtol=1e-15, max_iter=steps)
        values.append(float((caught.value.best.D.mT @ Y).abs().pow(3).sum()))
    assert values == sorted(values)
    D = complete_dictionary(Y, precondition=False, start=A, rtol=1e-10).D
    Z = D.mT @ Y
    # At a maximum over the orthogonal group the polar factor of the gradient is the point itself.
    torch.testing.assert_close(polar(Z * Z.abs() @ Y.mT)[0], D.mT, rtol=1e-8, atol=1e-8)
    assert float(dictionary_error(D, Q)) < 0.01


def test_another_basis_gives_the_same_codes():
    D0, X0 = problem()
    B = gaussian((8, 8), generator=9)
    one, other = (complete_dictionary(Y, generator=0) for Y in (D0 @ X0, B @ D0 @ X0))
    assert float(dictionary_error(B @ one.D, other.D)) < 1e-8


def test_batches_end_where_all_columns_end():
    D0, X0 = problem(N=20000)
    (D, _), info = complete_dictionary(D0 @ X0, batch=200, generator=0, return_info=True)
    whole = complete_dictionary(D0 @ X0, generator=0).D
    assert info.converged and float(dictionary_error(D, whole)) < 1e-8
    with pytest.raises(ConvergenceError):
        complete_dictionary(D0 @ X0, batch=200, generator=0, max_iter=3)


def test_threshold_numpy_and_float32():
    D0, X0 = problem(N=20000, theta=0.1, dtype=torch.float32)
    D, X = complete_dictionary((D0 @ X0).numpy(), threshold=0.2, generator=0)
    assert isinstance(D, np.ndarray) and D.dtype == np.float32
    assert dictionary_error(D, D0.numpy()) < 1e-3
    # A tenth of the codes is not zero, and few of those are below the threshold.
    assert 0.08 < float((X != 0).mean()) < 0.11


def test_the_distance_of_dictionaries():
    D = gaussian((5, 5), generator=0)
    moved = D[:, [3, 1, 0, 4, 2]] * torch.tensor([1.0, -2, 3, -4, 5])
    assert abs(float(dictionary_error(D, moved))) < 1e-12
    assert abs(float(dictionary_error(D.float(), 1e-30 * D.float()))) < 1e-5
    assert float(dictionary_error(torch.eye(2), torch.tensor([[1.0, 1.0], [1.0, -1.0]]))) == pytest.approx(0.5)
    assert gradcheck(dictionary_error, (D.clone().requires_grad_(), moved.clone().requires_grad_()))


def test_bad_input():
    Y = gaussian((4, 50), generator=0)
    low = Y.clone()
    low[3] = low[0]
    for call, word in (
        (lambda: complete_dictionary(Y, p=2), "p must"),
        (lambda: complete_dictionary(Y[:, :3]), "shape"),
        (lambda: complete_dictionary(low), "full row rank"),
        (lambda: complete_dictionary(Y, group="unitary"), "group"),
        (lambda: complete_dictionary(Y, start=2 * torch.eye(4)), "orthogonal"),
        (lambda: complete_dictionary(Y, start=torch.eye(3)), "shape"),
        (lambda: complete_dictionary(Y, batch=2), "batch"),
        (lambda: complete_dictionary(Y, threshold=-1), "threshold"),
        (lambda: complete_dictionary(Y, rtol=0), "rtol"),
        (lambda: complete_dictionary(Y / 0), "infinite"),
        (lambda: complete_dictionary(Y.clone().requires_grad_()), "gradient"),
        (lambda: dictionary_error(torch.zeros(2, 2), torch.eye(2)), "singular"),
        (lambda: dictionary_error(torch.eye(2), torch.diag(torch.tensor([1.0, 0.0]))), "D0 must be invertible"),
        (lambda: dictionary_error(torch.eye(2) + 0j, torch.eye(2)), "real"),
        (lambda: dictionary_error(torch.eye(0), torch.eye(0)), "shape"),
        (lambda: dictionary_error(torch.eye(3), torch.eye(2)), "shape"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
