"""Queries and documents as normal distributions, whose divergence any inner-product index can search."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from resolvent.operators.arrays import Kind, as_tensor, check_finite, give_back_array
from resolvent.random import GeneratorLike, as_generator
from resolvent.search.ranking_loss import Teacher, fit_rankings

# Beyond these a variance says nothing more, and its inverse or its product with a mean leaves the range of float32.
_LEAST, _MOST = 1e-4, 1e4


def gaussian_query_vector(mu: Any, var: Any) -> Any:
    r"""Turn the distribution of a query into a vector of length 2k + 1: :math:`(1, v + m^2, m)`.

    Parameters
    ----------
    mu : (..., k) means m
    var : (..., k) variances v, positive

    Returns
    -------
    (..., 2k + 1), in the kind, dtype and device of `mu`.

    Raises
    ------
    ValueError : shapes differ, NaN or infinity, a variance that is not positive.

    Notes
    -----
    The inner product with `gaussian_document_vector` is :math:`-2\,KL(Q \| D) - \sum_i \ln v_i - k`: over the documents of
    one query the order of the negative divergences. Gradients reach both arguments.

    References
    ----------
    "Multivariate Representation Learning for Information Retrieval"

    Examples
    --------
    >>> import torch
    >>> gaussian_query_vector(torch.tensor([2.0]), torch.tensor([0.5]))
    tensor([1.0000, 4.5000, 2.0000])
    """
    m, v, kind = _moments(mu, var)
    return give_back_array(torch.cat([torch.ones_like(m[..., :1]), v + m * m, m], -1), kind)


def gaussian_document_vector(mu: Any, var: Any) -> Any:
    r"""Turn the distribution of a document into a vector of length 2k + 1: :math:`(g, -1/v, 2m/v)`.

    Here :math:`g = -\sum_i (\ln v_i + m_i^2 / v_i)`.

    Parameters
    ----------
    mu : (..., k) means m
    var : (..., k) variances v, positive

    Returns
    -------
    (..., 2k + 1), in the kind, dtype and device of `mu`.

    Raises
    ------
    ValueError : shapes differ, NaN or infinity, a variance that is not positive.

    Notes
    -----
    Cancellation limits the accuracy in float32: terms of size m^2 / v meet in the inner product, where the divergence
    itself has (m_q - m_d)^2 / v. Gradients reach both arguments.

    References
    ----------
    "Multivariate Representation Learning for Information Retrieval"

    Examples
    --------
    >>> import torch
    >>> gaussian_document_vector(torch.tensor([2.0]), torch.tensor([1.0]))
    tensor([-4., -1.,  4.])
    """
    m, v, kind = _moments(mu, var)
    g = -(v.log() + m * m / v).sum(-1, keepdim=True)
    return give_back_array(torch.cat([g, -1 / v, 2 * m / v], -1), kind)


def gaussian_divergence(query: tuple[Any, Any], document: tuple[Any, Any]) -> Any:
    r"""The divergence :math:`KL(Q \| D)` of normal distributions with independent coordinates.

    Parameters
    ----------
    query, document : pairs ``(mu, var)`` of (..., k) means and variances that broadcast

    Returns
    -------
    (...) divergences, at least 0, in the kind, dtype and device of the query's means.

    Raises
    ------
    ValueError : as for `gaussian_query_vector`.

    Notes
    -----
    :math:`\frac12 \sum_i (\ln(v_d/v_q) - 1 + v_q/v_d + (m_q - m_d)^2 / v_d)`, summed as it stands: no cancellation between
    large terms. Gradients reach all four arguments.

    References
    ----------
    "Multivariate Representation Learning for Information Retrieval"

    Examples
    --------
    >>> import torch
    >>> gaussian_divergence((torch.zeros(2), torch.ones(2)), (torch.ones(2), torch.ones(2)))
    tensor(1.)
    """
    mq, vq, kind = _moments(*query)
    md, vd, _ = _moments(*document)
    md, vd = md.to(mq), vd.to(mq)
    ratio = vq / vd
    value = 0.5 * (ratio - 1 - ratio.log() + (mq - md).square() / vd).sum(-1)
    return give_back_array(value, kind)


class GaussianEmbedding(nn.Module):
    r"""A mean and a variance for every input, from an encoder with two heads.

    Parameters
    ----------
    encoder : a module (or function) of a batch of inputs; it gives hidden states (b, hidden), or a pair of such for the
        mean and for the variance (a text encoder: those of two special tokens)
    hidden : length of a hidden state
    dim : k; vectors have length 2k + 1 (the paper takes 381 beside 768)
    beta : of the softplus :math:`\ln(1 + e^{\beta x}) / \beta` that makes variances positive; they end within 1e-4 and 1e4
    generator : of the heads' first weights

    Notes
    -----
    Ranking by `query_vectors` and `document_vectors` in any index with metric "ip" is ranking by the negative divergence.

    References
    ----------
    "Multivariate Representation Learning for Information Retrieval"

    Examples
    --------
    >>> import torch
    >>> model = GaussianEmbedding(torch.nn.Tanh(), hidden=8, dim=3, generator=0)
    >>> model.query_vectors(torch.ones(5, 8)).shape
    torch.Size([5, 7])
    """

    def __init__(
        self,
        encoder: Callable[[Any], Any],
        hidden: int,
        dim: int,
        *,
        beta: float = 1.0,
        generator: GeneratorLike = None,
    ) -> None:
        super().__init__()
        for name, value in (("hidden", hidden), ("dim", dim)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive int, got {value!r}")
        if not 0 < beta < math.inf:
            raise ValueError(f"beta must be positive and finite, got {beta!r}")
        self.encoder = encoder
        self.beta = beta
        self.mean, self.variance = nn.Linear(hidden, dim), nn.Linear(hidden, dim)
        g = as_generator(generator)
        for head in (self.mean, self.variance):
            nn.init.normal_(head.weight, std=hidden**-0.5, generator=g)
            nn.init.zeros_(head.bias)

    def forward(self, inputs: Any) -> tuple[Tensor, Tensor]:
        """Means and variances (b, dim)."""
        states = self.encoder(inputs)
        for_mean, for_variance = states if isinstance(states, tuple) else (states, states)
        var = nn.functional.softplus(self.variance(for_variance), beta=self.beta).clamp(_LEAST, _MOST)
        return self.mean(for_mean), var

    def query_vectors(self, inputs: Any) -> Tensor:
        """(b, 2 dim + 1), for the queries of an index with metric "ip"."""
        return _joined(gaussian_query_vector, self(inputs))

    def document_vectors(self, inputs: Any) -> Tensor:
        """(b, 2 dim + 1), for the rows of an index with metric "ip"."""
        return _joined(gaussian_document_vector, self(inputs))

    def fit(self, queries: Tensor, documents: Tensor, teacher: Teacher, **options: Any) -> Self:
        """Learn the order of a teacher.

        Parameters
        ----------
        queries, documents : (n_q, ...) and (n_d, ...) inputs of the encoder
        teacher : (n_q, n_d) scores, or a function of query numbers (b,) and document numbers (b, c) that gives (b, c)
        **options : `stages`, `steps`, `batch`, `candidates`, `pool`, `lr`, `generator`, see
            `resolvent.search.ranking_loss.fit_rankings`

        Returns
        -------
        The model itself; ``model.losses`` holds the loss of every step.
        """
        if len(queries) < 1 or len(documents) < 2:
            raise ValueError(f"fit needs queries and two documents, got {len(queries)} and {len(documents)}")
        # The inner product is twice the negative divergence and a number of the query: half of it is the score.
        self.losses = fit_rankings(
            self.query_vectors,
            self.document_vectors,
            self.parameters(),
            queries,
            documents,
            teacher,
            scale=0.5,
            **options,
        )
        return self


def _joined(vector: Callable[[Any, Any], Any], moments: tuple[Tensor, Tensor]) -> Tensor:
    made: Tensor = vector(*moments)
    return made


def _moments(mu: Any, var: Any) -> tuple[Tensor, Tensor, Kind]:
    m, kind = as_tensor(mu, "mu")
    v, _ = as_tensor(var, "var")
    if m.shape != v.shape or m.ndim == 0 or m.shape[-1] == 0:
        raise ValueError(f"mu and var must both be (..., k), k >= 1, got {tuple(m.shape)} and {tuple(v.shape)}")
    check_finite(m, "mu")
    check_finite(v, "var")
    if bool((v.detach() <= 0).any()):
        raise ValueError(f"var must be positive, its smallest entry is {float(v.detach().min()):g}")
    return m, v.to(m), kind


__all__ = ["GaussianEmbedding", "gaussian_divergence", "gaussian_document_vector", "gaussian_query_vector"]
