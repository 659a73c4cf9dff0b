"""What happens to sound on its way to a microphone, and to its picture: the replicas that a fingerprint learns from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.random import GeneratorLike, as_generator


def mix_noise(audio: Any, noise: Any, snr: Any) -> Any:
    r"""Sound with a background, :math:`x + c\,b`, c such that the power of x over that of c b is `snr` decibels.

    Parameters
    ----------
    audio : (*batch, n)
    noise : (*batch, n), or broadcast to it
    snr : number or (*batch,) of decibels

    Returns
    -------
    (*batch, n), of the kind of `audio`; where one of the two is silent, the sum of both.

    Raises
    ------
    ValueError : shapes that do not fit, NaN or infinity

    Examples
    --------
    >>> mix_noise([1.0, -1.0, 1.0, -1.0], [2.0, 2.0, -2.0, -2.0], 0.0)
    array([ 2.,  0.,  0., -2.])
    """
    x, kind = as_tensor(audio, "audio")
    b, _ = as_tensor(noise, "noise")
    check_finite(x, "audio")
    check_finite(b, "noise")
    if not x.ndim or b.shape[-1:] != x.shape[-1:]:
        raise ValueError(f"noise must be as long as audio, got {tuple(b.shape)} and {tuple(x.shape)}")
    b = b.to(x)
    level = torch.as_tensor(snr, dtype=x.dtype, device=x.device)[..., None]
    own, other = (t.square().mean(-1, keepdim=True) for t in (x, b))
    heard = (own > 0) & (other > 0)
    gain = torch.where(heard, (own / torch.where(heard, other, 1)).sqrt() * 10 ** (-level / 20), 1)
    return give_back(x + gain * b, kind)


def convolve_response(audio: Any, response: Any) -> Any:
    """Sound in a room, or through a microphone: its convolution with an impulse response, cut to its own length.

    Parameters
    ----------
    audio : (*batch, n)
    response : (*batch, m), or broadcast to it

    Returns
    -------
    (*batch, n), of the kind of `audio`

    Raises
    ------
    ValueError : NaN or infinity, no samples

    Examples
    --------
    >>> convolve_response([1.0, 2.0, 3.0], [0.0, 1.0]).round(6)
    array([0., 1., 2.])
    """
    x, kind = as_tensor(audio, "audio")
    h, _ = as_tensor(response, "response")
    check_finite(x, "audio")
    check_finite(h, "response")
    if not (x.ndim and h.ndim and x.shape[-1] and h.shape[-1]):
        raise ValueError(f"audio and response must have samples, got shapes {tuple(x.shape)} and {tuple(h.shape)}")
    n = x.shape[-1]
    # Zeros behind both: what the reference code leaves out comes back at the beginning of the segment.
    size = 1 << (n + min(h.shape[-1], n) - 2).bit_length() if n > 1 else 1
    product = torch.fft.rfft(x, size) * torch.fft.rfft(h.to(x)[..., :n], size)
    return give_back(torch.fft.irfft(product, size)[..., :n], kind)


def mask_spectrogram(pictures: Tensor, *, generator: GeneratorLike = None) -> Tensor:
    """Pictures with a rectangle and a band of frequencies cut out, the same for a whole batch.

    Parameters
    ----------
    pictures : (b, f, t)
    generator : of the place and size of both

    Returns
    -------
    (b, f, t), with the lowest value of each picture in the holes

    Notes
    -----
    The rectangle is between a tenth and half as high and wide as the picture, the band between 5 and 20 percent as high:
    cutout and the frequency mask of SpecAugment.

    Examples
    --------
    >>> cut = mask_spectrogram(torch.rand(2, 64, 32), generator=0)
    >>> bool((cut == 0).any()), cut.shape
    (False, torch.Size([2, 64, 32]))
    """
    rng = as_generator(generator, pictures.device)
    high, wide = pictures.shape[-2:]
    u = torch.rand(6, generator=rng, device=pictures.device).tolist()
    hole = torch.zeros(high, wide, dtype=torch.bool, device=pictures.device)
    for height, width, top, left in (
        (0.1 + 0.4 * u[0], 0.1 + 0.4 * u[1], u[2], u[3]),
        (0.05 + 0.15 * u[4], 1.0, u[5], 0.0),
    ):
        rows, columns = max(1, int(height * high)), max(1, int(width * wide))
        a, b = int(top * (high - rows + 1)), int(left * (wide - columns + 1))
        hole[a : a + rows, b : b + columns] = True
    return torch.where(hole, pictures.flatten(1).amin(1)[:, None, None], pictures)
