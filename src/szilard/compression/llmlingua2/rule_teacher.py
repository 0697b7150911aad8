"""A teacher without a language model: what to keep of an English text, by open rules.

LLMLingua-2 learns from GPT-4's compressions. Where no large chat model is at hand, these rules give pairs to learn
from. They are ours, they are far simpler than a model's judgement, and a classifier that has learned them is no better
than they are. What they keep, sentence by sentence:

1. A word is rare if it is in at most `rare` of the documents, and neither a function word nor filler.
2. A sentence without a fact (a number, a name, which is a capital inside a sentence, or two rare words) is dropped
   whole. Of the others stay numbers, names, rare words and denials ("not", "never").
3. A function word stays right before a number or a name ("in 1998", "of Berta"), unless it is an article or a form of
   "to be" or "to have".
4. A mark that ends the sentence stays.

No part-of-speech tagger and no dictionary but the word lists below.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from szilard.compression.llmlingua2.annotation import word_spans
from szilard.options import check_number

DENIALS = frozenset("not no never none nobody nothing neither nor without cannot hardly except".split())
# Function words that say nothing even before a number or a name.
EMPTY = frozenset(
    """a an the this that these those is am are was were be been being has have had having do does did doing done will
    would shall should can could may might must it its it's there here i me my mine we us our ours you your yours he
    him his she her hers they them their theirs who whom whose which what myself yourself itself themselves himself
    herself i'm i've i'd it'd we're we've you're they're that's there's let's""".split()
)
FUNCTION = EMPTY | frozenset(
    """of in on at by for from to with about against between into through during before after above below up down out
    over under again further then once and or but if because as until while than so such both each few more most other
    some any all only own same too very just now also when where why how off per via upon within along among around
    across behind beyond near since towards toward although though however whether yet still even ever
    always often much many well another either one's""".split()
)
FILLER = frozenset(
    """actually basically really literally quite rather somewhat perhaps maybe probably honestly obviously clearly
    simply certainly definitely anyway anyhow um uh er hmm oh ah yeah yes okay ok like kind sort thing things stuff lot
    lots bit something anything everything someone anyone everyone somehow mean guess suppose think know see say said
    says get got going go goes went come came want wanted need needed make made sure way good nice course please
    thanks thank sorry hello""".split()
)
_ENDS = frozenset(".!?")
_SENTENCE = re.compile(r".+?(?:(?<!\b[A-Z])[.!?]+[\"'”’)]*(?=\s|$)|\n|$)", re.DOTALL)


class RuleTeacher:
    """The rules above, with word frequencies of a corpus.

    Args:
        texts: documents; a word in at most `rare` of them is rare.
        rare: share of the documents, in (0, 1].

    Attributes:
        name: "rule", for records of what taught.

    Raises:
        ValueError: no document, or a share out of range.
    """

    name = "rule"

    def __init__(self, texts: Sequence[str], *, rare: float = 0.03) -> None:
        check_number("rare", rare, low=1e-9, high=1)
        if not texts:
            raise ValueError("the rule teacher counts words in texts and was given none.")
        seen: Counter[str] = Counter()
        inside: Counter[str] = Counter()  # capitals that no sentence begins with
        for text in texts:
            words, names = set(), set()
            for sentence in sentences(text):
                found = [sentence[start:end] for start, end in word_spans(sentence)]
                words |= {word.lower() for word in found}
                names |= {word.lower() for word in found[1:] if word[0].isupper()}
            seen.update(words)
            inside.update(names)
        most = max(1, rare * len(texts))
        self._common = {word for word, count in seen.items() if count > most}
        self._names = {word for word, count in inside.items() if 2 * count >= seen[word]}

    def compress(self, texts: Sequence[str]) -> list[str]:
        """What the rules leave of each text; words of a sentence are joined by spaces."""
        return [" ".join(filter(None, map(self._sentence, sentences(text)))) for text in texts]

    def _sentence(self, sentence: str) -> str:
        words = [sentence[start:end] for start, end in word_spans(sentence)]
        spoken = [word for word in words if word[0].isalnum()]
        firm = [self._is_firm(word, first=word is spoken[0]) for word in words] if spoken else []
        rare = [self._is_rare(word) for word in words]
        if not any(firm) and sum(rare) < 2:
            return ""
        kept = []
        for place, word in enumerate(words):
            lower = word.lower()
            if not word[0].isalnum():
                keep = place == len(words) - 1 and word in _ENDS
            elif lower in FUNCTION - EMPTY:
                keep = place + 1 < len(words) and firm[place + 1]
            else:
                keep = firm[place] or rare[place] or lower in DENIALS or lower.endswith("n't")
            if keep:
                kept.append(word)
        return re.sub(r" ([.!?])$", r"\1", " ".join(kept))

    def _is_firm(self, word: str, *, first: bool) -> bool:
        """A number or a name; a sentence's first word only where other sentences show it as a name."""
        if any(letter.isdigit() for letter in word):
            return True
        lower = word.lower()
        if not word[0].isupper() or lower in FUNCTION or lower in FILLER or lower in DENIALS:
            return False
        return lower in self._names or not first

    def _is_rare(self, word: str) -> bool:
        lower = word.lower()
        return word[0].isalnum() and lower not in self._common and lower not in FUNCTION and lower not in FILLER


def sentences(text: str) -> list[str]:
    """A text in sentences, cut behind ".", "!", "?" and line breaks, but not behind single capitals."""
    return [match.group() for match in _SENTENCE.finditer(text) if match.group()]
