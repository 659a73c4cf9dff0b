"""Keyed matrices that bind a role to a filler: orthogonal ones that are never stored, and what they are compared with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from hashlib import blake2b
from typing import ClassVar

import torch
from torch import Tensor

from resolvent.operators.walsh import walsh

# Keyed numbers that are kept, in entries: keys come again and again.
_KEPT = 1 << 24


def keyed(seed: int, *parts: str) -> torch.Generator:
    """A generator that depends on nothing but the seed and the texts."""
    digest = blake2b(digest_size=8, key=seed.to_bytes(16, "little", signed=True))
    for part in parts:
        text = part.encode("utf-8", "surrogatepass")
        digest.update(len(text).to_bytes(8, "little") + text)
    return torch.Generator().manual_seed(int.from_bytes(digest.digest(), "little") >> 1)


class Binding(ABC):
    """Matrices M(key) of size dim, applied to rows.

    Parameters
    ----------
    dim : length of the vectors
    seed : of all keys

    Examples
    --------
    >>> M = Orthogonal(8, 0)
    >>> x = torch.arange(8.0)
    >>> torch.allclose(M.unbind("role", M.bind("role", x)), x, atol=1e-5)
    True
    """

    exact: ClassVar[bool] = False

    def __init__(self, dim: int, seed: int) -> None:
        self.dim, self.seed = dim, seed
        self._kept: OrderedDict[str, tuple[Tensor, ...]] = OrderedDict()
        self._size = 0

    def parts(self, key: str) -> tuple[Tensor, ...]:
        """What the matrix of a key is made of, drawn anew where it is not at hand."""
        found = self._kept.pop(key, None)
        if found is None:
            found = self._draw(keyed(self.seed, type(self).__name__, key))
            self._size += sum(part.numel() for part in found)
        self._kept[key] = found
        while self._size > _KEPT and len(self._kept) > 1:
            _, old = self._kept.popitem(last=False)
            self._size -= sum(part.numel() for part in old)
        return found

    @abstractmethod
    def _draw(self, g: torch.Generator) -> tuple[Tensor, ...]:
        """Numbers in float32 and int64 on the CPU."""

    @abstractmethod
    def bind(self, key: str, x: Tensor) -> Tensor:
        """M(key) times each row of x (..., dim)."""

    @abstractmethod
    def unbind(self, key: str, y: Tensor) -> Tensor:
        """The inverse, or what stands for it, times each row."""

    def bind_position(self, i: int, x: Tensor) -> Tensor:
        """The matrix of place i of an array times each row."""
        return self.bind(_place(i), x)

    def unbind_position(self, i: int, y: Tensor) -> Tensor:
        """The inverse of `bind_position`, or what stands for it."""
        return self.unbind(_place(i), y)


def _place(i: int) -> str:
    # No key of an object: those are bound with a letter in front (`JsonEncoder`).
    return f"[{i}]"


class Orthogonal(Binding):
    r"""Signs, Walsh-Hadamard transform, permutation, signs, transform: :math:`M = H D_2 P H D_1`, O(dim log dim).

    Parameters
    ----------
    dim : a power of two
    seed : of all keys

    Notes
    -----
    Place i of an array has the matrix :math:`A S^i`, S a signed permutation. The powers alone commute: without A, place 1 of
    the array at place 0 would be the same as place 0 of the array at place 1.

    Examples
    --------
    >>> M = Orthogonal(4, 0)
    >>> float(M.bind("a", torch.tensor([3.0, 0.0, 4.0, 0.0])).norm().round(decimals=4))
    5.0
    """

    exact = True

    def __init__(self, dim: int, seed: int) -> None:
        if dim & (dim - 1):
            raise ValueError(f"dim must be a power of two for orthogonal matrices, got {dim}")
        super().__init__(dim, seed)

    def _draw(self, g: torch.Generator) -> tuple[Tensor, ...]:
        signs = 2.0 * torch.randint(2, (2, self.dim), generator=g) - 1
        return signs, torch.randperm(self.dim, generator=g)

    def bind(self, key: str, x: Tensor) -> Tensor:
        signs, order = self.parts(key)
        return self._mix(self._mix(x * signs[0].to(x))[..., order.to(x.device)] * signs[1].to(x))

    def unbind(self, key: str, y: Tensor) -> Tensor:
        signs, order = self.parts(key)
        z = self._mix(y) * signs[1].to(y)
        out = torch.empty_like(z)
        out[..., order.to(y.device)] = z
        return self._mix(out) * signs[0].to(y)

    def bind_position(self, i: int, x: Tensor) -> Tensor:
        order, signs = self._power(i)
        return self.bind("[]", x[..., order.to(x.device)] * signs.to(x))

    def unbind_position(self, i: int, y: Tensor) -> Tensor:
        order, signs = self._power(i)
        z = self.unbind("[]", y)
        out = torch.empty_like(z)
        out[..., order.to(y.device)] = z * signs.to(y)
        return out

    def _power(self, i: int) -> tuple[Tensor, Tensor]:
        """S^i by squaring: O(dim log i)."""
        signs, step = self.parts("[] step")
        base = (step, signs[0])
        order, sign = torch.arange(self.dim), torch.ones(self.dim)
        while i:
            if i & 1:
                order, sign = base[0][order], sign * base[1][order]
            base = (base[0][base[0]], base[1] * base[1][base[0]])
            i >>= 1
        return order, sign

    def _mix(self, x: Tensor) -> Tensor:
        return walsh(x, -1, self.dim**-0.5)


class Gaussian(Binding):
    """Dense matrices with independent entries of variance 1/dim; the transpose stands for the inverse.

    Parameters
    ----------
    dim : length of the vectors
    seed : of all keys

    Examples
    --------
    >>> Gaussian(4, 0).bind("a", torch.ones(2, 4)).shape
    torch.Size([2, 4])
    """

    def _draw(self, g: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.randn(self.dim, self.dim, generator=g) / self.dim**0.5,)

    def bind(self, key: str, x: Tensor) -> Tensor:
        return x @ self.parts(key)[0].to(x).mT

    def unbind(self, key: str, y: Tensor) -> Tensor:
        return y @ self.parts(key)[0].to(y)


class Convolution(Binding):
    """Circular convolution with a random vector (holographic reduced representations): all matrices commute.

    Parameters
    ----------
    dim : length of the vectors
    seed : of all keys

    Examples
    --------
    >>> M = Convolution(8, 0)
    >>> x = torch.arange(8.0)
    >>> torch.allclose(M.bind("a", M.bind("b", x)), M.bind("b", M.bind("a", x)), atol=1e-4)
    True
    """

    def _draw(self, g: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.fft.rfft(torch.randn(self.dim, generator=g) / self.dim**0.5),)

    def bind(self, key: str, x: Tensor) -> Tensor:
        return self._times(x, self.parts(key)[0])

    def unbind(self, key: str, y: Tensor) -> Tensor:
        return self._times(y, self.parts(key)[0].conj())

    def _times(self, x: Tensor, spectrum: Tensor) -> Tensor:
        complex_dtype = torch.complex128 if x.dtype == torch.float64 else torch.complex64
        return torch.fft.irfft(torch.fft.rfft(x) * spectrum.to(x.device, complex_dtype), n=self.dim)


class Product(Binding):
    """Entrywise product with random signs (multiply-add-permute): all matrices commute, each is its own inverse.

    Parameters
    ----------
    dim : length of the vectors
    seed : of all keys

    Examples
    --------
    >>> M = Product(8, 0)
    >>> x = torch.arange(8.0)
    >>> torch.equal(M.unbind("a", M.bind("a", x)), x)
    True
    """

    exact = True

    def _draw(self, g: torch.Generator) -> tuple[Tensor, ...]:
        return (2.0 * torch.randint(2, (self.dim,), generator=g) - 1,)

    def bind(self, key: str, x: Tensor) -> Tensor:
        return x * self.parts(key)[0].to(x)

    def unbind(self, key: str, y: Tensor) -> Tensor:
        return y * self.parts(key)[0].to(y)


BINDINGS: dict[str, type[Binding]] = {
    "orthogonal": Orthogonal,
    "gaussian": Gaussian,
    "convolution": Convolution,
    "product": Product,
}


__all__ = ["BINDINGS", "Binding", "Convolution", "Gaussian", "Orthogonal", "Product", "keyed"]
