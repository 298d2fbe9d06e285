"""Captions say which sources are heard, how, and in which relation; five ways each."""

import re

import pytest

from soundscenes.grammar import LEXICON, captions
from soundscenes.scene import Event, Scene, plan
from soundscenes.sources import SOURCES

MOST_WORDS = 30  # max_tokens.text of the configs

# words that give a source away: no caption of a scene without it may have them
TELLING = {
    "bell": {"bell"},
    "dog": {"dog", "hound"},
    "cat": {"cat", "kitten"},
    "thunder": {"thunder"},
    "siren": {"siren"},
    "rain": {"rain", "raindrops"},
    "crickets": {"cricket", "crickets", "insects"},
    "helicopter": {"helicopter", "chopper"},
    "clock": {"clock", "watch"},
    "bees": {"bees"},
    "train": {"train", "locomotive"},
    "phone": {"phone", "telephone"},
}
SAYS = {
    ("count", "once"): r"\b(once|one time|a single time)\b",
    ("count", "twice"): r"\b(twice|two times)\b",
    ("count", "several"): r"\b(several times|again and again|repeatedly|many times)\b",
    ("pace", "fast"): r"\b(quickly|rapidly|fast)\b",
    ("pace", "slow"): r"\b(slowly|unhurriedly|slow)\b",
    ("pitch", "high"): r"\b(high-pitched|shrill|high pitch|high tone|small|little)\b",
    ("pitch", "low"): r"\b(low-pitched|deep|low pitch|low tone|big|large)\b",
    ("distance", "near"): r"\b(nearby|close by|up close)\b",
    ("distance", "far"): r"\b(distant|faraway|far away|in the distance)\b",
}
RELATED = {
    "alone": r"",
    "then": r"\b(then|followed by|before|after|next)\b",
    "while": r"\b(while|as|at the same time|together with|along with|both)\b",
    "over": r"\b(over|background|in front of|drowns out|drowning out)\b",
}


@pytest.fixture(scope="module")
def scenes():
    return plan(0, {"train": 600, "val": 75, "test": 100})


@pytest.fixture(scope="module")
def said(scenes):
    return {scene.name: [" ".join(words) for words in captions(scene)] for scene in scenes}


def test_a_scene_has_five_different_captions_of_plain_words(scenes, said):
    for five in said.values():
        assert len(set(five)) == 5
        for caption in five:
            assert re.fullmatch(r"[a-z-]+( [a-z-]+)*", caption)
            assert len(caption.split()) <= MOST_WORDS


def test_captions_name_every_source_and_no_other(scenes, said):
    for scene in scenes:
        names = {event.source for event in scene.events}
        for caption in said[scene.name]:
            words = set(caption.split())
            for name in names:
                nouns = {n.split(" ", 1)[-1] for saying in LEXICON[name] for n in saying.nouns}
                assert any(noun in caption for noun in nouns), (name, caption)
            for name, telling in TELLING.items():
                assert (name in names) == bool(words & telling), (name, caption)


def test_captions_say_every_attribute_and_no_other(scenes, said):
    for scene in scenes:
        for caption in said[scene.name]:
            for (name, value), pattern in SAYS.items():
                expected = sum(getattr(event, name) == value for event in scene.events)
                assert len(re.findall(pattern, caption)) == expected, (pattern, caption)


def test_captions_say_the_relation(scenes, said):
    for scene in scenes:
        for caption in said[scene.name]:
            assert re.search(RELATED[scene.relation], caption), caption
            if scene.relation == "alone":
                assert not re.search(RELATED["then"], caption), caption


def test_the_order_of_then_is_the_order_of_the_sounds():
    scene = Scene("x", "train", "then", (Event("rain"), Event("siren")), (5,))
    for words in captions(scene):
        rain = min(i for i, word in enumerate(words) if word in ("rain", "raindrops"))
        assert rain < words.index("siren")


def test_articles_agree(said):
    for caption in (caption for five in said.values() for caption in five):
        for article, word in re.findall(r"\b(a|an) ([a-z-]+)", caption):
            assert (article == "an") == (word[0] in "aeiou"), caption


def test_no_caption_of_one_split_is_in_another(scenes, said):
    where = {}
    for scene in scenes:
        for caption in said[scene.name]:
            assert where.setdefault(caption, scene.split) == scene.split, caption


def test_captions_repeat_exactly(scenes, said):
    for scene in scenes[:20]:
        assert [" ".join(words) for words in captions(scene)] == said[scene.name]


def test_every_source_has_words_and_synonyms():
    assert set(LEXICON) == set(SOURCES)
    for name, sayings in LEXICON.items():
        assert sum(len(s.nouns) * len(s.verbs) for s in sayings) >= 2, name
