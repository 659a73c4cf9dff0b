"""Synthetic music, backgrounds and rooms, and the landmark method that fingerprints are compared with."""

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

RATE = 8000
SECONDS = 10
HOP = RATE // 2
# The landmark method: frames of 64 ms every 32 ms, pairs of peaks up to a second apart.
_WINDOW, _STEP, _ZONE, _FAN = 512, 256, 31, 8


def melodies(count: int, seed: int, seconds: int = SECONDS) -> Tensor:
    """(count, samples) of music: a lead and a bass in a random key, with a random tempo, timbre, and bursts of noise."""
    g = torch.Generator().manual_seed(seed)
    samples = seconds * RATE
    out = torch.zeros(count, samples)
    scale = torch.tensor([0, 2, 4, 5, 7, 9, 11, 12, 14, 16, 17, 19])
    for clip in out:
        beat = 0.12 + 0.2 * float(torch.rand((), generator=g))
        key = 48 + int(torch.randint(12, (), generator=g))
        for voice, (octave, level) in enumerate(((12, 1.0), (0, 0.7), (24, 0.5))):
            timbre = torch.rand(6, generator=g) / torch.arange(1, 7) ** 0.7
            at = 0.0
            while at < seconds:
                length = beat * float(torch.randint(1, 5, (), generator=g)) * (1 + (voice == 1))
                note = key + octave + int(scale[torch.randint(12, (), generator=g)])
                start, stop = int(at * RATE), min(samples, int((at + 1.5 * length) * RATE))
                t = torch.arange(stop - start) / RATE
                tones = torch.arange(1, 7) * 440 * 2 ** ((note - 69) / 12)
                tones, heard = tones[tones < 3900], timbre[tones < 3900]
                phase = 2 * math.pi * (tones[:, None] * t + torch.rand(len(tones), 1, generator=g))
                envelope = torch.exp(-3 * t / length) * (1 - torch.exp(-t / 0.005))
                clip[start:stop] += level * envelope * (heard @ torch.sin(phase))
                at += length
        for at in torch.arange(0, seconds, 2 * beat).tolist():
            start = int(at * RATE)
            burst = torch.randn(min(400, samples - start), generator=g)
            clip[start : start + len(burst)] += 0.5 * burst * torch.exp(-torch.arange(len(burst)) / 80)
    return out / out.abs().amax(1, keepdim=True)


