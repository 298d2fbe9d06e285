"""Write one self-contained page to look at and listen to: queries and the clips found for them.

python eval.py --resume RUN/trained_model.pth --save_similarities similarities.npy
python misc/demo_page.py --similarities similarities.npy --data data/SoundScenes
"""

from __future__ import annotations

import argparse
import base64
import os
import struct
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from audio.signal_features import log_mel
from data_loader.readers import read_captions
from data_loader.soundscenes.write import read_wav
from utils.errors import DataError, UsageError, run_main
from utils.files import read_list, write_text

CAPTIONS = "raw-captions.pkl"

STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #1a7f37; --dim: #777; }
@media (prefers-color-scheme: dark) { :root { --good: #4ac26b; --dim: #999; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin: 2.5rem 0 0; }
h3 { font-size: 1.1rem; margin: 0; } p { margin: .3rem 0; }
section { border-top: 1px solid var(--line); margin-top: 1.5rem; padding-top: 1rem; }
.rank, .dim { color: var(--dim); } .hit { color: var(--good); font-weight: 600; }
ol { list-style: none; padding: 0; margin: .8rem 0 0; display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(15.5rem, 1fr)); }
li { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem; font-size: .9rem; }
li.right { border: 2px solid var(--good); }
img { width: 100%; height: 5rem; border-radius: .3rem; image-rendering: pixelated; }
audio { width: 100%; height: 2.2rem; margin-top: .4rem; }
"""


@dataclass(frozen=True)
class Retrieval:
    """Similarities of captions and clips, and what the captions and clips are.

    `similarities` is (Q, V); `owner` (Q,) is the index of the clip each caption was written for.
    """

    clips: list[str]
    captions: list[str]
    owner: NDArray[np.int64]
    similarities: NDArray[np.float32]

    def rank(self, query: int) -> float:
        """Return the 1-based rank of the query's own clip; ties count half, as in the metrics."""
        scores = self.similarities[query]
        own = scores[self.owner[query]]
        return float((scores > own).sum() + ((scores == own).sum() - 1) / 2 + 1)

    def best(self, query: int, count: int) -> list[int]:
        """Return the `count` most similar clips, best first; of equal ones the earlier."""
        return [int(i) for i in np.argsort(-self.similarities[query], kind="stable")[:count]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--similarities", type=Path, required=True, metavar="F.npy", help="from eval.py"
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data/SoundScenes"), help="default: %(default)s"
    )
    parser.add_argument("--split", default="test", help="default: %(default)s")
    parser.add_argument("--queries", type=int, default=10, help="drawn at random; default 10")
    parser.add_argument("--misses", type=int, default=3, help="worst ones shown besides; default 3")
    parser.add_argument("--top", type=int, default=4, help="clips shown for each; default 4")
    parser.add_argument("--link", action="store_true", help="link to the sounds, not copy them in")
    parser.add_argument("--out", type=Path, default=Path("demo.html"), help="default: %(default)s")
    args = parser.parse_args(argv)
    return run_main(lambda: write_page(args))


def write_page(args: argparse.Namespace) -> int:
    """Write the page and say where it is."""
    if min(args.queries, args.misses, args.top - 1) < 0:
        raise UsageError("--queries and --misses must be at least 0, --top at least 1")
    found = load(args.similarities, args.data, args.split)
    page = Page(found, args.data / "audio", args.out.parent if args.link else None, args.top)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.out, page.render(args.queries, args.misses))
    print(f"look and listen: {args.out}")
    return 0


