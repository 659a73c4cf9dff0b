"""The schedule of sparse spectral training: which singular vectors are trained, and when the SVD is taken anew."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from resolvent.optim.spectral_layer import SpectralLinear
from resolvent.random import GeneratorLike, as_generator


class SpectralTrainer:
    """Renews the trained singular pairs of a model's `SpectralLinear` layers; call `on_step(optimizer)` after every step.

    Parameters
    ----------
    model : a module with `SpectralLinear` layers
    every : steps of an iteration, after which the trained pairs are drawn anew
    rounds : iterations of a round, after which the SVD is taken anew; "auto" is ceil(k / rank) of each layer
    warmup : steps after a change in which the moves of the vectors grow linearly from 1/warmup to the whole; 0 for none
    generator : which pairs are drawn; a generator of the CPU, a seed or None

    Notes
    -----
    A step clamps the singular values at zero and brings the trained vectors back to length one. When pairs
    change, the optimizer's state of the vectors is dropped, so that it starts anew as the optimizer itself would start it; after
    an SVD that of the singular values too, whose order has changed. The cost of an SVD, O(m n min(m, n)), comes once in
    every * rounds steps.

    References
    ----------
    "Sparse Spectral Training and Inference on Euclidean and Hyperbolic Neural Networks"

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> trainer = spectralize(model, rank=2, every=5, generator=0)
    >>> optimizer = torch.optim.AdamW(model.parameters())
    >>> for _ in range(20):
    ...     optimizer.zero_grad()
    ...     model(torch.ones(4, 8)).square().mean().backward()
    ...     optimizer.step()
    ...     trainer.on_step(optimizer)
    >>> trainer.iterations, trainer.svds
    (4, 1)
    """

    def __init__(
        self, model: nn.Module, every: int = 200, rounds: int | Literal["auto"] = "auto", *,
        warmup: int = 20, generator: GeneratorLike = None,
    ) -> None:  # fmt: skip
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every must be an int of at least 1, got {every!r}")
        if rounds != "auto" and (isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1):
            raise ValueError(f"rounds must be 'auto' or an int of at least 1, got {rounds!r}")
        if isinstance(warmup, bool) or not isinstance(warmup, int) or warmup < 0:
            raise ValueError(f"warmup must be an int of at least 0, got {warmup!r}")
        self.model, self.every, self.rounds, self.warmup = model, every, rounds, warmup
        self.layers = [module for module in model.modules() if isinstance(module, SpectralLinear)]
        if not self.layers:
            raise ValueError("model has no SpectralLinear layer; see spectralize")
        self.generator = as_generator(generator)
        self.steps = self.iterations = self.svds = 0
        self._before: list[Tensor] | None = None
        self._keep()

    @torch.no_grad()
    def on_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Finish a step of the optimizer: normalise, and where it is time choose pairs or take the SVD anew.

        Parameters
        ----------
        optimizer : the one that has just stepped; the state it keeps for changed vectors is dropped
        """
        self.steps += 1
        if self._before is not None:
            # One factor for all vectors, whatever the optimizer: a warm-up of its learning rate for them alone.
            share = (1 + (self.steps - 1) % self.every) / self.warmup
            for now, before in zip(self._vectors(), self._before, strict=True):
                now.lerp_(before, 1 - share)
        for layer in self.layers:
            layer.normalize()
        if self.steps % self.every == 0:
            self._renew(optimizer)
        self._keep()

    def _renew(self, optimizer: torch.optim.Optimizer) -> None:
        self.iterations += 1
        renewed = False
        for layer in self.layers:
            length = math.ceil(len(layer.s) / layer.rank) if self.rounds == "auto" else self.rounds
            stale = [layer.U_active, layer.V_active]
            if self.iterations % length == 0:
                layer.orthogonalize()
                stale.append(layer.s)
                renewed = True
            layer.resample(int(torch.randint(2**62, (), generator=self.generator)))
            for p in stale:
                optimizer.state.pop(p, None)
        self.svds += renewed

    def _vectors(self) -> list[Tensor]:
        return [p for layer in self.layers for p in (layer.U_active, layer.V_active)]

    def _keep(self) -> None:
        """Keep the trained vectors as they are while moves are shortened; this copy is as large as they are."""
        shortened = self.steps % self.every < self.warmup - 1
        self._before = [p.detach().clone() for p in self._vectors()] if shortened else None

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs beside the states of the model and the optimizer."""
        counts = {"steps": self.steps, "iterations": self.iterations, "svds": self.svds}
        return {**counts, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; load the model first."""
        self.steps, self.iterations, self.svds = state["steps"], state["iterations"], state["svds"]
        self.generator.set_state(state["generator"])
        self._keep()

    def prune(self, energy: float = 0.99) -> list[int]:
        """Prune every layer (see `SpectralLinear.prune`); returns the ranks. Make optimizer and trainer anew afterwards."""
        return [layer.prune(energy) for layer in self.layers]

    def to_dense(self) -> nn.Module:
        """The model with its spectral layers replaced by `torch.nn.Linear`, in place."""
        self.model = _replace(self.model, lambda m: m.to_dense() if isinstance(m, SpectralLinear) else None)
        return self.model


