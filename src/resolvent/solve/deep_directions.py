"""Conjugate directions from any function of the residual: with a trained network, far fewer than those of CG."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from resolvent.operators.convert import OperatorLike, as_operator
from resolvent.random import GeneratorLike, as_generator, gaussian
from resolvent.solve.conjugate import _so_far, answer
from resolvent.solve.system import Method, Run, System, prepare, quotient, real_dots
from resolvent.spectra.lanczos import lanczos_tridiagonal

_SMALL = 1e-8  # Ritz values below this part of the largest belong to the kernel
_EMPHASIS = 9.0  # of the smooth half of the spectrum in the training data
_PATIENCE = 50


def deep_cg(
    A: Any,
    b: Any,
    model: Callable[[Tensor], Tensor],
    *,
    history: int = 2,
    rtol: float | None = None,
    x0: Any = None,
    maxiter: int | None = None,
    callback: Callable[[Any], Any] | None = None,
    return_info: bool = False,
) -> Any:
    r"""Conjugate directions from a model of the inverse, such as a network: :math:`d = f(r / \|r\|)`, made A-orthogonal.

    Parameters
    ----------
    A : (n, n) Hermitian positive definite operator or anything `as_operator` takes
    b : (n,) or (n, k); the columns run side by side
    model : function of a block of k unit columns (n, k) that returns a block of directions (n, k), near multiples of
        :math:`A^{-1} r`; it need not be linear. `DirectionNet.on` makes one. The identity gives CG, a preconditioner PCG.
    history : directions that a new one is made A-orthogonal to, at least 0; 2 as in the paper, 0 leaves steepest descent
    rtol : bound on ``|b - A x| / |b|`` of each column; default 1e-10 in float64, 1e-5 in float32
    x0 : start, of the shape of x; None means zero
    maxiter : most steps; default 10 n + 50, at most 20000
    callback : called with x after every step
    return_info : also return a `SolveInfo`

    Returns
    -------
    x of the shape and kind of b, or ``(x, info)``. No gradients: use `solve`.

    Raises
    ------
    ValueError : shapes that do not fit, NaN, a matrix seen not to be Hermitian or not to be positive definite
    ConvergenceError : the tolerance was not met, or 50 steps in a row brought nothing; `best` is the best x
    TypeError : A or b requires a gradient

    Notes
    -----
    A step takes the A-norm of the error to its least along the direction, so that no model can make it grow. The
    residual is computed anew after every step: two products with A and one call of the model.

    References
    ----------
    "A Deep Conjugate Direction Method for Iteratively Solving Linear Systems"

    Examples
    --------
    >>> A = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
    >>> x, info = deep_cg(A, torch.tensor([1.0, 2.0]), lambda R: R, return_info=True)
    >>> x, info.iterations
    (tensor([0.0909, 0.6364]), 2)
    """
    if isinstance(history, bool) or not isinstance(history, int) or history < 0:
        raise ValueError(f"history must be an int of at least 0, got {history!r}")
    if not callable(model):
        raise TypeError(f"model must be a function of a block of residuals, got {type(model).__name__}")
    given = prepare("deep_cg", A, b, rtol=rtol, M=None, x0=x0, maxiter=maxiter, callback=callback, hermitian=True)
    return answer(given, _directions_of(model, history), return_info)


def _directions_of(model: Callable[[Tensor], Tensor], history: int) -> Method:
    """The run with the directions of a model."""

    def run(system: System, R: Tensor, goal: Tensor, limit: int) -> Run:
        B, X = R, torch.zeros_like(R)
        norms = least = torch.linalg.vector_norm(R, dim=0)
        kept: list[tuple[Tensor, Tensor, Tensor]] = []
        norms_so_far: list[Tensor] = []
        tell = _so_far(system, X)
        step = idle = 0
        while step < limit and idle < _PATIENCE and not bool((norms <= goal).all()):
            D = _call(model, R * quotient(torch.ones_like(norms), norms).to(R.dtype))
            for E, AE, size in kept:
                D = D - E * quotient(torch.linalg.vecdot(AE, D, dim=0), size.to(D.dtype))
            AD = system.multiply(D)
            curvature = real_dots(D, AD)
            along = torch.linalg.vecdot(D, R, dim=0)
            going = norms > goal
            _check(curvature, D, going)
            X = X + D * torch.where(going, quotient(along, curvature.to(D.dtype)), 0)
            kept = [*kept, (D, AD, curvature)][-history:] if history else []
            R = B - system.multiply(X)
            norms = torch.linalg.vector_norm(R, dim=0)
            norms_so_far.append(norms)
            better = bool(((norms < least) & going).any())
            least, idle, step = torch.minimum(least, norms), 0 if better else idle + 1, step + 1
            if tell is not None:
                tell(X)
        return Run(X, norms_so_far, step, 2 * step * R.shape[1])

    return run


def _call(model: Callable[[Tensor], Tensor], R: Tensor) -> Tensor:
    D = model(R)
    if not isinstance(D, Tensor) or D.shape != R.shape:
        shape = tuple(D.shape) if isinstance(D, Tensor) else type(D).__name__
        raise ValueError(f"model must return a tensor of the shape of its argument, {tuple(R.shape)}, got {shape}")
    return D.to(R)


def _check(curvature: Tensor, D: Tensor, going: Tensor) -> None:
    size = torch.linalg.vector_norm(D, dim=0)
    bad = going & ~(curvature > 0) & ~(size == 0)
    if not bool(bad.any()):
        return
    value = float(curvature[bad].min())
    if value == value:
        raise ValueError(f"A must be positive definite, but d^H A d = {value:.3g} for some d")
    raise ValueError("the product with A, or the model, returned NaN or infinity")


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
    operator = as_operator(A)
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
    >>> A = Laplacian(grid_graph((8, 8))) + 0.1 * Identity(64)
    >>> net, losses = train_direction_net(A, (8, 8), samples=240, vectors=64, generator=0, return_losses=True)
    >>> x = deep_cg(A, torch.randn(64), net.on((8, 8)), rtol=1e-3)
    >>> len(losses), losses[-1] < losses[0]
    (40, True)
    """
    if min(epochs, batch, samples) < 1 or not rate > 0:
        raise ValueError(f"epochs, batch and samples must be at least 1, rate positive: {epochs, batch, samples, rate}")
    operator = as_operator(A)
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
    steps = max(2, epochs * -(-samples // batch))
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
