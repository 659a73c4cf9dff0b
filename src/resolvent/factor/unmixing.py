"""Blind unmixing of hyperspectral images: endmembers and abundances together, robust to bad channels."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from resolvent.errors import ConvergenceError
from resolvent.factor.abundances import fcls
from resolvent.factor.endmembers import spa, vca
from resolvent.info import Info
from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.operators.threads import one_thread
from resolvent.random import GeneratorLike, as_generator

Method = Literal["robust_guided", "nmf", "l1", "l1/2", "graph", "fcls"]
_METHODS = ("robust_guided", "nmf", "l1", "l1/2", "graph", "fcls")
# Steps between two looks at the objective, and how many times the guidance is learned before it stays.
_ROUND, _LESSONS = 10, 20
# Abundances stay above: zero is a trap of multiplicative updates, and a^(-h) has no value there.
_FLOOR = 1e-8
_PUREST = 0.95
_TINY = 1e-150
# Multiplications of a product below which a second thread costs more than it gives.
_SMALL = 4_000_000


class Unmixing(NamedTuple):
    """Of :func:`unmix`.

    Attributes
    ----------
    M : (L, K) endmembers as columns
    A : (K, N) abundances, columns that sum to one
    guidance : (N,) h in [0, 1): near one where a pixel is pure, the exponent of its sparsity is 1 - h
    """

    M: Any
    A: Any
    guidance: Any


def unmix(
    Y: Any,
    n_endmembers: int,
    *,
    method: Method = "robust_guided",
    lam: float | None = None,
    image_shape: tuple[int, int] | None = None,
    init: Literal["vca", "spa"] | tuple[Any, Any] = "vca",
    sum_weight: float = 15.0,
    rtol: float = 1e-3,
    max_iter: int = 5000,
    generator: GeneratorLike = None,
    return_info: bool = False,
) -> Any:
    r"""Endmembers and abundances, :math:`Y \approx M A`, with a robust error and a learned sparsity.

    .. math:: \min_{M, A \ge 0,\; 1^T A = 1^T} \sum_l \|y^l - m^l A\|_2 + s \lambda \sum_{k n} A_{kn}^{1 - h_n}

    Parameters
    ----------
    Y : (L, N) nonnegative pixels as columns, tensor or array; reflectances, of a size near one, to which `sum_weight`
        and `lam` are relative
    n_endmembers : K
    method : "robust_guided" is the problem above, with h learned; the others have the error
        :math:`\tfrac12 \|Y - M A\|_F^2` and as penalty nothing ("nmf"), :math:`\sum A` ("l1"),
        :math:`\sum A^{1/2}` ("l1/2") or the Laplacian form of neighbouring pixels ("graph", wants `image_shape`);
        "fcls" keeps the start's endmembers
    lam : weight of the penalty; None takes the mean Hoyer sparsity of the L channels (the paper on the penalty "l1/2"
        takes sqrt(L) times that, which is too much for scenes with few pure pixels)
    image_shape : (rows, columns), pixels down the columns; smooths the guidance and gives the graph its neighbours
    init : "vca", "spa", or (M, A) of shapes (L, K) and (K, N)
    sum_weight : weight of the row of ones that holds the sums of abundances at one
    rtol : stop when ten steps decrease the objective by less than this, relative to it (plus a millionth of the
        objective of M = 0)
    max_iter : steps
    generator : of "vca"
    return_info : also return `Info`

    Returns
    -------
    Unmixing (M, A, guidance) of the kind and dtype of Y; with `return_info`, (Unmixing, Info).

    Raises
    ------
    ValueError : negative or infinite entries, shapes that do not fit, Y records a gradient.
    ConvergenceError : still decreasing, or still learning the guidance, after `max_iter` steps; carries the best value.

    Notes
    -----
    Multiplicative updates of M and A; the norm over each channel becomes a weight 1 / ||y^l - m^l A||, so that a
    corrupted channel counts little. s is the median residual of the channels at the start, inverted: it puts all
    terms on the scale of the squared error, and so do the weights. With h held the objective never increases. h is the
    Hoyer sparsity of each pixel's abundances, averaged over 3 x 3 pixels and stretched to [0, 0.95]; it is learned
    again every ten steps, 20 times. About 2 L K N multiplications a step, in double precision. A last scaling makes the sums exactly one.
    The problem is not convex, and the result depends on the start. No gradient.

    References
    ----------
    "Effective Spectral Unmixing via Robust Representation and Learning-based Sparsity"
    "Hyperspectral Unmixing via L1/2 Sparsity-Constrained Nonnegative Matrix Factorization"

    Examples
    --------
    >>> from resolvent.factor import synthetic_scene, unmixing_scores
    >>> scene = synthetic_scene(16, 4, 3, generator=0)
    >>> found = unmix(scene.Y, 3, image_shape=scene.shape, generator=0)
    >>> bool(unmixing_scores(found.M, found.A, scene.M, scene.A).angles.mean() < 0.3)
    True
    """
    T, kind = _checked(Y, n_endmembers, method, image_shape, lam, sum_weight, rtol, max_iter)
    # Residuals come from Gram matrices, which takes double precision.
    dtype, T = T.dtype, T.double()
    with torch.no_grad(), one_thread(T.numel() * n_endmembers <= _SMALL):
        M, A = _start(T, n_endmembers, init, as_generator(generator, T.device))
        if method == "fcls":
            A = fcls(T, M)
            info = Info("fcls")
        else:
            problem = _Problem(T, method, lam, image_shape, sum_weight, M, A)
            M, A, info = problem.descend(M, A.clamp_min(_FLOOR), rtol, max_iter)
        h = guidance_map(A, image_shape)
        found = Unmixing(*give_back((M.to(dtype), (A / A.sum(0)).to(dtype), h.to(dtype)), kind))
    if not info.converged:
        state = (
            "the guidance is still learned, or fewer than ten steps were left"
            if info.error <= rtol
            else f"ten steps still decrease the objective by {info.error:.2g}, asked for {rtol:.2g}"
        )
        raise ConvergenceError(
            f"unmix: after {max_iter} steps {state}; allow more steps, or a larger rtol",
            best=found,
            error=info.error,
            info=info,
        )
    return (found, info) if return_info else found


def guidance_map(A: Tensor, image_shape: tuple[int, int] | None) -> Tensor:
    """How pure each pixel is: the Hoyer sparsity of its abundances, smooth on the image, stretched to [0, 0.95]."""
    K = len(A)
    if K == 1:
        return torch.full_like(A[0], _PUREST)
    root = math.sqrt(K)
    h = (root - A.sum(0) / torch.linalg.vector_norm(A, dim=0)) / (root - 1)
    if image_shape is not None:
        rows, columns = image_shape
        padded = torch.nn.functional.pad(h.reshape(1, 1, columns, rows), (1, 1, 1, 1), mode="replicate")
        h = torch.nn.functional.avg_pool2d(padded, 3, stride=1).reshape(-1)
    low, high = h.min(), h.max()
    spread = high - low
    # Pixels that are all equally mixed say nothing about each other.
    return torch.where(spread > 1e-6, _PUREST * (h - low) / torch.where(spread > 1e-6, spread, 1), 0.5)


class _Problem:
    """The objective of a method and the multiplicative steps that decrease it."""

    def __init__(
        self, Y: Tensor, method: str, lam: float | None, shape: Any, sum_weight: float, M: Tensor, A: Tensor
    ) -> None:
        self.Y, self.shape, self.method = Y, shape, method
        self.robust = method == "robust_guided"
        self.sum = sum_weight**2
        residual = self._residuals(M, A)
        # Far below every channel's noise: only a channel fitted exactly would notice.
        self.smooth = 1e-6 * float(torch.linalg.vector_norm(Y, dim=1).mean()) + _TINY
        self.scale = 1 / max(float(residual.median()), self.smooth) if self.robust else 1.0
        self.lam = (mean_sparsity(Y) if lam is None else lam) if method != "nmf" else 0.0
        n = Y.shape[1]
        self.h = {"l1": Y.new_zeros(n), "l1/2": Y.new_full((n,), 0.5)}.get(method)
        if self.robust:
            self.h = guidance_map(A, shape)
        self.energy = Y.square().sum(1)
        # Where the data are exact the objective goes to zero, and decreases by a part of itself for ever.
        nothing = self.energy.sqrt().sum() if self.robust else self.energy.sum() / 2
        self.least = 1e-6 * float(nothing) + _TINY
        self.degree = self._neighbours(torch.ones_like(A[:1])) if method == "graph" else A.new_zeros(())

    def _residuals(self, M: Tensor, A: Tensor) -> Tensor:
        return torch.linalg.vector_norm(self.Y - M @ A, dim=1)

    def _neighbours(self, A: Tensor) -> Tensor:
        """Sums over the (up to four) neighbours on the image."""
        rows, columns = self.shape
        image = A.reshape(len(A), columns, rows)
        out = torch.zeros_like(image)
        out[:, 1:] += image[:, :-1]
        out[:, :-1] += image[:, 1:]
        out[:, :, 1:] += image[:, :, :-1]
        out[:, :, :-1] += image[:, :, 1:]
        return out.reshape(A.shape)

    def value(self, M: Tensor, A: Tensor) -> float:
        residual = self._residuals(M, A)
        error = (residual.square() + self.smooth**2).sqrt().sum() if self.robust else residual.square().sum() / 2
        total = error + self.scale * self.sum / 2 * (1 - A.sum(0)).square().sum()
        if self.h is not None:
            total = total + self.scale * self.lam * A.pow(1 - self.h).sum()
        elif self.method == "graph":
            total = total + self.lam / 2 * (A * (A * self.degree - self._neighbours(A))).sum()
        return float(total)

    def step(self, M: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
        """One update of M and one of A."""
        products, gram = self.Y @ A.mT, A @ A.mT
        # The weight of a channel is on both sides of its own row of M.
        M = M * products / (M @ gram).clamp_min(_TINY)
        if self.robust:
            # The residuals of the new M, from products that are there: no pass over the pixels.
            square = self.energy - 2 * (M * products).sum(1) + ((M @ gram) * M).sum(1)
            weighted = M / (square.clamp_min(0) + self.smooth**2).sqrt()[:, None]
        else:
            weighted = M
        above = (weighted.mT @ self.Y).add_(self.scale * self.sum)
        below = (weighted.mT @ M) @ A + self.scale * self.sum * A.sum(0)
        if self.h is not None:
            below += self.scale * self.lam * (1 - self.h) * A.pow(-self.h)
        elif self.method == "graph":
            above += self.lam * self._neighbours(A)
            below += self.lam * self.degree * A
        return M, (A * above / below.clamp_min_(_TINY)).clamp_min_(_FLOOR)

    def descend(self, M: Tensor, A: Tensor, rtol: float, max_iter: int) -> tuple[Tensor, Tensor, Info]:
        before, change, count, lessons, settled = self.value(M, A), math.inf, 0, 0, False
        while count < max_iter:
            steps = min(_ROUND, max_iter - count)
            for _ in range(steps):
                M, A = self.step(M, A)
            count += steps
            after = self.value(M, A)
            if not math.isfinite(after):
                raise OverflowError(f"the factors are beyond the range of {A.dtype}; scale Y to [0, 1]")
            change = (before - after) / (after + self.least)
            learning = self.robust and lessons < _LESSONS
            settled = steps == _ROUND and change <= rtol and not learning
            if settled:
                break
            if learning:
                lessons += 1
                self.h = guidance_map(A, self.shape)
                after = self.value(M, A)
            before = after
        return M, A, Info(f"unmix, {self.method}", 2 * count, count, change, settled)


def mean_sparsity(Y: Tensor) -> float:
    """The mean over channels of Hoyer's measure: 0 for a constant channel, 1 for a single bright pixel."""
    root = math.sqrt(Y.shape[1])
    length = torch.linalg.vector_norm(Y, dim=1)
    bright = length > 0
    if root == 1 or not bool(bright.any()):
        return 0.0
    return float(((root - Y.sum(1)[bright] / length[bright]) / (root - 1)).mean())


