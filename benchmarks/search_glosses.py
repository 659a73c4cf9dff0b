"""The glosses of WordNet as embeddings: real texts for `search_hnsw.py --vectors`.

python benchmarks/search_glosses.py FOLDER glosses.npy [--every 4]

FOLDER holds WordNet's files data.noun, data.verb, data.adj and data.adv (Debian: package wordnet-base, /usr/share/wordnet).
About 117,000 glosses, 384 numbers each of length one, by the encoder of `resolvent index add --text`: ten minutes on two
cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from resolvent.search.text import text_encoder


def glosses(folder: Path) -> list[str]:
    """What stands after the bar in every line of WordNet's data files; lines that begin with a space are its licence."""
    files = [folder / f"data.{kind}" for kind in ("noun", "verb", "adj", "adv")]
    lines = [line for file in files for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
    return [line.split(" | ", 1)[1].strip() for line in lines if not line.startswith(" ") and " | " in line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--every", type=int, default=1, help="take every so many glosses only")
    arguments = parser.parse_args()
    texts = glosses(arguments.folder)[:: arguments.every]
    print(f"{len(texts)} glosses, the first: {texts[0]}")
    np.save(arguments.out, text_encoder().encode(texts))


if __name__ == "__main__":
    main()
