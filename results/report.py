"""One self-contained page about runs: metrics, curves, ranks, and every query to look at.

Q queries, V clips, M experts. Names and captions are foreign text: they enter the page escaped,
or as JSON that its script shows as text alone; the page's policy lets nothing else run or load.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from model.metric import TASKS
from results.charts import Axes, Series, bar_chart, line_chart
from results.comparison import Pair, legend, rows_of_pair, sentences
from results.ranks import Ranks
from results.runs import StoredRun, load_run, require_same_terms
from results.sounds import addresses
from results.tables import count, rows_of_runs
from utils.errors import UsageError
from utils.files import write_text

HERE = Path(__file__).resolve().parent
LARGEST = 5_000_000
"""Bytes of a page without sounds."""
SHOWN_TOP = 5
SHOWN_CLIPS = 10
MOST_RUNS = 6
BINS = (1, 2, 5, 10, 20, 50, 100)
"""Last rank of each bar of the histogram; one more bar holds the rest."""
LONGEST_CURVE = 100
VALIDATION = {
    "val_t2v_metrics_geometric_mean_R1-R5-R10": "Validation, geometric mean of R@1, R@5, R@10",
    "loss": "Training loss",
}
PLACES = {
    "0-1e9": "all ranks",
    "0-1": "first",
    "1.01-5": "2 to 5",
    "5.01-10": "6 to 10",
    "10.01-1e9": "after 10",
}


@dataclass(frozen=True)
class Shown:
    """A run and the ranks of its seeds; none where they were not kept."""

    run: StoredRun
    ranks: Mapping[str, Ranks]

    @property
    def first(self) -> Ranks:
        """The ranks of the first seed."""
        return next(iter(self.ranks.values()))


def read_shown(run: StoredRun) -> Shown:
    """Read the ranks of all seeds of a run that have any."""
    return Shown(run, {seed: run.ranks(seed) for seed in run.seeds if seed in run.ranks_files})


def write_page_of_training(folder: Path, visualizer: Mapping[str, Any]) -> Path:
    """Write report.html beside the results of a training, as its `visualizer` section asks for.

    Recordings below `args.src_video_dir`, where there is such a folder, are linked to.
    """
    page = folder / "report.html"
    shown = read_shown(load_run(folder))
    source = str((visualizer.get("args") or {}).get("src_video_dir") or "")
    sounds = {}
    if shown.ranks and source and Path(source).is_dir():
        sounds = addresses(Path(source), shown.first.clips, page)
    write_text(page, render_page([shown], sounds=sounds))
    return page


def render_page(
    shown: Sequence[Shown],
    *,
    pairs: Sequence[Pair] = (),
    sounds: Mapping[str, str] | None = None,
    title: str = "",
) -> str:
    """Return the page. `sounds`: address by clip. `pairs`: comparisons to print in words.

    Raises UsageError for runs of different queries, and for a page larger than LARGEST.
    """
    _require_one_kind(shown)
    ranked = [one for one in shown if one.ranks]
    runs = [one.run for one in shown]
    style, script = ((HERE / f"report.{kind}").read_text("utf-8") for kind in ("css", "js"))
    page: dict[str, Any] = {
        "title": title or (runs[0].name if len(runs) == 1 else f"{len(runs)} runs side by side"),
        "style": style,
        "script": script,
        "policy": f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "media-src data: file: 'self'; base-uri 'none'; form-action 'none'",
        "runs": runs,
        "ranked": ranked,
        "unranked": [one.run.name for one in shown if not one.ranks],
        "pairs": pairs,
        "curves": _curves(runs),
    }
    if ranked:
        page |= {
            "first": ranked[0].first,
            "extremes": _extremes(ranked),
            "weights": _weights(ranked),
        }
        page |= {**_rank_charts(ranked), "names": _names(ranked), "sorts": _sorts(ranked)}
    for scores in (True, False):
        size = len(_render(page, _data(ranked, {}, scores=scores)).encode())
        if size <= LARGEST:
            return _render(page, _data(ranked, sounds or {}, scores=scores))
    raise UsageError(
        f"the page would have {size:,} bytes, more than {LARGEST:,}; name fewer runs, or joined "
        "runs of fewer seeds"
    )


def _require_one_kind(shown: Sequence[Shown]) -> None:
    """Refuse runs that cannot be compared."""
    if len(shown) > MOST_RUNS:
        raise UsageError(f"a page shows at most {MOST_RUNS} runs side by side, not {len(shown)}")
    for other in shown[1:]:
        require_same_terms(shown[0].run, other.run, "write a page of each")
    with_ranks = [ranks for one in shown for ranks in one.ranks.values()]
    for ranks in with_ranks[1:]:
        if ranks.identity() != with_ranks[0].identity():
            raise UsageError("the runs answered different queries; write a page of each")


def _render(page: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """Fill in the template."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    template = environment.get_template("report.html")
    text = template.render(
        page,
        data=data,
        tasks=TASKS,
        places=PLACES,
        count=count,
        legend=legend,
        sentences=sentences,
        rows_of_pair=rows_of_pair,
        rows_of_runs=rows_of_runs,
    )
    return _unicode(text)


