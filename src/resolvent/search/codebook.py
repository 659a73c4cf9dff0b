"""Product quantisation: a vector as m small numbers, each the nearest of a few codewords for its part of the vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from resolvent.factor.procrustes import procrustes
from resolvent.random import GeneratorLike, as_generator

# Rows that a codeword is trained on: more change the codebook by less than another draw of them does.
_ROWS_PER_CODEWORD = {4: 1024, 8: 96}
_STEPS, _ROUNDS = 20, 20


@dataclass(frozen=True)
class Codebook:
    r"""A trained product quantiser: parts, codewords and the rotation before them.

    Parameters
    ----------
    books : (m, width, size) float32, coordinate t of codeword c of part s at [s, t, c]; size is 16 or 256
    turn : (dim, m * width) float32 with orthonormal rows, the rotation; None where there is none

    Notes
    -----
    A vector is rotated, filled up with zeros to m * width coordinates and cut into m parts; its code names the nearest
    codeword of every part.

    References
    ----------
    "Product Quantization for Nearest Neighbor Search"

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    >>> book = train_codebook(x, 4, bits=4, generator=0)
    >>> codes = book.encode(x)
    >>> codes.shape, codes.dtype, bool(((x - book.decode(codes)) ** 2).mean() < 0.12)
    ((500, 4), dtype('uint8'), True)
    """

    books: np.ndarray
    turn: np.ndarray | None = None

    @property
    def m(self) -> int:
        return int(self.books.shape[0])

    @property
    def bits(self) -> int:
        return 4 if self.books.shape[2] == 16 else 8

    @property
    def width(self) -> int:
        """Coordinates after the rotation, filled up."""
        return int(self.books.shape[0] * self.books.shape[1])

    def project(self, x: np.ndarray) -> np.ndarray:
        """Rows (n, dim) rotated and filled up: (n, m * width) float32, contiguous."""
        if self.turn is not None:
            return (torch.from_numpy(np.ascontiguousarray(x)) @ torch.from_numpy(self.turn)).numpy()
        return _filled(x, self.width)

    def assign(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes (n, m) uint8 of projected rows, and the squared error of each."""
        from resolvent.search.product_kernel import encode

        codes, errors = np.empty((len(z), self.m), np.uint8), np.empty(len(z), np.float32)
        encode(np.ascontiguousarray(z, np.float32), self.books, codes, errors)
        return codes, errors

    def words(self, codes: np.ndarray) -> np.ndarray:
        """The projected rows (n, m * width) that codes stand for."""
        return np.concatenate([self.books[s].T[codes[:, s]] for s in range(self.m)], 1)

    def encode(self, x: Any) -> np.ndarray:
        """Codes (n, m) uint8 of rows (n, dim)."""
        return self.assign(self.project(np.asarray(x, np.float32)))[0]

    def decode(self, codes: np.ndarray, dim: int | None = None) -> np.ndarray:
        """The rows (n, dim) float32 that codes stand for; `dim` where zeros were filled up and there is no rotation."""
        words = self.words(np.asarray(codes))
        return words @ self.turn.T if self.turn is not None else words[:, :dim]


