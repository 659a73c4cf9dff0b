"""What the papers on pseudoinverses of products, on meta-factorisation and on hidden projectors claim, measured."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from _seconds import seconds
from torch import Tensor

from resolvent import factor
from resolvent.claims import Measured, Scale, claim
from resolvent.random import gaussian


def with_values(m: int, n: int, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, s, V of a matrix with random singular vectors."""
    U = torch.linalg.qr(gaussian((m, len(s)), generator=0)).Q
    V = torch.linalg.qr(gaussian((n, len(s)), generator=1)).Q
    return U, s, V


def random_pairs(count: int) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
    """Factors of random sizes and ranks, and whether both have full rank."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        m, k, n = rng.integers(2, 15, 3)
        rc, rr = rng.integers(1, min(m, k) + 1), rng.integers(1, min(k, n) + 1)
        C = rng.standard_normal((m, rc)) @ rng.standard_normal((rc, k))
        R = rng.standard_normal((k, rr)) @ rng.standard_normal((rr, n))
        yield C, R, bool(rc == k and rr == k)


def relative(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


@claim(
    paper="The Pseudoinverse of A=CR is A^+=R^+C^+ (?)",
    method=factor.pinv_product,
    says="(C^+ C R)^+ (C R R^+)^+ is the pseudoinverse of C R for all factors: 200 random pairs, most of them deficient",
    at_most=1e-10,
)
def general_formula(scale: Scale) -> Measured:
    worst, deficient = 0.0, 0
    for C, R, full in random_pairs(scale(quick=200, full=2000)):
        deficient += not full
        exact = np.linalg.pinv(C @ R, rcond=1e-11)
        worst = max(worst, relative(factor.pinv_product(C, R, rtol=1e-11).to_dense(), exact))
    return Measured(worst, unit="largest relative error", note=f"{deficient} pairs without full rank")


@claim(
    paper="The Pseudoinverse of A=CR is A^+=R^+C^+ (?)",
    method=factor.pinv_product,
    says="R^+ C^+ is right for independent columns of C and rows of R, and wrong for others: by a factor of 2 for [1 0] [1; 1]",
    at_least=1.0,
)
def reverse_order(scale: Scale) -> Measured:
    told = total = 0
    for C, R, full in random_pairs(scale(quick=200, full=2000)):
        exact = np.linalg.pinv(C @ R, rcond=1e-11)
        naive = np.linalg.pinv(R, rcond=1e-11) @ np.linalg.pinv(C, rcond=1e-11)
        try:
            found = factor.pinv_product(C, R, method="reverse", rtol=1e-11).to_dense()
            agrees = full and relative(found, exact) < 1e-8
        except ValueError:
            # Refused: rightly so only if the formula is wrong there.
            agrees = relative(naive, exact) > 1e-6
        told, total = told + agrees, total + 1
    C, R = np.array([[1.0, 0.0]]), np.array([[1.0], [1.0]])
    ratio = (np.linalg.pinv(C @ R) / (np.linalg.pinv(R) @ np.linalg.pinv(C))).item()
    value = told / total if abs(ratio - 2) < 1e-12 else math.nan
    return Measured(value, unit="of the pairs told apart", note=f"{total} pairs; the example is off by {ratio:.3g}")


@claim(
    paper="The Pseudoinverse of A=CR is A^+=R^+C^+ (?)",
    method=factor.pinv,
    says="(P^T A)^+ P^T A Q (A Q)^+ of a matrix of rank 40 is its pseudoinverse to 1e-8",
    at_most=1e-8,
)
def randomized_error(scale: Scale) -> Measured:
    m, n, r = scale(quick=(400, 300, 40), full=(2500, 2000, 40))
    A = (gaussian((m, r), generator=0) @ gaussian((r, n), generator=1)).numpy()
    found, info = factor.pinv(A, method="randomized", generator=2, return_info=True)
    error = relative(found.to_dense(), np.linalg.pinv(A, rcond=1e-10))
    return Measured(error, unit="relative error", note=f"rank {found.s.shape[0]} found, {info.matvecs} products")


@claim(
    paper="The Pseudoinverse of A=CR is A^+=R^+C^+ (?)",
    method=factor.pinv,
    says="and takes a tenth of the time of numpy.linalg.pinv at most",
    at_least=10.0,
)
def randomized_speed(scale: Scale) -> Measured:
    m, n, r = scale(quick=(1600, 1300, 40), full=(2500, 2000, 40))
    A = (gaussian((m, r), generator=0) @ gaussian((r, n), generator=1)).numpy()
    # One after the other: NumPy's threads spin for a while after its SVD, and would slow down what follows.
    (ours,) = seconds(lambda: factor.pinv(A, method="randomized", rank=r, generator=2))
    (theirs,) = seconds(lambda: np.linalg.pinv(A), repeats=1)
    return Measured(theirs / ours, unit="x faster", note=f"{ours * 1e3:.1f} and {theirs * 1e3:.0f} ms")


@claim(
    paper="The Pseudoinverse of A=CR is A^+=R^+C^+ (?)",
    method=factor.pinv,
    says="with noise of 1e-10 on a matrix of rank 40 and condition 1000 the error is within 100 times of that of the truncated SVD",
    at_most=100.0,
)
def randomized_with_noise(scale: Scale) -> Measured:
    m, n = scale(quick=(600, 400), full=(2500, 2000))
    U, s, V = with_values(m, n, torch.logspace(0, -3, 40, dtype=torch.float64))
    noise = gaussian((m, n), generator=5)
    A = (U * s) @ V.mT + 1e-10 / (math.sqrt(m) + math.sqrt(n)) * noise
    exact = ((V / s) @ U.mT).numpy()
    best = relative(torch.linalg.pinv(A, rtol=1e-6).numpy(), exact)
    errors = [
        relative(factor.pinv(A, method="randomized", rank=40, generator=seed).to_dense().numpy(), exact)
        for seed in range(3)
    ]
    return Measured(max(errors) / best, unit="x the error", note=f"{max(errors):.1e}, truncated SVD {best:.1e}")


def test_matrices(n: int) -> Iterator[tuple[str, Tensor]]:
    """Those of the paper's listing: random, randsvd of condition 1e4, circulant, and of low rank (cycol)."""
    yield "random", gaussian((3 * n // 2, n), generator=0)
    U, s, V = with_values(3 * n, n, torch.logspace(0, -4, n, dtype=torch.float64))
    yield "randsvd", (U * s) @ V.mT
    row = gaussian((n,), generator=2)
    yield "circulant", torch.stack([row.roll(i) for i in range(n)])
    yield "cycol", gaussian((n, -(-n // 5)), generator=3).repeat(1, 5)


@claim(
    paper="A theory of meta-factorization",
    method=factor.meta_factor,
    says="SVD, QR, UTV, CUR, Nystrom and the pseudoinverse are solutions F G H^T of its two equations: reconstruction, projectors",
    at_most=1e-11,
)
def known_factorizations(scale: Scale) -> Measured:
    worst, where = 0.0, ""
    for name, A in test_matrices(scale(quick=40, full=200)):
        for preset in ("svd", "qr", "utv", "cur", "nystrom", "pinv"):
            found = factor.meta_factor(A, preset=preset, generator=0)
            wanted = torch.linalg.pinv(A, rtol=1e-10) if preset == "pinv" else A
            P, R = found.column_projector.to_dense(), found.row_projector.to_dense()
            gaps = ((found.operator().to_dense(), wanted), (P @ P, P), (R @ R, R), (P @ wanted @ R, wanted))
            error = max(float(torch.dist(a, b) / torch.linalg.matrix_norm(b)) for a, b in gaps)
            if error > worst:
                worst, where = error, f"{preset} of {name}"
    return Measured(worst, unit="largest relative error", note=where)


@claim(
    paper="A theory of meta-factorization",
    method=factor.meta_factor,
    says="cut off at rank k the SVD has the least error, and QR and UTV at most twice that: k up to half of the rank",
    at_most=2.0,
)
def low_rank(scale: Scale) -> Measured:
    worst, where, exact, both = 0.0, "", 0.0, 0.0
    n = scale(quick=60, full=200)
    for name, A in test_matrices(n):
        s = torch.linalg.svdvals(A)
        rank = int((s > 1e-10 * s[0]).sum())
        for share in (0.1, 0.25, 0.5):
            k = max(1, int(share * rank))
            best = float(s[k:].norm())
            for preset in ("svd", "qr", "utv"):
                found = factor.meta_factor(A, preset=preset, rank=k).operator().to_dense()
                ratio = float(torch.dist(found, A)) / best
                if preset == "svd":
                    exact = max(exact, abs(ratio - 1))
                elif ratio > worst:
                    worst, where = ratio, f"{preset} of {name}, k = {k}"
            two_sided = factor.meta_factor(A, preset="utv", core="svd", rank=k).operator().to_dense()
            both = max(both, float(torch.dist(two_sided, A)) / best)
    note = f"{where}; the two-sided UTV {both:.2f}"
    return Measured(worst if exact < 1e-9 else math.nan, unit="x the least error", note=note)


@claim(
    paper="A theory of meta-factorization",
    method=factor.MetaFactorization,
    says="resistor network: a disconnected set of edges cannot replace a spanning tree, mismatch sqrt(390)/6, residual sqrt(105)/3",
    at_most=1e-12,
)
def resistor_network(scale: Scale) -> Measured:
    def incidence(*edges: tuple[int, int]) -> Tensor:
        columns = torch.zeros(5, len(edges), dtype=torch.float64)
        for e, (i, j) in enumerate(edges):
            columns[i - 1, e], columns[j - 1, e] = 1, -1
        return columns

    B = incidence((1, 2), (2, 3), (1, 3), (3, 4), (4, 5), (3, 5))
    A = (B * torch.tensor([2.0, 1.0, 3.0, 1.0, 4.0, 2.0], dtype=torch.float64)) @ B.mT
    tree = incidence((1, 2), (2, 3), (3, 4), (4, 5))
    found = factor.meta_factor(A, tree, tree)
    kept = found.replace(incidence((1, 3), (2, 3), (3, 5), (4, 5)))
    refused = found.compare(incidence((1, 2), (2, 3), (1, 3), (4, 5)))
    gaps = (refused.mismatch - math.sqrt(390) / 6, refused.residual - math.sqrt(105) / 3)
    other_tree = float(torch.dist(kept.operator().to_dense(), A) / torch.linalg.matrix_norm(A))
    value = max(*(abs(g) for g in gaps), other_tree) if not refused.exact else math.nan
    note = f"{refused.mismatch:.6f} and {refused.residual:.6f}; another spanning tree is exact to {other_tree:.0e}"
    return Measured(value, unit="largest error", note=note)


METHODS = ("lu", "qr", "svd", "cur", "cholesky")


def deficient(count: int) -> Iterator[tuple[np.ndarray, str, np.random.Generator]]:
    """Random matrices without full rank, each with a factorisation."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        for method in METHODS:
            m, n = rng.integers(6, 30, 2)
            r = rng.integers(1, min(m, n) - 1)
            A = rng.standard_normal((m, r)) @ rng.standard_normal((r, n))
            yield (A @ A.T if method == "cholesky" else A), method, rng


@claim(
    paper="The secret life of matrix factorizations: how matrix decompositions reveal and keep secrets of linear equations and what we can do about it",
    method=factor.projectors,
    says="every factorisation hides a projector on the columns and one on the rows: P P = P, P_col A = A = A P_row (LU to CUR)",
    at_most=1e-10,
)
def hidden_projectors(scale: Scale) -> Measured:
    worst = 0.0
    for A, method, _ in deficient(scale(quick=50, full=500)):
        P, R = (projector.to_dense() for projector in factor.projectors(A, method=method))
        worst = max(worst, relative(P @ P, P), relative(R @ R, R), relative(P @ A, A), relative(A @ R, A))
    return Measured(worst, unit="largest relative error", note="; ".join(METHODS))


@claim(
    paper="The secret life of matrix factorizations: how matrix decompositions reveal and keep secrets of linear equations and what we can do about it",
    method=factor.solve_with,
    says="they solve A X = B: the solution of least norm is that of numpy.linalg.pinv to 1e-9",
    at_most=1e-9,
)
def matrix_equations(scale: Scale) -> Measured:
    worst = 0.0
    for A, method, rng in deficient(scale(quick=50, full=500)):
        B = A @ rng.standard_normal((A.shape[1], 3))
        found = factor.solve_with(factor.meta_factor(A, preset=method), B)
        worst = max(worst, relative(found.X, np.linalg.pinv(A, rcond=1e-11) @ B))
    return Measured(worst, unit="largest relative error")


@claim(
    paper="The secret life of matrix factorizations: how matrix decompositions reveal and keep secrets of linear equations and what we can do about it",
    method=factor.solve_with,
    says="A X = B has a solution if and only if P_col B = B: right-hand sides with and without one are told apart",
    at_least=1.0,
)
def consistency(scale: Scale) -> Measured:
    told = total = 0
    for A, method, rng in deficient(scale(quick=50, full=500)):
        factors = factor.meta_factor(A, preset=method)
        B = A @ rng.standard_normal((A.shape[1], 3))
        off = B + 1e-5 * np.abs(B).max() * rng.standard_normal(B.shape)
        told += factor.solve_with(factors, B).consistent + (not factor.solve_with(factors, off).consistent)
        total += 2
    return Measured(told / total, unit="of the cases", note=f"{total} right-hand sides")


@claim(
    paper="The secret life of matrix factorizations: how matrix decompositions reveal and keep secrets of linear equations and what we can do about it",
    method=factor.MatrixCipher,
    says="the projector equation decrypts whatever random mask was added, and a wrong key does not",
    at_most=1e-10,
)
def cipher(scale: Scale) -> Measured:
    own, between, wrong = 0.0, math.inf, math.inf
    for seed in range(scale(quick=50, full=500)):
        right, other = (factor.MatrixCipher.random((16, 12), (24, 20), generator=2 * seed + i) for i in (0, 1))
        M = gaussian((16, 12), generator=seed)
        G, again = (right.encrypt(M, generator=seed + i) for i in (1000, 5000))
        own = max(own, float(torch.dist(right.decrypt(G), M) / M.norm()))
        between = min(between, float(torch.dist(G, again) / G.norm()))
        wrong = min(wrong, float(torch.dist(other.decrypt(G), M) / M.norm()))
    value = own if between > 0.1 and wrong > 0.5 else math.nan
    note = f"ciphertexts of one message differ by {between:.2g} at least, a wrong key by {wrong:.2g}"
    return Measured(value, unit="relative error", note=note)


@claim(
    paper="The secret life of matrix factorizations: how matrix decompositions reveal and keep secrets of linear equations and what we can do about it",
    method=factor.known_plaintext_attack,
    says="and it is linear: as many known pairs as a ciphertext has numbers break it, one less does not",
    at_most=1.0,
)
def pairs_that_break_it(scale: Scale) -> Measured:
    shape, size = scale(quick=((4, 3), (6, 5)), full=((8, 6), (12, 10)))
    key = factor.MatrixCipher.random(shape, size, generator=0)
    messages = [gaussian(shape, generator=i) for i in range(key.dimension)]
    pairs = [key.encrypt(M, generator=10_000 + i) for i, M in enumerate(messages)]
    needed = math.inf
    for count in range(key.dimension - 5, key.dimension + 1):
        try:
            stolen = factor.known_plaintext_attack(messages[:count], pairs[:count])
        except ValueError:
            continue
        secret = gaussian(shape, generator=99_999)
        if float(torch.dist(stolen.decrypt(key.encrypt(secret, generator=1)), secret) / secret.norm()) < 1e-6:
            needed = count
            break
    return Measured(needed / key.dimension, unit="x the key's dimension", note=f"{needed} pairs, {size[0]} x {size[1]}")
