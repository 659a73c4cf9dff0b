"""A linear layer kept as a full SVD, of which all singular values but only a few singular vectors are trained at a time."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from resolvent.random import GeneratorLike, as_generator


class SpectralLinear(nn.Module):
    r"""A linear layer :math:`y = x V \operatorname{diag}(s) U^T + b` whose singular values and `rank` singular pairs are trained.

    Parameters
    ----------
    in_features, out_features : n and m, as of `torch.nn.Linear`
    rank : trained singular pairs, from 1 to min(m, n)
    bias : whether there is one
    enhanced : gradients of the vectors without the factor s_i (the paper's), which would leave directions of small singular
        values standing still; False for the plain chain rule
    device, dtype : of the parameters
    generator : which pairs are trained first; of the layer's device

    Attributes
    ----------
    s : (k,) Parameter, k = min(m, n), all singular values
    U_active, V_active : (m, rank) and (n, rank) Parameters
    U_frozen, V_frozen : (m, k - rank) and (n, k - rank) buffers
    active, frozen : positions of these pairs in s

    Notes
    -----
    The start is the SVD of the usual start of `torch.nn.Linear`, so the function is the same. With G the gradient of the weight,
    :math:`ds_i = u_i^T G v_i`, :math:`dU = G V`, :math:`dV = G^T U` for the trained pairs; G itself is never formed. Two products of size
    k instead of one: about twice the flops of a dense layer for m = n and rank small. Parameters
    and optimizer state together are smaller than those of a dense layer, the stored weight is larger by (m + n) / max(m, n).
    `SpectralTrainer` renews the choice of pairs during training. With enhanced gradients there are no second derivatives in the vectors'
    gradients and no `gradcheck`, as they are not gradients of the function.

    References
    ----------
    "Sparse Spectral Training and Inference on Euclidean and Hyperbolic Neural Networks"

    Examples
    --------
    >>> layer = SpectralLinear(6, 4, rank=2, generator=0)
    >>> layer(torch.ones(3, 6)).shape, sum(p.numel() for p in layer.parameters())
    (torch.Size([3, 4]), 28)
    """

    active: Tensor
    frozen: Tensor
    U_frozen: Tensor
    V_frozen: Tensor

    def __init__(
        self, in_features: int, out_features: int, rank: int, bias: bool = True, *,
        enhanced: bool = True, device: Any = None, dtype: torch.dtype | None = None, generator: GeneratorLike = None,
    ) -> None:  # fmt: skip
        super().__init__()
        for name, value in (("in_features", in_features), ("out_features", out_features)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
        dense = nn.Linear(in_features, out_features, bias, device=device, dtype=dtype)
        self._take(dense, rank, enhanced, generator)

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, rank: int, *, enhanced: bool = True, generator: GeneratorLike = None
    ) -> SpectralLinear:
        """The same function as a `torch.nn.Linear`, to rounding."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._take(linear, rank, enhanced, generator)
        layer.train(linear.training)
        return layer

    def _take(self, linear: nn.Linear, rank: int, enhanced: bool, generator: GeneratorLike) -> None:
        self.in_features, self.out_features = linear.in_features, linear.out_features
        k = min(self.in_features, self.out_features)
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= k:
            raise ValueError(f"rank must be an int from 1 to min(in_features, out_features) = {k}, got {rank!r}")
        self.rank, self.enhanced = rank, enhanced
        weight = linear.weight.detach()
        self.bias = (
            None if linear.bias is None else nn.Parameter(linear.bias.detach().clone(), linear.bias.requires_grad)
        )
        U, s, V = _svd(weight)
        self.s = nn.Parameter(s)
        self.U_active, self.V_active = nn.Parameter(U[:, :rank].clone()), nn.Parameter(V[:, :rank].clone())
        for name, value in (("U_frozen", U[:, rank:]), ("V_frozen", V[:, rank:])):
            self.register_buffer(name, value.clone())
        positions = torch.arange(k, device=weight.device)
        self.register_buffer("active", positions[:rank].clone())
        self.register_buffer("frozen", positions[rank:].clone())
        self.resample(generator)

    def forward(self, x: Tensor) -> Tensor:
        s = self.s
        parts = (s[self.frozen], self.U_frozen, self.V_frozen, s[self.active], self.U_active, self.V_active)
        y = _Spectral.apply(x, *parts) if self.enhanced else _plain(x, *parts)
        return y if self.bias is None else y + self.bias

    def vectors(self) -> tuple[Tensor, Tensor]:
        """All singular vectors U (m, k) and V (n, k) in the order of s."""
        order = torch.cat([self.active, self.frozen]).argsort()
        U = torch.cat([self.U_active.detach(), self.U_frozen], 1)[:, order]
        return U, torch.cat([self.V_active.detach(), self.V_frozen], 1)[:, order]

    @torch.no_grad()
    def dense_weight(self) -> Tensor:
        """The weight (m, n)."""
        U, V = self.vectors()
        return (U * self.s) @ V.mT

    def to_dense(self) -> nn.Linear:
        """A `torch.nn.Linear` with the same weight and bias."""
        like = self.s
        shape = (self.in_features, self.out_features)
        dense = nn.Linear(*shape, self.bias is not None, device=like.device, dtype=like.dtype)
        with torch.no_grad():
            dense.weight.copy_(self.dense_weight())
            if self.bias is not None:
                dense.bias.copy_(self.bias)
        return dense.train(self.training)

    @torch.no_grad()
    def resample(self, generator: GeneratorLike = None) -> None:
        r"""Draw the trained pairs anew, without replacement, with :math:`p_i = \tfrac12 (1/k + s_i / \sum_j s_j)`."""
        s = self.s.float().clamp_min(0)
        k, total = len(s), s.sum()
        p = 0.5 / k + 0.5 * s / total if float(total) > 0 else torch.full_like(s, 1 / k)
        chosen = torch.multinomial(p, self.rank, generator=as_generator(generator, p.device)).sort().values
        U, V = self.vectors()
        self._place(U, V, chosen)

    @torch.no_grad()
    def orthogonalize(self) -> None:
        """Compute the SVD of the weight anew: U and V orthonormal again, the weight unchanged to rounding."""
        U, s, V = _svd(self.dense_weight())
        self.s.copy_(s)
        self._place(U, V, self.active)

    @torch.no_grad()
    def normalize(self) -> None:
        """Trained vectors back to length one, singular values back to at least zero: after a step of an optimizer."""
        self.s.clamp_min_(0)
        for columns in (self.U_active, self.V_active):
            length = torch.linalg.vector_norm(columns, dim=0)
            columns.div_(torch.where(length > 0, length, 1.0))

    @torch.no_grad()
    def prune(self, energy: float = 0.99) -> int:
        r"""Keep the fewest singular values with :math:`\sum s_i^2` at least `energy` of all; return how many.

        Parameters
        ----------
        energy : share in (0, 1]

        Returns
        -------
        int, the rank of the weight from now on. Parameters are replaced: make the optimizer anew.
        """
        if isinstance(energy, bool) or not 0 < energy <= 1:
            raise ValueError(f"energy must be in (0, 1], got {energy!r}")
        U, s, V = _svd(self.dense_weight())
        share = s.double().square().cumsum(0)
        kept = min(len(s), 1 + int((share < energy * share[-1]).sum()))
        self.rank = min(self.rank, kept)
        r, positions = self.rank, torch.arange(kept, device=s.device)
        self.s = nn.Parameter(s[:kept].clone())
        self.U_active, self.V_active = nn.Parameter(U[:, :r].clone()), nn.Parameter(V[:, :r].clone())
        self.U_frozen, self.V_frozen = U[:, r:kept].clone(), V[:, r:kept].clone()
        self.active, self.frozen = positions[:r].clone(), positions[r:].clone()
        return kept

    def extra_repr(self) -> str:
        bias = self.bias is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}, bias={bias}"

    def _place(self, U: Tensor, V: Tensor, chosen: Tensor) -> None:
        rest = torch.ones(len(self.s), dtype=torch.bool, device=chosen.device)
        rest[chosen] = False
        others = rest.nonzero()[:, 0]
        self.U_active.copy_(U[:, chosen])
        self.V_active.copy_(V[:, chosen])
        self.U_frozen.copy_(U[:, others])
        self.V_frozen.copy_(V[:, others])
        self.active.copy_(chosen)
        self.frozen.copy_(others)