def _curves(runs: Sequence[StoredRun]) -> str:
    """Return the charts of the trainings; "" where no run has any."""
    axes = Axes("epoch", "mean of seeds; shaded: lowest to highest")
    charts = [
        line_chart(title, axes, [_curve(run, key) for run in runs])
        for key, title in VALIDATION.items()
    ]
    return "".join(charts)


def _curve(run: StoredRun, key: str) -> Series:
    """Return a value by epoch: the mean of the seeds, and their lowest and highest."""
    by_epoch: dict[float, list[float]] = {}
    for records in run.curves.values():
        for record in records:
            if key in record and (record["epoch"] > 0 or key != "loss"):
                by_epoch.setdefault(record["epoch"], []).append(record[key])
    of_epochs = sorted(by_epoch.items())
    points = [(epoch, float(np.mean(values))) for epoch, values in of_epochs]
    return Series(run.name, points, [(min(values), max(values)) for _, values in of_epochs])


def _rank_charts(shown: Sequence[Shown]) -> dict[str, Any]:
    """Return the histogram of ranks, its table, and R@k by k."""
    labels = ["1", "2", *(f"{a + 1}-{b}" for a, b in itertools.pairwise(BINS[1:]))]
    labels.append(f"{BINS[-1] + 1}-")
    edges = [0.0, *(last + 0.25 for last in BINS), np.inf]
    longest = range(1, min(LONGEST_CURVE, len(shown[0].first.clips)) + 1)
    bars, lines = [], []
    for one in shown:
        seeds = [ranks.t2v_ranks + 1 for ranks in one.ranks.values()]
        shares = [np.histogram(ranks, edges)[0] / len(ranks) * 100 for ranks in seeds]
        bars.append((one.run.name, np.mean(shares, axis=0).tolist()))
        recalls = [
            (k, float(np.mean([100 * np.mean(ranks < k + 1) for ranks in seeds]))) for k in longest
        ]
        lines.append(Series(one.run.name, recalls))
    axes = Axes("k", "R@k in percent", logarithmic=True, most=100)
    histogram = Axes("rank", "percent of queries")
    rows = [
        [label, *(f"{share:.1f} %" for share in shares)]
        for label, *shares in zip(labels, *(shares for _, shares in bars), strict=True)
    ]
    return {
        "histogram": bar_chart("Rank of the right clip", histogram, labels, bars),
        "recall": line_chart("Right clip among the first k", axes, lines),
        "bars": [["rank", *(name for name, _ in bars)], *rows],
    }


def _weights(shown: Sequence[Shown]) -> list[list[str]]:
    """Return the table of the weights that captions give to the experts, heading first."""
    rows = [["expert", "mean weight", "5 % of queries below", "median", "5 % above"]]
    for one in shown:
        weights = 100 * np.concatenate([ranks.weights for ranks in one.ranks.values()])
        for expert, column in zip(one.first.experts, weights.T, strict=True):
            if len(one.first.experts) > 1:
                values = (column.mean(), *np.quantile(column, [0.05, 0.5, 0.95]))
                rows.append([f"{one.run.name}: {expert}", *(f"{value:.0f} %" for value in values)])
    return rows