def _checked(
    Y: Any, K: int, method: str, shape: Any, lam: float | None, sum_weight: float, rtol: float, max_iter: int
) -> tuple[Tensor, Any]:
    T, kind = as_tensor(Y, "Y")
    if T.ndim != 2 or T.is_complex() or not T.numel():
        raise ValueError(f"Y must be a real matrix (channels, pixels), got shape {tuple(T.shape)} of {T.dtype}")
    if T.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"Y has dtype {T.dtype}; convert it to float32")
    if torch.is_grad_enabled() and T.requires_grad:
        raise ValueError("unmix has no gradient: detach Y")
    check_finite(T, "Y")
    if not bool(T.any()):
        raise ValueError("Y is zero: it has no endmembers")
    if float(T.min()) < 0:
        raise ValueError(
            f"Y must not be negative, its smallest entry is {float(T.min()):.3g}; clip it if that is noise"
        )
    if isinstance(K, bool) or not isinstance(K, int) or not 1 <= K <= min(T.shape):
        raise ValueError(f"n_endmembers must be an integer between 1 and {min(T.shape)}, got {K!r}")
    if method not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(_METHODS)}, got {method!r}")
    if shape is None and method == "graph":
        raise ValueError('image_shape must be given for method "graph": its neighbours are those of the image')
    if shape is not None and (len(shape) != 2 or shape[0] * shape[1] != T.shape[1]):
        raise ValueError(f"image_shape must be (rows, columns) of {T.shape[1]} pixels, got {shape}")
    for name, value in (("lam", 0.0 if lam is None else lam), ("sum_weight", sum_weight)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be at least 0, got {value}")
    if not 0 < rtol < 1 or max_iter < 1:
        raise ValueError(f"rtol must be between 0 and 1 and max_iter positive, got {rtol} and {max_iter}")
    return T, kind


def _start(Y: Tensor, K: int, init: Any, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    if isinstance(init, tuple | list) and len(init) == 2:
        M, A = (as_tensor(part, f"init[{i}]")[0].detach().to(Y) for i, part in enumerate(init))
        if M.shape != (len(Y), K) or A.shape != (K, Y.shape[1]):
            raise ValueError(
                f"init must have shapes {(len(Y), K)} and {(K, Y.shape[1])}, got {tuple(M.shape)} and {tuple(A.shape)}"
            )
        for i, part in enumerate((M, A)):
            check_finite(part, f"init[{i}]")
            if float(part.min()) < 0:
                raise ValueError(f"init[{i}] must have no negative entry, its smallest is {float(part.min()):.3g}")
        return M, A
    if init not in ("vca", "spa"):
        raise ValueError(f'init must be "vca", "spa" or a pair (M, A), got {init!r}')
    M = vca(Y, K, generator=rng).M if init == "vca" else spa(Y, K).M
    # A spectrum of zeros would stay one under multiplicative updates.
    M = M.clamp_min(1e-4 * float(M.max()))
    return M, fcls(Y, M)
