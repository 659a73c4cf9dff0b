"""Which hits are relevant: scores mapped by the query itself to probabilities, and one threshold for all queries."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from resolvent.operators.arrays import as_tensor, check_finite
from resolvent.random import GeneratorLike, as_generator
from resolvent.search.hits import Hits

Form = Literal["power", "linear", "sqrt", "platt", "isotonic", "relative", "cosine"]
_LEARNED = ("power", "linear", "sqrt")
_CONSTANT = ("platt", "isotonic", "relative", "cosine")


class RelevanceCutoff:
    r"""Map scores to calibrated relevance by a function that depends on the query, and cut at one threshold.

    A small network on the query vector gives the parameters of a monotone function f of the score c, clipped to [0, 1], so
    that the order of hits never changes: power :math:`a c^p + b`, linear :math:`a c + b`, square root
    :math:`a\sqrt c + b`, with a > 0 and p > 0; relevance is the sigmoid of f. A retriever stays as it is.

    Parameters
    ----------
    form : "power", "linear" or "sqrt"; or a baseline without a network: "platt" (sigmoid of one linear function),
        "isotonic" (the monotone step function of least squares), "relative" (share of the query's best score), "cosine"
        (the score itself)
    hidden : width of the network's hidden layer
    steps : of AdamW, on batches of queries
    lr : largest learning rate
    generator : torch.Generator, int or None

    Attributes
    ----------
    threshold : the threshold on mapped scores that `fit` or `calibrate` has chosen; None before
    precision, recall : of what it keeps, on the queries that were held out to choose it

    References
    ----------
    "Relevance Filtering for Embedding-based Retrieval"

    Examples
    --------
    >>> import numpy as np
    >>> r = np.random.default_rng(0)
    >>> q, scores = r.normal(size=(200, 4)), r.random((200, 20))
    >>> labels = scores > 0.3 + 0.4 * (q[:, :1] > 0)             # how high is enough depends on the query
    >>> cut = RelevanceCutoff("linear", generator=0).fit(q, scores, labels)
    >>> cut.precision > 0.9 and cut.recall > 0.9
    True
    """

    def __init__(
        self,
        form: Form = "power",
        hidden: int = 64,
        *,
        steps: int = 600,
        lr: float = 1e-2,
        generator: GeneratorLike = None,
    ) -> None:
        if form not in _LEARNED + _CONSTANT:
            raise ValueError(f"form must be one of {', '.join(_LEARNED + _CONSTANT)}, got {form!r}")
        for name, value in (("hidden", hidden), ("steps", steps)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if not lr > 0:
            raise ValueError(f"lr must be positive, got {lr}")
        self.form, self.hidden, self.steps, self.lr = form, hidden, steps, lr
        self._generator = generator
        self._network: nn.Module | None = None
        self._steps_x = self._steps_y = np.empty(0)
        self.threshold: float | None = None
        self.precision = self.recall = float("nan")
        self._held: tuple[np.ndarray, np.ndarray] | None = None

    def fit(
        self,
        query_vectors: Any,
        scores: Any,
        labels: Any,
        *,
        target_precision: float | None = None,
        held_out: float = 0.2,
    ) -> RelevanceCutoff:
        """Learn the map, then choose the threshold on queries that were held out.

        Parameters
        ----------
        query_vectors : (b, d)
        scores : (b, m) scores of the retriever's hits; -inf where there is none
        labels : (b, m) 0 or 1, is the hit relevant
        target_precision : see `calibrate`
        held_out : share of the queries that only choose the threshold

        Returns
        -------
        self
        """
        q, c, y = self._pairs(query_vectors, scores, labels)
        if not 0 < held_out < 1:
            raise ValueError(f"held_out must lie between 0 and 1, got {held_out}")
        g = as_generator(self._generator)
        order = torch.randperm(len(q), generator=g)
        count = max(1, round(held_out * len(q)))
        if count >= len(q):
            raise ValueError(f"query_vectors must have at least 2 queries, got {len(q)}")
        test, train = order[:count], order[count:]
        there = torch.isfinite(c)
        if self.form in _LEARNED:
            self._train(q[train], c[train], y[train], there[train], g)
        elif self.form == "platt":
            self._train(torch.zeros(len(train), 1), c[train], y[train], there[train], g)
        elif self.form == "isotonic":
            self._step_function(c[train][there[train]], y[train][there[train]])
        mapped = self.transform(q[test], c[test])
        self._held = (mapped[there[test].numpy()], y[test][there[test]].numpy())
        return self.calibrate(target_precision)

    def calibrate(self, target_precision: float | None = None) -> RelevanceCutoff:
        """Choose the threshold anew: the smallest whose precision reaches the target; without a target, of the best F1."""
        if self._held is None:
            raise ValueError("fit the cutoff before it is calibrated")
        if target_precision is not None and not 0 < target_precision <= 1:
            raise ValueError(f"target_precision must lie in (0, 1], got {target_precision}")
        values, labels = self._held
        order = np.argsort(-values, kind="stable")
        hits, ranked = np.cumsum(labels[order]), values[order]
        # A threshold keeps all hits of one value or none.
        ends = np.flatnonzero(np.append(ranked[1:] < ranked[:-1], True))
        precision = hits[ends] / (ends + 1)
        recall = hits[ends] / max(hits[-1], 1) if len(hits) else hits
        if target_precision is None:
            best = int(np.argmax(2 * precision * recall / np.maximum(precision + recall, 1e-12)))
        else:
            good = np.flatnonzero(precision >= target_precision)
            if not len(good):
                raise ValueError(
                    f"target_precision {target_precision} is not reached by any threshold on the held-out queries: the best"
                    f" precision is {precision.max():.3f}"
                )
            best = int(good[-1])
        self.threshold = float(ranked[ends[best]])
        self.precision, self.recall = float(precision[best]), float(recall[best])
        return self

    def transform(self, query_vectors: Any, scores: Any) -> np.ndarray:
        """Mapped scores (b, m) in [0, 1], in the order of the scores within each query; -inf stays."""
        q, c, _ = self._pairs(query_vectors, scores, None)
        there = torch.isfinite(c)
        if self.form == "cosine":
            out = c.double()
        elif self.form == "relative":
            best = torch.where(there, c, torch.zeros_like(c)).amax(1, keepdim=True).clamp(min=1e-12)
            out = (c / best).double()
        elif self.form == "isotonic":
            if not len(self._steps_x):
                raise ValueError("fit the cutoff before it is used")
            out = torch.from_numpy(np.interp(c.numpy(), self._steps_x, self._steps_y))
        else:
            if self._network is None:
                raise ValueError("fit the cutoff before it is used")
            seen = torch.zeros(len(q), 1) if self.form == "platt" else q
            with torch.no_grad():
                out = self._relevance(seen, c).double().sigmoid()
        return torch.where(there, out, -torch.inf).numpy()

    def apply(
        self, hits: Hits, queries: Any, *, target_precision: float | None = None, threshold: float | None = None
    ) -> Hits:
        """Drop the hits whose mapped score is below the threshold.

        Parameters
        ----------
        hits : of b queries (or one)
        queries : (b, d) or (d,), their vectors
        target_precision : choose the threshold for this precision, see `calibrate`
        threshold : use this one

        Returns
        -------
        Hits
            with the mapped scores; what is dropped became padding, and ``explain["cutoff"]`` says how many in all. No hit
            at all is a legal answer.
        """
        if target_precision is not None:
            self.calibrate(target_precision)
        level = self.threshold if threshold is None else threshold
        if level is None:
            raise ValueError("threshold must be given: the cutoff has not been fitted")
        one = np.ndim(hits.scores) == 1
        kind_torch = isinstance(hits.scores, Tensor)
        raw = np.atleast_2d(hits.scores.cpu().numpy() if kind_torch else hits.scores)
        q = np.atleast_2d(queries.detach().cpu().numpy() if isinstance(queries, Tensor) else np.asarray(queries))
        mapped = self.transform(q, raw)
        keep = mapped >= level
        dropped = int((np.isfinite(raw) & ~keep).sum())
        scores = np.where(keep, mapped, -np.inf).astype(np.float32)
        ids = np.atleast_2d(hits.ids.cpu().numpy() if isinstance(hits.ids, Tensor) else hits.ids).copy()
        ids[~keep] = None if ids.dtype == object else -1
        out: list[Any] = [part[0] if one else part for part in (ids, scores)]
        if kind_torch:
            out = [p if p.dtype == object else torch.as_tensor(p, device=hits.scores.device) for p in out]
        note = {"threshold": level, "dropped": dropped, "form": self.form}
        return Hits(out[0], out[1], hits.evaluations, hits.scanned, {**hits.explain, "cutoff": note})

    def _pairs(self, query_vectors: Any, scores: Any, labels: Any) -> tuple[Tensor, Tensor, Tensor]:
        q, _ = as_tensor(query_vectors, "query_vectors")
        c, _ = as_tensor(scores, "scores")
        check_finite(q, "query_vectors")
        if q.ndim != 2 or c.ndim != 2 or len(q) != len(c):
            raise ValueError(
                f"query_vectors (b, d) and scores (b, m) must have the same b, got {tuple(q.shape)} and {tuple(c.shape)}"
            )
        if bool(torch.isnan(c).any()) or bool((c == torch.inf).any()):
            raise ValueError("scores has NaN or infinite entries (only -inf, for no hit, is allowed)")
        if self.form in (*_LEARNED, "platt") and bool((c.abs() > 1 + 1e-3).logical_and(torch.isfinite(c)).any()):
            raise ValueError(
                f"scores must lie between -1 and 1, like cosines, for the form {self.form!r}, which clips them to [0, 1]: "
                "scale them, or take 'isotonic' or 'relative'"
            )
        y = torch.zeros_like(c) if labels is None else as_tensor(labels, "labels")[0]
        if y.shape != c.shape or not bool(((y == 0) | (y == 1)).all()):
            raise ValueError(
                f"labels must be 0 or 1 in the shape of scores, {tuple(c.shape)}, got shape {tuple(y.shape)}"
            )
        if labels is not None and (not bool(y.any()) or bool(y.all())):
            raise ValueError("labels must have both relevant and irrelevant hits")
        return tuple(t.detach().cpu().float() for t in (q, c, y))  # type: ignore[return-value]

    def _relevance(self, q: Tensor, c: Tensor) -> Tensor:
        """f(c; theta(q)), (b, m)."""
        a, b, p = self._network(q).unbind(1)  # type: ignore[misc]
        slope = nn.functional.softplus(a)[:, None]
        clipped = torch.where(torch.isfinite(c), c, torch.zeros_like(c)).clamp(1e-6, 1)
        if self.form == "power":
            clipped = clipped ** nn.functional.softplus(p)[:, None]
        elif self.form == "sqrt":
            clipped = clipped.sqrt()
        return slope * clipped + b[:, None]

    def _train(self, q: Tensor, c: Tensor, y: Tensor, there: Tensor, g: torch.Generator) -> None:
        """Binary cross-entropy over all hits of a batch of queries."""
        width = q.shape[1]
        centre, spread = q.mean(0), q.std(0).clamp(min=1e-6) if len(q) > 1 else torch.ones(width)
        network = _Adapter(centre, spread, self.hidden, g)
        self._network = network
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.lr, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=self.steps)
        size = min(128, len(q))
        for _ in range(self.steps):
            pick = torch.randint(len(q), (size,), generator=g)
            seen = there[pick]
            loss = nn.functional.binary_cross_entropy_with_logits(
                self._relevance(q[pick], c[pick])[seen], y[pick][seen]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    def _step_function(self, c: Tensor, y: Tensor) -> None:
        from scipy.optimize import isotonic_regression

        order = torch.argsort(c)
        self._steps_x = c[order].double().numpy()
        # A little slope keeps the order of scores within a step.
        fitted = isotonic_regression(y[order].double().numpy()).x
        self._steps_y = (1 - 1e-9) * fitted + 1e-9 * np.linspace(0, 1, len(fitted))


class _Adapter(nn.Module):
    """From a query vector to the three parameters of the map."""

    centre: Tensor
    spread: Tensor

    def __init__(self, centre: Tensor, spread: Tensor, hidden: int, g: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("centre", centre)
        self.register_buffer("spread", spread)
        # Without the initialisation of torch, which would draw from its global generator.
        self.first = nn.utils.skip_init(nn.Linear, len(centre), hidden)
        self.last = nn.utils.skip_init(nn.Linear, hidden, 3)
        with torch.no_grad():
            bound = len(centre) ** -0.5
            self.first.weight.uniform_(-bound, bound, generator=g)
            self.first.bias.uniform_(-bound, bound, generator=g)
            self.last.weight.zero_()
            # To begin with the map is 4 c - 2 for every query (p = 1).
            self.last.bias.copy_(torch.tensor([3.98, -2.0, 0.5413]))

    def forward(self, q: Tensor) -> Tensor:
        return self.last(torch.nn.functional.gelu(self.first((q - self.centre) / self.spread)))
