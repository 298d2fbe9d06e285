"""One split, opened and checked: the rows of the captions and experts of its clips.

V clips in the split, C captions (fused: one long caption per clip).
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from data_loader.packed_sources import (
    Packed,
    PackedCaptions,
    PackedFeatures,
    PackedMasks,
    PackedText,
)
from utils.config import ExpertConfig, TextConfig
from utils.errors import DataError
from utils.files import read_list
from utils.shown import shown

logger = logging.getLogger(__name__)

NAMED = 5
"""How many clips an error names; it counts the rest."""
COMPARED = 1000
"""How many missing clips are compared with the names that a file has."""


def _decoded(name: str) -> str:
    """Return UTF-8 that was read as Latin-1, as from pickles of Python 2, as the text it is."""
    try:
        return name.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return name


DIFFERENCES: Final[dict[str, Callable[[str], str]]] = {
    "in blanks at their ends": str.strip,
    "in the Unicode form of letters (NFC, or NFD as macOS writes)": (
        lambda name: unicodedata.normalize("NFC", name)
    ),
    "in the file's extension": (
        lambda name: re.sub(r"\.(wav|mp3|flac|ogg|m4a|mp4|webm|mkv|npy)$", "", name, flags=re.I)
    ),
    "in UTF-8 that was read as Latin-1": _decoded,
    "in the folder before the name": lambda name: name.rpartition("/")[2],
    "in small and capital letters": str.casefold,
    "in quotes around the name": lambda name: name.strip("\"'"),
    "in further fields of a table": lambda name: re.split("[,;\t]", name)[0].strip('"'),
}
"""The usual differences between names, and what takes each away."""
HEADERS: Final = re.compile(
    r"(file_?name|(youtube_|audiocap_|video_|clip_)?id|clip|name)(,.*)?", re.I
)


def name_difference(wanted: Sequence[str], known: Sequence[str]) -> str:
    """Say which difference keeps most of the wanted names from known ones; "" for none."""
    best: tuple[int, str] = (0, "")
    for difference, without in DIFFERENCES.items():
        alike = {without(name): name for name in known}
        pairs = [(name, alike[without(name)]) for name in wanted if without(name) in alike]
        if len(pairs) > best[0]:
            ours, theirs = pairs[0]
            example = f"the list has {shown(ours)}, the file {shown(theirs)}"
            best = len(pairs), f"{example}: they differ {difference}; write them alike"
    if not best[0] and wanted and HEADERS.fullmatch(wanted[0].strip()):
        return f"{shown(wanted[0])} looks like the header of a csv table; expected names alone"
    return best[1]


class SplitList:
    """The clips of a split, in the order of its list."""

    def __init__(self, file: Path) -> None:
        """Read the list; raises DataError when it is empty or names a clip twice."""
        self.file = file
        self.clips = read_list(file)

    def find_in(self, packed: Packed, what: str) -> np.ndarray:
        """Return the row (V,) of every clip in a file; raises DataError for those without."""
        rows = packed.find(self.clips)
        self.refuse(rows < 0, f"without {what} in {packed.source}", self.explain(rows < 0, packed))
        return rows

    def explain(self, missing: np.ndarray, packed: Packed) -> str:
        """Say why the missing clips (V,) are not in a file, where one of the usual causes fits."""
        clips = [self.clips[clip] for clip in np.flatnonzero(missing)[:COMPARED]]
        return name_difference(clips, packed.clips) if clips else ""

    def refuse(self, wrong: np.ndarray, problem: str, remedy: str = "") -> None:
        """Raise DataError when any clip is wrong (V,), naming the first ones."""
        found = np.flatnonzero(wrong)
        if not len(found):
            return
        named = ", ".join(shown(self.clips[clip]) for clip in found[:NAMED])
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        count = "1 clip" if len(found) == 1 else f"{len(found)} clips"
        ending = f"; {remedy}" if remedy else ""
        raise DataError(f"{self.file}: {count} {problem}: {named}{more}{ending}")


@dataclass(frozen=True)
class SplitCaptions:
    """The rows of the captions of each clip among the text vectors; all arrays int64.

    Clip v has the captions first[v] : first[v] + counts[v], both (V,); caption c the words
    starts[c] : starts[c] + lengths[c], both (C,). Training draws one of choices[v] (V,) captions:
    the first ones, or with masks choice_ids[choice_starts[v] : choice_starts[v] + choices[v]].
    """

    starts: np.ndarray
    lengths: np.ndarray
    first: np.ndarray
    counts: np.ndarray
    choices: np.ndarray
    choice_starts: np.ndarray | None = None
    choice_ids: np.ndarray | None = None

    def chosen(self, clips: np.ndarray, picks: np.ndarray) -> np.ndarray:
        """Return the captions (B,) of clips (B,) when each brings its choice number picks[b]."""
        if self.choice_starts is not None and self.choice_ids is not None:
            picks = self.choice_ids[self.choice_starts[clips] + picks]
        return self.first[clips] + picks


@dataclass(frozen=True)
class SplitExpert:
    """The rows of the tokens of each clip in the files of one expert, joined along the features.

    Clip v has the rows starts[p][v] : starts[p][v] + lengths[p][v] of part p; none, in no part,
    where available[v] (V,) is False.
    """

    config: ExpertConfig
    parts: tuple[PackedFeatures, ...]
    starts: tuple[np.ndarray, ...]
    lengths: tuple[np.ndarray, ...]
    available: np.ndarray


def open_captions(
    split: SplitList,
    config: TextConfig,
    text: PackedText | None,
    captions: PackedCaptions,
    *,
    fused: bool,
) -> SplitCaptions:
    """Find the captions of every clip; raises DataError where they are missing or do not match.

    Without text vectors a caption is one place in the order of the split.
    """
    if text is None:
        return _number_captions(split, captions, fused=fused)
    if text.width != config.width:
        raise DataError(
            f"{text.source}: holds text vectors of width {text.width}, but text_feat "
            f"{config.feature!r} has width {config.width}"
        )
    first, counts = text.run(split.find_in(text, "text vectors"))
    first_caption, caption_counts = captions.run(split.find_in(captions, "captions"))
    split.refuse(caption_counts == 0, f"without captions in {captions.source}")
    split.refuse(
        counts != caption_counts,
        f"whose captions in {captions.source} and text vectors in {text.source} differ in number",
    )
    starts, lengths = text.word_offsets[:-1], np.diff(text.word_offsets)
    if fused:
        starts = text.word_offsets[first]
        lengths = text.word_offsets[first + counts] - starts
        split.refuse(lengths == 0, f"with empty captions (no words) in {text.source}")
        each = np.arange(len(split.clips))
        return SplitCaptions(starts, lengths, each, np.ones_like(each), np.ones_like(each))
    for wordless, source, begin in (
        (lengths == 0, text.source, first),
        (np.diff(captions.text_offsets) == 0, captions.source, first_caption),
    ):
        empty = _count_true(wordless, begin, counts)
        split.refuse(empty > 0, f"with an empty caption (no words) in {source}")
    return SplitCaptions(starts, lengths, first, counts, counts)


def _number_captions(split: SplitList, captions: PackedCaptions, *, fused: bool) -> SplitCaptions:
    """Number the captions of the split's clips, or with `fused` the clips."""
    begin, counts = captions.run(split.find_in(captions, "captions"))
    split.refuse(counts == 0, f"without captions in {captions.source}")
    empty = _count_true(np.diff(captions.text_offsets) == 0, begin, counts)
    if fused:
        split.refuse(empty == counts, f"with empty captions (no words) in {captions.source}")
        counts = np.ones_like(counts)
    else:
        split.refuse(empty > 0, f"with an empty caption (no words) in {captions.source}")
    places = np.arange(counts.sum())
    return SplitCaptions(places, np.ones_like(places), np.cumsum(counts) - counts, counts, counts)


