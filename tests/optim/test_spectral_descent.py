import pytest
import torch
from torch import nn

from resolvent.optim import SpectralSGD


def step(p, g, lr=0.1, steps=1, **options):
    p = nn.Parameter(p.clone())
    optimizer = SpectralSGD([{"params": [p], **options}], lr=lr)
    for _ in range(steps):
        p.grad = g.clone()
        optimizer.step()
    return p.detach()


@pytest.mark.parametrize("shape", [(40, 10), (10, 40), (6, 2, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_update_has_the_norm_of_the_condition(shape, dtype):
    g = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    update = -step(torch.zeros(shape, dtype=dtype), g).flatten(1)
    rows, columns = update.shape
    assert update.dtype == dtype
    assert torch.linalg.matrix_norm(update, 2).item() == pytest.approx(0.1 * (rows / columns) ** 0.5, rel=0.05)
    assert torch.allclose(update / update.norm(), g.flatten(1) / g.norm(), atol=1e-6)


def test_the_power_iteration_goes_on_where_it_was():
    g = torch.randn(64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = nn.Parameter(torch.zeros(64, 64, dtype=torch.float64))
    optimizer = SpectralSGD([p], lr=1.0, momentum=0.0, power_steps=1)
    sizes = []
    for _ in range(60):
        before, p.grad = p.detach().clone(), g.clone()
        optimizer.step()
        sizes.append(torch.linalg.matrix_norm(p.detach() - before, 2).item())
    assert sizes[0] > sizes[-1] >= 1 - 1e-12
    assert sizes[-1] == pytest.approx(1.0, abs=2e-3)


def test_vectors_and_embeddings_have_one_input():
    update = step(torch.zeros(9), torch.tensor([3.0] + [0.0] * 7 + [4.0]))
    assert update.norm().item() == pytest.approx(0.1 * 3)
    rows = step(torch.zeros(3, 4), torch.tensor([[2.0] * 4, [0.0] * 4, [1e-3, 0, 0, 0]]), role="embedding")
    assert torch.allclose(rows.norm(dim=1), torch.tensor([0.2, 0.0, 0.2]))


@pytest.mark.parametrize("factor", [1e-20, 1e15])
def test_the_size_of_the_gradient_does_not_matter(factor):
    g = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(step(torch.zeros(8, 5), g * factor), step(torch.zeros(8, 5), g), rtol=1e-4)


def test_momentum_and_decay():
    g = torch.diag(torch.tensor([2.0, 1.0]))
    assert torch.allclose(step(torch.zeros(2, 2), g, steps=2, momentum=0.5), -0.2 * g / 2, atol=1e-6)
    shrunk = step(torch.ones(2, 2), torch.zeros(2, 2), weight_decay=0.5)
    assert torch.allclose(shrunk, torch.full((2, 2), 0.95))


def test_no_gradient_at_first():
    p = nn.Parameter(torch.zeros(4, 3))
    optimizer = SpectralSGD([p], lr=0.1, momentum=0.0)
    for g in (torch.zeros(4, 3), torch.eye(4, 3)):
        p.grad = g
        optimizer.step()
    assert torch.linalg.matrix_norm(p.detach(), 2).item() == pytest.approx(0.1 * (4 / 3) ** 0.5, rel=1e-4)


def test_bad_input():
    with pytest.raises(ValueError, match="power_steps"):
        SpectralSGD([nn.Parameter(torch.ones(2))], power_steps=0)
    with pytest.raises(ValueError, match="momentum"):
        SpectralSGD([nn.Parameter(torch.ones(2))], momentum=1.0)
