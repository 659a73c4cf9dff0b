"""Scores of an unmixing against the ground truth, and the survey's table of methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from resolvent.errors import ConvergenceError
from resolvent.factor.scene import Scene
from resolvent.factor.unmixing import unmix
from resolvent.operators.arrays import as_tensor, give_back
from resolvent.random import GeneratorLike, as_generator


class UnmixingScores(NamedTuple):
    """Of :func:`unmixing_scores`, in the order of the true endmembers.

    Attributes
    ----------
    angles : (K,) spectral angle distances in radians
    rmse : (K,) root mean square errors of the abundances
    order : (K,) the column of M that belongs to each true endmember
    """

    angles: Any
    rmse: Any
    order: Any


class UnmixingRow(NamedTuple):
    """One method of :func:`unmixing_benchmark`: means over endmembers, then mean and deviation over starts."""

    method: str
    angle: float
    angle_std: float
    rmse: float
    rmse_std: float


def unmixing_scores(M: Any, A: Any, true_M: Any, true_A: Any) -> UnmixingScores:
    r"""Spectral angles and abundance errors after the best matching of endmembers.

    Parameters
    ----------
    M, A : (L, K) and (K, N), what was found
    true_M, true_A : of the same shapes

    Returns
    -------
    UnmixingScores of the kind of M.

    Raises
    ------
    ValueError : shapes that do not fit, an endmember of zeros.

    Notes
    -----
    The matching with the smallest sum of angles, by the Hungarian method. An angle does not know the length of a
    spectrum.

    References
    ----------
    "Hyperspectral Unmixing: Ground Truth Labeling, Datasets, Benchmark Performances and Survey"

    Examples
    --------
    >>> scores = unmixing_scores(torch.eye(2), torch.eye(2), 3 * torch.eye(2)[:, [1, 0]], torch.eye(2)[[1, 0]])
    >>> scores.angles, scores.rmse, scores.order
    (tensor([0., 0.]), tensor([0., 0.]), tensor([1, 0]))
    """
    from scipy.optimize import linear_sum_assignment

    (E, kind), (B, _), (E0, _), (B0, _) = (
        as_tensor(t, name) for t, name in ((M, "M"), (A, "A"), (true_M, "true_M"), (true_A, "true_A"))
    )
    if E.ndim != 2 or E.shape != E0.shape or B.shape != B0.shape or B.shape[:-1] != E.shape[1:]:
        raise ValueError(
            f"M, A and the true ones must have shapes (L, K) and (K, N), got {tuple(E.shape)}, {tuple(B.shape)}, "
            f"{tuple(E0.shape)}, {tuple(B0.shape)}"
        )
    lengths = [torch.linalg.vector_norm(t, dim=0) for t in (E, E0)]
    if not all(bool((length > 0).all()) for length in lengths):
        raise ValueError("M and true_M must have no column of zeros: it has no angle")
    U, U0 = E / lengths[0], E0.to(E.dtype) / lengths[1].to(E.dtype)
    # By the chord: the arc cosine loses half of the digits of a small angle.
    chord = torch.cdist(U0.mT, U.mT, compute_mode="donot_use_mm_for_euclid_dist")
    angles = 2 * torch.asin((chord / 2).clamp_max(1))
    rows, columns = linear_sum_assignment(angles.detach().cpu().numpy())
    order = torch.from_numpy(columns).to(E.device)
    picked = angles[torch.from_numpy(rows).to(E.device), order]
    rmse = (B[order] - B0.to(B.dtype)).square().mean(1).sqrt()
    return UnmixingScores(*give_back((picked, rmse, order), kind))


def unmixing_benchmark(
    scene: Scene,
    methods: Sequence[str] = ("fcls", "nmf", "l1", "l1/2", "graph", "robust_guided"),
    *,
    n_init: int = 10,
    lam: float | None = None,
    rtol: float = 1e-3,
    max_iter: int = 5000,
    generator: GeneratorLike = None,
) -> list[UnmixingRow]:
    r"""The survey's protocol: every method from the same random starts, mean and deviation of its scores.

    Parameters
    ----------
    scene : with M and A
    methods : of `unmix`
    n_init : starts by VCA, the same for all methods
    lam, rtol, max_iter : as in `unmix`; a run that ends without convergence counts with what it reached
    generator : of the starts

    Returns
    -------
    One UnmixingRow for each method.

    Raises
    ------
    ValueError : the scene has no ground truth.

    References
    ----------
    "Hyperspectral Unmixing: Ground Truth Labeling, Datasets, Benchmark Performances and Survey"

    Examples
    --------
    >>> from resolvent.factor import synthetic_scene
    >>> rows = unmixing_benchmark(synthetic_scene(16, 4, 3, generator=0), ("fcls", "l1/2"), n_init=2, generator=0)
    >>> [row.method for row in rows]
    ['fcls', 'l1/2']
    """
    if scene.M is None or scene.A is None:
        raise ValueError("scene must have a ground truth: its M and A are not there")
    if n_init < 1:
        raise ValueError(f"n_init must be at least 1, got {n_init}")
    rng = as_generator(generator)
    seeds = [int(s) for s in torch.randint(2**31, (n_init,), generator=rng)]
    K = scene.M.shape[1]
    table = []
    for method in methods:
        scores = []
        for seed in seeds:
            try:
                found = unmix(
                    scene.Y,
                    K,
                    method=method,  # type: ignore[arg-type]
                    lam=lam,
                    image_shape=scene.shape,
                    rtol=rtol,
                    max_iter=max_iter,
                    generator=seed,
                )
            except ConvergenceError as stopped:
                found = stopped.best
            one = unmixing_scores(found.M, found.A, scene.M, scene.A)
            scores.append((float(one.angles.mean()), float(one.rmse.mean())))
        both = torch.tensor(scores, dtype=torch.float64)
        (angle, rmse), (angle_std, rmse_std) = both.mean(0).tolist(), both.std(0, correction=0).tolist()
        table.append(UnmixingRow(method, angle, angle_std, rmse, rmse_std))
    return table
