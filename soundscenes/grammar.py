"""Captions: five ways in which a person might describe a scene.

A caption names all of the combination (every source, attribute and the relation) and no more, in
lower-case words without punctuation.
"""

from dataclasses import dataclass

import numpy as np

from soundscenes.scene import Event, Scene, pick

CAPTIONS = 5
_WORDS = 3  # what a random stream is for


@dataclass(frozen=True)
class Saying:
    """Names of a source and what it does: any of the nouns goes with any of the verbs.

    Verbs are pairs "rings ringing"; a noun's first word "a" is its article.
    """

    nouns: tuple[str, ...]
    verbs: tuple[str, ...]


def _say(nouns: str, verbs: str) -> Saying:
    return Saying(tuple(nouns.split(", ")), tuple(verbs.split(", ")))


LEXICON: dict[str, tuple[Saying, ...]] = {
    "bell": (_say("a bell, a church bell", "rings ringing, tolls tolling, chimes chiming"),),
    "dog": (_say("a dog, a hound", "barks barking, woofs woofing"),),
    "cat": (_say("a cat, a kitten", "meows meowing, miaows miaowing, mews mewing"),),
    "owl": (_say("a owl", "hoots hooting, calls calling"),),
    "cuckoo": (_say("a cuckoo", "calls calling, sings singing"),),
    "frog": (_say("a frog, a toad", "croaks croaking, ribbits ribbiting"),),
    "knock": (
        _say("someone, a visitor", "knocks knocking, raps rapping"),
        _say("someone", "knocks_on_a_door knocking_on_a_door, raps_on_wood rapping_on_wood"),
    ),
    "slam": (_say("a door, a heavy door", "slams slamming, bangs_shut banging_shut"),),
    "glass": (
        _say("a glass, a window pane", "shatters shattering, breaks breaking, smashes smashing"),
    ),
    "whistle": (_say("a whistle, a referee whistle", "blows blowing, trills trilling"),),
    "thunder": (_say("thunder", "rumbles rumbling, cracks cracking, rolls rolling"),),
    "drop": (
        _say("a water drop, a drop of water", "falls falling, drips dripping, plops plopping"),
    ),
    "laser": (_say("a laser, a ray gun, a toy laser", "fires firing, zaps zapping"),),
    "horn": (_say("a car horn, a horn", "honks honking, blares blaring, beeps beeping"),),
    "guitar": (_say("a guitar string, a guitar", "is_plucked being_plucked, twangs twanging"),),
    "drum": (_say("a drum", "is_hit being_hit, beats beating, booms booming"),),
    "phone": (_say("a telephone, a phone, an old telephone", "rings ringing, jingles jingling"),),
    "footsteps": (
        _say("someone, a person", "walks walking, steps stepping, treads treading"),
        _say("footsteps", "sound sounding, pass passing"),
    ),
    "clock": (_say("a clock, a watch", "ticks ticking, tick-tocks tick-tocking"),),
    "typing": (
        _say("someone, a person", "types typing, types_on_a_keyboard typing_on_a_keyboard"),
        _say("a keyboard", "clatters clattering, clicks clicking"),
    ),
    "heartbeat": (_say("a heart", "beats beating, throbs throbbing, pounds pounding"),),
    "alarm": (_say("a alarm, a electronic alarm", "beeps beeping, sounds sounding"),),
    "saw": (
        _say("a saw, a hand saw", "cuts_wood cutting_wood, rasps rasping"),
        _say("someone", "saws sawing, saws_wood sawing_wood"),
    ),
    "helicopter": (
        _say("a helicopter, a chopper", "flies flying, hovers hovering, chops chopping"),
    ),
    "crickets": (
        _say("crickets, insects", "chirp chirping, stridulate stridulating"),
        _say("a cricket", "chirps chirping"),
    ),
    "hammer": (
        _say("a hammer", "strikes striking, bangs banging, hits_metal hitting_metal"),
        _say("someone", "hammers hammering"),
    ),
    "horse": (_say("a horse", "gallops galloping, trots trotting, canters cantering"),),
    "birds": (
        _say("birds", "chirp chirping, sing singing, tweet tweeting"),
        _say("a bird", "chirps chirping, sings singing, tweets tweeting"),
    ),
    "train": (_say("a steam train, a locomotive", "chuffs chuffing, puffs puffing"),),
    "rain": (
        _say("rain", "falls falling, pours pouring, patters pattering"),
        _say("raindrops", "fall falling, patter pattering"),
    ),
    "wind": (_say("wind, a breeze", "blows blowing, howls howling, whooshes whooshing"),),
    "engine": (_say("a engine, a motor", "runs running, idles idling, revs revving"),),
    "siren": (_say("a siren, a police siren", "wails wailing, howls howling"),),
    "waves": (
        _say("waves, sea waves", "break breaking, crash crashing, wash_ashore washing_ashore"),
    ),
    "stream": (
        _say("a stream, a brook", "babbles babbling, gurgles gurgling, flows flowing"),
        _say("running water", "gurgles gurgling, bubbles bubbling"),
    ),
    "fire": (_say("a fire, a campfire", "crackles crackling, burns burning"),),
    "vacuum": (_say("a vacuum cleaner, a hoover", "hums humming, whirrs whirring, runs running"),),
    "bees": (
        _say("bees", "buzz buzzing, swarm swarming"),
        _say("a swarm of bees", "buzzes buzzing, hums humming"),
    ),
    "applause": (
        _say("a audience, a crowd", "claps clapping, applauds applauding"),
        _say("people", "clap clapping, applaud applauding"),
    ),
    "plane": (_say("a plane, an airplane, a propeller plane", "drones droning, flies flying"),),
}

