"""Fingerprints of one second of sound that survive noise and rooms, and where in a collection a sequence of them lies."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.random import GeneratorLike, as_generator
from resolvent.search.audio_spectrum import SEGMENT, log_mel, split_segments
from resolvent.search.exact import exact_search
from resolvent.search.index import VectorIndex

_CHANNELS = (128, 128, 256, 256, 512, 512, 1024, 1024)
# Whether a block halves time; all halve frequency. 256 x 32 becomes 1 x 1.
_HALVES_TIME = (True, True, True, True, False, True, False, True)
_FRAMES = 32
_HIDDEN = 32


def nt_xent(originals: Any, replicas: Any, temperature: float = 0.05) -> Any:
    r"""The contrastive loss of a batch of pairs: each vector shall find its partner among all others.

    :math:`-\frac{1}{2n} \sum_i \log \frac{e^{z_i \cdot z_{i'} / \tau}}{\sum_{j \ne i} e^{z_i \cdot z_j / \tau}}`, i' the partner
    of i, the sums over all 2n vectors.

    Parameters
    ----------
    originals, replicas : (n, d) unit rows, n at least 2; row i of one is the partner of row i of the other
    temperature : tau, positive

    Returns
    -------
    0-d tensor, or a float where both are NumPy's.

    Raises
    ------
    ValueError : shapes that differ, fewer than two pairs, a temperature that is not positive, NaN or infinity

    References
    ----------
    "Neural Audio Fingerprint for High-specific Audio Retrieval based on Contrastive Learning"

    Examples
    --------
    >>> round(nt_xent([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], 1.0), 4)
    0.5514
    """
    a, kind_a = as_tensor(originals, "originals")
    b, kind_b = as_tensor(replicas, "replicas")
    if a.ndim != 2 or a.shape != b.shape or len(a) < 2:
        raise ValueError(
            f"originals and replicas must be (n, d) with n >= 2, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature!r}")
    check_finite(a, "originals")
    check_finite(b, "replicas")
    z = torch.cat([a, b])
    scores = (z @ z.mT / temperature).fill_diagonal_(-torch.inf)
    n = len(a)
    partner = torch.arange(2 * n, device=z.device).roll(n)
    loss = F.cross_entropy(scores, partner)
    return give_back(loss, "numpy" if kind_a == kind_b == "numpy" else "torch")


class SequenceMatch(NamedTuple):
    """Where in a collection a sequence of fingerprints begins.

    Attributes
    ----------
    starts : (m,) int64 positions in the collection, the best first
    scores : (m,) mean inner product along each alignment
    """

    starts: Any
    scores: Any


def sequence_match(query: Any, index: Any, top: int = 20, *, best: int = 10, **options: Any) -> SequenceMatch:
    """Find a sequence of fingerprints in a long one: candidates by search, then the mean score along each alignment.

    Parameters
    ----------
    query : (l, d) fingerprints in their order
    index : (n, d) fingerprints of the collection in their order, or an index that was built over them, ids 0..n-1
    top : hits of each fingerprint; a hit at row r of fingerprint i proposes the start r - i
    best : how many starts to return at most
    options : of the index's query

    Returns
    -------
    SequenceMatch

    Raises
    ------
    ValueError : shapes that do not fit, an index under another metric than "ip" or "cosine", rows that were removed

    Notes
    -----
    l searches, then at most l top alignments of l inner products each. Where an alignment ends before the query does, the
    rest counts as zero. Alignments may run from one recording into the next; a caller who minds asks for the recording
    of both ends.

    References
    ----------
    "Neural Audio Fingerprint for High-specific Audio Retrieval based on Contrastive Learning"

    Examples
    --------
    >>> rows = np.eye(6, dtype=np.float32)
    >>> sequence_match(rows[2:5], rows, top=1)
    SequenceMatch(starts=array([2]), scores=array([1.], dtype=float32))
    """
    q, kind = as_tensor(query, "query")
    if q.ndim != 2 or not len(q):
        raise ValueError(f"query must have shape (l, d) with l >= 1, got {tuple(q.shape)}")
    if isinstance(index, VectorIndex):
        rows = _rows_of(index, q.shape[1])
        hits = index.query(q, min(top, len(rows)), **options).ids
    else:
        rows = as_tensor(index, "index")[0].to(q)
        if rows.ndim != 2 or rows.shape[1] != q.shape[1] or not len(rows):
            raise ValueError(f"index must have shape (n, {q.shape[1]}) with n >= 1, got {tuple(rows.shape)}")
        hits = exact_search(rows, q, min(top, len(rows)), "ip", **options).ids
    count = torch.arange(len(q), device=q.device)
    found = torch.as_tensor(hits, device=q.device)
    starts = torch.unique((found - count[:, None])[found >= 0])
    starts = starts[(starts >= 0) & (starts < len(rows))]
    place = starts[:, None] + count
    inside = place < len(rows)
    aligned = rows.to(q)[place.clamp_max(len(rows) - 1)]
    scores = ((aligned * q).sum(2) * inside).mean(1)
    order = scores.argsort(descending=True, stable=True)[:best]
    return SequenceMatch(*(give_back(t[order], kind) for t in (starts, scores)))


def _rows_of(index: VectorIndex, dim: int) -> Tensor:
    vectors = index._vectors
    if vectors is None or vectors.dim != dim or index.metric == "l2":
        raise ValueError(
            f"index must hold vectors of {dim} entries under 'ip' or 'cosine', got {index.dim}, {index.metric!r}"
        )
    if len(index) < len(vectors):
        raise ValueError(
            f"index must be without removed rows, got {len(vectors) - len(index)}: compact would move places"
        )
    return torch.from_numpy(np.ascontiguousarray(vectors.block(0, len(vectors))))


class AudioFingerprint(torch.nn.Module):
    r"""A network from one second of sound to a unit vector that noise and rooms hardly move.

    Parameters
    ----------
    emb : entries of a vector; the width of the last block is rounded up to a multiple of it
    width : factor on the channels 128, 128, 256, 256, 512, 512, 1024, 1024 of the eight blocks
    bins : of the mel scale, at most 256; half as many take half the time
    generator : of the weights

    Notes
    -----
    The picture of `log_mel` (bins x 32) goes through eight blocks of two convolutions, 1 x 3 in time and 3 x 1 in frequency,
    each followed by ELU and layer normalisation, until it is 1 x 1. The channels are split in `emb` slices, and each goes
    through its own small network of 32 units to one number ("divide and encode").

    References
    ----------
    "Neural Audio Fingerprint for High-specific Audio Retrieval based on Contrastive Learning"

    Examples
    --------
    >>> model = AudioFingerprint(emb=16, width=1 / 16, generator=0)
    >>> model.fingerprint(torch.randn(20000, generator=torch.Generator().manual_seed(0))).shape
    torch.Size([4, 16])
    """

    def __init__(self, emb: int = 128, width: float = 1.0, bins: int = 256, *, generator: GeneratorLike = None) -> None:
        super().__init__()
        if isinstance(emb, bool) or not isinstance(emb, int) or emb < 1 or not width > 0:
            raise ValueError(f"emb must be an int of at least 1 and width positive, got {emb!r} and {width!r}")
        if isinstance(bins, bool) or not isinstance(bins, int) or not 1 <= bins <= 256:
            raise ValueError(f"bins must be an int from 1 to 256, got {bins!r}")
        channels = [max(1, round(c * width)) for c in _CHANNELS]
        channels[-1] = -(-channels[-1] // emb) * emb
        self.emb, self.bins = emb, bins
        layers: list[torch.nn.Module] = []
        before, high, wide = 1, bins, _FRAMES
        for out, halves in zip(channels, _HALVES_TIME, strict=True):
            step = 2 if halves else 1
            wide = -(-wide // step)
            layers += _separable(before, out, (1, 3), (1, step), (high, wide))
            high = -(-high // 2)
            layers += _separable(out, out, (3, 1), (2, 1), (high, wide))
            before = out
        self.blocks = torch.nn.Sequential(*layers)
        slice_width = channels[-1] // emb
        self.inner = torch.nn.Parameter(torch.empty(emb, slice_width, _HIDDEN))
        self.inner_bias = torch.nn.Parameter(torch.zeros(emb, _HIDDEN))
        self.outer = torch.nn.Parameter(torch.empty(emb, _HIDDEN))
        self.outer_bias = torch.nn.Parameter(torch.zeros(emb))
        _start(self, as_generator(generator))

    def forward(self, pictures: Tensor) -> Tensor:
        """(b, bins, 32) pictures to (b, emb) unit vectors."""
        features = self.blocks(pictures[:, None]).flatten(1).unflatten(1, (self.emb, -1))
        hidden = F.elu(torch.einsum("bes,esh->beh", features, self.inner) + self.inner_bias)
        return F.normalize((hidden * self.outer).sum(2) + self.outer_bias, dim=1)

    def fit(self, clips: Any, noises: Any, responses: Any, **options: Any) -> list[float]:
        """Train the network: see `fit_audio_fingerprint`, which takes the options."""
        from resolvent.search.audio_training import fit_audio_fingerprint

        return fit_audio_fingerprint(self, clips, noises, responses, **options)

    def fingerprint(self, audio: Any, *, batch: int = 128) -> Any:
        """Fingerprints of a recording, one every half second.

        Parameters
        ----------
        audio : (*lead, n) samples at 8 kHz, one channel, at least one second
        batch : segments at a time

        Returns
        -------
        (*lead, segments, emb) unit vectors, of the kind of `audio`; segment i begins at second i / 2
        """
        t, kind = as_tensor(audio, "audio")
        segments = split_segments(t)
        weight = self.inner
        with torch.no_grad():
            rows = segments.reshape(-1, SEGMENT).to(weight)
            found = torch.cat([self(log_mel(part, self.bins)) for part in rows.split(batch)])
        return give_back(found.unflatten(0, segments.shape[:-1]).to(t.device), kind)


def _separable(
    before: int, out: int, kernel: tuple[int, int], stride: tuple[int, int], shape: tuple[int, int]
) -> list[torch.nn.Module]:
    padding = (kernel[0] // 2, kernel[1] // 2)
    convolution = torch.nn.Conv2d(before, out, kernel, stride, padding)
    return [convolution, torch.nn.ELU(), torch.nn.LayerNorm((out, *shape))]


def _start(model: AudioFingerprint, rng: torch.Generator) -> None:
    """Uniform weights by the sum of what goes in and out (Glorot), as in the reference code."""
    with torch.no_grad():
        for layer in model.blocks:
            if isinstance(layer, torch.nn.Conv2d):
                area = layer.kernel_size[0] * layer.kernel_size[1]
                bound = (6 / (area * (layer.in_channels + layer.out_channels))) ** 0.5
                layer.weight.copy_((2 * torch.rand(layer.weight.shape, generator=rng) - 1) * bound)
                layer.bias.zero_()
        for weight, fans in ((model.inner, model.inner.shape[1] + _HIDDEN), (model.outer, _HIDDEN + 1)):
            weight.copy_((2 * torch.rand(weight.shape, generator=rng) - 1) * (6 / fans) ** 0.5)
