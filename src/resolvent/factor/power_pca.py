"""Principal components of a known structure: power steps, each followed by a projection on the range of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.factor.range_finder import levelled
from resolvent.info import Info
from resolvent.operators.arrays import as_tensor, check_finite, give_back_array
from resolvent.random import GeneratorLike, as_generator, gaussian


def power_pca(
    V: Any,
    projector: Any = None,
    w0: Any = None,
    *,
    n_iter: int = 30,
    rtol: float | None = None,
    return_info: bool = False,
) -> Any:
    r"""A leading eigenvector within a set of unit vectors, by :math:`w \leftarrow P(V w)`.

    Parameters
    ----------
    V : (*batch, n, n) real symmetric; its mean has the sought vector as the top eigenvector
    projector : the projection P on the set, scaled to unit vectors, one of

        - None: all unit vectors, the power method
        - an int s: at most s entries that are not zero (truncated power method)
        - "nonnegative", or "sign" for entries of one size
        - an (n, k) array: the span of its columns
        - a `GenerativeProjector`, or any callable from (*batch, n) to (*batch, n)
    w0 : (*batch, n) start, with a positive inner product with the sought vector; default: the column of V with the largest
        diagonal entry
    n_iter : number of steps, at most
    rtol : stop when a step changes w by less; None makes `n_iter` steps and promises nothing, as the paper does
    return_info : also return an `Info`, whose error is the last change, the largest of the batch

    Returns
    -------
    (*batch, n) unit vectors, of the kind and dtype of V

    Raises
    ------
    ValueError : V is not symmetric or not finite, asks for gradients, of which there are none, or an argument does not fit.
    ConvergenceError : `rtol` is given and not reached in `n_iter` steps; carries the best value.

    Notes
    -----
    A step costs one product with V and one projection. Where V is a mean of m samples, w comes within the order of
    sqrt(k log L / m) of the truth for the range of a model of k latent variables with Lipschitz constant L, whatever n.

    References
    ----------
    "Generative Principal Component Analysis"
    "Truncated power method for sparse eigenvalue problems"

    Examples
    --------
    >>> V = torch.tensor([[2.0, 1.0, 0.1], [1.0, 2.0, 0.1], [0.1, 0.1, 1.0]])
    >>> power_pca(V, 2)
    tensor([0.7071, 0.7071, 0.0000])
    """
    A, kind = as_tensor(V, "V")
    _check_matrix(A)
    if isinstance(n_iter, bool) or not isinstance(n_iter, int) or n_iter < 1:
        raise ValueError(f"n_iter must be an int >= 1, got {n_iter!r}")
    # A scale changes no direction; without it a square may leave the range of the dtype.
    A = levelled(A.detach())
    n = A.shape[-1]
    w = _start(A) if w0 is None else _given(w0, A)
    project = _projection(projector, A)
    state: Any = None
    change, steps = float("inf"), 0
    for steps in range(1, n_iter + 1):
        old = w
        v = (A @ w.unsqueeze(-1)).squeeze(-1)
        w, state = project(v, state)
        if w.shape != v.shape:
            raise ValueError(f"projector must give shape {tuple(v.shape)}, got {tuple(w.shape)}")
        if rtol is not None or steps == n_iter:
            change = float(torch.linalg.vector_norm(w - old, dim=-1).max())
        if rtol is not None and change <= rtol:
            break
    value = give_back_array(w, kind)
    count = steps * (A.numel() // (n * n))
    info = Info(
        "projected power", matvecs=count, iterations=steps, error=change, converged=rtol is None or change <= rtol
    )
    if not info.converged:
        message = f"power_pca: step {steps} changed w by {change:.3g}, asked for {rtol:g}"
        raise ConvergenceError(message, best=value, error=change, info=info)
    return (value, info) if return_info else value


class GenerativeProjector:
    r"""The projection on the range of a generator, :math:`\operatorname{argmax} \langle v, G(z) / |G(z)| \rangle`.

    Parameters
    ----------
    G : a callable from (B, latent_dim) to (B, n) that torch can differentiate, for example a decoder as `torch.nn.Module`
    latent_dim : number of latent variables
    steps : Adam steps for a projection
    restarts : how many z to start from, standard normal; a projection that continues one starts from its z and restarts - 1
        others
    lr : Adam's step
    generator : for the starts

    Notes
    -----
    Adam on z for all vectors and restarts in one batch: `steps` passes forward and back through G. The problem is not convex,
    and the best of the restarts is taken. What is returned lies in the range exactly; how near it is to the
    nearest point is not known. No gradients flow through it.

    References
    ----------
    "Generative Principal Component Analysis"

    Examples
    --------
    >>> line = GenerativeProjector(lambda z: torch.cat([z.cos(), z.sin()], 1), 1, generator=0)
    >>> line(torch.tensor([3.0, 4.0])).round(decimals=2)
    tensor([0.6000, 0.8000])
    """

    def __init__(
        self,
        G: Callable[[Tensor], Tensor],
        latent_dim: int,
        *,
        steps: int = 100,
        restarts: int = 5,
        lr: float = 0.1,
        generator: GeneratorLike = None,
    ) -> None:
        for name, value in (("latent_dim", latent_dim), ("steps", steps), ("restarts", restarts)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive int, got {value!r}")
        if not lr > 0:
            raise ValueError(f"lr must be positive, got {lr}")
        self.G, self.latent_dim, self.steps, self.restarts, self.lr = G, latent_dim, steps, restarts, lr
        self.generator = as_generator(generator)

    def __call__(self, v: Tensor) -> Tensor:
        return self.project(v)[0]

    def project(self, v: Tensor, z: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Unit vectors (*batch, n) in the range, and their latent variables (*batch, latent_dim); `z` is the start."""
        batch, n = v.shape[:-1], v.shape[-1]
        flat = v.detach().reshape(-1, 1, n)
        start = gaussian((len(flat), self.restarts, self.latent_dim), v.dtype, v.device, self.generator)
        if z is not None:
            start[:, 0] = z.detach().reshape(-1, self.latent_dim)
        with torch.enable_grad():
            latent = start.requires_grad_()
            mean, square = torch.zeros_like(latent), torch.zeros_like(latent)
            for step in range(1, self.steps + 1):
                loss = -(self._points(latent) * flat).sum(-1) / torch.linalg.vector_norm(flat, dim=-1).clamp_min(1e-30)
                (g,) = torch.autograd.grad(loss.sum(), latent)
                # Adam in four lines: the first use of torch.optim takes seconds of imports.
                mean, square = mean.lerp(g, 0.1), square.lerp(g * g, 0.001)
                with torch.no_grad():
                    root = (square / (1 - 0.999**step)).sqrt() + 1e-8
                    latent -= self.lr / (1 - 0.9**step) * mean / root
        with torch.no_grad():
            points = self._points(latent)
            best = (points * flat).sum(-1).argmax(1)
            rows = torch.arange(len(flat), device=v.device)
            found = latent.detach()[rows, best]
            return points[rows, best].reshape(v.shape), found.reshape(*batch, self.latent_dim)

    def _points(self, z: Tensor) -> Tensor:
        x = self.G(z.reshape(-1, self.latent_dim)).reshape(*z.shape[:-1], -1)
        return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)


