"""Block operators: facts, holes, sizes."""

import pytest
import torch

from resolvent.operators import Block, BlockDiagonal, Identity, Permutation, Zero, as_operator

F64 = torch.float64


def test_facts_of_the_blocks_are_facts_of_the_diagonal():
    eye, P = Identity(2), Permutation(torch.tensor([1, 2, 0]))
    assert BlockDiagonal(eye, eye).positive and BlockDiagonal(eye, eye).unitary
    assert BlockDiagonal(eye, P).unitary and not BlockDiagonal(eye, P).hermitian
    assert not BlockDiagonal(eye, torch.ones(2, 2)).hermitian


def test_the_singular_values_are_those_of_the_blocks():
    a, b = torch.randn(4, 2, dtype=F64), torch.randn(1, 3, dtype=F64)
    found = torch.linalg.svdvals(BlockDiagonal(a, b).to_dense())
    expected = torch.cat([torch.linalg.svdvals(a), torch.linalg.svdvals(b)]).sort(descending=True).values
    torch.testing.assert_close(found[:3], expected)


def test_the_hermitian_dilation_has_the_singular_values_of_its_block():
    b = torch.randn(3, 2, dtype=torch.complex128)
    B = as_operator(b)
    A = Block([[None, B], [B.H, None]]).declare(hermitian=True)
    s = torch.linalg.svdvals(b)
    expected = torch.cat([s, -s, torch.zeros(1, dtype=F64)]).sort().values
    torch.testing.assert_close(torch.linalg.eigvalsh(A.to_dense()), expected, atol=1e-12, rtol=0)
    assert A.H is A
    assert A._diagonal().abs().max() == 0


def test_blocks_of_blocks():
    a = torch.randn(2, 2, dtype=F64)
    A = Block([[BlockDiagonal(a, a), Zero(4, 1, dtype=F64)]])
    torch.testing.assert_close(A @ torch.ones(5, dtype=F64), torch.cat([a.sum(1), a.sum(1)]))
    assert repr(A).count("Dense") == 2


def test_entries_ask_only_the_blocks_concerned():
    asked = []

    class Watched(Identity):
        def _entries(self, rows, cols):
            asked.append((len(rows), len(cols)))
            return super()._entries(rows, cols)

    A = BlockDiagonal(*(Watched(10) for _ in range(5)))
    assert A[[3, 14], [14, 3, 49]].tolist() == [[0, 1, 0], [1, 0, 0]]
    assert asked == [(1, 1), (1, 1)]


def test_empty_blocks_have_a_place():
    A = BlockDiagonal(torch.ones(0, 2), torch.ones(2, 0), torch.eye(1))
    assert A.shape == (3, 3)
    assert A.to_dense().tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ([], "grid must be rows"),
        ([[torch.ones(1, 1)], []], "grid must be rows"),
        ([[None]], "at least one block"),
        ([[torch.ones(1, 1), None], [torch.ones(1, 1), None]], "column 1 has only None"),
        ([[None, None], [torch.ones(1, 1), torch.ones(1, 1)]], "row 0 has only None"),
        ([[torch.ones(1, 2), torch.ones(2, 2)]], r"row 0 must agree in size, got \[1, 2\]"),
        ([[torch.ones(1, 2)], [torch.ones(1, 3)]], r"column 0 must agree in size, got \[2, 3\]"),
        ([[torch.ones(2, 1, 1)], [torch.ones(3, 1, 1)]], "batch shapes"),
    ],
)
def test_bad_grids_are_named(grid, words):
    with pytest.raises(ValueError, match=words):
        Block(grid)


def test_no_block_at_all():
    with pytest.raises(ValueError, match="BlockDiagonal needs"):
        BlockDiagonal()
