"""Rules of matrix calculus for matrix functions and decompositions; each direction is written by hand and by itself.

Decompositions are made unique by signs: the entry of largest size of each eigenvector and left singular vector is
positive, and so is the diagonal of R. Symmetric arguments are symmetrised, so that the rules hold for any direction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from resolvent.functions.calculus_rules import Rule, Tensors
from resolvent.functions.derivatives import frechet, frechet_adjoint
from resolvent.functions.equations import solve_sylvester
from resolvent.operators import lu

solve = lu.solve


def _general(g: torch.Generator, m: int = 5, n: int = 5) -> Tensor:
    return torch.randn(m, n, generator=g, dtype=torch.float64)


def _regular(g: torch.Generator) -> Tensors:
    """Well away from singular: the size of its inverse is what limits a difference quotient."""
    A = _general(g)
    U, _, V = torch.linalg.svd(A)
    return ((U * torch.linspace(1, 2, 5, dtype=A.dtype)) @ V,)


def _positive(g: torch.Generator) -> Tensors:
    A = _general(g)
    return (A @ A.T / 5 + 0.5 * torch.eye(5, dtype=A.dtype),)


def _separated(g: torch.Generator) -> Tensors:
    """Symmetric with eigenvalues apart from each other: eigenvectors have a derivative of the size of 1 / gap."""
    Q = torch.linalg.qr(_general(g)).Q
    w = torch.arange(1.0, 6.0, dtype=Q.dtype) + 0.3 * torch.rand(5, generator=g, dtype=Q.dtype)
    return ((Q * w) @ Q.T,)


def _tall(g: torch.Generator) -> Tensors:
    U, V = torch.linalg.qr(_general(g, 6, 4)).Q, torch.linalg.qr(_general(g, 4, 4)).Q
    s = torch.arange(4.0, 0.0, -1.0, dtype=U.dtype) + 0.3 * torch.rand(4, generator=g, dtype=U.dtype)
    return ((U * s) @ V.T,)


def _right_half(g: torch.Generator) -> Tensors:
    """Eigenvalues in the right half plane, where logarithm and root are smooth."""
    A = _general(g)
    return (A / 5 + 2 * torch.eye(5, dtype=A.dtype),)


def _both_halves(g: torch.Generator) -> Tensors:
    """Eigenvalues on both sides of the imaginary axis and away from it."""
    X = _general(g) / 4 + torch.eye(5, dtype=torch.float64)
    d = torch.tensor([1.0, 2.0, -1.5, 3.0, -2.5], dtype=torch.float64)
    return (solve(X, d[:, None] * X),)


def _symmetric(A: Tensor) -> Tensor:
    return (A + A.mT) / 2


def _outer_norm(weights: Callable[[Tensor], Tensor], name: str, value: Callable[[Tensor], Tensor]) -> Rule:
    """A norm whose gradient is a matrix of its own."""
    return Rule(
        name,
        value,
        lambda a, y, d: (weights(a[0]) * d[0]).sum(),
        lambda a, y, u: (u * weights(a[0]),),
        _tall,
    )


def _polar_factor(A: Tensor) -> Tensor:
    U, _, Vh = torch.linalg.svd(A, full_matrices=False)
    return U @ Vh


def _top_pair(A: Tensor) -> Tensor:
    U, _, Vh = torch.linalg.svd(A, full_matrices=False)
    return torch.outer(U[:, 0], Vh[0])


def _solve_vjp(a: Tensors, y: Tensor, u: Tensor) -> Tensors:
    back = solve(a[0].mT, u)
    return -torch.outer(back, y), back


def _signs(U: Tensor) -> Tensor:
    at = U.abs().argmax(0)
    return U.gather(0, at[None])[0].sgn()


def _eigh(A: Tensor) -> Tensors:
    w, V = torch.linalg.eigh(_symmetric(A))
    return w, V * _signs(V)


def _inverse_gaps(w: Tensor) -> Tensor:
    """1 / (w_j - w_i), zero on the diagonal."""
    gaps = w[None, :] - w[:, None]
    return torch.where(gaps == 0, 0.0, 1 / torch.where(gaps == 0, 1.0, gaps))


def _eigh_jvp(a: Tensors, y: Tensors, d: Tensors) -> Tensors:
    w, V = y
    inner = V.mT @ _symmetric(d[0]) @ V
    return inner.diagonal(), V @ (_inverse_gaps(w) * inner)


def _eigh_vjp(a: Tensors, y: Tensors, u: Tensors) -> Tensors:
    w, V = y
    inner = torch.diag(u[0]) + _inverse_gaps(w) * (V.mT @ u[1])
    return (_symmetric(V @ inner @ V.mT),)


def _svd(A: Tensor) -> Tensors:
    U, s, Vh = torch.linalg.svd(A, full_matrices=False)
    signs = _signs(U)
    return U * signs, s, Vh.mT * signs


def _beyond(U: Tensor, X: Tensor) -> Tensor:
    """The part of X outside the span of U."""
    return X - U @ (U.mT @ X)


def _svd_jvp(a: Tensors, y: Tensors, d: Tensors) -> Tensors:
    U, s, V = y
    inner, gaps = U.mT @ d[0] @ V, _inverse_gaps(s * s)
    dU = U @ (gaps * (inner * s + s[:, None] * inner.mT)) + _beyond(U, d[0] @ V) / s
    dV = V @ (gaps * (s[:, None] * inner + inner.mT * s)) + _beyond(V, d[0].mT @ U) / s
    return dU, inner.diagonal(), dV


def _svd_vjp(a: Tensors, y: Tensors, u: Tensors) -> Tensors:
    U, s, V = y
    gaps = _inverse_gaps(s * s)
    left, right = U.mT @ u[0], V.mT @ u[2]
    core = (gaps * (left - left.mT)) * s + s[:, None] * (gaps * (right - right.mT)) + torch.diag(u[1])
    return (U @ core @ V.mT + (_beyond(U, u[0]) / s) @ V.mT + U @ (_beyond(V, u[2]) / s).mT,)


def _qr(A: Tensor) -> Tensors:
    Q, R = torch.linalg.qr(A)
    signs = R.diagonal().sgn()
    return Q * signs, R * signs[:, None]


def _divided_by(X: Tensor, R: Tensor) -> Tensor:
    """X R^{-1} of upper triangular R."""
    return torch.linalg.solve_triangular(R, X, upper=True, left=False)


def _qr_jvp(a: Tensors, y: Tensors, d: Tensors) -> Tensors:
    Q, R = y
    change = _divided_by(d[0], R)
    inner = Q.mT @ change
    turn = inner.tril(-1) - inner.tril(-1).mT
    return Q @ turn + _beyond(Q, change), (inner - turn) @ R


def _qr_vjp(a: Tensors, y: Tensors, u: Tensors) -> Tensors:
    Q, R = y
    M = R @ u[1].mT - u[0].mT @ Q
    mirrored = M.tril() + M.tril(-1).mT
    return (torch.linalg.solve_triangular(R, (u[0] + Q @ mirrored).mT, upper=True).mT,)


def _half(X: Tensor) -> Tensor:
    """The lower triangle with half the diagonal."""
    return X.tril() - torch.diag(X.diagonal()) / 2


def _cholesky_jvp(a: Tensors, L: Tensor, d: Tensors) -> Tensor:
    inner = torch.linalg.solve_triangular(L, _symmetric(d[0]), upper=False)
    return L @ _half(torch.linalg.solve_triangular(L, inner.mT, upper=False))


def _cholesky_vjp(a: Tensors, L: Tensor, u: Tensor) -> Tensors:
    inner = torch.linalg.solve_triangular(L.mT, _half(L.mT @ u), upper=True)
    return (_symmetric(torch.linalg.solve_triangular(L, inner, upper=False, left=False)),)


def _matrix_function(name: str, scalar: str, sample: Callable[[torch.Generator], Tensors]) -> Rule:
    """A function of this room that carries its direction along."""

    def primal(A: Tensor) -> Any:
        import resolvent.functions

        return getattr(resolvent.functions, name)(A)

    return Rule(
        name,
        primal,
        lambda a, y, d: frechet(scalar, a[0], d[0]),
        lambda a, y, u: (frechet_adjoint(scalar, a[0], u),),
        sample,
    )


def _sqrtm(A: Tensor) -> Any:
    from resolvent.functions import sqrtm

    return sqrtm(A)


def _signm(A: Tensor) -> Any:
    from resolvent.functions import signm

    return signm(A)


def _signm_jvp(a: Tensors, S: Tensor, d: Tensors) -> Any:
    # N dS + dS N = dA - S dA S, with N = S A the square root of A^2
    N = S @ a[0]
    return solve_sylvester(N, N, d[0] - S @ d[0] @ S)


def _signm_vjp(a: Tensors, S: Tensor, u: Tensor) -> Tensors:
    N = (S @ a[0]).mT
    Y = solve_sylvester(N, N, u)
    return (Y - S.mT @ Y @ S.mT,)


MATRIX_RULES = (
    Rule(
        "trace",
        lambda A: A.trace(),
        lambda a, y, d: d[0].trace(),
        lambda a, y, u: (u * torch.eye(len(a[0])).to(a[0]),),
        lambda g: (_general(g),),
    ),
    Rule(
        "det",
        lu.det,
        lambda a, y, d: y * solve(a[0], d[0]).trace(),
        lambda a, y, u: (u * y * lu.inv(a[0]).mT,),
        _regular,
    ),
    Rule(
        "logdet",
        lambda A: lu.slogdet(A)[1],
        lambda a, y, d: solve(a[0], d[0]).trace(),
        lambda a, y, u: (u * lu.inv(a[0]).mT,),
        _regular,
    ),
    Rule(
        "inverse",
        lu.inv,
        lambda a, y, d: -solve(a[0], d[0]) @ y,
        lambda a, y, u: (-solve(a[0].mT, u @ y.mT),),
        _regular,
    ),
    Rule(
        "solve",
        solve,
        lambda a, y, d: solve(a[0], d[1] - d[0] @ y),
        _solve_vjp,
        lambda g: (*_regular(g), torch.randn(5, generator=g, dtype=torch.float64)),
    ),
    _outer_norm(lambda A: A / torch.linalg.matrix_norm(A), "norm_fro", torch.linalg.matrix_norm),
    _outer_norm(_polar_factor, "norm_nuc", lambda A: torch.linalg.matrix_norm(A, "nuc")),
    _outer_norm(_top_pair, "norm_2", lambda A: torch.linalg.matrix_norm(A, 2)),
    Rule("eigh", _eigh, _eigh_jvp, _eigh_vjp, _separated),
    Rule("svd", _svd, _svd_jvp, _svd_vjp, _tall),
    Rule("qr", _qr, _qr_jvp, _qr_vjp, _tall),
    Rule("cholesky", lambda A: torch.linalg.cholesky(_symmetric(A)), _cholesky_jvp, _cholesky_vjp, _positive),
    _matrix_function("expm", "exp", lambda g: (_general(g) / 2,)),
    _matrix_function("logm", "log", _right_half),
    _matrix_function("cosm", "cos", lambda g: (_general(g) / 2,)),
    _matrix_function("sinm", "sin", lambda g: (_general(g) / 2,)),
    Rule(
        "sqrtm",
        _sqrtm,
        lambda a, y, d: solve_sylvester(y, y, d[0]),
        lambda a, y, u: (solve_sylvester(y.mT, y.mT, u),),
        _right_half,
    ),
    Rule("signm", _signm, _signm_jvp, _signm_vjp, _both_halves),
)