def _check_matrix(A: Tensor) -> None:
    if A.ndim < 2 or A.shape[-1] != A.shape[-2] or not A.numel():
        raise ValueError(f"V must have shape (..., n, n) and entries, got {tuple(A.shape)}")
    if A.is_complex():
        raise ValueError(f"V must be real, got {A.dtype}")
    if A.requires_grad and torch.is_grad_enabled():
        raise ValueError("V asks for gradients, and the steps have none; give V.detach()")
    check_finite(A, "V")
    gap = float((A - A.mT).abs().max())
    if gap > 1e3 * torch.finfo(A.dtype).eps * float(A.abs().max()):
        raise ValueError(f"V must be symmetric, entries and their mirrors differ by {gap:.3g}")


def _start(A: Tensor) -> Tensor:
    j = A.diagonal(dim1=-2, dim2=-1).argmax(-1)
    return _unit(torch.take_along_dim(A, j[..., None, None], -1).squeeze(-1))


def _given(w0: Any, A: Tensor) -> Tensor:
    w, _ = as_tensor(w0, "w0")
    if w.shape[-1:] != A.shape[-1:]:
        raise ValueError(f"w0 must have shape (..., {A.shape[-1]}), got {tuple(w.shape)}")
    check_finite(w, "w0")
    return _unit(w.detach().to(A).expand(A.shape[:-1]))


def _projection(projector: Any, A: Tensor) -> Callable[[Tensor, Any], tuple[Tensor, Any]]:
    """A function of a vector and the state of the last projection."""
    n = A.shape[-1]
    if projector is None:
        return lambda v, _: (_unit(v), None)
    if isinstance(projector, int) and not isinstance(projector, bool):
        if not 1 <= projector <= n:
            raise ValueError(f"projector = {projector} as a number of nonzero entries must lie between 1 and {n}")

        def truncate(v: Tensor, _: Any) -> tuple[Tensor, None]:
            top = v.abs().topk(projector, dim=-1).indices
            return _unit(torch.zeros_like(v).scatter(-1, top, v.gather(-1, top))), None

        return truncate
    if isinstance(projector, str):
        if projector == "nonnegative":
            # Of a vector without positive entries the nearest unit vector is that of its largest entry.
            return lambda v, _: (_unit(torch.where(v >= v.amax(-1, keepdim=True), v.abs(), v.clamp_min(0))), None)
        if projector == "sign":
            return lambda v, _: (torch.where(v < 0, -1.0, 1.0).to(v.dtype) / n**0.5, None)
        raise ValueError(f"projector must be 'nonnegative', 'sign', an int, an array or a callable, got {projector!r}")
    if hasattr(projector, "project"):
        return lambda v, z: projector.project(v, z)
    if callable(projector):
        return lambda v, _: (projector(v), None)
    B, _ = as_tensor(projector, "projector")
    if B.ndim != 2 or B.shape[0] != n:
        raise ValueError(f"projector as a basis must have shape ({n}, k), got {tuple(B.shape)}")
    check_finite(B, "projector")
    Q = torch.linalg.qr(B.detach().to(A)).Q
    return lambda v, _: (_unit((v @ Q) @ Q.mT), None)


def _unit(v: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
    return v / torch.where(length > 0, length, 1)
