"""Joint training: the loss against its formula, what moves and what stays, and better ranks for what it was trained on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resolvent import search


def data(n=800, dim=16, queries=96):
    x = search.clustered_vectors(n, dim, clusters=20, generator=0).x
    g = torch.Generator().manual_seed(1)
    relevant = torch.randint(n, (queries,), generator=g)
    return x, x[relevant] + 0.3 * torch.randn(queries, dim, generator=g), relevant


def identity(dim=16):
    layer = torch.nn.Linear(dim, dim)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(dim))
        layer.bias.zero_()
    return layer


def test_the_loss_is_the_papers_formula_and_has_its_gradient():
    r = np.random.default_rng(0)
    trainer = search.JointPQ(m=2, bits=4, lambda_cut=3)
    z = torch.tensor(r.normal(size=(2, 4)), requires_grad=True)
    words = torch.tensor(r.normal(size=(2, 2, 16)), requires_grad=True)
    codes = torch.from_numpy(r.integers(0, 16, (12, 2)))
    found = torch.tensor([[3, 5, 1, 0], [2, 7, 9, 4]])
    relevant = [torch.tensor([1, 8]), torch.tensor([2])]
    loss = trainer._loss(z, words, codes, found, relevant)
    total = 0.0
    for i, good in enumerate(relevant):
        listed = found[i].tolist() + [d for d in good.tolist() if d not in found[i].tolist()]
        y = [np.concatenate([words[s, :, codes[d, s]].detach().numpy() for s in range(2)]) for d in listed]
        scores = [float(z[i].detach().numpy() @ v) for v in y]
        ranks = [1 / (n + 1) if n < 3 else 0.0 for n in range(len(listed))]
        pairs = [
            np.log1p(np.exp(scores[b] - scores[a])) * abs(ranks[b] - ranks[a])
            for a, p in enumerate(listed) if p in good.tolist()
            for b, d in enumerate(listed) if d not in good.tolist()
        ]  # fmt: skip
        total += np.mean(pairs) / 2
    assert float(loss.detach()) == pytest.approx(total)
    assert torch.autograd.gradcheck(lambda a, b: trainer._loss(a, b, codes, found, relevant), (z, words))


def test_training_lifts_the_relevant_documents_and_keeps_codes_and_rotation():
    x, queries, relevant = data()
    start = search.OPQ(m=4, bits=4, refine=0).build(x)
    before = start.codebook.books.copy()
    encoder = identity()
    tuned = search.JointPQ(m=4, bits=4, top=100).fit(
        encoder, x, queries, relevant.tolist(), epochs=6, rate=1e-3, codeword_rate=1e-2, index=start
    )
    place = (tuned.query(queries, 10).ids == relevant[:, None]).any(1).float().mean()
    assert place > (start.query(queries, 10).ids == relevant[:, None]).any(1).float().mean() + 0.05
    assert tuned.losses[-1] < tuned.losses[0]
    assert (tuned.index.codes() == start.codes()).all() and (tuned.index.codebook.turn == start.codebook.turn).all()
    assert (start.codebook.books == before).all() and not (tuned.index.codebook.books == before).all()
    assert bool((encoder.weight == torch.eye(16)).all()) and not bool(
        (tuned.query_encoder.weight == torch.eye(16)).all()
    )


@pytest.mark.parametrize("what", ["encoder", "codewords"])
def test_each_part_can_be_trained_alone(what):
    x, queries, relevant = data(400, queries=32)
    start = search.OPQ(m=4, bits=4, refine=0).build(x)
    chosen = {"train_encoder": what == "encoder", "train_codewords": what == "codewords"}
    tuned = search.JointPQ(m=4, bits=4, top=40, **chosen).fit(
        identity(), x, queries, relevant.tolist(), epochs=1, rate=1e-3, codeword_rate=1e-3, index=start
    )
    assert bool((tuned.query_encoder.weight == torch.eye(16)).all()) == (what == "codewords")
    assert (tuned.index.codebook.books == start.codebook.books).all() == (what == "encoder")


def test_the_result_is_an_ordinary_index():
    x, queries, relevant = data(400, queries=32)
    tuned = search.JointPQ(m=4, bits=4, top=40).fit(identity(), x, queries, relevant.tolist(), epochs=1)
    again = search.OPQ.restore(tuned.index.settings(), tuned.index.arrays())
    q = tuned.query_encoder(queries).detach()
    assert bool((again.query(q, 5).ids == tuned.query(queries, 5).ids).all())
    found = tuned.query(queries.numpy(), 5)
    assert isinstance(found.ids, np.ndarray) and tuned.index.code_size == 2


def test_the_same_seed_gives_the_same_training():
    x, queries, relevant = data(300, queries=32)
    a, b = (
        search.JointPQ(m=4, bits=4, top=40, generator=5).fit(identity(), x, queries, relevant.tolist(), epochs=1)
        for _ in "ab"
    )
    assert a.losses == b.losses and (a.index.codebook.books == b.index.codebook.books).all()


def test_bad_input_names_the_argument():
    x, queries, _ = data(300, queries=4)
    trainer = search.JointPQ(m=4, bits=4)
    with pytest.raises(ValueError, match=r"documents 0\.\.299, query 1 has \[300\]"):
        trainer.fit(identity(), x, queries, [0, 300, 1, 2])
    with pytest.raises(ValueError, match="query 2 has none"):
        trainer.fit(identity(), x, queries, [[0], [1], [], [2]])
    with pytest.raises(ValueError, match="each of the 4 queries, got 3"):
        trainer.fit(identity(), x, queries, [0, 1, 2])
    with pytest.raises(ValueError, match=r"query_encoder must give shape \(4, 16\)"):
        trainer.fit(torch.nn.Linear(16, 8), x, queries, [0, 1, 2, 3])
    with pytest.raises(ValueError, match="metric 'ip'"):
        trainer.fit(identity(), x, queries, [0, 1, 2, 3], index=search.OPQ(m=4, bits=4, metric="l2").build(x))
    with pytest.raises(ValueError, match="nothing to train"):
        search.JointPQ(train_encoder=False, train_codewords=False)