def load(similarities: Path, data: Path, split: str) -> Retrieval:
    """Load similarities and what they compare. Raises DataError when the two do not fit."""
    root = data / "structured-symlinks"
    clips = read_list(root / f"{split}_list.txt")
    nested, file = root / "structured-symlinks" / CAPTIONS, root / CAPTIONS
    file = nested if nested.is_file() else file
    said = read_captions(file)
    missing = [clip for clip in clips if clip not in said]
    if missing:
        raise DataError(f"{file} has no captions of {missing[0]}")
    try:
        scores = np.load(similarities, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{similarities} cannot be read as an array: {error}") from error
    per_clip, rest = divmod(len(scores) if scores.ndim == 2 else 0, len(clips))
    if scores.ndim != 2 or scores.shape[1] != len(clips) or rest or not per_clip:
        raise DataError(
            f"{similarities} has the shape {scores.shape}; expected (captions, {len(clips)}) for "
            f"the {len(clips)} clips of {root / f'{split}_list.txt'}, as many captions for each"
        )
    if min(len(said[clip]) for clip in clips) < per_clip:
        raise DataError(f"{similarities} has {per_clip} captions a clip; some clips have fewer")
    captions = [" ".join(words) for clip in clips for words in said[clip][:per_clip]]
    return Retrieval(clips, captions, np.repeat(np.arange(len(clips)), per_clip), scores)


@dataclass(frozen=True)
class Page:
    """The page: how a retrieval is shown.

    `base` is the folder of the page when sounds are linked to, None when they are copied in.
    """

    found: Retrieval
    audio: Path
    base: Path | None
    top: int

    def render(self, queries: int, misses: int) -> str:
        """Return the page as HTML."""
        found = self.found
        ranks = np.array([found.rank(query) for query in range(len(found.captions))])
        order = np.random.default_rng(0).permutation(len(ranks))
        chosen = [int(query) for query in order[:queries]]
        worst = [int(q) for q in np.argsort(-ranks, kind="stable") if q not in chosen][:misses]
        clips, chance = len(found.clips), 100 * min(10 / len(found.clips), 1.0)
        first, ten = 100 * np.mean(ranks == 1), 100 * np.mean(ranks < 11)
        summary = (
            f"{len(ranks):,} captions, each searched for among {clips:,} clips. Its own clip "
            f"comes first for {first:.1f} % of them and among the first ten for {ten:.1f} % "
            f"(guessing: {chance:.1f} %)."
        )
        parts = [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
            "img-src data:; media-src data: file: 'self'; style-src 'unsafe-inline'\">",
            f"<title>Finding sounds with words</title><style>{STYLE}</style></head><body>",
            "<h1>Finding sounds with words</h1>",
            f"<p>{summary}</p>",
            '<p class="dim">Framed in green: the clip that the caption was written for. The '
            "pictures are spectrograms: time to the right, low to high frequencies upwards.</p>",
            f"<h2>{len(chosen)} captions drawn at random</h2>",
            *map(self._query, chosen),
        ]
        if worst:
            parts += ["<h2>Where it went most wrong</h2>", *map(self._query, worst)]
        return "\n".join([*parts, "</body></html>", ""])

    def _query(self, query: int) -> str:
        found, rank = self.found, self.found.rank(query)
        own = int(found.owner[query])
        shown = found.best(query, self.top)
        place = "rank 1" if rank == 1 else f"rank {rank:g} of {len(found.clips)}"
        if own not in shown:
            shown.append(own)
        return "\n".join(
            [
                f"<section><h3>“{escape(found.captions[query])}”</h3>",
                f'<p class="{"hit" if rank == 1 else "rank"}">its own clip: {place}</p><ol>',
                *(self._clip(query, clip, right=clip == own) for clip in shown),
                "</ol></section>",
            ]
        )

    def _clip(self, query: int, clip: int, *, right: bool) -> str:
        found = self.found
        captions_of = np.flatnonzero(found.owner == clip)
        scores = found.similarities[query]
        place = int((scores > scores[clip]).sum()) + 1
        name = escape(found.clips[clip])
        path = self.audio / f"{found.clips[clip]}.wav"
        if path.is_file():
            sound = f'<audio controls preload="none" src="{self._source(path)}"></audio>'
            picture = f'<img alt="spectrogram of {name}" src="{spectrogram(read_wav(path))}">'
        else:
            sound, picture = '<p class="dim">its sound is not here</p>', ""
        return (
            f"<li{' class=right' if right else ''}>{picture}"
            f"<p>{escape(found.captions[int(captions_of[0])])}</p>"
            f'<p class="dim">{place}. {name}, similarity {scores[clip]:.2f}</p>{sound}</li>'
        )

    def _source(self, path: Path) -> str:
        if self.base is not None:
            return quote(Path(os.path.relpath(path, self.base)).as_posix())
        return "data:audio/wav;base64," + base64.b64encode(path.read_bytes()).decode()


def spectrogram(sound: NDArray[np.int16]) -> str:
    """Draw a sound (n,) as a picture of its mel bands; returns a PNG as a data URI."""
    levels = log_mel(sound.astype(np.float32) / np.float32(32_768))[::2].T[
        ::-1
    ]  # (64, frames), high frequencies on top
    shade = np.clip((levels + 75) / 75, 0, 1)
    return (
        "data:image/png;base64," + base64.b64encode(_png((shade * 255).astype(np.uint8))).decode()
    )


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode pixels (height, width) with a palette from dark blue over red to light yellow."""
    height, width = pixels.shape
    step = np.linspace(0, 1, 256)[:, None]
    stops = np.array([[13, 8, 60], [140, 30, 120], [235, 95, 70], [252, 250, 190]], float)
    where = step[:, 0] * (len(stops) - 1)
    palette = np.stack(
        [np.interp(where, np.arange(len(stops)), stops[:, i]) for i in range(3)], axis=1
    )
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels], axis=1)  # 0: not filtered
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"PLTE", palette.astype(np.uint8).tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    ]
    out = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        check = struct.pack(">I", zlib.crc32(kind + content))
        out += struct.pack(">I", len(content)) + kind + content + check
    return out


if __name__ == "__main__":
    sys.exit(main())
