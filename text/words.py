"""Words of a text, and the plain forms of inflected ones."""

import re
from collections.abc import Iterator

WORD = re.compile(r"[^\W_]+(?:['’.-][^\W_]+)*")
"""Letters and digits; apostrophes, hyphens and points only inside."""

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SHORTEST_MISSPELT = 4
"""Letters: too many words are one letter from a shorter one."""

IRREGULAR = {
    "blew": "blow", "blown": "blow", "broke": "break", "broken": "break", "built": "build",
    "came": "come", "children": "child", "cries": "cry", "cut": "cut", "drove": "drive",
    "fed": "feed", "feet": "foot", "fell": "fall", "fallen": "fall", "flew": "fly",
    "geese": "goose", "gone": "go", "got": "get", "heard": "hear", "held": "hold",
    "knives": "knife", "leaves": "leaf", "made": "make", "men": "man", "mice": "mouse",
    "people": "person", "ran": "run", "rang": "ring", "rung": "ring", "said": "say",
    "sang": "sing", "sung": "sing", "shook": "shake", "shut": "shut", "spoke": "speak",
    "spoken": "speak", "struck": "strike", "swept": "sweep", "swung": "swing", "teeth": "tooth",
    "threw": "throw", "thrown": "throw", "took": "take", "wives": "wife", "wolves": "wolf",
    "women": "woman", "wound": "wind", "went": "go",
}  # fmt: skip


def words_of(text: str) -> list[str]:
    """Return the words of a text, without punctuation around them."""
    return WORD.findall(text)


def lemmas(word: str) -> Iterator[str]:
    """Yield what a lower-case English word may be a form of, the likeliest first.

    Endings are taken off by rule, so some of these are no words; a vocabulary decides.
    """
    if word in IRREGULAR:
        yield IRREGULAR[word]
    for ending in ("'s", "’s"):
        if word.endswith(ending):
            yield word.removesuffix(ending)
    if word.endswith("ies"):
        yield word[:-3] + "y"
    if word.endswith("es"):
        yield word[:-2]
    if word.endswith("s") and not word.endswith("ss"):
        yield word[:-1]
    for ending in ("ing", "ed", "er", "est", "ly"):
        stem = word.removesuffix(ending)
        if stem != word and len(stem) > 1:
            if stem[-1] == stem[-2]:
                yield stem[:-1]  # running -> run
            yield stem
            yield stem + "e"  # driving -> drive
            if stem.endswith("i"):
                yield stem[:-1] + "y"  # cried -> cry


def misspellings(word: str) -> Iterator[str]:
    """Yield every spelling one slip away: a letter too many, changed, too few, or two swapped."""
    for i in range(len(word) + 1):
        head, tail = word[:i], word[i:]
        if tail:
            yield head + tail[1:]
        if len(tail) > 1:
            yield head + tail[1] + tail[0] + tail[2:]
        for letter in LETTERS:
            if tail:
                yield head + letter + tail[1:]
            yield head + letter + tail
