"""Which lost products of a distributed multiplication can be done without, how likely a loss is, and which spare ones help."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from resolvent.factor.bilinear import BilinearScheme
from resolvent.factor.failure_kernel import in_span, lost_subsets
from resolvent.factor.multiply import SchemeLike, _scheme
from resolvent.factor.structured_product import bilinear_tensor

Pair = tuple[tuple[int, ...], tuple[int, ...]]

# Ranks modulo two primes: exact where the minors are below them, else both must agree.
_PRIMES = (2147483647, 2147483629)
_MOST_NODES = 21
_CANDIDATES = 100_000


class Reliability(NamedTuple):
    """How often a system of nodes loses the product.

    Attributes
    ----------
    failure : probability that the result cannot be decoded
    counts : counts[k] of the patterns of k lost nodes cannot be decoded, k = 0 ... nodes
    nodes : how many there are
    """

    failure: float
    counts: tuple[int, ...]
    nodes: int


@functools.lru_cache(maxsize=64)
def node_vectors(pairs: tuple[Pair, ...]) -> np.ndarray:
    """The vector of each node in the space of the products a_ij b_kl."""
    return np.array([np.kron(u, v) for u, v in pairs], np.int64)


def target_vectors(shape: tuple[int, int, int]) -> np.ndarray:
    """The entries (blocks) of the result in the same space."""
    T = bilinear_tensor("gg", shape)
    return T.reshape(-1, T.shape[2]).T


def as_nodes(schemes: Any, parity: Iterable[Any] = ()) -> tuple[tuple[Pair, ...], tuple[int, int, int]]:
    """The pairs (u, v) of all products of the schemes, then the spare ones, and the format."""
    if isinstance(schemes, str | BilinearScheme) or not isinstance(schemes, Sequence) or not schemes:
        raise ValueError(f"schemes must be a list of schemes or of 'strassen' and 'winograd', got {schemes!r}")
    found = [_scheme(scheme, f"schemes[{i}]") for i, scheme in enumerate(schemes)]
    shape = found[0].sizes
    for i, scheme in enumerate(found):
        if scheme.op != "gg" or scheme.sizes != shape:
            raise ValueError(f"schemes[{i}] must multiply general operands of the format {shape}, got {scheme!r}")
    pairs = [(tuple(map(int, u)), tuple(map(int, v))) for s in found for u, v in zip(s.U, s.V, strict=True)]
    widths = len(pairs[0][0]), len(pairs[0][1])
    for i, pair in enumerate(parity):
        u, v = (tuple(int(x) for x in part) for part in pair)
        if (len(u), len(v)) != widths or not any(u) or not any(v):
            raise ValueError(f"parity[{i}] must be a pair of nonzero vectors of lengths {widths}, got {pair!r}")
        pairs.append((u, v))
    return tuple(pairs), shape


def survivors(count: int, failed: Iterable[int]) -> list[int]:
    """The nodes that are left."""
    lost = set()
    for node in failed:
        if isinstance(node, bool) or not isinstance(node, int | np.integer) or not 0 <= node < count:
            raise ValueError(f"failed must hold nodes from 0 to {count - 1}, got {node!r}")
        lost.add(int(node))
    return [node for node in range(count) if node not in lost]


def decodable(schemes: Sequence[SchemeLike], failed: Iterable[int] = (), *, parity: Iterable[Any] = ()) -> bool:
    """Whether the product of two matrices can be had although some nodes are lost.

    Parameters
    ----------
    schemes : schemes of one format, "strassen" and "winograd" among them; each of their products is a node
    failed : the nodes that are lost, counted through the schemes in their order and then the parities
    parity : spare nodes, pairs (u, v): each multiplies the sum u of blocks of A by the sum v of blocks of B

    Returns
    -------
    bool : whether every block of the result is a combination of the products that are left

    Raises
    ------
    ValueError : schemes of different formats, nodes that do not exist.

    Notes
    -----
    A product of sums is a vector in the space of the products a_ij b_kl (dimension 16 for 2 x 2 blocks), a block of
    the result is another; the question is one of ranks, answered exactly.

    References
    ----------
    "Fault-Tolerant Strassen-Like Matrix Multiplication"

    Examples
    --------
    >>> decodable(["strassen"], [0]), decodable(["strassen", "winograd"], [0, 1])
    (False, True)
    """
    pairs, shape = as_nodes(schemes, parity)
    left = survivors(len(pairs), failed)
    P, T = node_vectors(pairs)[left], target_vectors(shape)
    return _spans(P, T)


def reliability(schemes: Sequence[SchemeLike], p: float, *, parity: Iterable[Any] = ()) -> Reliability:
    r"""The probability that the product is lost when each node fails by itself, :math:`\sum_k c_k p^k (1-p)^{n-k}`.

    Parameters
    ----------
    schemes, parity : as in `decodable`
    p : probability that a node fails

    Returns
    -------
    Reliability : the probability, and for each number of lost nodes the patterns that cannot be decoded

    Raises
    ------
    ValueError : p not between 0 and 1, or more than 21 different nodes.

    Notes
    -----
    All subsets of the different nodes are tried (copies count as one that is there as long as one copy is), each with
    the ranks of the one before it: 2^16 subsets take a fraction of a second, 2^21 some seconds.

    References
    ----------
    "Fault-Tolerant Strassen-Like Matrix Multiplication"

    Examples
    --------
    >>> reliability(["strassen", "winograd"], 0.01).counts[:3]
    (0, 0, 2)
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p must be a probability, got {p!r}")
    pairs, shape = as_nodes(schemes, parity)
    counts = failure_counts(pairs, shape)
    n = len(pairs)
    failure = math.fsum(count * p**k * (1 - p) ** (n - k) for k, count in enumerate(counts))
    return Reliability(failure, counts, n)