def train_codebook(
    x: Any, m: int, bits: int = 8, *, rotate: bool = False, rounds: int | None = None, generator: GeneratorLike = None
) -> Codebook:
    r"""Fit a product quantiser: m codebooks of 2^bits codewords, and the rotation that suits them.

    Without rotation this is k-means in every part. With it (OPQ), codewords and an orthogonal R are found in turn such
    that :math:`\sum_i \|R x_i - \mathrm{codeword}(R x_i)\|^2` falls.

    Parameters
    ----------
    x : (n, dim) array, n >= 2^bits
    m : parts, 1 <= m <= dim
    bits : 4 or 8
    rotate : find a rotation as well
    rounds : rounds of codewords and rotation; 20 by default
    generator : of the rows that are trained on

    Returns
    -------
    Codebook

    Raises
    ------
    ValueError
        fewer rows than codewords, or parts or bits out of range

    Notes
    -----
    k-means: 20 steps of Lloyd on at most 96 rows for each of 256 codewords (1024 for each of 16), codewords that lose
    all rows restart beside the heaviest. OPQ starts from the principal axes, dealt to the parts such that the products
    of variances are about equal, and each round is one step of Lloyd and one orthogonal Procrustes problem: the error
    never rises.

    References
    ----------
    "Product Quantization for Nearest Neighbor Search"
    "Optimized Product Quantization"

    Examples
    --------
    >>> import numpy as np
    >>> pairs = np.random.default_rng(0).normal(size=(2000, 2, 2)) * [[3.0], [0.3]]
    >>> x = np.concatenate([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1)
    >>> plain, turned = (train_codebook(x, 2, bits=4, rotate=rotate, generator=0) for rotate in (False, True))
    >>> errors = [((x - book.decode(book.encode(x))) ** 2).sum() for book in (plain, turned)]
    >>> bool(errors[1] < 0.5 * errors[0])
    True
    """
    rows = np.ascontiguousarray(x, np.float32)
    if rows.ndim != 2:
        raise ValueError(f"x must have shape (n, dim), got {rows.shape}")
    if bits not in _ROWS_PER_CODEWORD:
        raise ValueError(f"bits must be 4 or 8, got {bits!r}")
    size, dim = 1 << bits, rows.shape[1]
    if isinstance(m, bool) or not isinstance(m, int | np.integer) or not 1 <= m <= dim:
        raise ValueError(f"m must be an integer in 1..{dim}, the dimension, got {m!r}")
    if len(rows) < size:
        raise ValueError(f"x must have at least {size} rows, one for each codeword of {bits} bits, got {len(rows)}")
    g = as_generator(generator)
    most = size * _ROWS_PER_CODEWORD[bits]
    order = torch.randperm(len(rows), generator=g)[:most].numpy()
    chosen = rows[order]
    width = m * -(-dim // m)
    turn = _principal_turn(chosen, int(m), width) if rotate else None
    z = _filled(chosen, width) if turn is None else chosen @ turn
    starts = z[torch.randperm(len(z), generator=g)[:size].numpy()]
    books = np.ascontiguousarray(starts.reshape(size, int(m), -1).transpose(1, 2, 0))
    book = _lloyd(Codebook(books), z, _STEPS)
    if turn is None:
        return book
    for _ in range(_ROUNDS if rounds is None else rounds):
        words = book.words(book.assign(z)[0])
        turn = _nearest_turn(chosen, words)
        z = chosen @ turn
        book = _lloyd(book, z, 1)
    return Codebook(book.books, np.ascontiguousarray(turn, np.float32))


def _filled(x: np.ndarray, width: int) -> np.ndarray:
    if x.shape[1] == width:
        return np.ascontiguousarray(x, np.float32)
    z = np.zeros((len(x), width), np.float32)
    z[:, : x.shape[1]] = x
    return z


def _lloyd(book: Codebook, z: np.ndarray, steps: int) -> Codebook:
    """Steps of k-means in all parts at once."""
    from resolvent.search.product_kernel import add_up

    z = np.ascontiguousarray(z, np.float32)
    m, width, size = book.books.shape
    for _ in range(steps):
        codes, _ = book.assign(z)
        sums, counts = np.zeros((m, size, width)), np.zeros((m, size), np.int64)
        add_up(z, codes, sums, counts)
        means = sums / np.maximum(counts, 1)[:, :, None]
        for s in np.flatnonzero((counts == 0).any(1)):
            _split_heaviest(means[s], counts[s], z[:, s * width : (s + 1) * width].std(0))
        book = Codebook(np.ascontiguousarray(means.transpose(0, 2, 1), np.float32), book.turn)
    return book


def _split_heaviest(means: np.ndarray, counts: np.ndarray, spread: np.ndarray) -> None:
    """Codewords without rows move beside those with the most, which then share them."""
    left = counts.astype(np.float64)
    for empty in np.flatnonzero(counts == 0):
        heaviest = int(left.argmax())
        means[empty] = means[heaviest] + 1e-3 * spread
        means[heaviest] -= 1e-3 * spread
        left[empty] = left[heaviest] = left[heaviest] / 2


def _principal_turn(x: np.ndarray, m: int, width: int) -> np.ndarray:
    """Principal axes (dim, width) dealt to the parts, the next one to the part whose product of variances is least."""
    z = torch.from_numpy(x).double()
    z = z - z.mean(0)
    values, axes = torch.linalg.eigh(z.mT @ z / len(z))
    logs = values.clamp(min=float(values[-1]) * 1e-12 + 1e-300).log().flip(0).tolist()
    each = width // m
    totals, members = [0.0] * m, [[] for _ in range(m)]  # type: ignore[var-annotated]
    # Relative to the least variance, so that a part with few axes never looks fuller than one with more.
    for axis, log in enumerate(logs):
        part = min((s for s in range(m) if len(members[s]) < each), key=lambda s: (totals[s], len(members[s])))
        members[part].append(axis)
        totals[part] += log - logs[-1]
    turn = np.zeros((x.shape[1], width), np.float32)
    flipped = axes.flip(1).numpy()
    for part, own in enumerate(members):
        turn[:, part * each : part * each + len(own)] = flipped[:, own]
    return turn


def _nearest_turn(x: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The (dim, width) matrix with orthonormal rows that brings the rows nearest to the words."""
    filled = torch.from_numpy(_filled(x, words.shape[1]))
    Q = procrustes(filled.double(), torch.from_numpy(words).double()).Q
    return Q[: x.shape[1]].to(torch.float32).contiguous().numpy()
