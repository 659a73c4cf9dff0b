"""WordPiece: the tokenizer of BERT and its kin, from a list of word pieces."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

# A longer word is unknown as a whole: what is that long is no word, and matching it would take long.
_LONGEST_WORD = 100
_LARGEST_FILE = 64 << 20
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_MARKS = re.compile("(" + "|".join(map(re.escape, _SPECIAL)) + ")")
# Ideographs are words by themselves; the ranges are those of BERT's normaliser.
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class WordPiece:
    """Turn texts into numbers of word pieces, as BERT's tokenizer does.

    Parameters
    ----------
    pieces : the vocabulary in the order of its numbers; pieces inside a word begin with "##"; must hold [PAD], [UNK],
        [CLS] and [SEP]
    lowercase : fold letters to lower case and drop accents, as for "uncased" models

    Raises
    ------
    ValueError : a special piece is missing or a piece stands twice.

    Notes
    -----
    Control characters go, ideographs and punctuation stand alone, then each word is cut greedily into its longest
    pieces from the left; a word with no such cut, or of more than 100 characters, is [UNK]. Special pieces written in
    a text count as such. Words are remembered, so that a corpus costs one cut for each distinct word.

    References
    ----------
    "Google's Neural Machine Translation System: Bridging the Gap between Human and Machine Translation"

    Examples
    --------
    >>> words = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "eigen", "##value", "##s", "!"])
    >>> words.encode("Eigenvalues!"), words.encode("x")
    ([2, 4, 5, 6, 7, 3], [2, 1, 3])
    """

    def __init__(self, pieces: Sequence[str], *, lowercase: bool = True) -> None:
        self._numbers = {piece: number for number, piece in enumerate(pieces)}
        if len(self._numbers) < len(pieces):
            twice = next(p for n, p in enumerate(pieces) if self._numbers[p] != n)
            raise ValueError(f"pieces must be distinct, {twice!r} stands twice")
        missing = [s for s in _SPECIAL[:4] if s not in self._numbers]
        if missing:
            raise ValueError(f"pieces must hold {', '.join(_SPECIAL[:4])}; {missing[0]} is missing")
        self.lowercase = lowercase
        self.pad, self.unknown, self.first, self.last = (self._numbers[s] for s in _SPECIAL[:4])
        self._longest = min(_LONGEST_WORD, max(map(len, pieces)))
        self._cut = lru_cache(maxsize=1 << 17)(self._cut_word)

    @classmethod
    def load(cls, path: Path, *, lowercase: bool = True) -> WordPiece:
        """The vocabulary of a `vocab.txt`: one piece a line."""
        if path.stat().st_size > _LARGEST_FILE:
            raise ValueError(f"{path}: is longer than a vocabulary can be")
        return cls(path.read_text(encoding="utf-8").rstrip("\n").split("\n"), lowercase=lowercase)

    def __len__(self) -> int:
        return len(self._numbers)

    def encode(self, text: str, longest: int | None = None) -> list[int]:
        """The numbers of a text's pieces between [CLS] and [SEP], at most `longest` in all."""
        room = None if longest is None else max(longest - 2, 0)
        numbers: list[int] = []
        for part in _MARKS.split(text):
            if part in _SPECIAL and part in self._numbers:
                numbers.append(self._numbers[part])
                continue
            for word in self.words(part):
                numbers.extend(self._cut(word))
                if room is not None and len(numbers) >= room:
                    return [self.first, *numbers[:room], self.last]
        return [self.first, *numbers[:room], self.last]

    def words(self, text: str) -> list[str]:
        """The words and marks of a text, normalised."""
        text = "".join(_cleaned(c) for c in text) if not text.isascii() or not text.isprintable() else text
        if self.lowercase:
            if not text.isascii():
                text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
            # Character by character: a final sigma, say, is no special case here.
            text = text.lower() if text.isascii() else "".join(map(str.lower, text))
        return _WORDS.findall(text) if text.isascii() else _split(text)

    def _cut_word(self, word: str) -> tuple[int, ...]:
        if len(word) > _LONGEST_WORD:
            return (self.unknown,)
        numbers, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(min(len(word), start + self._longest), start, -1):
                number = self._numbers.get(prefix + word[start:end])
                if number is not None:
                    break
            else:
                return (self.unknown,)
            numbers.append(number)
            start = end
        return tuple(numbers)


# ASCII alone: runs of letters and digits, or one mark.
_WORDS = re.compile(r"[A-Za-z0-9]+|[!-/:-@\[-`{-~]|[^\sA-Za-z0-9!-/:-@\[-`{-~]+")


def _cleaned(c: str) -> str:
    """What is left of a character: a space for any blank, nothing for control characters, room around ideographs."""
    if c in "\t\n\r":
        return " "
    if c in "\0\ufffd" or unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs"):
        return ""
    if c.isspace():
        return " "
    return f" {c} " if any(a <= ord(c) <= b for a, b in _IDEOGRAPHS) else c


def _split(text: str) -> list[str]:
    """Words between blanks and marks, each mark by itself."""
    words = []
    for run in text.split():
        start = 0
        for place, c in enumerate(run):
            if _is_mark(c):
                words += [run[start:place], c] if place > start else [c]
                start = place + 1
        if start < len(run):
            words.append(run[start:])
    return words


def _is_mark(c: str) -> bool:
    return ("!" <= c <= "~" and not c.isalnum()) or unicodedata.category(c).startswith("P")
