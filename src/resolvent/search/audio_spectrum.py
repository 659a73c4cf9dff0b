"""Sound as pictures: segments of a recording and their mel spectrograms."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from resolvent.operators.arrays import as_tensor, check_finite, give_back

RATE = 8000  # samples a second
SEGMENT = RATE  # samples of a segment
HOP = RATE // 2  # from the start of one segment to that of the next
_WINDOW, _STEP = 1024, 256
_LOW, _HIGH = 300.0, 4000.0
_RANGE = 80.0  # decibels below the loudest cell that are told apart


def split_segments(audio: Any) -> Any:
    """Segments of one second, one every half second: (n,) samples at 8 kHz to (segments, 8000).

    Parameters
    ----------
    audio : (*batch, n) samples of at least one second, one channel, 8000 a second

    Returns
    -------
    (*batch, segments, 8000), a view of `audio` where it is a tensor; the rest behind the last whole segment is left out.

    Raises
    ------
    ValueError : fewer samples than a segment, NaN or infinity

    Examples
    --------
    >>> split_segments(torch.zeros(3, 20000)).shape
    torch.Size([3, 4, 8000])
    """
    t, kind = as_tensor(audio, "audio")
    if t.is_complex() or not t.ndim or t.shape[-1] < SEGMENT:
        raise ValueError(f"audio must be real with at least {SEGMENT} samples, got {t.dtype} of shape {tuple(t.shape)}")
    check_finite(t, "audio")
    return give_back(t.unfold(-1, SEGMENT, HOP), kind)


def log_mel(segments: Tensor, bins: int = 256) -> Tensor:
    r"""Power in decibels on a mel scale from 300 to 4000 Hz, divided by 80: from -1 to 0, the loudest cell at 0.

    Parameters
    ----------
    segments : (b, 8000) samples, 8000 a second
    bins : of the mel scale

    Returns
    -------
    (b, bins, 32); a segment of silence is -1 everywhere

    Notes
    -----
    Windows of 1024 samples (Hann), 256 apart, from zeros before the segment to zeros behind it. The scale of a segment
    leaves its picture as it is.

    References
    ----------
    "Neural Audio Fingerprint for High-specific Audio Retrieval based on Contrastive Learning"

    Examples
    --------
    >>> tone = torch.sin(2 * math.pi * 1000 * torch.arange(8000) / 8000)[None]
    >>> picture = log_mel(tone)
    >>> picture.shape, bool((picture[0, :, 16].argmax() - 87).abs() <= 1)
    (torch.Size([1, 256, 32]), True)
    """
    window = torch.hann_window(_WINDOW, dtype=segments.dtype, device=segments.device)
    frames = F.pad(segments, (_WINDOW // 2, _WINDOW // 2)).unfold(-1, _WINDOW, _STEP)
    power = torch.fft.rfft(frames * window).abs().square()
    mel = power @ mel_bank(bins).to(power)
    top = mel.flatten(1).amax(1)[:, None, None]
    decibels = 10 * torch.log10((mel / top.clamp_min(torch.finfo(mel.dtype).tiny)).clamp_min(10 ** (-_RANGE / 10)))
    return torch.where(top > 0, decibels / _RANGE, -1).mT


@functools.cache
def mel_bank(bins: int) -> Tensor:
    """(513, bins) triangles over the frequencies of a window, even on the mel scale, each with weights that sum to one."""

    def mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins!r}")
    edges = 700 * (10 ** (torch.linspace(mel(_LOW), mel(_HIGH), bins + 2, dtype=torch.float64) / 2595) - 1)
    # Low triangles are narrower than the spacing of the frequencies; wide enough to hold one of them, none is empty.
    spacing = RATE / _WINDOW
    centre = edges[1:-1]
    low = torch.minimum(edges[:-2], centre - spacing)
    high = torch.maximum(edges[2:], centre + spacing)
    hertz = torch.arange(_WINDOW // 2 + 1, dtype=torch.float64)[:, None] * spacing
    rise, fall = (hertz - low) / (centre - low), (high - hertz) / (high - centre)
    bank = torch.minimum(rise, fall).clamp_min(0)
    return (bank / bank.sum(0)).float()
