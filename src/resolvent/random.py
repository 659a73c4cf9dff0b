"""Random probes: one meaning of `generator=` for the whole library."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

GeneratorLike = torch.Generator | int | None


def as_generator(generator: GeneratorLike = None, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a `torch.Generator` on `device`.

    Parameters
    ----------
    generator : a generator (used as it is), an int seed, or None (seeded from torch's global generator,
        so that `torch.manual_seed` makes the whole program repeatable)
    device : where its numbers will be used

    Returns
    -------
    torch.Generator

    Examples
    --------
    >>> a, b = as_generator(0), as_generator(0)
    >>> bool((torch.rand(3, generator=a) == torch.rand(3, generator=b)).all())
    True
    """
    if isinstance(generator, torch.Generator):
        return generator
    if generator is not None and (isinstance(generator, bool) or not isinstance(generator, int)):
        raise TypeError(f"generator must be a torch.Generator, an int or None, got {type(generator).__name__}")
    seed = int(torch.randint(2**62, ()).item()) if generator is None else generator
    # A generator lives on one device; the numbers of a seed differ between CPU and CUDA, as in torch itself.
    return torch.Generator(device=device).manual_seed(seed)


def gaussian(
    shape: Sequence[int],
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    generator: GeneratorLike = None,
) -> Tensor:
    """Standard normal entries; complex ones have variance 1 in all.

    Examples
    --------
    >>> gaussian((2, 3), generator=0).shape
    torch.Size([2, 3])
    """
    g = as_generator(generator, device)
    return torch.randn(tuple(shape), dtype=dtype, device=g.device, generator=g).to(device)


def rademacher(
    shape: Sequence[int],
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    generator: GeneratorLike = None,
) -> Tensor:
    """Signs of equal probability; a complex dtype gets the fourth roots of one.

    Examples
    --------
    >>> sorted(set(rademacher((50,), generator=0).tolist()))
    [-1.0, 1.0]
    """
    g = as_generator(generator, device)
    if dtype.is_complex:
        quarter = torch.randint(4, tuple(shape), device=g.device, generator=g).to(device)
        roots = torch.tensor([1, 1j, -1, -1j], dtype=dtype, device=device)
        return roots[quarter]
    bits = torch.randint(2, tuple(shape), device=g.device, generator=g, dtype=torch.int8).to(device)
    return bits.to(dtype).mul_(2).sub_(1)


def sphere(
    shape: Sequence[int],
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    generator: GeneratorLike = None,
) -> Tensor:
    """Columns uniform on the sphere of radius sqrt(n), so that the mean of z z^H is the identity.

    Examples
    --------
    >>> torch.linalg.vector_norm(sphere((16, 2), generator=0), dim=0).round(decimals=6)
    tensor([4., 4.], dtype=torch.float64)
    """
    z = gaussian(shape, dtype, device, generator)
    n = z.shape[-2] if z.ndim > 1 else z.shape[-1]
    axis = -2 if z.ndim > 1 else -1
    return z * (n**0.5 / torch.linalg.vector_norm(z, dim=axis, keepdim=True))
