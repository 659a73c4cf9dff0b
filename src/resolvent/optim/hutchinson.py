"""The diagonal of a Hessian from products with random signs, and the step of the optimizers that use it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from resolvent.optim.optimizer import Group, Needs, Optimizer
from resolvent.optim.work import HALF


def hessian_products(
    grads: Sequence[Tensor], params: Sequence[Tensor], signs: Sequence[Tensor], keep: bool = False
) -> list[Tensor]:
    """Products of the Hessian with one vector over all parameters, in one pass backward.

    Parameters
    ----------
    grads : gradients with the graph that they came from
    params : of the gradients
    signs : the vector, a part for every parameter
    keep : keep the graph for another product

    Returns
    -------
    A tensor for every parameter, zeros where no gradient depends on it.

    Examples
    --------
    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> (g,) = torch.autograd.grad((x**3).sum(), [x], create_graph=True)
    >>> hessian_products([g], [x], [torch.tensor([1.0, -1.0])])
    [tensor([  6., -12.])]
    """
    curved = [(g, z) for g, z in zip(grads, signs, strict=True) if g.requires_grad]
    if not curved:
        return [torch.zeros_like(p) for p in params]
    outputs, vectors = zip(*curved, strict=True)
    try:
        with torch.enable_grad():
            found = torch.autograd.grad(
                outputs, params, grad_outputs=vectors, retain_graph=keep, allow_unused=True, materialize_grads=True
            )
    except RuntimeError as error:
        if "is not implemented" not in str(error):
            raise
        raise RuntimeError(
            f"a part of the model has no second derivatives in torch ({error}); for fused attention, build the loss inside "
            "torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)"
        ) from error
    return [product.detach() for product in found]


class HutchinsonOptimizer(Optimizer):
    """Base of the optimizers whose curvature is a product of the Hessian with random signs.

    Parameters
    ----------
    params, defaults, foreach, fused, maximize, generator : as of `Optimizer`

    Notes
    -----
    The graph comes from `loss.backward(create_graph=True)`, or from a closure given to `step`, which returns the loss and need
    not call backward. The graph is freed by the last product, and the gradients are detached from it, so that nothing keeps it
    alive. Under `torch.amp.GradScaler` the products are divided by the scale as the gradients are.
    """

    needs: ClassVar[Needs] = "graph"
    # GradScaler hands over the scale instead of dividing the gradients alone, which would leave the products scaled.
    _step_supports_amp_scaling = True

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step.

        Parameters
        ----------
        closure : returns the loss; that it calls backward (with `create_graph=True` where the diagonal is due) is allowed

        Returns
        -------
        What the closure returned, or None.
        """
        loss = None if closure is None else self._evaluate(closure, self._is_due)
        if self._unscale():
            self._between(closure)
            super().step()
        return loss

    def _between(self, closure: Callable[[], Any] | None) -> None:
        """What a method does between the evaluation of the loss and the step: the products."""

    def _is_due(self, p: Tensor, group: Group) -> bool:
        """Whether the curvature of a parameter is measured in this step."""
        return True

    def _evaluate(self, closure: Callable[[], Any], is_due: Callable[[Tensor, Group], bool] | None) -> Any:
        """The loss, with gradients in the parameters, and their graph where one of them is due."""
        owners = [(p, group) for group in self.param_groups for p in group["params"] if p.requires_grad]
        touched: list[None] = []
        hooks = [p.register_post_accumulate_grad_hook(lambda _: touched.append(None)) for p, _ in owners]
        try:
            with torch.enable_grad():
                loss = closure()
        finally:
            for hook in hooks:
                hook.remove()
        if not touched and isinstance(loss, Tensor) and loss.requires_grad:
            wanted = is_due is not None and any(is_due(p, group) for p, group in owners)
            params = [p for p, _ in owners]
            with torch.enable_grad():
                grads = torch.autograd.grad(loss, params, create_graph=wanted, allow_unused=True)
            for p, g in zip(params, grads, strict=True):
                p.grad = g
        return loss

    def _unscale(self) -> bool:
        """Divide the gradients by the scale of a GradScaler; False where it found infinities and the step is skipped."""
        infinite, scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        if infinite is None:
            return True
        if bool(infinite):
            return False
        params = [
            (p, group) for group in self.param_groups for p in group["params"] if p.grad is not None and p.numel()
        ]
        if scale is not None:
            for p, _ in params:
                if p.grad is not None:
                    p.grad.div_(scale.to(p.grad.device))
        elif any(self._is_due(p, group) for p, group in params):
            raise RuntimeError(
                f"{type(self).__name__} cannot tell by what its second derivatives are scaled after scaler.unscale_(optimizer); "
                "clip without a scaler (bfloat16 needs none), or give scaler.step the scaled gradients"
            )
        return True

    def _products(
        self, params: Sequence[Tensor], probes: int = 1, *, keep: bool = False, signed: bool = True
    ) -> list[Tensor]:
        """The mean over probes of z * (H z), or of H z, for these parameters in the form of `_seen`."""
        grads = [p.grad for p in params if p.grad is not None]
        if not any(g.requires_grad for g in grads):
            self._require_graph_of(grads)
        scale = getattr(self, "grad_scale", None)
        sums: list[Tensor] = []
        for number in range(probes):
            signs = self._signs_like(params)
            found = hessian_products(grads, params, signs, keep=keep or number + 1 < probes)
            parts = [self._seen(h) for h in found]
            if signed:
                # Products may share memory with one another, so none is written to.
                parts = list(torch._foreach_mul(parts, [self._seen(z) for z in signs]))
            sums = list(torch._foreach_add(sums, parts)) if sums else parts
        factor = 1.0 / probes if scale is None else 1.0 / (probes * float(scale))
        return sums if factor == 1.0 else list(torch._foreach_mul(sums, factor))

    def _require_graph_of(self, grads: Sequence[Tensor]) -> None:
        for g in grads:
            if g.layout != torch.strided:
                raise RuntimeError(
                    f"{type(self).__name__} does not take sparse gradients; use sparse=False in the embedding"
                )
        raise RuntimeError(
            f"{type(self).__name__} needs second derivatives: call loss.backward(create_graph=True), or give step() a closure "
            "that returns the loss without calling backward. A loss that is linear in the parameters leaves no graph either"
        )

    def _release(self) -> None:
        """Cut the gradients off from their graph, which would live as long as they do."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p.grad.requires_grad:
                    p.grad = p.grad.detach()

    def _signs_like(self, params: Sequence[Tensor]) -> list[Tensor]:
        """Signs for parameters: +1 and -1 in both parts of complex numbers, and the same on all ranks of a sharded one."""
        # All are drawn at once, and those of one dtype are filled at once: a model has many small parameters.
        sizes = [p.numel() * (2 if p.is_complex() else 1) for p in params]
        words = random_words([-(-size // 64) for size in sizes], self._probes())
        found: list[Tensor] = []
        real = [p.dtype.to_real() if p.is_complex() else p.dtype for p in params]
        filled = {dtype: iter(()) for dtype in real}
        for dtype in filled:
            parts = [w for w, d in zip(words, real, strict=True) if d == dtype]
            whole = as_signs(parts[0] if len(parts) == 1 else torch.cat(parts), dtype)
            filled[dtype] = iter(whole.split([64 * len(part) for part in parts]))
        for p, size, dtype in zip(params, sizes, real, strict=True):
            z: Tensor = next(filled[dtype])[:size].to(p.device)
            z = torch.view_as_complex(z.view(*p.shape, 2)) if p.is_complex() else z.view(p.shape)
            if hasattr(p, "full_tensor"):
                from torch.distributed.tensor import distribute_tensor

                mesh: Any = p
                z = distribute_tensor(z, mesh.device_mesh, mesh.placements, src_data_rank=None)
            found.append(z)
        return found

    def _seen(self, t: Tensor) -> Tensor:
        """A tensor shaped like a parameter in the form that `_single` gets: whole, real, at least 32 bits."""
        if hasattr(t, "full_tensor"):
            t = t.full_tensor()
        if t.is_complex():
            t = torch.view_as_real(t.resolve_conj())
        return t.float() if t.dtype in HALF else t


def random_words(counts: Sequence[int], generator: torch.Generator) -> list[Tensor]:
    """Words of 64 independent bits.

    Parameters
    ----------
    counts : how many, for every tensor of the result
    generator : on the CPU

    Returns
    -------
    Tensors of int64 on the CPU, neighbours in memory.

    Examples
    --------
    >>> [len(words) for words in random_words([2, 3], torch.Generator().manual_seed(0))]
    [2, 3]
    """
    words = torch.empty(sum(counts), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    return list(words.split(list(counts)))


def as_signs(words: Tensor, dtype: torch.dtype) -> Tensor:
    """The bits of words as +1 and -1.

    Parameters
    ----------
    words : int64, on the CPU
    dtype : of the result

    Returns
    -------
    64 numbers for every word, the lowest bit first.

    Examples
    --------
    >>> as_signs(torch.tensor([5]), torch.float32)[:4]
    tensor([ 1., -1.,  1., -1.])
    """
    from resolvent.optim.hutchinson_kernel import signs_of_bits

    wide = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    out = torch.empty(64 * len(words), dtype=wide)
    signs_of_bits(words.numpy(), out.numpy())
    return out.to(dtype)


def random_signs(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Independent signs, +1 and -1, 64 from every number drawn.

    Parameters
    ----------
    shape : of the result
    dtype : of the result
    generator : on the CPU

    Returns
    -------
    A tensor on the CPU.

    Examples
    --------
    >>> z = random_signs((1000,), torch.float32, torch.Generator().manual_seed(0))
    >>> sorted(set(z.tolist())), bool(z.mean().abs() < 0.1)
    ([-1.0, 1.0], True)
    """
    n = math.prod(shape)
    (words,) = random_words([-(-n // 64)], generator)
    return as_signs(words, dtype)[:n].reshape(tuple(shape))
