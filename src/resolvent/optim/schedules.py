"""Learning-rate schedules for any torch optimizer, and the recorder of the norms that refine them."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler


class LinearDecay(LRScheduler):
    r"""Linear decay to zero: :math:`\eta_t = \eta\,(1 - t / T)`, after a linear warmup.

    Parameters
    ----------
    optimizer : of torch or of this room
    total_steps : T; one more call of `step` after the last raises
    warmup : share of the steps, below 1, or a number of steps as an int
    last_epoch : -1 at the start, as in torch

    Notes
    -----
    The schedule with the best guarantee for the last iterate where nothing is known about the gradients.

    References
    ----------
    "When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement"

    Examples
    --------
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    >>> schedule, rates = LinearDecay(optimizer, 4), []
    >>> for _ in range(4):
    ...     rates.append(schedule.get_last_lr()[0])
    ...     optimizer.step()
    ...     schedule.step()
    >>> rates
    [1.0, 0.75, 0.5, 0.25]
    """

    def __init__(self, optimizer: Any, total_steps: int, warmup: float | int = 0.0, last_epoch: int = -1) -> None:
        if isinstance(total_steps, bool) or not isinstance(total_steps, int) or total_steps < 1:
            raise ValueError(f"total_steps must be a positive integer, got {total_steps!r}")
        steps = warmup if isinstance(warmup, int) else math.ceil(warmup * total_steps)
        if not 0 <= steps < total_steps:
            raise ValueError(f"warmup must be a share below 1 or fewer steps than total_steps, got {warmup!r}")
        self.total_steps, self.warmup_steps = total_steps, steps
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """The rates of the coming step.

        Returns
        -------
        One for each group.
        """
        t = self.last_epoch
        if t > self.total_steps:
            raise ValueError(f"step was called {t} times, but total_steps is {self.total_steps}")
        rising = (t + 1) / (self.warmup_steps + 1)
        return [base * min(rising, 1 - t / self.total_steps) for base in self.base_lrs]


class RefinedSchedule(LRScheduler):
    """A schedule given as numbers, for example by `refine_schedule`.

    Parameters
    ----------
    optimizer : of torch or of this room
    schedule : (steps,) factors of the learning rate, at least 0; one more call of `step` after the last raises
    last_epoch : -1 at the start, as in torch

    References
    ----------
    "When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement"

    Examples
    --------
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    >>> RefinedSchedule(optimizer, [0.2, 1.0, 0.0]).get_last_lr()
    [0.1]
    """

    def __init__(self, optimizer: Any, schedule: ArrayLike, last_epoch: int = -1) -> None:
        factors = np.asarray(schedule, dtype=np.float64)
        if factors.ndim != 1 or not len(factors) or not np.isfinite(factors).all() or (factors < 0).any():
            raise ValueError("schedule must be a vector of finite factors of at least 0")
        self.schedule: list[float] = factors.tolist()
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """The rates of the coming step.

        Returns
        -------
        One for each group.
        """
        t = self.last_epoch
        if t > len(self.schedule):
            raise ValueError(f"step was called {t} times, but the schedule has {len(self.schedule)} steps")
        # After the last step the rate stays where it is: nothing more is to be done with it.
        return [base * self.schedule[min(t, len(self.schedule) - 1)] for base in self.base_lrs]


class GradNormRecorder:
    """Records the norm of the whole gradient at every step of an optimizer.

    Parameters
    ----------
    optimizer : of torch or of this room; recorded before each of its steps, until `close`
    norm : "l2" for SGD, "l1" for Adam's family

    Notes
    -----
    One number a step, left on the gradients' device until it is read: no synchronisation in the loop.

    Examples
    --------
    >>> x = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> optimizer = torch.optim.SGD([x], lr=0.1)
    >>> recorder = GradNormRecorder(optimizer)
    >>> (x.square().sum() / 2).backward()
    >>> optimizer.step()
    >>> recorder.norms.tolist()
    [5.0]
    """

    def __init__(self, optimizer: Any, norm: Literal["l2", "l1"] = "l2") -> None:
        if norm not in ("l2", "l1"):
            raise ValueError(f"norm must be 'l2' or 'l1', got {norm!r}")
        self.order = {"l2": 2, "l1": 1}[norm]
        self._values: list[Tensor | float] = []
        self._handle = optimizer.register_step_pre_hook(self._record)

    def _record(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not grads:
            return
        with torch.no_grad():
            parts = torch._foreach_norm(grads, self.order)
            here = parts[0].device
            self._values.append(torch.linalg.vector_norm(torch.stack([p.float().to(here) for p in parts]), self.order))

    @property
    def norms(self) -> NDArray[np.float64]:
        """The norms so far, one for each step."""
        self._values = [float(value) for value in self._values]
        return np.array(self._values, dtype=np.float64)

    def close(self) -> None:
        """Stop recording."""
        self._handle.remove()

    def state_dict(self) -> dict[str, Any]:
        """What has been recorded.

        Returns
        -------
        Plain numbers.
        """
        return {"order": self.order, "norms": self.norms.tolist()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a record.

        Parameters
        ----------
        state_dict : what `state_dict` gave
        """
        if state_dict["order"] != self.order:
            raise ValueError("state_dict was recorded with another norm")
        self._values = list(state_dict["norms"])
