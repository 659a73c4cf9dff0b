"""What every optimizer of this room shares: groups, paths, precision, shards, checkpoints.

A method says how one tensor is stepped; everything at the edge is done here, once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from resolvent.optim.work import HALF, State, Work, as_saved, buckets, fits, local, widen

Needs = Literal["grads", "graph", "hooks", "jacobian"]
Group = dict[str, Any]


def check(
    name: str, value: Any, low: float = 0.0, high: float = math.inf, *, above: bool = False, below: bool = False
) -> None:
    """Refuse a hyper-parameter outside its range.

    Parameters
    ----------
    name : of the argument, for the error
    value : a number, or a tensor with one entry
    low, high : the range, both ends included
    above, below : leave out the lower or the upper end

    Examples
    --------
    >>> check("lr", -1.0)
    Traceback (most recent call last):
    ValueError: lr must be a number of at least 0, got -1.0
    """
    is_number = (isinstance(value, (int, float)) and not isinstance(value, bool)) or (
        isinstance(value, Tensor) and value.numel() == 1
    )
    if not is_number:
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    x = float(value)
    if (low < x if above else low <= x) and (x < high if below else x <= high):
        return
    words = f"above {low:g}" if above else f"of at least {low:g}"
    if math.isfinite(high):
        words += f" and {'below' if below else 'at most'} {high:g}"
    raise ValueError(f"{name} must be a number {words}, got {x}")


class Optimizer(torch.optim.Optimizer):
    """Base of the optimizers: a method adds `_begin` and `_single`, and the faster paths where it has them.

    Parameters
    ----------
    params : parameters, or groups of them, as in `torch.optim`
    defaults : hyper-parameters of a group that does not say otherwise
    foreach : step the tensors of a group together; None: yes
    fused : one kernel that passes over memory once, on the CPU; None: where it exists and can be used
    maximize : ascend
    generator : of random probes: a `torch.Generator`, an int or None

    Notes
    -----
    Parameters of float16 and bfloat16 are stepped in float32, with state in float32. Complex parameters are stepped
    as pairs of real numbers. A sharded parameter (`DTensor`) is stepped shard by shard where the method is elementwise
    and gathered otherwise. Every group may have its own value of every hyper-parameter.
    """

    needs: ClassVar[Needs] = "grads"
    elementwise: ClassVar[bool] = True
    has_fused: ClassVar[bool] = False
    # Of the state, what the fused step reads as arrays of the parameter's precision; None: everything.
    fused_state: ClassVar[frozenset[str] | None] = None
    takes_complex: ClassVar[bool] = True

    def __init__(
        self,
        params: Any,
        defaults: Group,
        *,
        foreach: bool | None = None,
        fused: bool | None = None,
        maximize: bool = False,
        generator: torch.Generator | int | None = None,
    ) -> None:
        if foreach and fused:
            raise ValueError("foreach and fused cannot both be True: choose one")
        if fused and not self.has_fused:
            raise ValueError(f"fused=True: {type(self).__name__} has no fused step; leave fused=None")
        self._generator = _generator(generator)
        super().__init__(params, {**defaults, "foreach": foreach, "fused": fused, "maximize": maximize})

    # What a method writes.

    def _check_group(self, group: Group) -> None:
        """Refuse hyper-parameters out of range; called for every group that is added."""

    def _begin(self, p: Tensor, group: Group) -> State:
        raise NotImplementedError

    def _single(self, group: Group, p: Tensor, g: Tensor, state: State) -> None:
        raise NotImplementedError

    def _foreach(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        for p, g, state in zip(ps, gs, states, strict=True):
            self._single(group, p, g, state)

    def _fused(self, group: Group, ps: list[Tensor], gs: list[Tensor], states: list[State]) -> None:
        raise NotImplementedError

    def _prepare(self) -> None:
        """Called before the groups are stepped, with gradients enabled."""

    def _is_elementwise(self, group: Group) -> bool:
        return self.elementwise

    def _can_fuse(self, group: Group) -> bool:
        return self.has_fused

    def _wants_fused(self, group: Group) -> bool:
        # foreach=False without a word about fused asks for the plain path, as in torch. torch.compile makes its own
        # kernel of the foreach path, and cannot look into ours.
        asked = group["fused"] or (group["fused"] is None and group["foreach"] is None)
        return bool(asked and self._can_fuse(group) and not torch.compiler.is_compiling())

    # The step.

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step.

        Parameters
        ----------
        closure : evaluates the loss again and returns it

        Returns
        -------
        What the closure returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with ExitStack() as stack:
            for device in {p.device.type for group in self.param_groups for p in group["params"]}:
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            with torch.enable_grad():
                self._prepare()
            self._step_groups()
        return loss

    def _step_groups(self) -> None:
        for group in self.param_groups:
            settings = {**group, "lr": float(group["lr"])} if isinstance(group.get("lr"), Tensor) else group
            # A parameter without numbers has nothing to step, so no method needs to mind it.
            works = [self._work(p, settings) for p in group["params"] if p.grad is not None and p.numel()]
            for bucket in buckets(works):
                self._step_bucket(settings, bucket)
            for work in works:
                if work.write is not None:
                    work.write()

    def _step_bucket(self, group: Group, works: list[Work]) -> None:
        fused = self._wants_fused(group)
        parts: dict[str, list[Work]] = defaultdict(list)
        for work in works:
            parts[
                "fused"
                if fused and fits(work, self.fused_state)
                else "single"
                if group["foreach"] is False
                else "foreach"
            ].append(work)
        if group["fused"] and set(parts) != {"fused"} and not torch.compiler.is_compiling():
            raise RuntimeError(
                f"fused=True: the fused step of {type(self).__name__} takes contiguous tensors on the CPU, "
                "without method-specific options that it lacks; leave fused=None"
            )
        for path, part in parts.items():
            ps, gs, states = [w.value for w in part], [w.grad for w in part], [w.state for w in part]
            for state in states:
                state["step"] += 1
            if path == "fused":
                self._fused(group, ps, gs, states)
            elif path == "foreach":
                self._foreach(group, ps, gs, states)
            else:
                for p, g, state in zip(ps, gs, states, strict=True):
                    self._single(group, p, g, state)

    def _work(self, param: Tensor, group: Group) -> Work:
        """The parameter as a real tensor of at least 32 bits on this rank."""
        grad = param.grad
        if grad is None:
            raise RuntimeError("a parameter without a gradient was handed to the step")
        if grad.is_sparse or grad.layout != torch.strided:
            raise RuntimeError(
                f"{type(self).__name__} does not take sparse gradients; use sparse=False in the embedding, "
                "or torch.optim.SparseAdam for that parameter"
            )
        value, g, write = param, grad.detach(), None
        if hasattr(param, "full_tensor"):
            value, g, write = local(param, g, self._is_elementwise(group))
        if value.is_complex():
            if not self.takes_complex:
                raise RuntimeError(f"{type(self).__name__} does not take complex parameters")
            value, g = torch.view_as_real(value), torch.view_as_real(g.resolve_conj())
        if value.dtype in HALF:
            value, write = widen(value, write)
        if g.dtype != value.dtype:
            g = g.to(value.dtype)
        if group["maximize"]:
            g = -g
        state = self.state[param]
        if "step" not in state:
            state.update({"step": 0, **self._begin(value, group)})
        return Work(param, value, g, state, write)

    # Groups, checkpoints, random probes.

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters, with hyper-parameters of its own.

        Parameters
        ----------
        param_group : with `params` and the hyper-parameters that differ from the defaults
        """
        super().add_param_group(param_group)
        try:
            group = self.param_groups[-1]
            if "lr" in group and group["lr"] is not None:
                check("lr", group["lr"])
            for name, beta in zip(("betas[0]", "betas[1]"), group.get("betas", ()), strict=False):
                check(name, beta, 0.0, 1.0, below=True)
            for name in ("eps", "weight_decay"):
                if group.get(name) is not None:
                    check(name, group[name])
            self._check_group(group)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def state_dict(self) -> dict[str, Any]:
        """The state and the groups; `torch.save` keeps it.

        Returns
        -------
        As in `torch.optim`, with the state of the generator of random probes where one was used.
        """
        self._keep_generator()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state; precisions stay as they were saved.

        Parameters
        ----------
        state_dict : what `state_dict` gave
        """
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for number, p in zip(numbers, params, strict=True):
            for name, saved in state_dict["state"].get(number, {}).items():
                self.state[p][name] = as_saved(saved, p)
        self._restore_generator()

    def __getstate__(self) -> dict[str, Any]:
        self._keep_generator()
        return super().__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_generator" not in self.__dict__:
            self._generator = None
        for group in self.param_groups:
            for name in ("foreach", "fused"):
                group.setdefault(name, None)
            group.setdefault("maximize", False)
        self._restore_generator()

    def _shared(self) -> dict[Any, Any]:
        """The state, in which names stand for what belongs to no single parameter."""
        return self.state

    def _keep_generator(self) -> None:
        if self._generator is not None:
            self._shared()["generator"] = {"state": self._generator.get_state()}

    def _restore_generator(self) -> None:
        kept = self._shared().get("generator")
        if kept is not None:
            self._generator = torch.Generator()
            self._generator.set_state(kept["state"].to("cpu", torch.uint8))

    def _probes(self) -> torch.Generator:
        # Draws happen on the CPU, so that a checkpoint resumes alike on every device.
        if self._generator is None:
            self._generator = torch.Generator().manual_seed(int(torch.randint(2**62, (1,))))
        return self._generator


def _generator(source: torch.Generator | int | None) -> torch.Generator | None:
    if source is None or isinstance(source, torch.Generator):
        return source
    if isinstance(source, int) and not isinstance(source, bool):
        return torch.Generator().manual_seed(source)
    raise TypeError(f"generator must be a torch.Generator, an int or None, got {type(source).__name__}")
