"""Audit a data set for leaks, ambiguities and damage before anything is trained on it.

Each check is a function, named as in the report, that a decorator puts into CHECKS with its
threshold. A clean data set has no finding.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
from scipy import sparse

from results.material import Expert, Material, Split
from results.tables import count

SAME_FEATURES = 0.995
"""Cosine of two clips' mean features, each dimension standardised over all clips."""
SAME_WORDS = 0.8
"""Shared words of two captions by all their words (Jaccard)."""
FEWEST_WORDS = 5
"""Different words that both captions have at least, to be called nearly the same."""
LOST_WORDS = 0.01
LOST_TOKENS = 0.10
UNEVEN = 0.10
"""By how much the share of clips without a (flaky) expert may differ between splits."""
MISSING = 0.50
SHOWN = 5
BLOCK = 512

Found = Iterator[tuple[str, Sequence[str]]]
"""(message, cases) of each finding."""
F = TypeVar("F", bound=Callable[..., Any])
CHECKS: dict[str, tuple[Callable[[Material], Found], str]] = {}
"""Name -> the check, and its threshold in words."""


@dataclass(frozen=True)
class Finding:
    """A mistake in the data: the check that found it, its message and the first few cases."""

    check: str
    message: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Audit:
    """All findings, and the facts of the data set that an audit states anyway."""

    findings: tuple[Finding, ...]
    facts: tuple[str, ...]


def audit(material: Material) -> Audit:
    """Run every check."""
    findings = []
    for name, (check, _) in CHECKS.items():
        for message, cases in check(material):
            more = [f"and {len(cases) - SHOWN} more"] if len(cases) > SHOWN else []
            findings.append(Finding(name, message, (*cases[:SHOWN], *more)))
    return Audit(tuple(findings), tuple(_facts(material)))


def reachable(split: Split, per_clip: int) -> float:
    """Return the most that text-to-audio R@1 can be, in percent.

    Clips with the same caption get the same scores for it, so that one of them alone can be right;
    clips with the same features always tie, and a tie for the first place is no hit.
    """
    twins = {clip for clips in _by_digest(split).values() if len(clips) > 1 for clip in clips}
    holders: dict[str, Counter[int]] = defaultdict(Counter)
    total = 0
    for clip, number, caption in split.texts():
        if number < per_clip:
            total += 1
            holders[_plain(caption)][clip] += clip not in twins
    return 100 * sum(max(counts.values()) for counts in holders.values()) / max(total, 1)


def _facts(material: Material) -> Iterator[str]:
    for split in material.splits:
        captions = sum(map(len, split.captions))
        yield f"{split.name}: {len(split.clips):,} clips, {captions:,} captions, {split.file}"
        yield f"{split.name}: sha256 of the list {split.sha256}"
        for name, expert in split.experts.items():
            missing = 1 - expert.present.mean()
            yield (
                f"{split.name}: {name} is missing for {missing:.1%} of the clips, "
                f"{_lost(expert.lengths, expert.config.max_tokens):.1%} of its tokens are cut"
            )
        yield f"{split.name}: {_lost_words(material, split):.1%} of the words are cut"
    if material.test is not None and any(material.test.captions):
        per_clip = material.test_config.data.num_test_captions
        yield (
            f"{material.test.name}: text-to-audio R@1 can reach "
            f"{reachable(material.test, per_clip):.1f} at most (same captions, same features)"
        )


def _check(threshold: str, message: str = "") -> Callable[[F], F]:
    """Register a check under the name of its function, which yields the findings of the material.

    With a message, the function returns the cases of as many splits as the message has gaps, and
    a finding is their count and the message, whose first word is the noun of one case.
    """

    def register(function: F) -> F:
        def of_splits(material: Material) -> Found:
            noun, rest = message.split(" ", 1)
            for splits in combinations(material.splits, message.count("{}")):
                if cases := function(*splits):
                    names = [split.name for split in splits]
                    yield f"{count(cases, noun)} {rest.format(*names)}", cases

        CHECKS[function.__name__.replace("_", "-")] = of_splits if message else function, threshold
        return function

    return register


@_check("a file is missing or refused (NaN features among the reasons)")
def unreadable(material: Material) -> Found:
    for message in material.unreadable:
        yield message, ()


@_check("a clip in more than one split", "clip both in {} and in {}")
def shared_clips(one: Split, other: Split) -> list[str]:
    return sorted(set(one.clips) & set(other.clips))


@_check(
    "identical features of all experts across splits",
    "pair of clips with identical features in {} and {}",
)
def same_features(one: Split, other: Split) -> list[str]:
    by_digest = _by_digest(one)
    return [
        f"{one.clips[first]} ({one.name}) and {clip} ({other.name})"
        for clip, digest in zip(other.clips, other.digests, strict=True)
        for first in by_digest.get(digest, ())
        if one.clips[first] != clip
    ]