def _svd(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, s, V of the weight, at least in float32."""
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    U, s, Vh = torch.linalg.svd(wide, full_matrices=False)
    if not math.isfinite(float(s[0])):
        raise ValueError("the weight of a spectral layer is NaN or infinite")
    return U.to(weight.dtype), s.to(weight.dtype), Vh.mT.to(weight.dtype)


def _plain(x: Tensor, s_f: Tensor, U_f: Tensor, V_f: Tensor, s_a: Tensor, U_a: Tensor, V_a: Tensor) -> Tensor:
    return ((x @ V_f) * s_f) @ U_f.mT + ((x @ V_a) * s_a) @ U_a.mT


class _Spectral(torch.autograd.Function):
    """The product, with gradients of the trained vectors that lack the factor s."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parts: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            to = torch.get_autocast_dtype(x.device.type)
            x, parts = x.to(to), tuple(part.to(to) for part in parts)
        s_f, U_f, V_f, s_a, U_a, V_a = parts
        h_f, h_a = x @ V_f, x @ V_a
        ctx.save_for_backward(x, h_f, h_a, *parts)
        return (h_f * s_f) @ U_f.mT + (h_a * s_a) @ U_a.mT

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, h_f, h_a, s_f, U_f, V_f, s_a, U_a, V_a = ctx.saved_tensors
        b_f, b_a = g @ U_f, g @ U_a
        rows = tuple(range(g.ndim - 1))
        dx = (b_f * s_f) @ V_f.mT + (b_a * s_a) @ V_a.mT if ctx.needs_input_grad[0] else None
        ds_f, ds_a = (b_f * h_f).sum(rows), (b_a * h_a).sum(rows)
        dU = g.reshape(-1, g.shape[-1]).mT @ h_a.reshape(-1, h_a.shape[-1])
        dV = x.reshape(-1, x.shape[-1]).mT @ b_a.reshape(-1, b_a.shape[-1])
        return dx, ds_f, None, None, ds_a, dU, dV
