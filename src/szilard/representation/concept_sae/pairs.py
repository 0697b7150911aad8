"""Concepts given as counterfactual pairs of words: king and queen, walk and walked."""

from __future__ import annotations

import glob
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from szilard.options import check_number, nearest

Pairs = tuple[tuple[str, str], ...]


class ConceptPairs(Mapping[str, Pairs]):
    """Pairs (u, v) by the name of their concept. u is the concept's value 1, v its value 0.

    A pair of twice the same word is left out, as it differs in nothing. A concept with fewer than `least` pairs cannot
    be cross-validated: it is skipped, with a warning.

    Args:
        concepts: pairs by name.
        least: pairs that a concept needs.

    Attributes:
        skipped: how many pairs the skipped concepts have, by name.

    Raises:
        TypeError: something else than pairs of strings.
        ValueError: an empty word, or no concept with enough pairs.
    """

    def __init__(self, concepts: Mapping[str, Iterable[tuple[str, str]]], *, least: int = 8) -> None:
        check_number("least", least, low=4, integer=True)
        if not isinstance(concepts, Mapping):
            raise TypeError(f"concepts must be a mapping of names to pairs of words, not {type(concepts).__name__}.")
        read = {str(name): _checked(str(name), pairs) for name, pairs in concepts.items()}
        self._pairs = {name: pairs for name, pairs in read.items() if len(pairs) >= least}
        self._least = least
        self.skipped = {name: len(pairs) for name, pairs in read.items() if len(pairs) < least}
        if not self._pairs:
            raise ValueError(
                f"no concept has {least} pairs of different words, which cross-validation needs; given: "
                f"{', '.join(f'{name} with {count}' for name, count in self.skipped.items()) or 'none'}."
            )
        if self.skipped:
            told = ", ".join(f"{name} ({count})" for name, count in self.skipped.items())
            warnings.warn(f"skipped, because fewer than {least} pairs cannot be cross-validated: {told}.", stacklevel=2)

    @classmethod
    def from_files(cls, *paths: Path | str, least: int = 8) -> ConceptPairs:
        """A concept per file, a pair per line, with a tab between its words; the file's name is the concept's.

        Args:
            paths: files, patterns such as "pairs/*.txt", or folders, of which all .txt and .tsv are read.
            least: pairs that a concept needs.

        Raises:
            ValueError: no such file, one that is not text, a line without two words, or as the class.
        """
        files = [file for path in paths for file in _found(path)]
        if not files:
            raise ValueError(
                f"there are no .txt or .tsv files of word pairs in {', '.join(map(str, paths)) or 'nothing'}."
            )
        read: dict[str, list[tuple[str, str]]] = {}
        for file in files:
            name = re.sub(r"\s*-\s*", "-", file.stem.strip("[] "))
            if name in read:
                raise ValueError(f"two files give the concept {name!r}: rename {str(file)!r}.")
            read[name] = _lines(file)
        return cls(read, least=least)

    @classmethod
    def packaged(cls, names: Iterable[str] | None = None) -> ConceptPairs:
        """The pairs that come with szilard: 17 concepts with 30 to 50 pairs each.

        Args:
            names: some of them; None: all.

        Raises:
            ValueError: no concept of that name.
        """
        from szilard.representation.concept_sae.word_pairs import WORD_PAIRS

        if isinstance(names, str):
            raise TypeError(f"names must be a list of concepts, not the string {names!r}.")
        wanted = list(WORD_PAIRS) if names is None else list(names)
        for name in wanted:
            if name not in WORD_PAIRS:
                known = ", ".join(WORD_PAIRS)
                raise ValueError(f"there is no packaged concept {name!r}{nearest(name, WORD_PAIRS)} Concepts: {known}.")
        return cls({name: WORD_PAIRS[name] for name in wanted})

    def __or__(self, other: Mapping[str, Iterable[tuple[str, str]]]) -> ConceptPairs:
        """With further concepts; of a name that both have, those of `other`."""
        if not isinstance(other, Mapping):
            return NotImplemented
        return ConceptPairs({**self._pairs, **other}, least=self._least)

    def __getitem__(self, name: str) -> Pairs:
        return self._pairs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __repr__(self) -> str:
        return f"ConceptPairs({', '.join(f'{name}: {len(pairs)}' for name, pairs in self.items())})"


def _checked(name: str, pairs: Any) -> Pairs:
    if isinstance(pairs, (str, bytes)) or not isinstance(pairs, Iterable):
        raise TypeError(f"concept {name!r} must be a list of pairs of words, not {type(pairs).__name__}.")
    found = []
    for pair in pairs:
        words = tuple(pair) if isinstance(pair, Iterable) and not isinstance(pair, str) else ()
        if len(words) != 2 or not all(isinstance(word, str) for word in words):
            raise TypeError(f"concept {name!r} must hold pairs of two strings, not {pair!r:.60}.")
        if not all(word.strip() for word in words):
            raise ValueError(f"concept {name!r} has an empty word in {pair!r}: leave that pair out.")
        if words[0] != words[1]:
            found.append((words[0], words[1]))
    return tuple(found)


def _found(path: Path | str) -> list[Path]:
    if Path(path).is_dir():
        return sorted(file for file in Path(path).iterdir() if file.suffix in (".txt", ".tsv"))
    if Path(path).is_file():
        return [Path(path)]
    files = sorted(Path(file) for file in glob.glob(str(path)))
    if not files:
        raise ValueError(f"there is no file or folder {str(path)!r} of word pairs.")
    return files


def _lines(file: Path) -> list[tuple[str, str]]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{str(file)!r} is no UTF-8 text of word pairs.") from error
    pairs = []
    for number, line in enumerate(lines, start=1):
        words = [word.strip() for word in line.split("\t")]
        if not line.strip():
            continue
        if len(words) != 2 or not all(words):
            raise ValueError(f"line {number} of {str(file)!r} must be two words with a tab between, not {line!r:.60}.")
        pairs.append((words[0], words[1]))
    return pairs