def spectralize(
    model: nn.Module,
    rank: int,
    every: int = 200,
    rounds: int | Literal["auto"] = "auto",
    *,
    warmup: int = 20,
    enhanced: bool = True,
    include: Callable[[str, nn.Linear], bool] | None = None,
    generator: GeneratorLike = None,
) -> SpectralTrainer:
    """Replace the linear layers of a model by `SpectralLinear`, in place, and make the trainer that goes with them.

    Parameters
    ----------
    model : a module that contains `torch.nn.Linear` layers (and is not one itself); left alone are subclasses of it, weights
        that need no gradient, and weights that another module uses too
    rank : trained singular pairs per layer
    every, rounds, warmup : as in `SpectralTrainer`
    enhanced : as in `SpectralLinear`
    include : `include(name, layer)` says which layers; default all with min(m, n) > rank
    generator : a generator of the CPU, a seed or None

    Returns
    -------
    `SpectralTrainer`. Make the optimizer after this call: the parameters are new.

    References
    ----------
    "Sparse Spectral Training and Inference on Euclidean and Hyperbolic Neural Networks"

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> x, before = torch.ones(1, 8), model(torch.ones(1, 8))
    >>> trainer = spectralize(model, rank=2, generator=0)
    >>> torch.allclose(model(x), before, atol=1e-6), type(model[0]).__name__, type(model[2]).__name__
    (True, 'SpectralLinear', 'Linear')
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if type(model) is nn.Linear:
        raise ValueError("model is a single Linear layer: use SpectralLinear.from_linear")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank must be an int of at least 1, got {rank!r}")
    generator = as_generator(generator)
    owners: dict[int, int] = {}
    for module in model.modules():
        for p in module._parameters.values():
            owners[id(p)] = owners.get(id(p), 0) + 1
    chosen = {
        id(module)
        for name, module in model.named_modules()
        if type(module) is nn.Linear
        and owners[id(module.weight)] == 1
        and module.weight.requires_grad
        and (include(name, module) if include else min(module.in_features, module.out_features) > rank)
    }

    def spectral(module: nn.Module) -> nn.Module | None:
        if id(module) not in chosen or not isinstance(module, nn.Linear):
            return None
        seed = int(torch.randint(2**62, (), generator=generator))
        return SpectralLinear.from_linear(module, rank, enhanced=enhanced, generator=seed)

    _replace(model, spectral)
    return SpectralTrainer(model, every, rounds, warmup=warmup, generator=generator)


def _replace(model: nn.Module, new: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """Replace modules by what `new` gives for them; a module used twice stays one."""
    known: dict[int, nn.Module | None] = {}
    whole = new(model)
    if whole is not None:
        return whole
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is None:
                continue
            if id(child) not in known:
                known[id(child)] = new(child)
            replacement = known[id(child)]
            if replacement is not None:
                setattr(parent, name, replacement)
    return model