@_check(
    "identical features of all experts within a split",
    "group of clips with identical features in {}",
)
def twin_clips(split: Split) -> list[str]:
    groups = [clips for clips in _by_digest(split).values() if len(clips) > 1]
    return [", ".join(split.clips[clip] for clip in clips[:4]) for clips in groups]


@_check(
    "features of all experts alike across splits: cosine of the standardised means at least "
    f"{SAME_FEATURES}",
    "pair of clips with nearly identical features in {} and {}",
)
def near_features(one: Split, other: Split) -> list[str]:
    return [
        f"{one.clips[first]} ({one.name}) and {other.clips[second]} ({other.name}), "
        f"cosine {cosine:.4f}"
        for first, second, cosine in _similar_clips(one, other)
        if one.clips[first] != other.clips[second] and one.digests[first] != other.digests[second]
    ]


@_check("the same caption across splits, capitals and marks aside", "caption both in {} and in {}")
def same_captions(one: Split, other: Split) -> list[str]:
    return [f"{text!r}" for text in sorted(_by_text(one).keys() & _by_text(other).keys())]


@_check(
    f"captions alike across splits: of {FEWEST_WORDS} different words or more, at least "
    f"{SAME_WORDS:.0%} of all are shared",
    "pair of nearly identical captions in {} and {}",
)
def near_captions(one: Split, other: Split) -> list[str]:
    pairs = _similar_texts(list(_by_text(one)), list(_by_text(other)))
    return [f"{first!r} ({one.name}) and {second!r} ({other.name})" for first, second in pairs]


@_check("several test clips with the same caption")
def ambiguous(material: Material) -> Found:
    if (split := material.test) is None:
        return
    shared = {text: clips for text, clips in _by_text(split).items() if len(clips) > 1}
    if shared:
        ceiling = reachable(split, material.test_config.data.num_test_captions)
        yield (
            f"{count(shared, 'caption')} of several clips of {split.name}: R@1 can reach "
            f"{ceiling:.1f} at most",
            [f"{text!r} of {len(clips)} clips" for text, clips in shared.items()],
        )


@_check("a clip without captions", "clip of {} without captions")
def captionless(split: Split) -> list[str]:
    return [clip for clip, texts in zip(split.clips, split.captions, strict=True) if not texts]


@_check("a caption without words", "caption of {} without words")
def empty_captions(split: Split) -> list[str]:
    words = [dict(enumerate(counts or ())) for counts in split.word_vectors]
    return [
        f"{split.clips[clip]}, caption {number}"
        for clip, number, caption in split.texts()
        if not _plain(caption) or words[clip].get(number) == 0
    ]


@_check(
    "captions and text vectors of a clip that differ in number",
    "clip of {} whose captions and text vectors differ in number",
)
def unmatched(split: Split) -> list[str]:
    counts = zip(split.clips, split.captions, split.word_vectors, strict=True)
    return [
        f"{clip}: {len(captions)} captions, {'none' if vectors is None else len(vectors)} with "
        "word vectors"
        for clip, captions, vectors in counts
        if vectors is None or len(captions) != len(vectors)
    ]


@_check(f"more than {LOST_WORDS:.0%} of the words of a split are cut")
def cut_captions(material: Material) -> Found:
    most = material.config.text.max_tokens
    for split in material.splits:
        lost = _lost_words(material, split)
        if lost > LOST_WORDS:
            cases = [
                f"{split.clips[clip]}, caption {number}: {words} words"
                for clip, counts in enumerate(split.word_vectors)
                for number, words in enumerate(counts or ())
                if words > most
            ]
            share = f"{lost:.1%} of the words of {split.name} are cut"
            yield f"{share} (max_tokens.text is {most})", cases


@_check(f"more than {LOST_TOKENS:.0%} of an expert's tokens in a split are cut")
def cut_features(material: Material) -> Found:
    for split, name, expert in _experts(material):
        most = expert.config.max_tokens
        lost = _lost(expert.lengths, most)
        if lost > LOST_TOKENS:
            text = f"of the tokens of {name} in {split.name} are cut"
            yield f"{lost:.1%} {text} (max_tokens.{name} is {most})", ()


@_check(
    f"an expert that is not flaky is missing for a clip; a flaky one for over {MISSING:.0%} "
    f"of a split, or for shares of the splits that differ by over {UNEVEN:.0%}"
)
def missing_experts(material: Material) -> Found:
    shares: dict[str, list[float]] = defaultdict(list)
    for split, name, expert in _experts(material):
        share = float(1 - expert.present.mean())
        shares[name].append(share)
        if (share and not expert.config.flaky) or share > MISSING:
            without = [split.clips[clip] for clip in np.flatnonzero(~expert.present)]
            yield f"{name} is missing for {share:.1%} of the clips of {split.name}", without
    for name, of in shares.items():
        if max(of) - min(of) > UNEVEN:
            listed = ", ".join(f"{share:.1%}" for share in of)
            yield f"{name} is missing unevenly: {listed} of the clips of the splits", ()