def backgrounds(count: int, seed: int, seconds: int = SECONDS) -> Tensor:
    """(count, samples) of places: noise of a random colour that swells and fades, and voices that glide."""
    g = torch.Generator().manual_seed(seed)
    samples = seconds * RATE
    colour = 0.3 + 0.9 * torch.rand(count, 1, generator=g)
    frequencies = torch.arange(samples // 2 + 1).clamp_min(seconds * 50) / (seconds * 50)
    noise = torch.fft.irfft(torch.fft.rfft(torch.randn(count, samples, generator=g)) * frequencies**-colour)

    def slow(rows: int, every: float) -> Tensor:
        steps = torch.randn(rows, 1, int(seconds / every) + 2, generator=g)
        return F.interpolate(steps, samples, mode="linear", align_corners=True)[:, 0]

    noise = noise / noise.std(1, keepdim=True) * torch.exp(0.5 * slow(count, 0.4))
    for _ in range(3):
        pitch = 160 * 2 ** (0.4 * slow(count, 0.15) + 0.5 * torch.randn(count, 1, generator=g))
        phase = 2 * math.pi * pitch.cumsum(1) / RATE
        voice = sum(torch.sin(h * phase) * slow(count, 0.08).relu() for h in range(2, 14, 2))
        noise = noise + voice / voice.std(1, keepdim=True) * 0.5
    return noise


def rooms(count: int, seed: int) -> Tensor:
    """(count, 4000) impulse responses: the direct sound, then noise that decays by 60 dB in 0.15 to 0.5 s."""
    g = torch.Generator().manual_seed(seed)
    decay = 0.15 + 0.35 * torch.rand(count, 1, generator=g)
    t = torch.arange(4000) / RATE
    tail = torch.randn(count, 4000, generator=g) * torch.exp(-6.9 * t / decay)
    tail = tail / tail.norm(dim=1, keepdim=True) * (0.4 + 0.6 * torch.rand(count, 1, generator=g))
    tail[:, 0] = 1
    return tail


def microphones(count: int, seed: int) -> Tensor:
    """(count, 64) impulse responses whose gain wanders over the frequencies by several decibels."""
    g = torch.Generator().manual_seed(seed)
    decibels = F.interpolate(5 * torch.randn(count, 1, 6, generator=g), 33, mode="linear", align_corners=True)[:, 0]
    return torch.fft.irfft(10 ** (decibels / 20) + 0j).roll(32, 1)


def damage(clips: Tensor, seed: int) -> Tensor:
    """What a microphone hears of clips (count, n) at 0 dB, with backgrounds, rooms and microphones of their own."""
    from resolvent.search import convolve_response, mix_noise

    count, n = clips.shape
    noise = backgrounds(count, seed, -(-n // RATE))[:, :n]
    heard = mix_noise(clips, noise, 0.0)
    return convolve_response(convolve_response(heard, rooms(count, seed + 1)), microphones(count, seed + 2))


def peaks(audio: Tensor, a_second: float) -> tuple[Tensor, Tensor]:
    """Frames and bins of the strongest local maxima of a whitened spectrogram, so many a second, in order of time."""
    power = torch.stft(audio, _WINDOW, _STEP, window=torch.hann_window(_WINDOW), return_complex=True).abs().mT
    level = power.clamp_min(1e-6).log()
    level = level - level.mean(0)  # what is loud all the time says nothing
    level[:, : round(300 * _WINDOW / RATE)] = -torch.inf
    largest = F.max_pool2d(level[None], (9, 15), 1, (4, 7))[0]
    frame, place = ((level == largest) & torch.isfinite(level)).nonzero().unbind(1)
    seconds = len(audio) / RATE
    kept = level[frame, place].argsort(descending=True)[: max(1, int(a_second * seconds))].sort().values
    return frame[kept], place[kept]


def landmarks(audio: Tensor, a_second: float) -> tuple[Tensor, Tensor]:
    """Hashes of pairs of near peaks, and the frames of their first ones."""
    frame, place = peaks(audio, a_second / _FAN)
    n = len(frame)
    later = torch.arange(n)[:, None] + torch.arange(1, 4 * _FAN + 1)
    inside = later < n
    later = later.clamp_max(n - 1)
    gap = frame[later] - frame[:, None]
    good = inside & (gap > 0) & (gap <= _ZONE)
    good &= good.cumsum(1) <= _FAN
    first = torch.arange(n)[:, None].expand_as(later)[good]
    then = later[good]
    hashed = (place[first] * 512 + place[then]) * 64 + frame[then] - frame[first]
    return hashed, frame[first]


class Landmarks:
    """Hash tables of landmarks: queries vote for a clip and a shift; the frames between two peaks may be one off."""

    def __init__(self, clips: Tensor, a_second: float) -> None:
        self.a_second = a_second
        found = [landmarks(clip, a_second) for clip in clips]
        hashed = torch.cat([h for h, _ in found])
        clip = torch.repeat_interleave(torch.arange(len(clips)), torch.tensor([len(h) for h, _ in found]))
        order = hashed.argsort()
        self.hashed, self.clip = hashed[order], clip[order]
        self.frame = torch.cat([f for _, f in found])[order]
        self.nbytes = 8 * len(hashed)  # four bytes of hash, four of place

    def locate(self, query: Tensor, a_second: float) -> tuple[int, float]:
        """Clip and second at which a query most likely begins."""
        hashed, frame = landmarks(query, a_second)
        hashed, frame = torch.cat([hashed - 1, hashed, hashed + 1]), frame.repeat(3)
        low, high = (torch.searchsorted(self.hashed, hashed, right=right) for right in (False, True))
        size = high - low
        if not int(size.sum()):
            return -1, 0.0
        owner = torch.repeat_interleave(torch.arange(len(hashed)), size)
        row = torch.arange(len(owner)) - torch.repeat_interleave(size.cumsum(0) - size, size) + low[owner]
        shift = self.frame[row] - frame[owner]
        # Votes for neighbouring shifts count together: a query need not begin on a frame.
        votes = torch.cat([self.clip[row] * 4096 + shift + 1024 + d for d in (0, 1)])
        bins, count = torch.unique(votes, return_counts=True)
        best = int(bins[count.argmax()])
        return best // 4096, (best % 4096 - 1024 - 0.5) * _STEP / RATE


@functools.cache
def collection(clips: int) -> Tensor:
    """The clips that are searched and learned from."""
    return melodies(clips, 0)