# (attribute, value) -> words before the noun, words after the verb
_ADJECTIVES = {
    ("pitch", "high"): ("high-pitched", "shrill"),
    ("pitch", "low"): ("low-pitched", "deep"),
    ("distance", "near"): ("nearby",),
    ("distance", "far"): ("distant", "faraway"),
}
_ADVERBS = {
    ("count", "once"): ("once", "one time", "a single time"),
    ("count", "twice"): ("twice", "two times"),
    ("count", "several"): ("several times", "again and again", "repeatedly", "many times"),
    ("pace", "fast"): ("quickly", "rapidly", "fast", "at a fast pace"),
    ("pace", "slow"): ("slowly", "unhurriedly", "at a slow pace"),
    ("pitch", "high"): ("at a high pitch", "in a high tone"),
    ("pitch", "low"): ("at a low pitch", "in a low tone"),
    ("distance", "near"): ("nearby", "close by", "up close"),
    ("distance", "far"): ("far away", "in the distance"),
}
_SIZES = {"high": ("small", "little"), "low": ("big", "large")}  # an animal's pitch is its size
_SIZED = ("dog", "cat", "frog")

# A and B are clauses ("a bell rings twice"), [A] and [B] participles ("a bell ringing twice").
_TEMPLATES = {
    "alone": (
        "A",
        "the sound of [A]",
        "[A] can be heard",
        "we hear [A]",
        "there is the sound of [A]",
        "A with nothing else around",
        "only [A]",
    ),
    "then": (
        "A and then B",
        "A then B",
        "A followed by [B]",
        "A before B",
        "after [A] B",
        "first A then B",
        "[A] can be heard first and [B] next",
    ),
    "while": (
        "A while B",
        "A as B",
        "A and at the same time B",
        "[A] together with [B]",
        "[A] along with [B]",
        "while A B",
        "both [A] and [B]",
    ),
    "over": (
        "A over [B]",
        "A with [B] in the background",
        "[A] in front of [B]",
        "over the sound of [B] A",
        "[A] drowns out [B]",
        "against a background of [B] A",
        "A loudly over [B]",
    ),
}


def captions(scene: Scene) -> list[list[str]]:
    """Return the five captions of a scene, each a list of words, no two the same."""
    rng = np.random.default_rng((*scene.seed, _WORDS))
    templates = _TEMPLATES[scene.relation]
    order = rng.permutation(len(templates))[:CAPTIONS]
    out: list[list[str]] = []
    for index in order:
        caption = _fill(templates[int(index)], scene, rng)
        while caption in out:
            caption = _fill(templates[int(index)], scene, rng)
        out.append(caption)
    return out


def _fill(template: str, scene: Scene, rng: np.random.Generator) -> list[str]:
    events = list(scene.events)
    if scene.relation == "while" and rng.uniform() < 0.5:
        events.reverse()
    words: list[str] = []
    for word in template.split():
        letter = word.strip("[]")
        if letter in ("A", "B"):
            words += _clause(events["AB".index(letter)], rng, participle=word != letter)
        else:
            words.append(word)
    return words


def _clause(event: Event, rng: np.random.Generator, *, participle: bool) -> list[str]:
    """Say one event: article, adjectives, noun, verb, adverbs."""
    saying = pick(rng, LEXICON[event.source])
    noun = pick(rng, saying.nouns).split()
    verb = pick(rng, saying.verbs).split()[1 if participle else 0].replace("_", " ").split()
    before: list[str] = []
    after: list[str] = []
    plain = noun[0] in ("someone", "people")  # "distant someone" is no English
    for name in ("count", "pace", "pitch", "distance"):
        value = getattr(event, name)
        if value is None:
            continue
        adjectives = _ADJECTIVES.get((name, value), ())
        if name == "pitch" and event.source in _SIZED:
            before += [pick(rng, _SIZES[value])]
        elif adjectives and not plain and rng.uniform() < 0.5:
            before += [pick(rng, adjectives)]
        else:
            after += pick(rng, _ADVERBS[name, value]).split()
    if noun[0] in ("a", "an"):
        head = [*before, *noun[1:]]
        return ["an" if head[0][0] in "aeiou" else "a", *head, *verb, *after]
    return [*before, *noun, *verb, *after]
