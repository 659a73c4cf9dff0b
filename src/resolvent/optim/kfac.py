"""Natural gradients with Kronecker factors that are never inverted: the factors of the inverses are learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import ref

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from resolvent.optim.layer_rows import input_rows, is_matrix_layer, output_rows
from resolvent.optim.optimizer import Group, Optimizer, State, check
from resolvent.optim.spd_structure import STRUCTURES, Blocks, Structure

Reduction = Literal["samples", "positions", "sum"]

# One step of a factor may shrink a direction by half at most: I - lr M then keeps its inverse, whatever the statistics.
_LONGEST = 0.5


@dataclass
class _Layer:
    module: nn.Module
    weight: nn.Parameter
    bias: nn.Parameter | None


@dataclass
class _Seen:
    """Sums over what passed through a layer since the last step."""

    inputs: Blocks
    outputs: Blocks
    trace_inputs: Tensor
    trace_outputs: Tensor
    rows: int
    terms: int


class _Hook:
    """Calls an optimizer that is not kept alive by it, and nothing at all from a copy or a pickle of the model."""

    def __init__(self, optimizer: InverseFreeKFAC | None = None) -> None:
        self.optimizer = None if optimizer is None else ref(optimizer)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        optimizer = None if self.optimizer is None else self.optimizer()
        if optimizer is not None:
            optimizer._watch(module, inputs, output)

    def __reduce__(self) -> tuple[type[_Hook], tuple[()]]:
        return _Hook, ()


class InverseFreeKFAC(Optimizer):
    r"""KFAC by products alone: the direction of a layer is :math:`B B^T\, G\, A A^T`, where :math:`A A^T \otimes B B^T` follows the inverse of
    :math:`S_a \otimes S_g + \lambda I` on the manifold of positive definite matrices.

    Parameters
    ----------
    model : its `nn.Linear` and `nn.Conv2d` layers (without groups) are preconditioned, all other parameters take steps of SGD
        with the same momentum
    params : parameters of the model or groups of them; None: all. A weight's group decides over its layer's factors
    lr : step size
    momentum : of the steps
    damping : lambda
    lr_cov : step size of the factors, after its warm-up
    beta_cov : momentum of the factors
    weight_decay : added to the natural gradient, before the momentum, and not preconditioned
    interval : steps between two updates of the factors
    warmup : pairs (steps, step size of the factors until then) in rising order; () for none
    structure : of A and B: "dense", "diag", "lowrank" or "hierarchical", see `spd_momentum`
    rank : of "lowrank" and "hierarchical"
    reduction : what the loss averages: "samples" (the first axis), "positions" (samples and places in sequences or images) or
        nothing ("sum")
    factor_dtype : of A, B and all products with them, torch.bfloat16 for instance; None: float32, or wider as the parameters are
    scaler : the `torch.amp.GradScaler` in use, if any, by which the statistics are divided
    maximize : ascend

    Notes
    -----
    Of every layer, with a the inputs (a 1 appended for the bias) and g the gradients of the samples' losses in its outputs:
    :math:`2 N_A = A^T(\lambda \tfrac{tr(BB^T)}{d} I + \tfrac{tr(B^T S_g B)}{d} S_a) A - I`, :math:`M_A \leftarrow \beta M_A + N_A`,
    :math:`A \leftarrow A - \eta A M_A`, and B likewise; at a fixed point A A^T is the inverse of the bracket. Statistics are formed
    as :math:`(aA)^T(aA)`, which stays positive in low precision where :math:`S_a` would not. A step of the factors is shortened where
    :math:`\eta |M| > 1/2`. With p inputs and d outputs: memory 2 (p^2 + d^2), and a step 2 p d (p + d) flops; O(rank (p + d)) and
    O(rank p d) for the sparse structures. Statistics are summed over the processes of `torch.distributed` where it is
    initialised. A layer that is used several times in a model has its statistics added up.

    The hooks are not part of a pickle or a copy: `attach` registers them on a model, `detach` removes them.

    References
    ----------
    "Simplifying Momentum-based Positive-definite Submanifold Optimization with Applications to Deep Learning"

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> kfac = InverseFreeKFAC(model, lr=0.01, interval=1)
    >>> nn.functional.mse_loss(model(torch.ones(3, 4)), torch.zeros(3, 2)).backward()
    >>> kfac.step()
    >>> kfac.state[model[0].weight]["input"]["top"].shape
    torch.Size([5, 5])
    """

    needs = "hooks"
    elementwise = False
    takes_complex = False

    def __init__(
        self,
        model: nn.Module,
        params: Any = None,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.9,
        damping: float = 1e-3,
        lr_cov: float = 1e-2,
        beta_cov: float = 0.5,
        weight_decay: float = 1e-2,
        interval: int = 10,
        *,
        warmup: Sequence[tuple[int, float]] = ((100, 2e-4), (500, 2e-3)),
        structure: Structure = "dense",
        rank: int = 15,
        reduction: Reduction = "samples",
        factor_dtype: torch.dtype | None = None,
        scaler: Any = None,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        defaults = {
            "lr": lr, "momentum": momentum, "damping": damping, "lr_cov": lr_cov, "beta_cov": beta_cov,
            "weight_decay": weight_decay, "interval": interval, "warmup": tuple(warmup), "structure": structure,
            "rank": rank, "reduction": reduction, "factor_dtype": factor_dtype,
        }  # fmt: skip
        self._forget()
        super().__init__(model.parameters() if params is None else params, defaults, foreach=foreach, maximize=maximize)
        self.scaler: Any = scaler
        self.attach(model)

    def _forget(self) -> None:
        self._model: nn.Module | None = None
        self._layers: dict[nn.Module, _Layer] = {}
        self._handles: list[RemovableHandle] = []
        self._groups: dict[Tensor, int] = {}
        self._seen: dict[Tensor, _Seen] = {}
        self._directions: dict[int, Tensor] = {}
        self.scaler = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Also called by load_state_dict, which must leave the hooks where they are.
        if "_layers" not in self.__dict__:
            self._forget()
        super().__setstate__(state)

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters of the model, with hyper-parameters of its own.

        Parameters
        ----------
        param_group : with `params` and the hyper-parameters that differ from the defaults
        """
        super().add_param_group(param_group)
        if self._model is not None:
            self.attach(self._model)

    def _check_group(self, group: Group) -> None:
        check("momentum", group["momentum"], 0.0, 1.0, below=True)
        check("beta_cov", group["beta_cov"], 0.0, 1.0, below=True)
        check("damping", group["damping"])
        check("lr_cov", group["lr_cov"])
        for name in ("interval", "rank"):
            if isinstance(group[name], bool) or not isinstance(group[name], int) or group[name] < 1:
                raise ValueError(f"{name} must be an int of at least 1, got {group[name]!r}")
        if group["structure"] not in STRUCTURES:
            raise ValueError(f"structure must be one of {', '.join(STRUCTURES)}, got {group['structure']!r}")
        if group["reduction"] not in ("samples", "positions", "sum"):
            raise ValueError(f"reduction must be 'samples', 'positions' or 'sum', got {group['reduction']!r}")
        dtype = group["factor_dtype"]
        if dtype not in (None, torch.bfloat16, torch.float32, torch.float64):
            raise ValueError(f"factor_dtype must be torch.bfloat16, float32, float64 or None, got {dtype!r}")

    # Hooks.

    def attach(self, model: nn.Module) -> None:
        """Watch a model's layers, instead of those watched before; needed after a copy or a pickle.

        Parameters
        ----------
        model : owns the parameters of this optimizer
        """
        self._unhook()
        self._model = model
        self._groups = {p: number for number, group in enumerate(self.param_groups) for p in group["params"]}
        for module in model.modules():
            if is_matrix_layer(module) and module.weight in self._groups:
                bias = module.bias if module.bias is not None and module.bias in self._groups else None
                self._layers[module] = _Layer(module, module.weight, bias)  # type: ignore[arg-type]
                self._handles.append(module.register_forward_hook(_Hook(self)))

    def detach(self) -> None:
        """Remove all hooks."""
        self._unhook()
        self._model, self._seen = None, {}

    def _unhook(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._layers, self._handles = {}, []

    def _group(self, layer: _Layer) -> Group:
        return self.param_groups[self._groups[layer.weight]]

    def _is_due(self, layer: _Layer) -> bool:
        steps = self.state[layer.weight].get("step", 0) if layer.weight in self.state else 0
        return bool(steps % self._group(layer)["interval"] == 0)

    def _watch(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        layer = self._layers.get(module)
        if layer is not None and torch.is_grad_enabled() and output.requires_grad and self._is_due(layer):
            x = inputs[0].detach()
            # On the output and not on the module, whose gradient hooks do not survive an in-place activation.
            output.register_hook(lambda g: self._collect(layer, x, g.detach()))

    @torch.no_grad()
    def _collect(self, layer: _Layer, x: Tensor, g: Tensor) -> None:
        reduction = self._group(layer)["reduction"]
        a, g = input_rows(layer.module, x), output_rows(layer.module, g)
        terms = g.shape[0] * (g.shape[1] if reduction == "positions" else 1)
        if self.scaler is not None:
            g = g.float() / self.scaler.get_scale()
        A, B = self._factors(layer, x.device)
        a, g = a.flatten(0, 1).to(A.top.dtype), g.flatten(0, 1).to(B.top.dtype)
        if layer.bias is not None:
            a = torch.cat([a, a.new_ones(len(a), 1)], dim=1)
        inner, outer = A.from_left(a), B.from_left(g)
        found = _Seen(A.gram(inner), B.gram(outer), _square(inner), _square(outer), len(a), terms)
        kept = self._seen.setdefault(layer.weight, found)
        if kept is not found:
            kept.inputs.add_(found.inputs)
            kept.outputs.add_(found.outputs)
            kept.trace_inputs += found.trace_inputs
            kept.trace_outputs += found.trace_outputs
            kept.rows, kept.terms = kept.rows + found.rows, kept.terms + found.terms

    # The step.

    def _factors(self, layer: _Layer, device: torch.device) -> tuple[Blocks, Blocks]:
        """A and B of a layer; at first both are the identity."""
        state, group, weight = self.state[layer.weight], self._group(layer), layer.weight
        if "input" not in state:
            dtype = group["factor_dtype"] or (torch.float64 if weight.dtype == torch.float64 else torch.float32)
            like = torch.empty(0, dtype=dtype, device=device)
            sizes = {"input": weight[0].numel() + (layer.bias is not None), "output": weight.shape[0]}
            for name, n in sizes.items():
                factor = Blocks.identity(group["structure"], n, group["rank"], like)
                state[name], state[name + "_momentum"] = factor.state(), factor.zeros().state()
        return Blocks.from_state(state["input"]), Blocks.from_state(state["output"])

    @torch.no_grad()
    def _prepare(self) -> None:
        if self._model is None:
            raise RuntimeError("InverseFreeKFAC watches no model: call attach(model) before the forward pass")
        self._directions = {}
        for layer in self._layers.values():
            if layer.weight.grad is None:
                continue
            if self._is_due(layer):
                self._update(layer)
            self._precondition(layer)

    def _update(self, layer: _Layer) -> None:
        seen, group, state = self._seen.pop(layer.weight, None), self._group(layer), self.state[layer.weight]
        if seen is None:
            raise RuntimeError(
                "InverseFreeKFAC saw no backward pass through a layer that has a gradient: the gradients of a step must come from "
                "loss.backward() through the model that it was given"
            )
        _sum_over_processes(seen)
        A, B = self._factors(layer, seen.trace_inputs.device)
        p, d = A.shape[2], B.shape[2]
        # Of a mean over n terms, the gradient of one term in the outputs is n times what passes backward; over n terms, n^2 / n.
        scale = float(seen.terms) if group["reduction"] != "sum" else 1.0
        of_inputs, of_outputs = seen.trace_inputs / seen.rows, seen.trace_outputs * scale
        # After an overflow under a GradScaler there is nothing to learn from.
        if not bool(torch.isfinite(of_inputs * of_outputs)):
            return
        size_A, size_B = A.squared_norm(), B.squared_norm()
        N_A = seen.inputs.scale_(of_outputs / (d * seen.rows)).add_(A.own_gram(), group["damping"] * size_B / d)
        N_B = seen.outputs.scale_(of_inputs * scale / p).add_(B.own_gram(), group["damping"] * size_A / p)
        steps = state.get("step", 0)
        lr = next((rate for until, rate in group["warmup"] if steps <= until), group["lr_cov"])
        for factor, N, name in ((A, N_A, "input"), (B, N_B, "output")):
            M = Blocks.from_state(state[name + "_momentum"])
            M.scale_(group["beta_cov"]).add_(N.shift_(-1.0), 0.5)
            length = (_LONGEST / M.squared_norm().sqrt()).clamp(max=lr)
            factor.add_(factor.times(M), -length)

    def _precondition(self, layer: _Layer) -> None:
        weight, bias = layer.weight, layer.bias
        A, B = self._factors(layer, _whole(weight.grad).device)
        G = _whole(weight.grad).flatten(1)
        if bias is not None:
            last = torch.zeros_like(G[:, :1]) if bias.grad is None else _whole(bias.grad)[:, None]
            G = torch.cat([G, last], dim=1)
        X = A.apply(A.apply_transpose(G.to(A.top.dtype).T)).T
        X = B.apply(B.apply_transpose(X.to(B.top.dtype)))
        X = X.to(torch.float64 if weight.dtype == torch.float64 else torch.float32)
        columns = weight[0].numel()
        self._directions[id(self.state[weight])] = X[:, :columns].reshape(weight.shape)
        if bias is not None and bias.grad is not None:
            self._directions[id(self.state[bias])] = X[:, columns]

    def _begin(self, p: Tensor, group: Group) -> State:
        return {"velocity": torch.zeros_like(p)}

    def _single(self, group: Group, p: Tensor, g: Tensor, state: State) -> None:
        step = self._direction(group, g, state).add(p, alpha=group["weight_decay"])
        velocity = state["velocity"].mul_(group["momentum"]).add_(step)
        p.sub_(velocity, alpha=group["lr"])

    def _foreach(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        found = [self._direction(group, g, state) for g, state in zip(gs, states, strict=True)]
        steps = torch._foreach_add(found, ps, alpha=group["weight_decay"])
        velocities = [state["velocity"] for state in states]
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, steps)
        torch._foreach_sub_(ps, velocities, alpha=group["lr"])

    def _direction(self, group: Group, g: Tensor, state: State) -> Tensor:
        """The natural gradient where there is one; g has its sign turned already where the loss is to rise."""
        found = self._directions.pop(id(state), None)
        if found is None:
            return g
        return -found if group["maximize"] else found


def _square(rows: Tensor) -> Tensor:
    return (rows.float() if rows.dtype == torch.bfloat16 else rows).square().sum()


def _whole(t: Any) -> Tensor:
    return t.full_tensor() if hasattr(t, "full_tensor") else t


def _sum_over_processes(seen: _Seen) -> None:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    counts = seen.trace_inputs.new_tensor([seen.rows, seen.terms])
    for t in (*seen.inputs.tensors(), *seen.outputs.tensors(), seen.trace_inputs, seen.trace_outputs, counts):
        if t.numel():
            torch.distributed.all_reduce(t)
    processes = torch.distributed.get_world_size()
    # Every process takes the mean over its own samples: gradients are larger by the number of processes than in one mean over all.
    seen.outputs.scale_(1.0 / processes**2)
    seen.trace_outputs /= processes**2
    seen.rows, seen.terms = int(counts[0]), int(counts[1])