def _extremes(shown: Sequence[Shown]) -> dict[str, list[tuple[str, list[float], list[str]]]]:
    """Return the worst and best clips: name, mean rank of each run over captions and seeds, texts.

    They are the worst and best of the first run.
    """
    first = shown[0].first
    counts = np.bincount(first.query_clip, minlength=len(first.clips))
    by_run = []
    for one in shown:
        ranks = np.mean([ranks.t2v_ranks for ranks in one.ranks.values()], axis=0) + 1
        sums = np.bincount(first.query_clip, ranks, minlength=len(first.clips))
        by_run.append(sums / np.maximum(counts, 1))
    asked = np.flatnonzero(counts)
    order = asked[np.argsort(by_run[0][asked], kind="stable")]
    half = min(SHOWN_CLIPS, max(1, len(order) // 2))
    texts: dict[int, dict[str, None]] = {}
    for clip, text in zip(first.query_clip.tolist(), first.captions, strict=False):
        texts.setdefault(clip, {})[text] = None
    return {
        heading: [
            (first.clips[clip], [ranks[clip] for ranks in by_run], list(texts.get(clip, ())))
            for clip in chosen.tolist()
        ]
        for heading, chosen in (("Worst", order[::-1][:half]), ("Best", order[:half]))
    }


def _names(shown: Sequence[Shown]) -> dict[int, str]:
    return {at: one.run.name for at, one in enumerate(shown)}


def _sorts(shown: Sequence[Shown]) -> dict[str, str]:
    """Return the orders of the list of queries, as the script names them."""
    sorts = {
        "worst": "worst first",
        "best": "best first",
        "list": "order of the list",
        "caption": "caption, by alphabet",
    }
    if len(shown) > 1:
        one, other = (shown.run.name for shown in shown[:2])
        sorts["ahead"] = f"where {one} is most ahead of {other}"
        sorts["behind"] = f"where {one} is most behind {other}"
    return sorts


def _data(shown: Sequence[Shown], sounds: Mapping[str, str], *, scores: bool) -> dict[str, Any]:
    """Return what the script of the page shows; `scores`: with the similarities."""
    if not shown:
        return {"clips": [], "queries": [], "captions": [], "runs": [], "top": 0, "sounds": {}}
    first = shown[0].first
    top = min(SHOWN_TOP, first.top_clips.shape[1])
    queries = zip(first.query_clip.tolist(), first.query_caption.tolist(), strict=True)
    return {
        "clips": [*map(_unicode, first.clips)],
        "queries": [*queries],
        "captions": [*map(_unicode, first.captions)],
        "sounds": {at: sounds[clip] for at, clip in enumerate(first.clips) if clip in sounds},
        "top": top,
        "runs": [_run_data(one, top, scores=scores) for one in shown],
    }


def _run_data(one: Shown, top: int, *, scores: bool) -> dict[str, Any]:
    first = one.first
    ranks = [(ranks.t2v_ranks + 1).tolist() for ranks in one.ranks.values()]
    found: dict[str, Any] = {
        "name": one.run.name,
        "seeds": list(one.ranks),
        "ranks": [[int(rank) if rank.is_integer() else rank for rank in seed] for seed in ranks],
        "top": first.top_clips[:, :top].reshape(-1).tolist(),
        "experts": list(first.experts),
    }
    if scores:
        found["scores"] = np.round(first.top_scores[:, :top].astype(float), 3).reshape(-1).tolist()
    if first.experts:
        found["weights"] = np.rint(100 * first.weights).astype(int).reshape(-1).tolist()
    return found


def _unicode(text: str) -> str:
    """Return foreign text with a question mark for what is no valid Unicode."""
    return text.encode("utf-8", "replace").decode()


def _hash(content: str) -> str:
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"
