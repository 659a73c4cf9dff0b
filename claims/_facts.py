"""Synthetic knowledge: entities, relations, answers, and several ways to ask for each."""

import torch

_FILLERS, _PHRASINGS, _SYLLABLES, _ENDINGS = 12, 4, 40, 20


class Facts:
    """Entities have names of two syllables, facts answers of two tokens; a relation is asked for in four phrasings.

    The memory is filled with the first phrasing, questions have the other three.
    """

    def __init__(self, entities: int, relations: int, seed: int) -> None:
        g = torch.Generator().manual_seed(seed)

        def draw(high: int, *shape: int) -> torch.Tensor:
            return torch.randint(high, shape, generator=g)

        self.relations = relations
        self._words = 2 + _FILLERS
        syllables = self._words + relations * _PHRASINGS * 2
        endings = syllables + 2 * _SYLLABLES
        self.vocabulary = endings + 2 * _ENDINGS
        names = torch.randperm(_SYLLABLES**2, generator=g)[:entities]
        self._names = torch.stack([syllables + names // _SYLLABLES, syllables + _SYLLABLES + names % _SYLLABLES], 1)
        parts = (draw(_ENDINGS, entities, relations), _ENDINGS + draw(_ENDINGS, entities, relations))
        self._answers = endings + torch.stack(parts, -1)
        self._fill = 2 + draw(_FILLERS, relations, _PHRASINGS, 3)
        self.every = range(entities)
        self.seen, self.unseen = range(entities // 2), range(entities // 2, entities)

    def _ask(self, entity: int, relation: int, phrasing: int) -> list[int]:
        first = self._words + 2 * (relation * _PHRASINGS + phrasing)
        a, b, c = self._fill[relation, phrasing].tolist()
        name = self._names[entity].tolist()
        return [a, first, *name, first + 1, b] if phrasing % 2 else [first, a, b, first + 1, *name, c]

    def places(self, entities: range) -> list[int]:
        """Where the facts of some entities are in the memory of all."""
        return [e * self.relations + r for e in entities for r in range(self.relations)]

    def entries(self, entities: range) -> tuple[list[list[int]], list[list[int]]]:
        """Keys and values of a memory."""
        pairs = [(e, r) for e in entities for r in range(self.relations)]
        return [self._ask(e, r, 0) for e, r in pairs], [self._answers[e, r].tolist() for e, r in pairs]

    def questions(self, entities: range, phrasings: int, seed: int) -> tuple[list[list[int]], list[list[int]]]:
        """Each fact asked for in so many of the three phrasings that the memory does not have."""
        g = torch.Generator().manual_seed(seed)
        asked, answers = [], []
        for e in entities:
            for r in range(self.relations):
                for phrasing in torch.randperm(_PHRASINGS - 1, generator=g)[:phrasings].tolist():
                    asked.append(self._ask(e, r, phrasing + 1))
                    answers.append(self._answers[e, r].tolist())
        return asked, answers
