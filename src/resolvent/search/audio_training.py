"""Contrastive training of audio fingerprints on pairs of a segment and what is left of it after noise and a room."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite
from resolvent.random import GeneratorLike, as_generator
from resolvent.search.audio import AudioFingerprint, nt_xent
from resolvent.search.audio_replicas import convolve_response, mask_spectrogram, mix_noise
from resolvent.search.audio_spectrum import RATE, SEGMENT, log_mel


def fit_audio_fingerprint(
    model: AudioFingerprint,
    clips: Any,
    noises: Any,
    responses: Any,
    *,
    steps: int = 600,
    pairs: int = 60,
    rate: float = 1e-3,
    temperature: float = 0.05,
    snr: tuple[float, float] = (0.0, 10.0),
    offset: float = 0.2,
    generator: GeneratorLike = None,
) -> list[float]:
    r"""Train an `AudioFingerprint` in place: a segment shall be nearer to its replica than to anything else.

    Parameters
    ----------
    model : AudioFingerprint
    clips : (c, n) recordings at 8 kHz, of at least one second and twice the offset
    noises : (m, n') background recordings, of at least one second
    responses : (r, l) impulse responses of rooms and microphones, or a list of such sets: a replica goes through one of each
    steps : batches to learn from
    pairs : segments of a step, each with one replica, at least 2
    rate : largest learning rate, of Adam; it rises over an eighth of the steps, then falls to zero along a half cosine
    temperature : of `nt_xent`
    snr : least and largest ratio of segment to background, in decibels
    offset : largest shift between a segment and its replica, in seconds
    generator : of all that is drawn

    Returns
    -------
    The loss of each step.

    Raises
    ------
    ValueError : arguments out of range, recordings too short, NaN or infinity

    Notes
    -----
    A segment begins anywhere in a clip, its replica up to `offset` earlier or later. The replica gets a background, then a
    response of each set; both pictures get the same rectangle and band cut out. The paper trains for 100 epochs of
    ten thousand songs at a rate of 1e-4.

    References
    ----------
    "Neural Audio Fingerprint for High-specific Audio Retrieval based on Contrastive Learning"

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> model = AudioFingerprint(8, 1 / 64, generator=0)
    >>> sounds, noises, responses = (torch.randn(3, n, generator=g) for n in (20000, 9000, 10))
    >>> losses = fit_audio_fingerprint(model, sounds, noises, responses, steps=3, pairs=4, generator=0)
    >>> len(losses)
    3
    """
    shift = round(offset * RATE)
    if steps < 1 or pairs < 2 or not rate > 0 or shift < 0 or not snr[0] <= snr[1]:
        raise ValueError(
            "steps must be at least 1, pairs at least 2, rate positive, offset not negative, snr (low, high), got "
            f"{steps}, {pairs}, {rate}, {offset} and {snr}"
        )
    weight = model.inner
    sounds = _recordings(clips, "clips", SEGMENT + 2 * shift, weight)
    backgrounds = _recordings(noises, "noises", SEGMENT, weight)
    sets = responses if isinstance(responses, list | tuple) else [responses]
    rooms = [_recordings(given, f"responses[{i}]", 1, weight) for i, given in enumerate(sets)]
    rng = as_generator(generator, weight.device)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    # Without the rise all vectors soon are equal, and it takes the contrast hundreds of steps to part them again.
    rise = max(1, steps // 8)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / rise, 0.5 + 0.5 * math.cos(math.pi * min(step / steps, 1)))
    )
    losses = []
    model.train()
    with torch.enable_grad():
        for _ in range(steps):
            batch = _pairs(sounds, backgrounds, rooms, pairs, shift, snr, rng)
            pictures = log_mel(batch, model.bins)
            vectors = model(mask_spectrogram(pictures, generator=rng))
            loss = nt_xent(vectors[:pairs], vectors[pairs:], temperature)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
    model.eval()
    return [float(loss) for loss in losses]


def _recordings(given: Any, name: str, least: int, weight: Tensor) -> Tensor:
    t, _ = as_tensor(given, name)
    if t.ndim != 2 or not len(t) or t.shape[1] < least or t.is_complex():
        raise ValueError(
            f"{name} must be real of shape (count, n) with n >= {least}, got {t.dtype} of shape {tuple(t.shape)}"
        )
    check_finite(t, name)
    return t.to(weight)


def _pairs(
    sounds: Tensor,
    backgrounds: Tensor,
    rooms: list[Tensor],
    pairs: int,
    shift: int,
    snr: tuple[float, float],
    rng: torch.Generator,
) -> Tensor:
    """Segments, then their replicas."""
    device = sounds.device

    def draw(high: int) -> Tensor:
        return torch.randint(high, (pairs,), generator=rng, device=device)

    clip = draw(len(sounds))
    start = shift + draw(sounds.shape[1] - SEGMENT - 2 * shift + 1)
    moved = start - shift + draw(2 * shift + 1)
    originals, replicas = (_cut(sounds, clip, at) for at in (start, moved))
    noise = _cut(backgrounds, draw(len(backgrounds)), draw(backgrounds.shape[1] - SEGMENT + 1))
    level = snr[0] + (snr[1] - snr[0]) * torch.rand(pairs, generator=rng, device=device)
    replicas = mix_noise(replicas, noise, level)
    for responses in rooms:
        replicas = convolve_response(replicas, responses[draw(len(responses))])
    return torch.cat([originals, replicas])


def _cut(recordings: Tensor, which: Tensor, start: Tensor) -> Tensor:
    return recordings[which[:, None], start[:, None] + torch.arange(SEGMENT, device=recordings.device)]
