"""What the paper of exact linear systems claims, measured."""

import math
from fractions import Fraction
from time import perf_counter

import flint
import numpy as np
from _seconds import seconds

from resolvent import solve
from resolvent.claims import Measured, Scale, claim
from resolvent.solve.modular_kernel import row_reducer


def over_q(a: np.ndarray) -> flint.fmpq_mat:
    return flint.fmpq_mat(flint.fmpz_mat([[int(x) for x in row] for row in a]))


def dependent_system(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """n + 0.3 n equations in n unknowns with entries up to 10^3, of which 30 percent follow from the others."""
    rng = np.random.default_rng(seed)
    first = rng.integers(-1000, 1001, (n, n))
    extra = n * 3 // 7
    pairs = rng.integers(0, n, (extra, 2))
    follow = first[pairs[:, 0]] - first[pairs[:, 1]]
    A = np.concatenate([first, follow])[rng.permutation(n + extra)]
    return A, A @ rng.integers(-9, 10, n) if seed % 2 else A @ np.ones(n, dtype=np.int64)


@claim(
    paper="FiniteFieldSolve: Exactly Solving Large Linear Systems in High-Energy Theory",
    method=solve.rational_solve,
    says="the exact solution: Hilbert of order 30 and random systems up to n = 300, 30 percent dependent rows, as FLINT",
    at_most=0,
)
def equal_to_flint(scale: Scale) -> Measured:
    wrong = 0
    for n in scale(quick=(60, 100), full=(60, 100, 200, 300)):
        A, _ = dependent_system(n, n)
        rng = np.random.default_rng(n)
        kept = solve.independent_rows(A)
        # Numbers on the right that make long fractions: as many as the independent rows, continued to the others.
        b = np.zeros(len(A), dtype=object)
        b[list(kept)] = rng.integers(-1000, 1001, n)
        weights = solve.rational_solve(A[list(kept)].T, A.T).values
        b = np.array([sum(w * x for w, x in zip(column, b[list(kept)], strict=True)) for column in weights.T])
        found = solve.rational_solve(A, b)
        exact = over_q(A[list(kept)]).solve(over_q([[x] for x in b[list(kept)]]))
        wrong += sum(Fraction(int(y.p), int(y.q)) != x for x, y in zip(found.values, exact.entries(), strict=True))
    hilbert = [[Fraction(1, i + j + 1) for j in range(30)] for i in range(30)]
    exact = flint.fmpq_mat.hilbert(30, 30).solve(over_q([[1]] * 30))
    found = solve.rational_solve(hilbert, [1] * 30).values
    wrong += sum(Fraction(int(y.p), int(y.q)) != x for x, y in zip(found, exact.entries(), strict=True))
    return Measured(wrong, unit="entries that differ")


@claim(
    paper="FiniteFieldSolve: Exactly Solving Large Linear Systems in High-Energy Theory",
    method=solve.rational_solve,
    says="at least 50 times faster than the reduced row echelon form of sympy",
    at_least=50.0,
)
def faster_than_sympy(scale: Scale) -> Measured:
    import sympy

    n = scale(quick=130, full=200)
    rng = np.random.default_rng(0)
    A, b = rng.integers(-1000, 1001, (n, n)), rng.integers(-1000, 1001, n)
    matrix = sympy.Matrix(np.column_stack([A, b]).tolist())
    start = perf_counter()
    echelon, _ = matrix.rref()
    slow = perf_counter() - start
    (fast,) = seconds(lambda: solve.rational_solve(A, b).values, repeats=3)
    ours = solve.rational_solve(A, b).values
    same = all(Fraction(int(y.p), int(y.q)) == x for x, y in zip(ours, echelon[:, n], strict=True))
    return Measured(slow / fast if same else math.nan, unit="x faster", note=f"n = {n}: {slow:.3g} s and {fast:.3g} s")


@claim(
    paper="FiniteFieldSolve: Exactly Solving Large Linear Systems in High-Energy Theory",
    method=solve.modular_rref,
    says="a prime that the compiler knows: at least 1.5 times faster than the same kernel with it as an argument",
    at_least=1.5,
)
def constant_prime(scale: Scale) -> Measured:
    n, p = scale(quick=300, full=500), 65521
    A = np.random.default_rng(0).integers(0, p, (n, n)).astype(np.uint16)
    results = {}

    def run(prime: int) -> None:
        work, pivots = A.copy(), np.empty(n, np.int64)
        row_reducer(prime)(work, True, np.uint32(p), pivots)
        results[prime] = work

    fast, slow = seconds(lambda: run(p), lambda: run(0), repeats=9)
    same = np.array_equal(results[p], results[0])
    return Measured(slow / fast if same else math.nan, unit="x faster", note=f"n = {n}: {fast * 1e3:.2g} ms")


@claim(
    paper="FiniteFieldSolve: Exactly Solving Large Linear Systems in High-Energy Theory",
    method=solve.rational_solve,
    says="overdetermined, rank deficient (2000 x 300 of rank 250), all solutions: not slower than FLINT's echelon form",
    at_least=1.0,
)
def overdetermined(scale: Scale) -> Measured:
    m, n, rank = scale(quick=(1000, 150, 125), full=(2000, 300, 250))
    rng = np.random.default_rng(0)
    A = rng.integers(-3, 4, (m, rank)) @ rng.integers(-9, 10, (rank, n))
    b = A @ rng.integers(-9, 10, n)
    theirs = flint.fmpz_mat(np.column_stack([A, b]).tolist())
    fast, slow = seconds(lambda: solve.rational_solve(A, b), theirs.rref, repeats=scale(quick=3, full=1))
    found = solve.rational_solve(A, b)
    echelon, scale_by, r = theirs.rref()
    same = r == rank == found.rank and all(
        Fraction(int(echelon[i, f]), int(scale_by)) == -found.nullspace[j, k]
        for i, j in enumerate(found.pivots)
        for k, f in enumerate(found.free)
    )
    note = f"{m} x {n}, rank {rank}: {fast:.3g} s and {slow:.3g} s"
    return Measured(slow / fast if same else math.nan, unit="x faster", note=note)