def _count_true(flags: np.ndarray, begin: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return how many of flags[begin[v] : begin[v] + counts[v]] are true, (V,)."""
    before = np.concatenate([[0], np.cumsum(flags)])
    return before[begin + counts] - before[begin]


def restrict_choices(
    split: SplitList, captions: SplitCaptions, *, first_n: int, masks: PackedMasks | None
) -> SplitCaptions:
    """Let training draw among the first `first_n` captions (0: all), and those a mask allows.

    Raises DataError where a mask does not fit the captions or leaves none.
    """
    choices = np.minimum(captions.counts, first_n) if first_n else captions.counts
    if masks is None:
        return replace(captions, choices=choices)
    begin, counts = masks.run(split.find_in(masks, "a caption mask"))
    split.refuse(
        counts != captions.counts,
        f"whose mask in {masks.source} is not as long as their captions are many",
    )
    # The ones of each clip's mask, clip after clip: (all captions of the split,) then those kept.
    clip = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(clip)) - np.repeat(np.cumsum(counts) - counts, counts)
    keep = (masks.allowed[begin[clip] + place] == 1) & (place < choices[clip])
    choices = np.bincount(clip[keep], minlength=len(counts))
    split.refuse(choices == 0, f"for which the mask in {masks.source} leaves no caption to draw")
    return replace(
        captions,
        choices=choices,
        choice_starts=np.cumsum(choices) - choices,
        choice_ids=place[keep],
    )


def open_expert(
    split: SplitList, config: ExpertConfig, parts: tuple[PackedFeatures, ...]
) -> SplitExpert:
    """Find the tokens of every clip; raises DataError on features of another form."""
    width = sum(part.width for part in parts)
    files = " and ".join(str(part.source) for part in parts)
    if width != config.width:
        raise DataError(
            f"{files}: expert {config.name!r} has features of width {width}, but the config says "
            f"{config.width}"
        )
    available = np.ones(len(split.clips), bool)
    runs = []
    for part in parts:
        rows = part.find(split.clips)
        if why := split.explain(rows < 0, part):
            if (rows < 0).all():
                raise DataError(f"{split.file}: no clip is in {part.source}: {why}")
            logger.warning("%s: not all clips are in %s: %s", split.file, part.source, why)
        available &= (rows >= 0) & (part.available[rows] == 1)
        runs.append(part.run(np.maximum(rows, 0)))
    if not config.tokens:
        for part, (_, lengths) in zip(parts, runs, strict=True):
            split.refuse(
                available & (lengths != 1),
                f"with more than one vector of the averaged expert {config.name!r} in "
                f"{part.source}",
            )
    return SplitExpert(
        config,
        parts,
        tuple(starts for starts, _ in runs),
        tuple(np.where(available, lengths, 0) for _, lengths in runs),
        available,
    )


def refuse_missing(split: SplitList, experts: list[SplitExpert], *, training: bool) -> None:
    """Raise DataError when a clip has no expert at all, or lacks one it needs in training."""
    nowhere = ~np.any([expert.available for expert in experts], axis=0)
    names = ", ".join(expert.config.name for expert in experts)
    split.refuse(nowhere, f"without features of any expert ({names})", "take them out of the list")
    if not training:
        return
    for expert in experts:
        if not expert.config.flaky:
            files = " or ".join(str(part.source) for part in expert.parts)
            split.refuse(
                ~expert.available,
                f"without features of expert {expert.config.name!r} in {files}",
                "take them out of the list, or set data_loader.args.feat_aggregation."
                f"{expert.config.name}.flaky to true",
            )
