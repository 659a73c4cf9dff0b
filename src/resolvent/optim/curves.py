"""Pictures of training runs. They need the extra `[plot]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resolvent.optim.training import Run


def draw_runs(runs: Mapping[str, Sequence[Run]], against: str, axes: Any = None) -> Any:
    """Losses of several optimizers, smoothed over a fiftieth of the run: the mean of the seeds and their range.

    Parameters
    ----------
    runs : by name
    against : "steps" or "seconds"
    axes : of matplotlib; None makes a figure

    Returns
    -------
    The axes.

    Examples
    --------
    >>> axes = draw_runs({"SGD": [Run([2.0, 1.0], [0.1, 0.2], 1.0)]}, "steps")  # doctest: +SKIP
    """
    if axes is None:
        import matplotlib.pyplot as plt

        _, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name, several in runs.items():
        losses = np.array([_smooth(np.asarray(run.losses)) for run in several])
        seconds = np.mean([run.seconds for run in several], axis=0)
        x = seconds if against == "seconds" else np.arange(1, losses.shape[1] + 1)
        losses = np.where(np.isfinite(losses), losses, np.nan)
        if not np.isfinite(losses).any():
            continue
        (line,) = axes.plot(x, losses.mean(axis=0), label=name)
        axes.fill_between(x, losses.min(axis=0), losses.max(axis=0), color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set_xlabel("seconds" if against == "seconds" else "steps")
    axes.set_ylabel("training loss")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return axes


def _smooth(losses: np.ndarray) -> np.ndarray:
    width = max(1, len(losses) // 50)
    total = np.cumsum(np.concatenate([[0.0], losses]))
    first = np.maximum(0, np.arange(1, len(losses) + 1) - width)
    smooth: np.ndarray = (total[1:] - total[first]) / (np.arange(1, len(losses) + 1) - first)
    return smooth
