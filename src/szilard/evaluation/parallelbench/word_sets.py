"""Words that a sentence has to hold, in three difficulties. The lists are ours: scores cannot be compared with those of
other lists word by word.

easy: words of one everyday subject; medium: words of two subjects; hard: every word of another subject, rarer ones.
"""

from __future__ import annotations

import random

from szilard.options import check_choice, check_number

DIFFICULTIES = ("easy", "medium", "hard")
MOST_WORDS = 7
SUBJECTS = tuple(
    tuple(line.split())
    for line in (
        "bread oven flour baker butter kitchen morning dough",
        "rain umbrella cloud street puddle coat storm wind",
        "dog park ball leash tail bench grass owner",
        "school teacher pupil lesson chalk book bell desk",
        "garden flower water soil bee spring seed gate",
        "train station ticket platform window suitcase journey clock",
        "beach sand wave shell towel sun swim boat",
        "doctor nurse hospital bed medicine patient smile visit",
        "music piano song concert singer stage audience evening",
        "snow mountain skis cabin fire scarf slope winter",
        "market apple basket price farmer stall customer coin",
        "football team goal match player field whistle coach",
        "library shelf story reader page quiet card corner",
        "birthday cake candle friend gift party balloon wish",
        "coffee cup spoon sugar table waiter breakfast newspaper",
        "river bridge fish stone rope bank canoe bend",
        "farm horse barn hay fence cow bucket field",
        "airport plane pilot passport cloud wing luggage delay",
        "painter brush canvas colour wall ladder frame gallery",
        "cat sofa mouse milk blanket whisker nap window",
    )
)
RARE = tuple(
    tuple(line.split())
    for line in (
        "enzyme membrane fossil spore nectar",
        "subpoena verdict treaty alibi clause",
        "trombone sonnet fresco ballad cello",
        "turbine piston gasket rivet crane",
        "comet eclipse orbit nebula telescope",
        "saffron marinade ladle vinegar pretzel",
        "glacier lagoon dune canyon monsoon",
        "dividend ledger tariff pension auction",
        "falcon walrus beetle otter hedgehog",
        "algorithm pixel modem password cursor",
        "monastery sermon pilgrim incense chapel",
        "javelin referee trampoline marathon saddle",
        "velvet thimble lace button corduroy",
        "lantern anvil compass sundial hammock",
        "envy nostalgia patience irony courage",
    )
)


def word_set(rng: random.Random, difficulty: str, n: int) -> list[str]:
    """n different words of a difficulty.

    Raises:
        ValueError: no such difficulty, or more words than a subject has.
    """
    check_choice("difficulty", difficulty, DIFFICULTIES)
    check_number("n", n, low=1, high=MOST_WORDS, integer=True)
    if difficulty == "easy":
        return rng.sample(rng.choice(SUBJECTS), n)
    if difficulty == "hard":
        return [rng.choice(subject) for subject in rng.sample(RARE, n)]
    first, second = rng.sample(SUBJECTS, 2)
    half = rng.sample(first, (n + 1) // 2)
    rest = rng.sample([word for word in second if word not in half], n // 2)
    words = half + rest
    rng.shuffle(words)
    return words
