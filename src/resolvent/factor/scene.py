"""Hyperspectral scenes: pixels with known endmembers and abundances, made or labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resolvent.factor.abundances import fcls
from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.random import GeneratorLike, as_generator


@dataclass(frozen=True)
class Scene:
    """A hyperspectral image and, where it is known, what is in it. Pixels run down the columns of the image.

    Attributes
    ----------
    Y : (L, N) reflectances
    shape : (rows, columns) of the image, their product is N
    M : (L, K) endmembers as columns, or None
    A : (K, N) abundances, or None
    names : of the endmembers
    bands : (L,) indices of the channels that were kept, from one, or None
    max_value : what the stored numbers were divided by
    """

    Y: Any
    shape: tuple[int, int]
    M: Any = None
    A: Any = None
    names: tuple[str, ...] = ()
    bands: Any = None
    max_value: float = 1.0

    def image(self, values: Any) -> Any:
        """Rows of N values as images: (C, N) to (C, rows, columns), (N,) to (rows, columns).

        Examples
        --------
        >>> Scene(torch.zeros(1, 6), (2, 3)).image(torch.arange(6))
        tensor([[0, 2, 4],
                [1, 3, 5]])
        """
        rows, columns = self.shape
        return values.reshape(*values.shape[:-1], columns, rows).swapaxes(-1, -2)


def spectral_library(count: int, bands: int = 100, *, generator: GeneratorLike = None) -> Tensor:
    r"""Smooth reflectance spectra: a sloped and stepped continuum times Gaussian absorption features.

    Parameters
    ----------
    count : how many spectra
    bands : channels, evenly spaced
    generator : of depths, centres and widths

    Returns
    -------
    (bands, count) float64 tensor with entries between 0.02 and 0.98.

    Examples
    --------
    >>> spectral_library(3, 50, generator=0).shape
    torch.Size([50, 3])
    """
    for name, value in (("count", count), ("bands", bands)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    rng = as_generator(generator)
    x = torch.linspace(0, 1, bands, dtype=torch.float64)[:, None]

    def drawn(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(*size, count, dtype=torch.float64, generator=rng)

    step = torch.sigmoid((x - drawn(0.2, 0.8)) / drawn(0.02, 0.1))
    continuum = drawn(0.15, 0.6) + drawn(-0.25, 0.25) * (x - 0.5) + drawn(-0.3, 0.3) * step
    features = 5
    depth, centre, width = drawn(0, 0.6, features), drawn(0, 1, features), drawn(0.02, 0.08, features)
    dips = 1 - depth * torch.exp(-((x[:, None] - centre) ** 2) / (2 * width**2))
    return (continuum * dips.prod(1)).clamp(0.02, 0.98)


def synthetic_scene(
    size: int = 64,
    block: int = 8,
    n_endmembers: int = 4,
    *,
    purity: float = 0.8,
    snr: float | Sequence[float] = 30.0,
    bands: int = 100,
    library: Any = None,
    generator: GeneratorLike = None,
) -> Scene:
    r"""A complex synthetic scene with known endmembers and abundances.

    Parameters
    ----------
    size : pixels of a side, a multiple of `block`
    block : z, side of the blocks, each filled with one endmember drawn at random, then mixed by a (z+1) x (z+1) mean
    n_endmembers : K
    purity : in (1/K, 1]: a pixel with a larger abundance becomes the uniform mixture
    snr : signal-to-noise ratio in decibel, of the whole scene or one for each channel
    bands : channels L, if there is no library
    library : (L, at least K) spectra, the first K are taken; None draws them by `spectral_library`
    generator : of the spectra, the blocks and the noise

    Returns
    -------
    Scene of float64 tensors; its reflectances are not negative: what the noise takes below zero is zero.

    Notes
    -----
    The survey takes size = z^2. At the border the mean is over the pixels that are there.

    References
    ----------
    "Hyperspectral Unmixing: Ground Truth Labeling, Datasets, Benchmark Performances and Survey"

    Examples
    --------
    >>> scene = synthetic_scene(16, 4, 3, generator=0)
    >>> scene.Y.shape, bool((scene.A.sum(0) - 1).abs().max() < 1e-12), bool(scene.A.max() <= 0.8)
    (torch.Size([100, 256]), True, True)
    """
    K = n_endmembers
    whole = all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in (size, block))
    if not whole or size % block:
        raise ValueError(f"size must be a positive multiple of block, both ints, got {size!r} and {block!r}")
    if isinstance(K, bool) or not isinstance(K, int) or K < 2:
        raise ValueError(f"n_endmembers must be an integer of at least 2, got {K!r}")
    if not 1 / K < purity <= 1:
        raise ValueError(f"purity must be above 1/K = {1 / K:.3g} and at most 1, got {purity}")
    rng = as_generator(generator)
    M = spectral_library(K, bands, generator=rng) if library is None else as_tensor(library, "library")[0].double()
    if M.ndim != 2 or M.shape[1] < K:
        raise ValueError(f"library must have at least {K} columns, got shape {tuple(M.shape)}")
    M = M[:, :K]
    check_finite(M, "library")
    blocks = torch.randint(K, (size // block, size // block), generator=rng)
    pure = torch.nn.functional.one_hot(blocks, K).permute(2, 0, 1).double()
    A = _mixed(pure.repeat_interleave(block, 1).repeat_interleave(block, 2), block + 1)
    A = torch.where(A.amax(0) > purity, 1 / K, A)
    # Down the columns of the image, the order of the published files.
    flat = A.transpose(1, 2).reshape(K, -1)
    Y = M @ flat
    decibel = torch.as_tensor(snr, dtype=torch.float64)
    if decibel.ndim and decibel.shape != (len(M),):
        raise ValueError(
            f"snr must be one number or one for each of {len(M)} channels, got shape {tuple(decibel.shape)}"
        )
    if bool((decibel.isnan() | (decibel == -torch.inf)).any()):
        raise ValueError(f"snr must be numbers of decibel, infinity for no noise, got {snr}")
    power = Y.square().mean(1) if decibel.ndim else Y.square().mean()
    level = (power * 10 ** (-decibel / 10)).sqrt()
    noise = torch.randn(Y.shape, dtype=torch.float64, generator=rng) * (level[:, None] if decibel.ndim else level)
    names = tuple(f"material {k + 1}" for k in range(K))
    return Scene((Y + noise).clamp_min(0), (size, size), M, flat, names)


def _mixed(images: Tensor, width: int) -> Tensor:
    """The mean over width x width pixels around each, of those that are there."""

    def summed(t: Tensor) -> Tensor:
        before, after = (width - 1) // 2, width // 2
        padded = torch.nn.functional.pad(t[None], (before, after, before, after))
        return torch.nn.functional.avg_pool2d(padded, width, stride=1)[0]

    return summed(images) / summed(torch.ones_like(images[:1]))


def scene_from_labels(Y: Any, labels: Any, shape: tuple[int, int], *, names: Sequence[str] = ()) -> Scene:
    r"""An unmixing scene from a classified one: class means as endmembers, abundances by `fcls`.

    Parameters
    ----------
    Y : (L, N) reflectances
    labels : (N,) integers, 0 for pixels without a class; every other value is one endmember, in ascending order
    shape : (rows, columns) of the image
    names : of the classes

    Returns
    -------
    Scene of the kind of Y.

    Raises
    ------
    ValueError : shapes that do not fit, no class, class means that are affinely dependent.

    References
    ----------
    "Hyperspectral Unmixing: Ground Truth Labeling, Datasets, Benchmark Performances and Survey"

    Examples
    --------
    >>> Y = torch.tensor([[1.0, 1.0, 0.0, 0.5], [0.0, 0.0, 1.0, 0.5]])
    >>> scene_from_labels(Y, [1, 1, 2, 0], (2, 2)).A
    tensor([[1.0000, 1.0000, 0.0000, 0.5000],
            [0.0000, 0.0000, 1.0000, 0.5000]])
    """
    T, kind = as_tensor(Y, "Y")
    check_finite(T, "Y")
    marks = torch.as_tensor(np.asarray(labels), device=T.device)
    if T.ndim != 2 or marks.shape != T.shape[1:] or shape[0] * shape[1] != T.shape[1]:
        raise ValueError(
            f"Y (L, N), labels (N,) and shape of N pixels must fit, got {tuple(T.shape)}, {tuple(marks.shape)}, {tuple(shape)}"
        )
    classes = [int(c) for c in torch.unique(marks) if int(c) != 0]
    if not classes:
        raise ValueError("labels must have at least one class that is not 0")
    if names and len(names) != len(classes):
        raise ValueError(f"names must have one entry for each of {len(classes)} classes, got {len(names)}")
    M = torch.stack([T[:, marks == c].mean(1) for c in classes], 1)
    A = fcls(T, M)
    kept, M, A = give_back((T, M, A), kind)
    return Scene(kept, (shape[0], shape[1]), M, A, tuple(names))
