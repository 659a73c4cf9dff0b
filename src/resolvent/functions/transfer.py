"""Transfer functions of linear systems x' = A x + B u, y = C x + D u: values, peaks, differences."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from resolvent.functions.level_set import maximum_by_levels, real_eigenvalues
from resolvent.operators import lu
from resolvent.operators.arrays import (
    Kind,
    as_tensor,
    check_finite,
    complex_dtype,
    give_back,
    give_back_array,
    real_dtype,
)


class TransferError(NamedTuple):
    """How far two transfer functions are apart on the imaginary axis.

    Attributes
    ----------
    largest : sup over omega of ||G(i omega) - H(i omega)||_2; the H-infinity norm of the error if both are stable
    frequency : the omega where it is taken
    by_input : (m,) the same for every input alone
    """

    largest: Any
    frequency: Any
    by_input: Any


def transfer_function(A: Any, B: Any, C: Any, s: Any, D: Any = None) -> Any:
    r"""The transfer function :math:`G(s) = C (sI - A)^{-1} B + D`.

    Parameters
    ----------
    A : (n, n), or (n,) for a diagonal model
    B : (n, m) or (n,)
    C : (p, n) or (n,)
    s : complex numbers of any shape
    D : (p, m), or of what axes B and C leave; None is zero

    Returns
    -------
    (*s.shape, p, m) complex, without p or m where C or B is a vector.

    Raises
    ------
    ValueError : shapes that do not fit, entries that are not finite, or an s that is an eigenvalue of A.

    Notes
    -----
    One linear system a point, O(n^3), for a diagonal model O(n). Gradients in everything.

    References
    ----------
    "Robustifying State-space Models for Long Sequences via Approximate Diagonalization"

    Examples
    --------
    >>> import torch
    >>> transfer_function(torch.tensor([[-1.0]]), torch.ones(1), torch.ones(1), torch.tensor([0j, 1j]))
    tensor([1.0000+0.0000j, 0.5000-0.5000j])
    """
    system, kind = _system((A, B, C, D))
    points = as_tensor(s, "s")[0]
    check_finite(points, "s")
    value = _transfer(system, points.reshape(-1))
    if not bool(torch.isfinite(torch.view_as_real(value.detach())).all()):
        raise ValueError("s has an eigenvalue of A: the transfer function has a pole there")
    value = value.reshape(*points.shape, *value.shape[1:])
    value = value[..., 0] if as_tensor(B, "B")[0].ndim == 1 else value
    if as_tensor(C, "C")[0].ndim == 1:
        value = value[..., 0] if as_tensor(B, "B")[0].ndim == 1 else value[..., 0, :]
    return give_back_array(value, kind)


def hinf_norm(A: Any, B: Any, C: Any, D: Any = None, *, rtol: float = 1e-6) -> Any:
    r"""The H-infinity norm :math:`\sup_{\mathrm{Re} s > 0} \|C (sI - A)^{-1} B + D\|_2` of a stable system.

    Parameters
    ----------
    A, B, C, D : as in `transfer_function`
    rtol : no frequency has a norm above (1 + rtol) times the value; at least 1e-10, in float32 1e-4

    Returns
    -------
    0-d real tensor or a float.

    Raises
    ------
    ValueError : A has an eigenvalue that is not in the left half-plane; shapes that do not fit.
    ConvergenceError : the levels did not reach `rtol`.

    Notes
    -----
    By level sets (Bruinsma and Steinbuch): the frequencies where the norm crosses a level are imaginary eigenvalues of
    a Hamiltonian matrix of order 2n, O(n^3); some four levels. The gradient is that at the frequency found.

    References
    ----------
    "A fast algorithm to compute the H-infinity-norm of a transfer function matrix"

    Examples
    --------
    >>> import torch
    >>> A = torch.tensor([[0.0, 1.0], [-1.0, -0.1]]).double()
    >>> hinf_norm(A, torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])).round(decimals=3)
    tensor(10.0130, dtype=torch.float64)
    """
    system, kind = _system((A, B, C, D))
    right = float(torch.linalg.eigvals(system[0].detach()).real.max())
    if not right < 0:
        raise ValueError(f"A must be stable, but it has an eigenvalue of real part {right:.3g}")
    return give_back(_peak(system, rtol)[0], kind)


def transfer_error(first: tuple[Any, ...], second: tuple[Any, ...], *, rtol: float = 1e-6) -> TransferError:
    r"""How far two models are apart: :math:`\sup_\omega \|G(i\omega) - H(i\omega)\|_2`.

    Parameters
    ----------
    first, second : (A, B, C) or (A, B, C, D), as in `transfer_function`; of any two orders, with equal numbers of inputs
        and outputs
    rtol : as in `hinf_norm`

    Returns
    -------
    `TransferError`: ``largest, frequency, by_input``.

    Raises
    ------
    ValueError : shapes that do not fit, or an eigenvalue on the imaginary axis.
    ConvergenceError : the levels did not reach `rtol`.

    Notes
    -----
    The peak of the difference, a system of the order of both together; a model with eigenvalues in the right half-plane
    is compared on the axis all the same. No output of norm-1 inputs differs by more, if both are stable.

    References
    ----------
    "Robustifying State-space Models for Long Sequences via Approximate Diagonalization"

    Examples
    --------
    >>> import torch
    >>> one = torch.ones(1).double()
    >>> transfer_error((-one, one, one), (-2 * one, one, one)).largest.round(decimals=4)
    tensor(0.5000, dtype=torch.float64)
    """
    G, kind = _system((*first, None)[:4])
    H, _ = _system((*second, None)[:4])
    if G[3].shape != H[3].shape:
        raise ValueError(f"the models have {tuple(G[3].shape)} and {tuple(H[3].shape)} outputs and inputs")
    A = torch.block_diag(G[0], H[0])
    C, D = torch.cat([G[2], -H[2]], 1), G[3] - H[3]
    B = torch.cat([G[1], H[1]])
    largest, frequency = _peak((A, B, C, D), rtol)
    inputs = [
        largest if B.shape[1] == 1 else _peak((A, B[:, j : j + 1], C, D[:, j : j + 1]), rtol)[0]
        for j in range(B.shape[1])
    ]
    return TransferError(*(give_back(t, kind) for t in (largest, largest.new_tensor(frequency), torch.stack(inputs))))


def _system(parts: tuple[Any, ...]) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Kind]:
    """A (n, n) or (n,) made (n, n), B (n, m), C (p, n), D (p, m) in one complex dtype."""
    A, kind = as_tensor(parts[0], "A")
    B, C = (as_tensor(t, name)[0] for t, name in zip(parts[1:3], "BC", strict=True))
    D = None if parts[3] is None else as_tensor(parts[3], "D")[0]
    for t, name in ((A, "A"), (B, "B"), (C, "C"), *(((D, "D"),) if D is not None else ())):
        check_finite(t, name)
    dtype = complex_dtype(torch.promote_types(torch.promote_types(A.dtype, B.dtype), C.dtype))
    A = torch.diag(A) if A.ndim == 1 else A
    B, C = B[:, None] if B.ndim == 1 else B, C[None] if C.ndim == 1 else C
    n = A.shape[-1]
    if A.ndim != 2 or A.shape[0] != n or B.ndim != 2 or C.ndim != 2 or B.shape[0] != n or C.shape[1] != n:
        raise ValueError(
            "A, B and C must have shapes (n, n) or (n,), (n, m) or (n,), (p, n) or (n,), "
            f"got {tuple(A.shape)}, {tuple(B.shape)} and {tuple(C.shape)}"
        )
    shape = (C.shape[0], B.shape[1])
    if D is None:
        D = B.new_zeros(shape)
    elif D.numel() != shape[0] * shape[1]:
        raise ValueError(f"D must have {shape[0]} x {shape[1]} entries, got shape {tuple(D.shape)}")
    A, B, C, D = (t.to(dtype=dtype, device=A.device) for t in (A, B, C, D.reshape(shape)))
    return (A, B, C, D), kind


def _transfer(system: tuple[Tensor, Tensor, Tensor, Tensor], s: Tensor) -> Tensor:
    """(k, p, m) of points (k,)."""
    A, B, C, D = system
    s = s.to(dtype=A.dtype, device=A.device)
    d = A.diagonal()
    if not bool((A - torch.diag(d)).detach().any()):
        return (C[None] / (s[:, None] - d)[:, None, :]) @ B + D
    one = torch.eye(len(A), dtype=A.dtype, device=A.device)
    pieces = []
    for part in s.split(max(1, 2**21 // A.numel())):
        try:
            X = lu.solve(part[:, None, None] * one - A, B.expand(len(part), *B.shape))
        except RuntimeError as error:
            raise ValueError("s has an eigenvalue of A: the transfer function has a pole there") from error
        pieces.append(C @ X + D)
    return torch.cat(pieces) if pieces else D.expand(0, *D.shape)


def _peak(system: tuple[Tensor, Tensor, Tensor, Tensor], rtol: float) -> tuple[Tensor, float]:
    """The largest norm on the imaginary axis, recorded, and its frequency."""
    real = real_dtype(system[0].dtype)
    least = 1e-10 if real == torch.float64 else 1e-4
    rtol = max(rtol, least) if rtol == 1e-6 else rtol
    if not least <= rtol < 1:
        raise ValueError(f"rtol must be between {least:g} and 1, got {rtol}")
    A, B, C, D = fixed = tuple(t.detach() for t in system)
    w = torch.linalg.eigvals(A)
    scale = float(w.abs().max())
    if float(w.real.abs().min()) <= torch.finfo(real).eps * scale:
        raise ValueError("A has an eigenvalue on the imaginary axis: the transfer function is not bounded there")
    at_infinity = float(torch.linalg.matrix_norm(D, 2)) if D.numel() else 0.0

    def value(omega: Tensor) -> Tensor:
        points = torch.complex(torch.zeros_like(omega), omega)
        return torch.linalg.matrix_norm(_transfer(fixed, points), 2).clamp(min=at_infinity)  # type: ignore[arg-type]

    def crossings(level: float) -> Tensor:
        one_m = torch.eye(B.shape[1], dtype=A.dtype, device=A.device)
        # Scaled by the level, so that both corners of the Hamiltonian matrix are of one size.
        R = lu.inv(one_m - D.mH @ D / level**2)
        F = A + B @ R @ D.mH @ C / level**2
        one_p = torch.eye(C.shape[0], dtype=A.dtype, device=A.device)
        corner = C.mH @ (one_p + D @ R @ D.mH / level**2) @ C / level
        H = torch.cat([torch.cat([F, B @ R @ B.mH / level], 1), torch.cat([-corner, -F.mH], 1)])
        return real_eigenvalues(H / 1j, 1e-3 * scale)

    grid = torch.logspace(-4, 4, 65, dtype=real, device=A.device) * scale
    start = torch.cat([w.imag, w.abs(), -w.abs(), grid, -grid, grid.new_zeros(1)])
    if not float(value(start).max()) > 0:
        return _norm_at(system, 0.0), 0.0
    best, omega = maximum_by_levels(value, crossings, start, rtol, "hinf_norm")
    if best <= at_infinity:
        return _norm_at((system[0], system[1], system[2] * 0, system[3]), 1.0), math.inf
    return _norm_at(system, omega), omega


def _norm_at(system: tuple[Tensor, Tensor, Tensor, Tensor], omega: float) -> Tensor:
    """||G(i omega)||, with the derivative Re u^H dG v."""
    G = _transfer(system, torch.tensor([complex(0, omega)], dtype=system[0].dtype, device=system[0].device))[0]
    with torch.no_grad():
        U, _, Vh = torch.linalg.svd(G)
    return (U[:, 0].conj() @ (G @ Vh[0].conj())).real