@_check("features that are one number, or one token repeated")
def flat_features(material: Material) -> Found:
    for split, name, expert in _experts(material):
        if flat := [split.clips[clip] for clip in np.flatnonzero(expert.flat)]:
            yield f"{count(flat, 'clip')} of {split.name} with constant {name}", flat


@_check("clips of the files that are in no list of these splits")
def unused(material: Material) -> Found:
    used = {clip for split in material.splits for clip in split.clips}
    for file, names in material.files.items():
        if left := [name for name in names if name not in used]:
            yield f"{count(left, 'clip')} of {file} in no list", left


def _experts(material: Material) -> Iterator[tuple[Split, str, Expert]]:
    """Yield every expert of every split with its name."""
    for split in material.splits:
        for name, expert in split.experts.items():
            yield split, name, expert


def _plain(caption: str) -> str:
    """Return a caption in small letters, without marks."""
    return " ".join(re.findall(r"\w+", caption.lower()))


def _by_text(split: Split) -> dict[str, list[int]]:
    """Return the clips that have each caption."""
    return _clips_by((_plain(caption), clip) for clip, _, caption in split.texts())


def _by_digest(split: Split) -> dict[str, list[int]]:
    """Return the clips that have the same features."""
    return _clips_by((digest, clip) for clip, digest in enumerate(split.digests))


def _clips_by(values: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    """Return the clips that have each value, "" aside; one that repeats it counts once."""
    found: dict[str, dict[int, None]] = defaultdict(dict)
    for value, clip in values:
        if value:
            found[value][clip] = None
    return {value: list(clips) for value, clips in found.items()}


def _similar_clips(one: Split, other: Split) -> Iterator[tuple[int, int, float]]:
    """Yield pairs of clips that are alike in every expert both have, with their least cosine."""
    names = [name for name in one.experts if name in other.experts]
    scaled = {name: _standardised(one.experts[name], other.experts[name]) for name in names}
    for start in range(0, len(one.clips), BLOCK):
        rows = slice(start, start + BLOCK)
        least: np.ndarray = np.full((len(one.clips[rows]), len(other.clips)), 2.0, np.float32)
        for name in names:
            left, right = scaled[name]
            there = np.outer(one.experts[name].present[rows], other.experts[name].present)
            least = np.where(there, np.minimum(least, left[rows] @ right.T), least)
        for first, second in np.argwhere((least >= SAME_FEATURES) & (least < 2)):
            yield start + int(first), int(second), float(least[first, second])


def _standardised(one: Expert, other: Expert) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean features of two splits, standardised together, of unit length."""
    together = np.concatenate([one.means[one.present], other.means[other.present]])
    centre, scale = together.mean(axis=0), together.std(axis=0)
    scaled = []
    for expert in (one, other):
        means = (expert.means - centre) / np.where(scale > 0, scale, 1)
        length = np.linalg.norm(means, axis=1, keepdims=True)
        scaled.append(means / np.where(length > 0, length, 1))
    return scaled[0], scaled[1]


def _similar_texts(one: list[str], other: list[str]) -> Iterator[tuple[str, str]]:
    """Yield pairs of captions that share nearly all their words, and are not the same."""
    left, right = (
        [text for text in texts if len(set(text.split())) >= FEWEST_WORDS] for texts in (one, other)
    )
    if not left or not right:
        return
    words = {word: place for place, word in enumerate(set(" ".join(left + right).split()))}
    first, second = _bags(left, words), _bags(right, words)
    sizes = np.asarray(second.sum(axis=1)).reshape(1, -1)
    for start in range(0, len(left), BLOCK):
        rows = first[start : start + BLOCK]
        shared = (rows @ second.T).toarray()
        union = np.asarray(rows.sum(axis=1)).reshape(-1, 1) + sizes - shared
        for here, there in np.argwhere(shared >= SAME_WORDS * union):
            if left[start + here] != right[there]:
                yield left[start + here], right[there]


def _bags(texts: list[str], words: dict[str, int]) -> sparse.csr_matrix:
    """Return which words each caption has: (captions, words) of 0/1."""
    has = [(row, words[word]) for row, text in enumerate(texts) for word in set(text.split())]
    ones = np.ones(len(has), np.float32)
    return sparse.csr_matrix((ones, np.transpose(has)), shape=(len(texts), len(words)))


def _lost_words(material: Material, split: Split) -> float:
    """Return the share of the words of a split that max_tokens.text cuts off."""
    joined = material.config.data.fuse_captions
    counts = [np.array([sum(of)] if joined else of, np.int64) for of in split.word_vectors if of]
    return _lost(np.concatenate(counts), material.config.text.max_tokens) if counts else 0.0


def _lost(lengths: np.ndarray, most: int | None) -> float:
    """Return the share of all items that are beyond the first `most` of their sequence."""
    total = int(lengths.sum())
    if most is None or total == 0:
        return 0.0
    return float(np.maximum(lengths - most, 0).sum() / total)
