"""Audio fingerprints: spectra against plain sums, replicas, the loss, matching of sequences, training, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from resolvent.random import gaussian
from resolvent.search import (
    IVF,
    AudioFingerprint,
    convolve_response,
    log_mel,
    mask_spectrogram,
    mix_noise,
    nt_xent,
    sequence_match,
    split_segments,
)
from resolvent.search.audio_spectrum import mel_bank

RATE = 8000


def tone(hertz, seconds=1.0):
    return torch.sin(2 * math.pi * hertz * torch.arange(int(RATE * seconds)) / RATE)


def test_a_spectrogram_is_its_sums():
    x = gaussian((1, RATE), torch.float64, generator=0)
    picture = log_mel(x, 40)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    padded = np.concatenate([np.zeros(512), x[0].numpy(), np.zeros(512)])
    frames = np.stack([padded[256 * i : 256 * i + 1024] * window for i in range(32)])
    power = np.abs(np.fft.fft(frames)[:, :513]) ** 2 @ mel_bank(40).double().numpy()
    expected = np.clip(10 * np.log10(power / power.max()), -80, 0).T / 80
    np.testing.assert_allclose(picture[0].numpy(), expected, atol=1e-9)


def test_the_mel_scale_places_tones_and_forgets_loudness():
    for hertz in (400, 1000, 3500):
        mel = 2595 * math.log10(1 + hertz / 700)
        low, high = (2595 * math.log10(1 + f / 700) for f in (300, 4000))
        place = (mel - low) / (high - low) * 257 - 1
        picture = log_mel(tone(hertz)[None])[0]
        assert abs(int(picture[:, 16].argmax()) - place) < 3.1
        torch.testing.assert_close(log_mel(1e-3 * tone(hertz)[None])[0], picture, atol=2e-3, rtol=0)
    assert torch.equal(log_mel(torch.zeros(1, RATE)), -torch.ones(1, 256, 32))
    bank = mel_bank(256)
    assert bool((bank >= 0).all())
    torch.testing.assert_close(bank.sum(0), torch.ones(256))


def test_segments_overlap_by_half():
    x = torch.arange(20000.0)
    found = split_segments(x)
    assert torch.equal(found, torch.stack([x[i : i + 8000] for i in (0, 4000, 8000, 12000)]))
    assert isinstance(split_segments(x.numpy()), np.ndarray)


def test_noise_has_the_level_that_was_asked_for():
    x, b = gaussian((3, 1000), torch.float32, generator=0), 7 * gaussian((3, 1000), torch.float32, generator=1)
    snr = torch.tensor([0.0, 10.0, -5.0])
    added = mix_noise(x, b, snr) - x
    assert added.dtype == torch.float32
    measured = 10 * torch.log10(x.square().mean(1) / added.square().mean(1))
    torch.testing.assert_close(measured, snr, atol=1e-3, rtol=0)
    assert torch.equal(mix_noise(x, torch.zeros(1000), 0.0), x)


def test_responses_are_convolved():
    x, h = gaussian((2, 300), generator=0).numpy(), gaussian((2, 40), generator=1).numpy()
    expected = np.stack([np.convolve(a, b)[:300] for a, b in zip(x, h, strict=True)])
    np.testing.assert_allclose(convolve_response(x, h), expected, atol=1e-12)
    long = gaussian((500,), generator=2).numpy()
    np.testing.assert_allclose(convolve_response(x[0], long), np.convolve(x[0], long)[:300], atol=1e-12)
    assert convolve_response([2.0], [3.0]).tolist() == [6.0]


def test_masks_are_the_same_for_a_batch_and_not_too_large():
    pictures = 1 + torch.rand(3, 64, 32, generator=torch.Generator().manual_seed(0))
    for seed in range(20):
        changed = mask_spectrogram(pictures, generator=seed) != pictures
        share = float(changed[0].float().mean())
        assert bool((changed[0] == changed[1]).float().mean() > 0.99) and 0.04 < share < 0.5


def test_the_loss_is_its_sums_with_gradients():
    a, b = (torch.nn.functional.normalize(gaussian((4, 3), generator=s)) for s in (0, 1))
    z, tau = torch.cat([a, b]), 0.05
    terms = []
    for i in range(8):
        others = sum(math.exp(float(z[i] @ z[j]) / tau) for j in range(8) if j != i)
        terms.append(-math.log(math.exp(float(z[i] @ z[(i + 4) % 8]) / tau) / others))
    assert float(nt_xent(a, b)) == pytest.approx(np.mean(terms), rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: nt_xent(x, b, 0.5), (a.requires_grad_(),))


def test_sequences_are_found_by_their_mean_score():
    rows = torch.nn.functional.normalize(gaussian((200, 16), torch.float32, generator=0))
    noisy = torch.nn.functional.normalize(rows[70:76] + 0.3 * gaussian((6, 16), torch.float32, generator=1))
    found = sequence_match(noisy, rows, 5, best=3)
    scores = torch.stack([(rows[s : s + 6] * noisy).sum(1).mean() for s in found.starts])
    torch.testing.assert_close(found.scores, scores)
    every = torch.stack([(rows[s : s + 6] * noisy).sum(1).mean() for s in range(195)])
    assert int(found.starts[0]) == 70 == int(every.argmax()) and bool((found.scores.diff() <= 0).all())
    index = IVF(lists=4).build(rows.numpy())
    again = sequence_match(noisy.numpy(), index, 5, best=3)
    assert isinstance(again.starts, np.ndarray) and again.starts[0] == 70
    end = sequence_match(torch.cat([rows[198:], rows[:2]]), rows, 3)
    assert int(end.starts[0]) == 198 and float(end.scores[0]) == pytest.approx(0.5, abs=1e-5)


def test_shapes_and_units_of_the_network():
    model = AudioFingerprint(12, 1 / 32, generator=0)
    shapes = [layer.normalized_shape for layer in model.blocks if isinstance(layer, torch.nn.LayerNorm)]
    assert shapes[0] == (4, 256, 16) and shapes[1] == (4, 128, 16) and shapes[-1] == (36, 1, 1)
    x = torch.randn(2, 20000, generator=torch.Generator().manual_seed(0))
    found = model.fingerprint(x)
    assert found.shape == (2, 4, 12)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(2, 4))
    torch.testing.assert_close(model.fingerprint(x[1].numpy(), batch=3), found[1].numpy(), atol=1e-5, rtol=0)
    # A slice of the features goes to its own entry only.
    features = torch.randn(1, 36, generator=torch.Generator().manual_seed(1))
    hidden = torch.nn.functional.elu(features.view(12, 3)[5] @ model.inner[5] + model.inner_bias[5])
    entry = (hidden * model.outer[5]).sum() + model.outer_bias[5]
    every = torch.nn.functional.elu(torch.einsum("es,esh->eh", features.view(12, 3), model.inner))
    torch.testing.assert_close((every * model.outer).sum(1)[5], entry)


def test_training_makes_noisy_segments_findable_and_repeats():
    g = torch.Generator().manual_seed(0)
    # Each clip its own five tones, each tone with its own tremolo.
    hertz, beat, phase = (torch.rand(40, 5, 1, generator=g) for _ in range(3))
    t = torch.arange(16000) / RATE
    clips = (
        torch.sin(2 * math.pi * (400 + 3000 * hertz) * t) * (1 + torch.sin(2 * math.pi * (phase + 4 * beat * t)))
    ).sum(1)
    noises = torch.randn(4, 9000, generator=g)
    responses = torch.randn(4, 50, generator=g) * torch.exp(-torch.arange(50) / 5)
    model, again = (AudioFingerprint(16, 1 / 16, 64, generator=0) for _ in range(2))
    heard = mix_noise(clips[:, 4000:12000], torch.randn(40, 8000, generator=g), 0.0)

    def rate():
        own = model.fingerprint(clips[:, 4000:12000])[:, 0]
        return float(((model.fingerprint(heard)[:, 0] @ own.T).argmax(1) == torch.arange(40)).float().mean())

    before, options = rate(), dict(pairs=24, rate=2e-3, generator=0)
    losses = model.fit(clips, noises, [responses], steps=60, **options)
    assert again.fit(clips, noises, [responses], steps=8, **options)[0] == losses[0]
    assert np.mean(losses[-5:]) < 0.8 * math.log(47)
    assert rate() > before + 0.3


def test_bad_input():
    model = AudioFingerprint(8, 1 / 64, generator=0)
    clips, rows = torch.zeros(2, 20000), torch.eye(4)
    index = IVF(lists=2).build(np.eye(4))
    index.remove([1])
    for call, match in (
        (lambda: AudioFingerprint(0), "emb"),
        (lambda: AudioFingerprint(8, 0.0), "width"),
        (lambda: model.fingerprint(torch.zeros(7999)), "8000 samples"),
        (lambda: model.fingerprint(torch.full((8000,), torch.nan)), "NaN"),
        (lambda: nt_xent(rows, rows[:2]), "originals"),
        (lambda: nt_xent(rows, rows, 0.0), "temperature"),
        (lambda: mix_noise(torch.zeros(5), torch.zeros(4), 0.0), "as long"),
        (lambda: sequence_match(rows[:0], rows), "query"),
        (lambda: sequence_match(rows, rows[:, :2]), "index"),
        (lambda: sequence_match(rows, index), "removed rows"),
        (lambda: sequence_match(rows, IVF(lists=2, metric="l2").build(np.eye(4))), "'ip'"),
        (lambda: model.fit(clips[:, :9000], clips, clips), "clips"),
        (lambda: model.fit(clips, clips[:, :100], clips), "noises"),
        (lambda: model.fit(clips, clips, [clips, clips[0]]), r"responses\[1\]"),
        (lambda: model.fit(clips, clips, clips, steps=0), "steps"),
        (lambda: model.fit(clips, clips, clips, pairs=1), "pairs"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
