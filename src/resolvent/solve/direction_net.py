"""A convolutional network that proposes directions of descent, trained from a matrix alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.random import GeneratorLike, as_generator, gaussian
from resolvent.spectra.lanczos import lanczos_tridiagonal

_SMALL = 1e-8  # Ritz values below this part of the largest belong to the kernel
_EMPHASIS = 9.0  # of the smooth half of the spectrum in the training data


def ritz_dataset(
    A: OperatorLike,
    count: int,
    *,
    vectors: int = 1000,
    low: int | None = None,
    emphasis: float = _EMPHASIS,
    generator: GeneratorLike = None,
) -> Tensor:
    r"""Right-hand sides to train on: unit combinations :math:`\sum_j c_j v_j` of Ritz vectors, with weight on smooth ones.

    Parameters
    ----------
    A : (n, n) Hermitian operator or anything `as_operator` takes
    count : how many, at least 1
    vectors : m, Ritz vectors, from a Lanczos run of so many steps; at most n
    low : theta; default m // 20
    emphasis : the coefficients c_j are standard normal, and those of the lower half and theta more are multiplied by it
    generator : of the start of Lanczos and of the coefficients

    Returns
    -------
    (count, n) tensor of unit rows, on the device and of the dtype of A

    Raises
    ------
    ValueError : count or vectors below 1, low below 0, an emphasis that is not positive

    Notes
    -----
    m products with A, 4 m^2 n flops for full orthogonalisation and m numbers of memory for each unknown. Ritz vectors of
    values below 1e-8 of the largest are left out. A random right-hand side would be rough: most of the eigenvalues of a
    discretised operator are large, and the directions to be learned belong to the small ones.

    References
    ----------
    "A Deep Conjugate Direction Method for Iteratively Solving Linear Systems"

    Examples
    --------
    >>> from resolvent.operators.gallery import second_difference
    >>> ritz_dataset(second_difference(20), 4, vectors=10, generator=0).shape
    torch.Size([4, 20])
    """
    if count < 1 or vectors < 1:
        raise ValueError(f"count and vectors must be at least 1, got {count!r} and {vectors!r}")
    if (low is not None and low < 0) or not emphasis > 0:
        raise ValueError(f"low must be at least 0 and emphasis positive, got {low!r} and {emphasis!r}")
    operator = as_operator(A, name="A")
    operator.check_hermitian("A")
    rng = as_generator(generator, operator.device)
    with torch.no_grad():
        n, dtype, device = operator.shape[0], operator.dtype, operator.device
        start = gaussian((n, 1), dtype, device, rng)
        alpha, beta, basis = lanczos_tridiagonal(operator, start, min(vectors, n), return_basis=True)
        T = torch.diag(alpha[0]) + torch.diag(beta[0], 1) + torch.diag(beta[0], -1)
        w, Z = torch.linalg.eigh(T)
        # After the end of a run its tridiagonal matrix is zero: no Ritz values either.
        Z = Z[:, w > _SMALL * w.abs().amax()].to(dtype)
        m = Z.shape[1]
        if not m:
            raise ValueError("A must have a positive eigenvalue, but no Ritz value is")
        c = gaussian((count, m), dtype, device, rng)
        c[:, : m // 2 + (m // 20 if low is None else low)] *= emphasis
        rows = (c @ Z.mT) @ basis[0]
        return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)


class DirectionNet(torch.nn.Module):
    r"""A convolutional network from residuals on a grid to directions near multiples of :math:`A^{-1} r`.

    Parameters
    ----------
    dims : of the grid, 2 or 3
    channels : of every hidden layer
    generator : of the weights

    Notes
    -----
    A linear convolution, residual ones at the resolution of the grid and, after average pooling, at half of it, a skip
    connection to what is brought up again, residual ones, and a linear sum of the channels. All kernels are 3 wide.
    Nothing has a bias, so that f(c r) = c f(r) for c > 0: the scale of a residual is no information, and zero stays zero.
    It is fully convolutional: any size of the grid will do.

    References
    ----------
    "A Deep Conjugate Direction Method for Iteratively Solving Linear Systems"

    Examples
    --------
    >>> net = DirectionNet(channels=4, generator=0)
    >>> net(torch.ones(2, 9, 12)).shape, net.on((9, 12))(torch.ones(108, 2)).shape
    (torch.Size([2, 9, 12]), torch.Size([108, 2]))
    """

    def __init__(self, dims: int = 2, channels: int = 16, *, generator: GeneratorLike = None) -> None:
        super().__init__()
        if dims not in (2, 3):
            raise ValueError(f"dims must be 2 or 3, got {dims!r}")
        if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
            raise ValueError(f"channels must be an int of at least 1, got {channels!r}")
        layer = torch.nn.Conv2d if dims == 2 else torch.nn.Conv3d

        def convolutions(count: int) -> torch.nn.ModuleList:
            return torch.nn.ModuleList(layer(channels, channels, 3, padding=1, bias=False) for _ in range(count))

        self.dims = dims
        self.first = layer(1, channels, 3, padding=1, bias=False)
        self.fine, self.coarse, self.up = convolutions(4), convolutions(8), convolutions(4)
        self.last = layer(channels, 1, 1, bias=False)
        rng = as_generator(generator)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(gaussian(weight.shape, weight.dtype, generator=rng) / (3 * weight[0].numel()) ** 0.5)
        if dims == 2:
            # Two thirds of the time on a CPU.
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, residuals: Tensor) -> Tensor:
        """(k, *grid) residuals to (k, *grid) directions."""
        if residuals.ndim != self.dims + 1:
            raise ValueError(
                f"residuals must have shape (k, *grid) with {self.dims} sizes, got {tuple(residuals.shape)}"
            )
        fine = _residual(self.fine, self.first(residuals[:, None]))
        pool = torch.nn.functional.avg_pool2d if self.dims == 2 else torch.nn.functional.avg_pool3d
        coarse = _residual(self.coarse, pool(fine, 2, ceil_mode=True))
        coarse = torch.nn.functional.interpolate(coarse, scale_factor=2)
        for axis, size in enumerate(fine.shape[2:], 2):
            coarse = coarse.narrow(axis, 0, size)
        directions: Tensor = self.last(_residual(self.up, coarse + fine))[:, 0]
        return directions

    def on(self, grid: tuple[int, ...] | Tensor) -> Callable[[Tensor], Tensor]:
        """The model that `deep_cg` takes, for unknowns on a grid, or on the cells of one where a mask is true.

        Parameters
        ----------
        grid : its sizes, or a boolean mask of that shape, such as the outside of obstacles

        Returns
        -------
        A function of (n, k) blocks, without gradients
        """
        apply = self._on_cells(grid)

        def model(R: Tensor) -> Tensor:
            with torch.no_grad():
                return apply(R.mT).mT.to(R).contiguous()

        return model

    def _on_cells(self, grid: tuple[int, ...] | Tensor) -> Callable[[Tensor], Tensor]:
        """The network between rows (k, n) of unknowns."""
        mask = grid if isinstance(grid, Tensor) else torch.ones(tuple(grid), dtype=torch.bool)
        if mask.dtype != torch.bool or mask.ndim != self.dims:
            raise ValueError(f"grid must be {self.dims} sizes or a boolean mask, got {mask.dtype} {tuple(mask.shape)}")
        cells = mask.flatten().nonzero()[:, 0].to(self.first.weight.device)

        def apply(rows: Tensor) -> Tensor:
            if rows.shape[1] != len(cells):
                raise ValueError(f"grid has {len(cells)} unknowns, the system {rows.shape[1]}")
            weight = self.first.weight
            whole = torch.zeros(len(rows), mask.numel(), dtype=weight.dtype, device=weight.device)
            whole[:, cells] = rows.to(whole)
            return self(whole.view(-1, *mask.shape)).flatten(1)[:, cells]

        return apply


def _residual(layers: torch.nn.ModuleList, x: Tensor) -> Tensor:
    """Pairs of convolutions with a rectifier after each, added to what they began with."""
    for first, second in zip(layers[::2], layers[1::2], strict=True):
        x = x + torch.relu(second(torch.relu(first(x))))
    return x


def train_direction_net(
    A: OperatorLike,
    grid: tuple[int, ...] | Tensor,
    *,
    net: DirectionNet | None = None,
    samples: int = 5000,
    vectors: int = 1000,
    epochs: int = 1,
    batch: int = 6,
    rate: float = 3e-3,
    generator: GeneratorLike = None,
    return_losses: bool = False,
) -> Any:
    r"""A network that maps right-hand sides of A to near multiples of the solutions, from A alone.

    The loss of a unit b is :math:`\|b - a A f(b)\|^2`, :math:`a = b^T f(b) / f(b)^T A f(b)`: the residual after one step.

    Parameters
    ----------
    A : (n, n) real symmetric positive definite operator or anything `as_operator` takes; it must be differentiable with
        respect to what it multiplies, as all but callables are
    grid : sizes of the grid whose points are the unknowns, or a boolean mask of the cells that are
    net : to go on with; None starts a `DirectionNet`
    samples, vectors : of the `ritz_dataset` to train on
    epochs, batch : passes through it, right-hand sides of a step
    rate : largest learning rate, of Adam, that rises over a tenth of the steps and then falls to zero
    generator : of the data, their order and the weights
    return_losses : also return the mean loss of each step, a list of floats

    Returns
    -------
    DirectionNet, on the device of A, in float32; or ``(net, losses)``

    Raises
    ------
    ValueError : arguments out of range, a grid that does not fit A

    Notes
    -----
    The paper trains at a constant rate of 1e-4 for hours; the schedule gets by with a minute in two dimensions. A network
    trained without obstacles also works with them, and on larger grids.

    References
    ----------
    "A Deep Conjugate Direction Method for Iteratively Solving Linear Systems"

    Examples
    --------
    >>> from resolvent.operators import Laplacian, grid_graph, Identity
    >>> from resolvent.solve import deep_cg
    >>> A = Laplacian(grid_graph((8, 8))) + 0.1 * Identity(64)
    >>> net, losses = train_direction_net(A, (8, 8), samples=240, vectors=64, generator=0, return_losses=True)
    >>> x = deep_cg(A, torch.randn(64), net.on((8, 8)), rtol=1e-3)
    >>> len(losses), losses[-1] < losses[0]
    (40, True)
    """
    if min(epochs, batch, samples) < 1 or not rate > 0:
        raise ValueError(f"epochs, batch and samples must be at least 1, rate positive: {epochs, batch, samples, rate}")
    operator = as_operator(A, name="A")
    if operator.is_complex:
        raise TypeError(f"A must be real, got {operator.dtype}")
    rng = as_generator(generator, operator.device)
    rows = ritz_dataset(operator, samples, vectors=vectors, generator=rng)
    if net is None:
        dims = grid.ndim if isinstance(grid, Tensor) else len(grid)
        net = DirectionNet(dims, generator=int(torch.randint(2**62, (), generator=rng, device=rng.device)))
        net = net.to(operator.device)
    weight = net.first.weight
    narrow, rows, apply = operator.to(weight.dtype), rows.to(weight), net._on_cells(grid)
    optimizer = torch.optim.Adam(net.parameters(), rate)
    # Of fewer steps the schedule has no tenth to rise in: they take the beginning of a longer one.
    steps = max(20, epochs * -(-samples // batch))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    losses: list[Tensor] = []
    with torch.enable_grad():
        for _ in range(epochs):
            for chosen in torch.randperm(samples, generator=rng, device=rng.device).split(batch):
                b = rows[chosen]
                found = apply(b)
                image = narrow._matmul(found.mT.contiguous()).mT
                scale = (b * found).sum(1) / (found * image).sum(1)
                loss = (b - scale[:, None] * image).square().sum(1).mean()
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                losses.append(loss.detach())
    values = torch.stack(losses).tolist()
    if not all(value == value for value in values):
        raise ValueError(f"the loss became NaN: try a rate below {rate:g}, or A is not positive definite")
    return (net, values) if return_losses else net
