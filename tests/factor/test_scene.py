"""Scenes and their files: what is in them, round trips to the last bit, and files that are not what they say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.io import savemat

from resolvent.factor import Scene, load_scene, save_scene, scene_from_labels, spectral_library, synthetic_scene


def test_a_synthetic_scene_is_what_it_says():
    scene = synthetic_scene(24, 4, 5, purity=0.7, snr=20, bands=40, generator=0)
    assert scene.Y.shape == (40, 576) and scene.M.shape == (40, 5) and scene.A.shape == (5, 576)
    torch.testing.assert_close(scene.A.sum(0), torch.ones(576).double())
    assert float(scene.A.max()) <= 0.7 and float(scene.A.min()) >= 0 and len(scene.names) == 5
    clean = scene.M @ scene.A
    noise = scene.Y - clean
    measured = 10 * torch.log10(clean.square().sum() / noise.square().sum())
    assert float(measured) == pytest.approx(20, abs=0.5)
    again = synthetic_scene(24, 4, 5, purity=0.7, snr=20, bands=40, generator=0)
    assert torch.equal(scene.Y, again.Y)


def test_blocks_are_mixed_by_a_mean():
    scene = synthetic_scene(16, 4, 3, purity=1.0, snr=200, generator=1)
    images = scene.image(scene.A)
    # Every abundance is a count over a window of 5 x 5 pixels, fewer at the border.
    inner = images[:, 2:-2, 2:-2] * 25
    torch.testing.assert_close(inner, inner.round(), rtol=0, atol=1e-9)
    # Five pixels wide, blocks of four: no window is within one block.
    assert float(scene.image(scene.A)[:, 0, 0].max()) <= 1


def test_noise_of_each_channel_and_a_library():
    levels = torch.linspace(10, 40, 30)
    library = spectral_library(4, 30, generator=5)
    assert float(library.min()) >= 0.02 and float(library.max()) <= 0.98
    scene = synthetic_scene(32, 8, 3, snr=levels.tolist(), library=library, generator=0)
    assert torch.equal(scene.M, library[:, :3])
    clean = scene.M @ scene.A
    measured = 10 * torch.log10(clean.square().sum(1) / (scene.Y - clean).square().sum(1))
    assert float((measured - levels)[5:].abs().max()) < 1


def test_labels_become_abundances():
    A = torch.eye(3).repeat_interleave(2, 1).double()
    Y = spectral_library(3, 20, generator=0) @ A
    scene = scene_from_labels(Y.numpy(), [5, 5, 2, 2, 9, 0], (2, 3), names=("b", "a", "c"))
    np.testing.assert_allclose(scene.A, A[[1, 0, 2]], atol=1e-10)


@pytest.mark.parametrize("counts", [True, False])
def test_round_trip_is_exact(tmp_path, counts):
    scene = synthetic_scene(12, 4, 3, bands=20, generator=0)
    if counts:
        numbers = torch.randint(0, 4000, scene.Y.shape, generator=torch.Generator().manual_seed(0)).double()
        scene = dataclasses.replace(scene, Y=numbers / 4095, max_value=4095.0, bands=np.arange(3, 23))
    save_scene(scene, tmp_path / "data.mat", tmp_path / "truth.mat")
    back = load_scene(tmp_path / "data.mat", tmp_path / "truth.mat")
    assert np.array_equal(back.Y, scene.Y.numpy()) and np.array_equal(back.M, scene.M.numpy())
    assert np.array_equal(back.A, scene.A.numpy()) and back.names == scene.names and back.shape == (12, 12)
    assert back.max_value == scene.max_value
    assert np.array_equal(back.bands, scene.bands) if counts else back.bands is None


def test_published_layout(tmp_path):
    V = np.arange(24, dtype=np.uint16).reshape(4, 6)
    savemat(tmp_path / "v.mat", {"V": V, "nRow": 2, "nCol": 3, "nBand": 4, "SlectBands": [[1], [3]], "maxValue": 23})
    scene = load_scene(tmp_path / "v.mat")
    np.testing.assert_array_equal(scene.Y, V[[0, 2]] / 23)
    np.testing.assert_array_equal(scene.image(scene.Y)[0] * 23, [[0, 2, 4], [1, 3, 5]])


def test_files_are_not_trusted(tmp_path):
    path = tmp_path / "bad.mat"
    good = {"Y": np.ones((3, 4)), "nRow": 2, "nCol": 2}
    cases = (
        ({k: v for k, v in good.items() if k != "Y"}, "no variable"),
        ({k: v for k, v in good.items() if k != "nRow"}, "no variable"),
        (good | {"nCol": 3}, "columns"),
        (good | {"Y": np.full((3, 4), np.nan)}, "NaN"),
        (good | {"Y": np.array([["a"]], dtype=object)}, "numbers"),
        (good | {"nRow": 1.5}, "positive integer"),
        (good | {"maxValue": 0}, "maxValue"),
        (good | {"SlectBands": [9]}, "SlectBands"),
    )
    for content, word in cases:
        savemat(path, content)
        with pytest.raises(ValueError, match=word):
            load_scene(path)
    savemat(path, good)
    with pytest.raises(ValueError, match="max_bytes"):
        load_scene(path, max_bytes=50)
    for text in (b"", b"not a file of MATLAB", path.read_bytes()[:150]):
        (tmp_path / "text.mat").write_bytes(text)
        with pytest.raises(ValueError):
            load_scene(tmp_path / "text.mat")
    with pytest.raises(FileNotFoundError):
        load_scene(tmp_path / "none.mat")
    savemat(tmp_path / "truth.mat", {"M": np.ones((2, 2))})
    with pytest.raises(ValueError, match="rows"):
        load_scene(path, tmp_path / "truth.mat")


def test_bad_input():
    for call, word in (
        (lambda: synthetic_scene(10, 4), "size"),
        (lambda: synthetic_scene(8, 4, 1), "n_endmembers"),
        (lambda: synthetic_scene(8, 4, 4, purity=0.2), "purity"),
        (lambda: synthetic_scene(8, 4, 3, snr=[1.0, 2.0]), "snr"),
        (lambda: synthetic_scene(8, 4, 3, snr=float("nan")), "snr"),
        (lambda: synthetic_scene(8.0, 4, 3), "size"),
        (lambda: synthetic_scene(8, 4, 3, library=torch.full((5, 3), torch.nan)), "library"),
        (lambda: synthetic_scene(8, 4, 3, library=torch.ones(5, 2)), "library"),
        (lambda: spectral_library(0), "count"),
        (lambda: scene_from_labels(torch.ones(2, 4), [0, 0, 0, 0], (2, 2)), "class"),
        (lambda: scene_from_labels(torch.ones(2, 4), [1, 1], (2, 2)), "fit"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    assert Scene(torch.ones(2, 4), (2, 2)).M is None
