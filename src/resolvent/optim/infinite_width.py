"""Networks of infinite width that learn features, trained exactly: one hidden linear layer under muP."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from resolvent.optim.optimizer import check
from resolvent.random import GeneratorLike, as_generator


class MuPLinearLimit(nn.Module):
    r"""The limit of a linear network with one hidden layer under the maximal update parametrisation.

    At width n, :math:`f(x) = V^T U x` with :math:`U_0, V_0 \sim N(0, 1/n)` entries and step size :math:`\eta`. All
    through training :math:`U_t = U_0 A_t + V_0 B_t` and :math:`V_t = V_0 C_t + U_0 D_t`, and as n grows the columns of
    :math:`U_0` and :math:`V_0` become orthonormal, so that

    .. math:: f_t(x) = (C_t^T B_t + D_t^T A_t)\, x .

    Parameters
    ----------
    d_in, d_out : sizes of input and output
    lr : :math:`\eta`, for `train_step`
    sigma : standard deviations of the first and second layer, times :math:`\sqrt n`
    device, dtype : of the four matrices

    Attributes
    ----------
    A : (d_in, d_in), begins as the identity times `sigma[0]`
    B : (d_out, d_in), begins as zero
    C : (d_out, d_out), begins as the identity times `sigma[1]`
    D : (d_in, d_out), begins as zero

    Notes
    -----
    The limit is itself a linear network with d_in + d_out hidden units, `inner` = [A; B] and `outer` = [D; C]^T, trained by
    the same rule: gradients of both agree. So any optimizer that is linear in the gradients (SGD, momentum, the inner
    steps of meta-learning) trains the infinite network exactly, through `torch.autograd` like any module; `train_step`
    does plain gradient descent without it. A step costs two products of (d_in + d_out) x d_in and two of
    (d_in + d_out) x d_out numbers with the batch. A network of width n differs from it by about n^(-1/2).

    References
    ----------
    "Feature Learning in Infinite-Width Neural Networks"

    Examples
    --------
    >>> limit = MuPLinearLimit(3, 1, lr=0.5)
    >>> x, y = torch.eye(3), torch.tensor([[1.0], [2.0], [3.0]])
    >>> for _ in range(60):
    ...     limit.train_step(x, (limit(x) - y) / 3)
    >>> limit(x).T.detach().round(decimals=3)
    tensor([[1., 2., 3.]])
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        lr: float = 1.0,
        *,
        sigma: tuple[float, float] = (1.0, 1.0),
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("d_in", d_in), ("d_out", d_out)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        check("lr", lr, above=True)
        check("sigma[0]", sigma[0])
        check("sigma[1]", sigma[1])
        self.d_in, self.d_out, self.lr = d_in, d_out, float(lr)
        inner = torch.zeros(d_in + d_out, d_in, device=device, dtype=dtype)
        outer = torch.zeros(d_out, d_in + d_out, device=device, dtype=dtype)
        inner[:d_in].fill_diagonal_(sigma[0])
        outer[:, d_in:].fill_diagonal_(sigma[1])
        self.inner, self.outer = nn.Parameter(inner), nn.Parameter(outer)

    @property
    def A(self) -> Tensor:
        return self.inner[: self.d_in]

    @property
    def B(self) -> Tensor:
        return self.inner[self.d_in :]

    @property
    def C(self) -> Tensor:
        return self.outer[:, self.d_in :].T

    @property
    def D(self) -> Tensor:
        return self.outer[:, : self.d_in].T

    def forward(self, x: Tensor) -> Tensor:
        """The network's output, (*batch, d_out) for `x` (*batch, d_in)."""
        return x @ self.inner.T @ self.outer.T

    @torch.no_grad()
    def train_step(self, x: Tensor, dloss: Tensor) -> None:
        r"""One step of gradient descent: :math:`A \leftarrow A - \eta D q x^T` and the like, all four at once.

        Parameters
        ----------
        x : (*batch, d_in)
        dloss : (*batch, d_out), the derivative q of the loss by the output; sums over the batch
        """
        x, q = x.reshape(-1, self.d_in), dloss.reshape(-1, self.d_out)
        if len(x) != len(q):
            raise ValueError(f"x and dloss must have one batch, got {len(x)} and {len(q)} rows")
        if self.d_in * self.d_out > len(x) * (self.d_in + self.d_out):
            inner, outer = (q @ self.outer).T @ x, q.T @ (x @ self.inner.T)
        else:
            flow = q.T @ x
            inner, outer = self.outer.T @ flow, flow @ self.inner.T
        self.inner.sub_(inner, alpha=self.lr)
        self.outer.sub_(outer, alpha=self.lr)

    def gram(self) -> Tensor:
        r"""Inner products of the hidden features of all inputs, :math:`U^T U = A^T A + B^T B`, (d_in, d_in).

        Returns
        -------
        What similarities of embeddings are made of, where inputs are words
        """
        return (self.inner.T @ self.inner).detach()

    @torch.no_grad()
    def sample(self, width: int, generator: GeneratorLike = None) -> nn.Sequential:
        """A network of finite width, as it would be now, had it been drawn at the beginning and trained alike.

        Parameters
        ----------
        width : n
        generator : randomness of the initial weights

        Returns
        -------
        Two linear layers without bias; of an untrained limit, the initial network that the limit is one of
        """
        check("width", width, 1)
        like = self.inner
        g = as_generator(generator, like.device)
        draw = torch.randn(width, self.d_in + self.d_out, device=like.device, dtype=like.dtype, generator=g)
        draw *= width**-0.5
        options: dict[str, Any] = {"bias": False, "device": like.device, "dtype": like.dtype}
        net = nn.Sequential(nn.Linear(self.d_in, width, **options), nn.Linear(width, self.d_out, **options))
        for layer, value in zip(net, (draw @ self.inner, self.outer @ draw.T), strict=True):
            layer.weight.copy_(value)  # type: ignore[operator, union-attr]
        return net

    def extra_repr(self) -> str:
        return f"d_in={self.d_in}, d_out={self.d_out}, lr={self.lr:g}"
