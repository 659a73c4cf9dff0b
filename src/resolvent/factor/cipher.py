"""A cipher from the projector equation, and the linear attack that breaks it. For teaching, not for secrets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from resolvent.factor.range_finder import rounding
from resolvent.operators.arrays import Kind, as_tensor, check_finite, give_back_array, real_dtype
from resolvent.random import GeneratorLike, as_generator, gaussian


class MatrixCipher:
    r"""Encrypt M as :math:`G = Y^H M X + W - Y^H F W H^H X` with a random W, decrypt by :math:`M = F G H^H`.

    **Not for production use**: the cipher is linear, and `known_plaintext_attack` breaks it with k l pairs.

    Parameters
    ----------
    F : (m, k), k > m for a mask; half of the key
    H : (n, l), l > n; the other half
    Y : (m, k) with F Y^H F = F; default the pseudoinverse
    X : (n, l) with H^H X H^H = H^H; default the pseudoinverse

    Raises
    ------
    ValueError : a key without full row rank, so that not every message could be decrypted, or Y, X that do not invert it

    Notes
    -----
    F (W - Y^H F W H^H X) H^H = 0 as F Y^H F = F. The mask W - (Y^H F) W (H^H X) is there only if k > rank(F) or l >
    rank(H); else it cancels and equal messages have equal ciphertexts, which `masked` tells. A ciphertext has k l
    numbers for the m n of the message.

    References
    ----------
    "The secret life of matrix factorizations: how matrix decompositions reveal and keep secrets of linear equations and what we can do about it"

    Examples
    --------
    >>> cipher = MatrixCipher.random((2, 2), (4, 4), generator=0)
    >>> message = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    >>> cipher.decrypt(cipher.encrypt(message, generator=1)).round(decimals=6)
    tensor([[1., 2.],
            [3., 4.]], dtype=torch.float64)
    """

    def __init__(self, F: Any, H: Any, Y: Any = None, X: Any = None) -> None:
        (self._F, kind), (self._H, _) = _key(F, "F"), _key(H, "H")
        self.kind: Kind = kind
        self._Y = _inverse(self._F, Y, "F", "Y")
        self._X = _inverse(self._H, X, "H", "X")

    @classmethod
    def random(
        cls,
        shape: tuple[int, int],
        size: tuple[int, int],
        *,
        generator: GeneratorLike = None,
        dtype: torch.dtype = torch.float64,
    ) -> MatrixCipher:
        """A random key for messages of `shape` (m, n) and ciphertexts of `size` (k, l), with oblique Y and X."""
        if size[0] < shape[0] or size[1] < shape[1]:
            raise ValueError(f"size must be at least shape {tuple(shape)}, got {tuple(size)}")
        source = as_generator(generator)
        keys = []
        for rows, columns in zip(shape, size, strict=True):
            F = gaussian((rows, columns), dtype, generator=source)
            inverse = torch.linalg.pinv(F).mH
            # Any Y with F Y^H = I: the pseudoinverse and something that F annihilates.
            noise = gaussian((rows, columns), dtype, generator=source) / math.sqrt(columns)
            keys.append((F, inverse + noise - (noise @ F.mH) @ inverse))
        (F, Y), (H, X) = keys
        return cls(F, H, Y, X)

    @property
    def key(self) -> tuple[Any, Any, Any, Any]:
        """F, H, Y, X."""
        parts = (self._F, self._H, self._Y, self._X)
        return tuple(give_back_array(t, self.kind) for t in parts)  # type: ignore[return-value]

    @property
    def masked(self) -> bool:
        """Whether the random W changes a ciphertext."""
        return self._F.shape[1] > self._F.shape[0] or self._H.shape[1] > self._H.shape[0]

    @property
    def dimension(self) -> int:
        """Numbers in a ciphertext, k l: so many pairs break the cipher."""
        return self._F.shape[1] * self._H.shape[1]

    def encrypt(self, message: Any, *, generator: GeneratorLike = None) -> Any:
        """G (k, l) of a message (m, n), another one each time.

        The mask has entries of the size of those of the unmasked ciphertext. `generator` is no cryptographic source.
        """
        M, kind = as_tensor(message, "message")
        check_finite(M, "message")
        if M.shape != (self._F.shape[0], self._H.shape[0]):
            wanted = (self._F.shape[0], self._H.shape[0])
            raise ValueError(f"message must have shape {wanted}, got {tuple(M.shape)}")
        plain = self._Y.mH @ self._cast(M, "message") @ self._X
        W = gaussian(plain.shape, plain.dtype, plain.device, generator)
        W = W * torch.linalg.matrix_norm(plain).clamp_min(1) / math.sqrt(plain.numel()) * 2
        return give_back_array(plain + W - self._Y.mH @ (self._F @ W @ self._H.mH) @ self._X, kind)

    def decrypt(self, ciphertext: Any) -> Any:
        """F G H^H."""
        G, kind = as_tensor(ciphertext, "ciphertext")
        check_finite(G, "ciphertext")
        if G.shape != (self._F.shape[1], self._H.shape[1]):
            wanted = (self._F.shape[1], self._H.shape[1])
            raise ValueError(f"ciphertext must have shape {wanted}, got {tuple(G.shape)}")
        return give_back_array(self._F @ self._cast(G, "ciphertext") @ self._H.mH, kind)

    def _cast(self, given: Tensor, name: str) -> Tensor:
        if given.is_complex() and not self._F.is_complex():
            raise TypeError(f"{name} is complex and the key is {self._F.dtype}")
        return given.to(self._F)


def known_plaintext_attack(messages: Sequence[Any], ciphertexts: Sequence[Any]) -> MatrixCipher:
    r"""A key of a `MatrixCipher` from pairs of messages and ciphertexts.

    Parameters
    ----------
    messages : N matrices (m, n)
    ciphertexts : the N matrices (k, l) that they were encrypted to

    Returns
    -------
    MatrixCipher : decrypts as the one that made the pairs; its F and H are those of that one up to a number

    Raises
    ------
    ValueError : fewer than k l pairs, or pairs that are linearly dependent, so that they do not determine the map

    Notes
    -----
    Decryption is linear, vec(M) = (F kron conj(H)) vec(G): k l pairs with independent ciphertexts give its matrix by one
    least-squares problem. Rearranged it has rank one, and its factors are F and H (Van Loan and Pitsianis). Equations:
    N k l, cost N (k l)^2.

    References
    ----------
    "The secret life of matrix factorizations: how matrix decompositions reveal and keep secrets of linear equations and what we can do about it"

    Examples
    --------
    >>> cipher = MatrixCipher.random((2, 2), (3, 3), generator=0)
    >>> messages = [torch.randn(2, 2, dtype=torch.float64) for _ in range(9)]
    >>> stolen = known_plaintext_attack(messages, [cipher.encrypt(M, generator=i) for i, M in enumerate(messages)])
    >>> bool(torch.dist(stolen.decrypt(cipher.encrypt(torch.eye(2).double())), torch.eye(2).double()) < 1e-6)
    True
    """
    if not messages or len(messages) != len(ciphertexts):
        raise ValueError(f"messages and ciphertexts must be pairs, got {len(messages)} and {len(ciphertexts)}")
    plain, kind = _stacked(messages, "messages")
    given, _ = _stacked(ciphertexts, "ciphertexts")
    wide = torch.promote_types(plain.dtype, given.dtype)
    plain, given = plain.to(wide), given.to(dtype=wide, device=plain.device)
    unknown = given.shape[1] * given.shape[2]
    rows = given.flatten(1)
    s = torch.linalg.svdvals(rows)
    found = int((s > max(rows.shape) * rounding(rows.dtype) * s[0]).sum())
    if found < unknown:
        raise ValueError(
            f"{len(messages)} pairs with {found} independent ciphertexts do not determine the map: it has {unknown}"
        )
    transfer = torch.linalg.lstsq(rows, plain.flatten(1)).solution.mT
    (m, n), (a, b) = plain.shape[1:], given.shape[1:]
    # Entry (i, j), (p, q) of the map is F[i, p] conj(H[j, q]): as a matrix (i, p) x (j, q) it has rank one.
    paired = transfer.reshape(m, n, a, b).permute(0, 2, 1, 3).reshape(m * a, n * b)
    U, t, Vh = torch.linalg.svd(paired, full_matrices=False)
    root = t[0].sqrt()
    F, H = (root * U[:, 0]).reshape(m, a), (root * Vh[0]).conj().resolve_conj().reshape(n, b)
    return MatrixCipher(give_back_array(F, kind), give_back_array(H, kind))


def _stacked(matrices: Sequence[Any], name: str) -> tuple[Tensor, Kind]:
    found = [as_tensor(M, f"{name}[{i}]") for i, M in enumerate(matrices)]
    first = found[0][0]
    for i, (M, _) in enumerate(found):
        if M.ndim != 2 or M.shape != first.shape:
            raise ValueError(f"{name}[{i}] must have shape {tuple(first.shape)} as the first, got {tuple(M.shape)}")
    stack = torch.stack([M.to(first) for M, _ in found])
    check_finite(stack, name)
    return stack, found[0][1]


def _key(F: Any, name: str) -> tuple[Tensor, Kind]:
    t, kind = as_tensor(F, name)
    if t.ndim != 2 or 0 in t.shape or t.shape[1] < t.shape[0]:
        raise ValueError(f"{name} must have shape (m, k) with k at least m, got {tuple(t.shape)}")
    check_finite(t, name)
    s = torch.linalg.svdvals(t)
    if not float(s[-1]) > 100 * max(t.shape) * rounding(real_dtype(t.dtype)) * float(s[0]):
        raise ValueError(f"{name} must have independent rows, its smallest singular value is {float(s[-1]):.2g}")
    return t.detach(), kind


def _inverse(F: Tensor, Y: Any, name: str, given: str) -> Tensor:
    if Y is None:
        return torch.linalg.pinv(F).mH
    t = as_tensor(Y, given)[0]
    if t.is_complex() and not F.is_complex():
        raise TypeError(f"{given} is complex and {name} is {F.dtype}")
    t = t.to(F)
    if t.shape != F.shape:
        raise ValueError(f"{given} must have the shape of {name}, {tuple(F.shape)}, got {tuple(t.shape)}")
    check_finite(t, given)
    gap = float((F @ t.mH - torch.eye(len(F), dtype=F.dtype, device=F.device)).abs().max())
    limit = 1e4 * rounding(F.dtype) * float(torch.linalg.matrix_norm(F) * torch.linalg.matrix_norm(t))
    if gap > limit:
        raise ValueError(f"{given} must invert {name}: {name} {given}^H differs from the identity by {gap:.2g}")
    return t.detach()