@functools.lru_cache(maxsize=64)
def failure_counts(pairs: tuple[Pair, ...], shape: tuple[int, int, int]) -> tuple[int, ...]:
    """For each number of lost nodes, how many patterns cannot be decoded."""
    P = node_vectors(pairs)
    distinct: dict[tuple[int, ...], int] = {}
    for row in P:
        divisor = int(np.gcd.reduce(row)) * int(np.sign(row[np.flatnonzero(row)[0]]))
        key = tuple(row // divisor)
        distinct[key] = distinct.get(key, 0) + 1
    if len(distinct) > _MOST_NODES:
        raise ValueError(f"schemes and parity must have at most {_MOST_NODES} different nodes, got {len(distinct)}")
    vectors, copies = np.array(list(distinct), np.int64), np.array(list(distinct.values()))
    T = target_vectors(shape)
    lost = lost_subsets(vectors % _PRIMES[0], T % _PRIMES[0], _PRIMES[0])
    if _largest_minor(np.concatenate([vectors, T])) >= _PRIMES[1]:
        again = lost_subsets(vectors % _PRIMES[1], T % _PRIMES[1], _PRIMES[1])
        if not np.array_equal(lost, again):
            raise ArithmeticError("ranks modulo two primes differ; scale the schemes to smaller coefficients")
    bad = np.flatnonzero(lost)
    kinds = np.unique(copies)
    present = (bad[:, None] >> np.arange(len(vectors))) & 1
    # Patterns of a subset: all copies of an absent node are lost, not all copies of a present one.
    signature = np.stack([(present & (copies == c)).sum(1) for c in kinds], 1)
    total = [0] * (len(pairs) + 1)
    for row, often in zip(*np.unique(signature, axis=0, return_counts=True), strict=True):
        polynomial = [1]
        for c, there in zip(kinds.tolist(), row.tolist(), strict=True):
            for _ in range(there):
                polynomial = _times(polynomial, [math.comb(c, k) for k in range(c)])
            polynomial = [0] * (c * (int((copies == c).sum()) - there)) + polynomial
        for k, value in enumerate(polynomial):
            total[k] += value * int(often)
    return tuple(total)


def parity_search(schemes: Sequence[SchemeLike], n_extra: int = 2, *, beam: int = 6) -> tuple[Pair, ...]:
    """Spare products that repair the losses which the schemes alone cannot stand.

    Parameters
    ----------
    schemes : as in `decodable`
    n_extra : how many spare products
    beam : how many beginnings are followed

    Returns
    -------
    Tuple of pairs (u, v) of vectors with entries -1, 0 and 1.

    Raises
    ------
    ValueError : formats with more than 100000 candidates, a negative `n_extra`.

    Notes
    -----
    All pairs of vectors are tried (1600 for 2 x 2 blocks). Best is what leaves the fewest undecodable patterns of one
    lost node, then of two, of three; of equals the one with the fewest nonzeros. A candidate repairs a pattern
    if what is missing to the result is one direction and the candidate has it, so that all are tested at once. No
    randomness.

    References
    ----------
    "Fault-Tolerant Strassen-Like Matrix Multiplication"

    Examples
    --------
    >>> spare = parity_search(["strassen", "winograd"], 1)
    >>> reliability(["strassen", "winograd"], 0.01, parity=spare).counts[:3]
    (0, 0, 1)
    """
    for name, value, least in (("n_extra", n_extra, 0), ("beam", beam, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an int, at least {least}, got {value!r}")
    pairs, shape = as_nodes(schemes)
    return search_parities(pairs, shape, n_extra, beam)


@functools.lru_cache(maxsize=16)
def search_parities(
    pairs: tuple[Pair, ...], shape: tuple[int, int, int], n_extra: int, beam: int = 6
) -> tuple[Pair, ...]:
    """`parity_search` on nodes."""
    widths = len(pairs[0][0]), len(pairs[0][1])
    if 3 ** sum(widths) // 4 > _CANDIDATES:
        raise ValueError(f"schemes: the format {shape} has too many candidates for a parity, at most {_CANDIDATES}")
    choices = [
        (u, v) for u in _ternary_vectors(widths[0]) for v in _ternary_vectors(widths[1])
    ]  # fmt: skip
    X = node_vectors(tuple(choices))
    sparse = np.count_nonzero(X, axis=1)
    beams: list[tuple[Pair, ...]] = [()]
    for _ in range(n_extra):
        found = []
        for chosen in beams:
            scores = np.column_stack([_unrepaired((*pairs, *chosen), shape, X), sparse])
            for at in np.lexsort(scores.T[::-1])[:beam]:
                found.append((tuple(scores[at].tolist()), (*chosen, choices[at])))
        beams = [chosen for _, chosen in sorted(found)[:beam]]
    return beams[0]


def _unrepaired(pairs: tuple[Pair, ...], shape: tuple[int, int, int], X: np.ndarray) -> np.ndarray:
    """For each candidate, the undecodable patterns of 1, 2 and 3 lost nodes once it is a node too."""
    P, T = node_vectors(pairs), target_vectors(shape)
    bad: list[list[tuple[int, ...]]] = [[]]
    for size in (1, 2, 3):
        known = {pattern for pattern in bad[-1]}
        bad.append(
            [
                lost
                for lost in itertools.combinations(range(len(P)), size)
                if any(part in known for part in itertools.combinations(lost, size - 1))
                or not _spans(np.delete(P, lost, 0), T)
            ]
        )
    scores = np.zeros((len(X), 3), np.int64)
    for size in (1, 2, 3):
        # With the candidate lost as well, what is left must do with one loss less.
        scores[:, size - 1] += len(bad[size - 1])
        for lost in bad[size]:
            scores[:, size - 1] += ~_repairs(np.delete(P, lost, 0), T, X)
    return scores


def _repairs(P: np.ndarray, T: np.ndarray, X: np.ndarray) -> np.ndarray:
    """Whether P and one row of X span T, for each row."""
    prime = _PRIMES[0]
    M = np.concatenate([P, T, X]) % prime
    for _ in range(len(P)):
        M = _eliminated(M, prime)
    missing, rest = M[: len(T)], M[len(T) :]
    nonzero = np.flatnonzero(missing.any(1))
    first = missing[nonzero[0]]
    if _eliminated(np.concatenate([first[None], missing]), prime).any():
        return np.zeros(len(X), bool)
    apart = _eliminated(np.concatenate([first[None], rest]), prime).any(axis=1)
    return np.logical_and(~apart, rest.any(axis=1))


def _eliminated(M: np.ndarray, prime: int) -> np.ndarray:
    """The rows after the first, less the multiples of it that clear its first column that is not zero."""
    columns = np.flatnonzero(M[0])
    if not len(columns):
        return M[1:]
    pivot = M[0] * pow(int(M[0, columns[0]]), -1, prime) % prime
    return (M[1:] - M[1:, columns[:1]] * pivot) % prime


def _spans(P: np.ndarray, T: np.ndarray) -> bool:
    """Whether the rows of T are combinations of those of P."""
    found = {in_span(P % prime, T % prime, prime) for prime in _PRIMES}
    if len(found) > 1:
        raise ArithmeticError("ranks modulo two primes differ; scale the schemes to smaller coefficients")
    return found.pop()


def _ternary_vectors(size: int) -> Iterator[tuple[int, ...]]:
    """Vectors of -1, 0, 1 whose first nonzero is 1."""
    for vector in itertools.product((0, 1, -1), repeat=size):
        if any(vector) and next(x for x in vector if x) == 1:
            yield vector


def _times(p: list[int], q: list[int]) -> list[int]:
    out = [0] * (len(p) + len(q) - 1)
    for i, x in enumerate(p):
        for j, y in enumerate(q):
            out[i + j] += x * y
    return out


def _largest_minor(M: np.ndarray) -> float:
    """Hadamard's bound for all minors."""
    squares = np.sort((M.astype(float) ** 2).sum(1))[::-1][: M.shape[1]]
    return math.exp(0.5 * float(np.log(np.maximum(squares, 1)).sum()))
