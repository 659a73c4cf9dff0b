"""Losses that make the vectors of one encoder like those of another: by direction, by similarity, by order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from resolvent.operators.arrays import as_tensor, check_finite, give_back
from resolvent.random import GeneratorLike, as_generator

# Pairs of pairs that are held at a time.
_BLOCK = 1 << 22


def cosine_loss(student: Any, teacher: Any) -> Any:
    r"""The mean of :math:`1 - \cos(s_x, t_x)` over a batch: every vector shall be its teacher's.

    Parameters
    ----------
    student, teacher : (b, d), of any length; the losses look at directions only

    Returns
    -------
    0-d tensor, or a float where both are NumPy's.

    Raises
    ------
    ValueError : shapes that differ, NaN or infinity, a zero vector

    Notes
    -----
    The paper writes a sum over the batch; its published training code takes the mean, which the weights 10, 200 and 20 of
    the three losses belong to.

    References
    ----------
    "Jasper and Stella: distillation of SOTA embedding models"

    Examples
    --------
    >>> cosine_loss([[2.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, -1.0]])
    1.0
    """
    s, t, kind = _pair(student, teacher)
    if s.shape != t.shape:
        raise ValueError(f"student must have the shape of teacher, {tuple(t.shape)}, got {tuple(s.shape)}")
    return give_back(1 - (s * t).sum(1).mean(), kind)


def similarity_loss(student: Any, teacher: Any) -> Any:
    r"""The mean squared difference of all cosines of two batches: :math:`\|S S^T - T T^T\|_F^2 / b^2`, rows normalised.

    Parameters
    ----------
    student : (b, d)
    teacher : (b, D); the dimensions may differ

    Returns
    -------
    0-d tensor, or a float where both are NumPy's.

    Raises
    ------
    ValueError : different numbers of rows, NaN or infinity, a zero vector

    References
    ----------
    "Jasper and Stella: distillation of SOTA embedding models"

    Examples
    --------
    >>> similarity_loss([[1.0], [1.0]], [[1.0, 0.0], [0.0, 1.0]])
    0.5
    """
    s, t, kind = _pair(student, teacher)
    return give_back((s @ s.mT - t @ t.mT).square().mean(), kind)


def relative_similarity_loss(
    student: Any, teacher: Any, margin: float = 0.015, *, shifts: int | None = None, generator: GeneratorLike = None
) -> Any:
    r"""Pairs that the teacher finds more alike shall be so by a margin: :math:`\max(0, s_q - s_p + m)` where :math:`t_p > t_q`.

    p and q are pairs of rows, :math:`s_p` and :math:`t_p` their cosines; the mean over all p and q with :math:`t_p > t_q`.

    Parameters
    ----------
    student : (b, d)
    teacher : (b, D); the dimensions may differ
    margin : m, at least 0
    shifts : None compares all b^4 / 8 pairs of pairs; a number compares pairs that share a row, each with so many others
    generator : of the shifts

    Returns
    -------
    0-d tensor, or a float where both are NumPy's; 0 if the teacher finds all pairs equally alike.

    Raises
    ------
    ValueError : different numbers of rows, NaN or infinity, a zero vector, a negative margin, shifts below 1

    Notes
    -----
    All pairs, sorted by the teacher, against all in blocks: nothing of size b^4 is held, and the gradient of a cosine is
    the number of hinges that push it. For a batch of 64 that is 2 million comparisons, for 256 it is 500 million: there
    `shifts` sorts each row of T T^T instead and compares the entries with those a random number of places below, b^2 shifts
    comparisons in all. The teacher gets no gradient: only its order counts.

    References
    ----------
    "Jasper and Stella: distillation of SOTA embedding models"

    Examples
    --------
    >>> teacher = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]
    >>> relative_similarity_loss(teacher, teacher, margin=0.0)
    0.0
    >>> round(relative_similarity_loss([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]], teacher, margin=0.0), 3)
    0.663
    """
    if not margin >= 0:
        raise ValueError(f"margin must be at least 0, got {margin!r}")
    s, t, kind = _pair(student, teacher)
    S, T = s @ s.mT, (t @ t.mT).detach()
    if shifts is None:
        i, j = torch.triu_indices(len(s), len(s), 1, device=s.device)
        order = T[i, j].argsort(descending=True)
        return give_back(_OrderLoss.apply(S[i, j][order], T[i, j][order], margin), kind)
    if isinstance(shifts, bool) or not isinstance(shifts, int) or shifts < 1:
        raise ValueError(f"shifts must be None or an int of at least 1, got {shifts!r}")
    return give_back(_shifted(S, T, margin, shifts, generator), kind)


def _pair(student: Any, teacher: Any) -> tuple[Tensor, Tensor, Any]:
    """Both with unit rows, in one dtype."""
    s, kind_s = as_tensor(student, "student")
    t, kind_t = as_tensor(teacher, "teacher")
    for name, x in (("student", s), ("teacher", t)):
        if x.ndim != 2 or x.is_complex():
            raise ValueError(f"{name} must be real of shape (b, d), got {x.dtype} of shape {tuple(x.shape)}")
    if len(s) != len(t) or not len(s):
        raise ValueError(
            f"student and teacher must have the same number of rows, at least 1, got {len(s)} and {len(t)}"
        )
    dtype = torch.promote_types(s.dtype, t.dtype)
    kind = "numpy" if kind_s == kind_t == "numpy" else "torch"
    return unit_rows(s, "student").to(dtype), unit_rows(t, "teacher").to(dtype), kind


def unit_rows(x: Tensor, name: str) -> Tensor:
    """Rows of length one, with gradients; a row of zeros is refused."""
    check_finite(x, name)
    top = x.detach().abs().amax(1, keepdim=True)
    if not bool((top > 0).all()):
        raise ValueError(f"{name} has a zero vector, which has no direction: row {int((top[:, 0] <= 0).nonzero()[0])}")
    scaled = x / top
    return scaled / torch.linalg.vector_norm(scaled, dim=1, keepdim=True)


class _OrderLoss(torch.autograd.Function):
    """The mean of max(0, s_q - s_p + m) over t_p > t_q; both vectors sorted by descending t."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, t: Tensor, margin: float) -> Tensor:
        total, count = s.new_zeros(()), 0
        push = torch.zeros_like(s)
        rows = max(1, _BLOCK // max(len(s), 1))
        # Of equal cosines of the teacher neither is the larger: where does the run of each p end?
        ends = torch.searchsorted(-t, -t, right=True)
        places = torch.arange(len(s), device=s.device)
        for a in range(0, len(s), rows):
            below = places[a:] >= ends[a : a + rows, None]
            hinge = torch.where(below, s[a:] - s[a : a + rows, None] + margin, 0).clamp_min_(0)
            total += hinge.sum()
            active = (hinge > 0).to(s.dtype)
            push[a : a + rows] -= active.sum(1)
            push[a:] += active.sum(0)
        count = int((len(s) - ends).sum())
        ctx.save_for_backward(push / max(count, 1))
        return total / max(count, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (push,) = ctx.saved_tensors
        return grad * push, None, None


def _shifted(S: Tensor, T: Tensor, margin: float, shifts: int, generator: GeneratorLike) -> Tensor:
    b = len(S)
    if b < 3:
        return S.sum() * 0
    rng = as_generator(generator, S.device)
    # The row itself is out of the comparison: it would be the first of its row.
    away = ~torch.eye(b, dtype=torch.bool, device=S.device)
    T, order = T[away].view(b, b - 1).sort(1, descending=True)
    S = S[away].view(b, b - 1).gather(1, order)
    total, count = S.new_zeros(()), S.new_zeros(())
    for h in torch.randint(1, b - 1, (shifts,), generator=rng, device=rng.device).tolist():
        larger = T[:, :-h] > T[:, h:]
        total = total + torch.where(larger, S[:, h:] - S[:, :-h] + margin, 0).clamp_min(0).sum()
        count = count + larger.sum()
    return total / count.clamp_min(1)
