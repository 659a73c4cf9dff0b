"""Bilinear schemes: tensors against loops, Brent equations, changes of format, files, what is refused."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from resolvent.factor import (
    BilinearScheme,
    bilinear_tensor,
    known_scheme,
    load_scheme,
    save_scheme,
    standard_scheme,
)

OPS = [a + b for a in "gulskw" for b in "gulskwt"]


def structured(letter, n, rng):
    """A random integer matrix and its parameters, made without the library."""
    A = rng.integers(-5, 6, (n, n))
    if letter == "g":
        return A, A.ravel()
    if letter == "l":
        return np.tril(A), np.tril(A).T[np.triu_indices(n)]
    upper = np.triu(A, 1 if letter == "k" else 0)
    other = {"u": 0, "s": 1, "k": -1, "w": -1}[letter]
    return upper + other * np.triu(A, 1).T, A[np.triu_indices(n, 1 if letter == "k" else 0)]


@pytest.mark.parametrize("op", OPS)
def test_tensors_are_products(op):
    rng, n = np.random.default_rng(0), 3
    A, a = structured(op[0], n, rng)
    if op[1] == "t":
        B, b = A.T, a
    else:
        B, b = structured(op[1], n, rng)
    wanted = (A @ B)[np.triu_indices(n)] if op[1] == "t" else (A @ B).ravel()
    np.testing.assert_array_equal(np.einsum("ijk,i,j->k", bilinear_tensor(op, n), a, b), wanted)
    scheme = standard_scheme(op, n)
    assert scheme.verify()
    assert scheme.rank == np.count_nonzero(bilinear_tensor(op, n))


@pytest.mark.parametrize("name", ["strassen", "winograd"])
def test_known_schemes(name):
    scheme = known_scheme(name)
    assert (scheme.rank, scheme.verify(), scheme.ternary) == (7, True, True)
    for mode, i in itertools.product("UVW", range(7)):
        parts = {part: getattr(scheme, part).copy() for part in "UVW"}
        parts[mode][i, 0] += 1
        assert not BilinearScheme(**parts).verify()


def test_structured_known_schemes():
    upper = known_scheme("triangular")
    assert (upper.op, upper.rank, upper.verify(), int(upper.own_products().sum())) == ("ug", 34, True, 12)
    gram = known_scheme("gram")
    assert (gram.op, gram.rank, gram.verify(), int(gram.own_products().sum())) == ("gt", 34, True, 11)


def test_changes_of_format():
    strassen, winograd = known_scheme("strassen"), known_scheme("winograd")
    for axis in range(3):
        longer = strassen.extend(axis)
        assert (longer.rank, longer.sizes[axis], longer.verify()) == (11, 3, True)
        for index in range(3):
            assert longer.project(axis, index).verify()
        assert longer.project(axis).rank == 7
        both = strassen.merge(winograd, axis)
        assert (both.rank, both.sizes[axis], both.verify()) == (14, 4, True)
    product = strassen.extend(2).product(winograd)
    assert (product.sizes, product.rank, product.verify()) == ((4, 4, 6), 77, True)
    for order in itertools.permutations(range(3)):
        turned = standard_scheme("gg", (1, 2, 3)).merge(standard_scheme("gg", (1, 2, 2)), 2).permute(order)
        assert (turned.sizes, turned.verify()) == (tuple((1, 2, 5)[i] for i in order), True)


def test_denominators_and_moduli():
    strassen = known_scheme("strassen")
    halves = BilinearScheme(strassen.U, strassen.V, 2 * strassen.W, denominator=2)
    assert halves.verify()
    assert halves.merge(strassen, 1).verify()
    assert halves.product(halves).verify()
    three = BilinearScheme(strassen.U + 3, strassen.V, strassen.W, modulus=3)
    assert three.verify()
    assert not BilinearScheme(three.U, three.V, three.W).verify()
    with pytest.raises(ValueError, match="different primes"):
        three.product(BilinearScheme(strassen.U, strassen.V, strassen.W, modulus=2))


def test_additions():
    # 18 for Strassen's as published; 24 for Winograd's without shared sums.
    assert known_scheme("strassen").additive_cost() == 18
    assert known_scheme("winograd").additive_cost() == 24
    assert standard_scheme("gg", (3, 4, 5)).additive_cost() == 3 * 3 * 5


@pytest.mark.parametrize("ending", ["txt", "json"])
def test_files(tmp_path, ending):
    scheme = known_scheme("winograd").extend(2).extend(0)
    file = tmp_path / f"scheme.{ending}"
    save_scheme(scheme, file)
    found = load_scheme(file)
    for part in "UVW":
        np.testing.assert_array_equal(getattr(found, part), getattr(scheme, part))


def test_published_layout(tmp_path):
    # The third factor is by columns of C: Strassen's scheme written by hand in this way.
    file = tmp_path / "strassen.txt"
    rows = [
        "1 0 0 1  0 0 1 1  1 0 0 0  0 0 0 1  1 1 0 0  -1 0 1 0  0 1 0 -1",
        "1 0 0 1  1 0 0 0  0 1 0 -1  -1 0 1 0  0 0 0 1  1 1 0 0  0 0 1 1",
        "1 0 0 1  0 1 0 -1  0 0 1 1  1 1 0 0  -1 0 1 0  0 0 0 1  1 0 0 0",
    ]
    file.write_text("\n".join(["2 2 2 7", *rows]))
    np.testing.assert_array_equal(load_scheme(file).W, known_scheme("strassen").W)
    file.write_text("\n".join(["2 2 2 7", rows[0], rows[1], rows[2].replace("1 0 0 0", "2 0 0 0")]))
    with pytest.raises(ValueError, match="outside of -1, 0, 1"):
        load_scheme(file)
    with pytest.raises(ValueError, match="Brent"):
        load_scheme(file, ring="Z")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "2 2 2 7\n1 0 0"),
        ("a.txt", "2 2 2 9999999999"),
        ("a.txt", "2 2"),
        ("a.txt", "words"),
        ("a.txt", "2 2 2 99999999999999999999999"),
        ("a.json", "{"),
        ("a.json", "[1]"),
        ("a.json", json.dumps({"n": [2, 2, 2], "u": [[1]], "v": [[1]], "w": [[1]]})),
        ("a.json", json.dumps({"n": [2, 2, True], "u": [], "v": [], "w": []})),
        ("a.json", json.dumps({"n": [1, 1, 1], "u": [[0.5]], "v": [[1]], "w": [[2]]})),
    ],
)
def test_corrupt_files(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=r"scheme|hold integers"):
        load_scheme(tmp_path / name)


def test_bad_input(tmp_path):
    strassen = known_scheme("strassen")
    with pytest.raises(ValueError, match="op must be two letters"):
        bilinear_tensor("gx", 2)
    with pytest.raises(ValueError, match="positive ints"):
        bilinear_tensor("gg", (2, 0, 2))
    with pytest.raises(ValueError, match="must be square"):
        standard_scheme("ug", (2, 3, 2))
    with pytest.raises(ValueError, match="as many columns"):
        standard_scheme("gt", (2, 3, 4))
    with pytest.raises(ValueError, match="as many rows"):
        BilinearScheme(strassen.U[:6], strassen.V, strassen.W)
    with pytest.raises(ValueError, match="matrix of integers"):
        BilinearScheme(strassen.U / 2, strassen.V, strassen.W)
    with pytest.raises(ValueError, match="shape must be given"):
        BilinearScheme(strassen.U[:, :3], strassen.V, strassen.W)
    with pytest.raises(ValueError, match="but for axis 0"):
        strassen.merge(strassen.extend(1), 0)
    with pytest.raises(ValueError, match="axis must be"):
        strassen.extend(3)
    with pytest.raises(ValueError, match="permutation"):
        strassen.permute((0, 0, 1))
    with pytest.raises(ValueError, match="index must be"):
        strassen.project(0, 5)
    with pytest.raises(ValueError, match="general operands"):
        save_scheme(standard_scheme("sg", 2), tmp_path / "a.txt")
    with pytest.raises(ValueError, match="must be 'strassen'"):
        known_scheme("other")
    with pytest.raises(ValueError, match="denominator must be"):
        BilinearScheme(strassen.U, strassen.V, strassen.W, denominator=0)


def test_large_numbers():
    s = known_scheme("strassen")
    for over, right in ((2**64, True), (2**64 + 1, False)):
        scheme = BilinearScheme(s.U * 2**20, s.V * 2**20, s.W * 2**24, "gg", s.sizes, over)
        assert scheme.verify() is right
    for bad in (float("inf"), float("nan"), 1e30):
        with pytest.raises(ValueError, match="U must"):
            BilinearScheme(np.full((7, 4), bad), s.V, s.W)


def test_a_small_file_asks_for_no_huge_tensor(tmp_path):
    file = tmp_path / "huge.txt"
    file.write_text("64 64 64 1 " + "0 " * (3 * 4096))
    with pytest.raises(ValueError, match="tensor of the format"):
        load_scheme(file)
