"""One self-contained page about runs: metrics, curves, ranks, and every query to look at.

Q queries, V clips, M experts. Names and captions are foreign text: they enter the page escaped,
or as JSON that its script shows as text alone; the page's policy lets nothing else run or load.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from model.metric import TASKS
from results.charts import Axes, Series, bar_chart, line_chart
from results.comparison import Pair, legend, rows_of_pair, sentences
from results.ranks import Ranks
from results.runs import StoredRun, load_run, require_same_terms
from results.sounds import find_sounds, is_played, link_to
from results.tables import Rows, rows_of_runs
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
    def first(self) -> Ranks | None:
        """Return the ranks of the first seed."""
        return next(iter(self.ranks.values()), None)

    def mean_ranks(self, task: str) -> np.ndarray:
        """Return 1-based ranks (n,), averaged over seeds."""
        return np.mean([ranks.of(task)[0] for ranks in self.ranks.values()], axis=0) + 1


def read_shown(run: StoredRun) -> Shown:
    """Read the ranks of all seeds of a run that have any."""
    return Shown(run, {seed: run.ranks(seed) for seed in run.seeds if seed in run.ranks_files})


def write_page_of_training(folder: Path, visualizer: Mapping[str, Any]) -> Path:
    """Write report.html beside the results of a training, as its `visualizer` section asks for.

    Recordings below `args.src_video_dir`, where there is such a folder, are linked to.
    """
    page = folder / "report.html"
    shown = read_shown(load_run(folder))
    source = Path(str((visualizer.get("args") or {}).get("src_video_dir") or ""))
    sounds = {}
    if shown.first is not None and source.is_dir() and source != Path():
        found = find_sounds(source, shown.first.clips)
        sounds = {clip: link_to(path, page) for clip, path in found.items() if is_played(path)}
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
    title = title or (shown[0].run.name if len(shown) == 1 else f"{len(shown)} runs side by side")
    for form in (_data(shown, scores=True), _data(shown, scores=False)):
        page = _page(shown, title, form, pairs, {})
        if len(page.encode()) <= LARGEST:
            break
    else:
        raise UsageError(
            f"the page would have {len(page.encode()):,} bytes, more than {LARGEST:,}; name fewer "
            "runs, or joined runs of fewer seeds"
        )
    return _page(shown, title, form, pairs, sounds or {})


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


def _page(
    shown: Sequence[Shown],
    title: str,
    data: dict[str, Any],
    pairs: Sequence[Pair],
    sounds: Mapping[str, str],
) -> str:
    """Put the page together."""
    style = (HERE / "report.css").read_text(encoding="utf-8")
    script = (HERE / "report.js").read_text(encoding="utf-8")
    places = {name: place for place, name in enumerate(data["clips"])}
    heard = {_unicode(clip): address for clip, address in sounds.items()}
    found = {places[clip]: address for clip, address in heard.items() if clip in places}
    content = json.dumps({**data, "sounds": found}, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        content = content.replace(sign, f"\\u{ord(sign):04x}")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "media-src data: file: 'self'; base-uri 'none'; form-action 'none'"
    )
    with_ranks = [one for one in shown if one.ranks]
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(title)}</title><style>{style}</style></head><body>",
        '<a class="skip" href="#index">to the queries</a><main>',
        f"<h1>{_text(title)}</h1>",
        *_header(shown, with_ranks),
        *_metrics(shown, pairs),
        *_curves(shown),
    ]
    if with_ranks:
        parts += [*_rank_charts(with_ranks), *_weights(with_ranks), *_clips(with_ranks)]
        parts += _index(with_ranks)
    parts += [
        f'</main><script type="application/json" id="data">{content}</script>',
        f"<script>{script}</script></body></html>",
        "",
    ]
    return "\n".join(parts)


def _header(shown: Sequence[Shown], with_ranks: Sequence[Shown]) -> list[str]:
    """Return the names, protocol and parts of the page."""
    content = shown[0].run.content
    protocol = content["protocol"]
    sizes = []
    if with_ranks and (first := with_ranks[0].first):
        sizes.append(
            f"{len(first.query_clip):,} captions, each searched for among {len(first.clips):,} "
            f"clips of the {content.get('split')} split."
        )
    terms = ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in protocol.items())
    names = "".join(
        f'<li><span class="key s{place}"></span>{_text(one.run.name)} <span class="dim">'
        f"{_seeds(one.run)}, {one.run.content.get('trainable_parameters', 0):,} parameters"
        f"{', only a few batches an epoch (--mini_train)' if one.run.mini else ''}</span></li>"
        for place, one in enumerate(shown)
    )
    links = {"metrics": "Metrics", "curves": "Training"}
    if with_ranks:
        links |= {"ranks": "Ranks", "clips": "Best and worst clips", "index": "All queries"}
    nav = "".join(f'<a href="#{name}">{label}</a>' for name, label in links.items())
    without = [one.run.name for one in shown if not one.ranks]
    missing = (
        f"<p>The ranks of {_text(', '.join(without))} were not kept, so that its queries cannot be "
        "shown; score its checkpoints again with eval.py.</p>"
        if without
        else ""
    )
    return [
        f'<ul class="names">{names}</ul><p>{" ".join(sizes)}</p>',
        f'<p class="dim">Protocol: {_text(terms)}.</p>{missing}',
        f'<nav aria-label="parts of the page">{nav}</nav>',
    ]


def _metrics(shown: Sequence[Shown], pairs: Sequence[Pair]) -> list[str]:
    parts = ['<h2 id="metrics">Metrics</h2>']
    parts.append(
        '<p class="dim">Mean (standard deviation) over seeds. R@k: percent of queries whose own '
        "clip is among the first k, higher is better. MdR, MnR: median and mean rank, lower is "
        "better.</p>"
    )
    for task, title in TASKS.items():
        parts += [f"<h3>{title}</h3>", _table(rows_of_runs([one.run for one in shown], task))]
    for pair in pairs:
        parts.append(f"<h3>{_text(pair.first.name)} against {_text(pair.second.name)}</h3>")
        parts += [f"<p>{_text(line)}</p>" for line in sentences(pair)]
        parts.append("<details><summary>all differences, intervals and p-values</summary>")
        parts += [f"<p class=dim>{_text(line)}</p>" for line in legend(pair)]
        for task, title in TASKS.items():
            parts += [f"<h3>{title}</h3>", _table(rows_of_pair(pair, task))]
        parts.append("</details>")
    return parts


def _curves(shown: Sequence[Shown]) -> list[str]:
    charts = []
    for key, title in VALIDATION.items():
        lines = [Series(one.run.name, *_curve(one.run, key)) for one in shown]
        unit = "mean of seeds; shaded: lowest to highest"
        charts.append(line_chart(title, Axes("epoch", unit), lines))
    drawn = "".join(charts)
    if not drawn:
        drawn = '<p class="dim">No curves are beside these results: they were scored, not trained, '
        drawn += "where this page was made.</p>"
    return ['<h2 id="curves">Training</h2>', f'<div class="charts">{drawn}</div>']


def _curve(run: StoredRun, key: str) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Return a value by epoch: means of the seeds, and their lowest and highest."""
    by_epoch: dict[float, list[float]] = {}
    for records in run.curves.values():
        for record in records:
            if key in record:
                by_epoch.setdefault(record["epoch"], []).append(record[key])
    epochs = sorted(epoch for epoch in by_epoch if epoch > 0 or key != "loss")
    points = [(epoch, float(np.mean(by_epoch[epoch]))) for epoch in epochs]
    return points, [(min(by_epoch[epoch]), max(by_epoch[epoch])) for epoch in epochs]


def _rank_charts(shown: Sequence[Shown]) -> list[str]:
    labels = ["1", "2", *(f"{a + 1}-{b}" for a, b in itertools.pairwise(BINS[1:]))]
    labels.append(f"{BINS[-1] + 1}-")
    bars, lines = [], []
    for one in shown:
        seeds = [ranks.t2v_ranks + 1 for ranks in one.ranks.values()]
        edges = [0.0, *(last + 0.25 for last in BINS), np.inf]
        shares = [np.histogram(ranks, edges)[0] / len(ranks) * 100 for ranks in seeds]
        bars.append((one.run.name, np.mean(shares, axis=0).tolist()))
        clips = len(seeds and next(iter(one.ranks.values())).clips)
        curve = [
            (k, float(np.mean([100 * np.mean(ranks < k + 1) for ranks in seeds])))
            for k in range(1, min(LONGEST_CURVE, clips) + 1)
        ]
        lines.append(Series(one.run.name, curve))
    histogram = bar_chart(
        "Rank of the right clip", Axes("rank", "percent of queries"), labels, bars
    )
    recall = line_chart(
        "Right clip among the first k",
        Axes("k", "R@k in percent", logarithmic=True, most=100),
        lines,
    )
    rows = [["rank", *(name for name, _ in bars)]]
    for place, label in enumerate(labels):
        rows.append([label, *(f"{values[place]:.1f} %" for _, values in bars)])
    table = f"<details><summary>the bars as a table</summary>{_table(rows)}</details>"
    return [
        '<h2 id="ranks">Ranks, text-to-audio</h2>',
        f'<div class="charts">{histogram}{recall}</div>{table}',
    ]


def _weights(shown: Sequence[Shown]) -> list[str]:
    rows = []
    for one in shown:
        first = one.first
        if first is None or len(first.experts) < 2:
            continue
        for place, expert in enumerate(first.experts):
            column = np.concatenate([ranks.weights[:, place] for ranks in one.ranks.values()]) * 100
            low, middle, high = np.quantile(column, [0.05, 0.5, 0.95])
            cells = [f"{value:.0f} %" for value in (column.mean(), low, middle, high)]
            rows.append([f"{one.run.name}: {expert}", *cells])
    if not rows:
        return []
    head = ["expert", "mean weight", "5 % of queries below", "median", "5 % above"]
    return ["<h3>Weights that captions give to the experts</h3>", _table([head, *rows])]


def _clips(shown: Sequence[Shown]) -> list[str]:
    """Return the best and worst clips: one line a clip, over all its captions and seeds."""
    first = shown[0].first
    if first is None:
        return []
    owners = first.query_clip
    counts = np.bincount(owners, minlength=len(first.clips))
    by_run = [
        np.bincount(owners, one.mean_ranks("t2v"), minlength=len(first.clips))
        / np.maximum(counts, 1)
        for one in shown
    ]
    asked = np.flatnonzero(counts)
    order = asked[np.argsort(by_run[0][asked], kind="stable")]
    half = min(SHOWN_CLIPS, max(1, len(order) // 2))
    parts = [
        '<h2 id="clips">Best and worst clips</h2>',
        '<p class="dim">Mean rank over the captions of a clip and over seeds'
        f"{', by ' + _text(shown[0].run.name) if len(shown) > 1 else ''}. A clip's name leads to "
        "its queries.</p>",
    ]
    for title, chosen in (("Worst", order[::-1][:half]), ("Best", order[:half])):
        rows = []
        for clip in chosen:
            texts = [first.captions[q] for q in np.flatnonzero(owners == clip) if first.captions]
            name = f'<button class="link">{_text(first.clips[clip])}</button>'
            cells = "".join(
                f'<td><span class="key s{place}"></span>{ranks[clip]:.1f}</td>'
                for place, ranks in enumerate(by_run)
            )
            rows.append(
                f"<tr><td class=wide>{name}</td>{cells}<td class=wide>"
                f"{_text('; '.join(dict.fromkeys(texts)))}</td></tr>"
            )
        heads = "".join(
            f'<th scope="col"><span class="key s{place}"></span>mean rank</th>'
            for place in range(len(shown))
        )
        parts.append(
            f'<h3>{title}</h3><div class="scroll clips" tabindex="0" role="region" '
            f'aria-label="{title} clips"><table><thead><tr><th scope="col">clip</th>{heads}'
            '<th scope="col" class="wide">captions</th></tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table></div>"
        )
    return parts


def _index(shown: Sequence[Shown]) -> list[str]:
    """Return the controls and the empty list that the script fills."""
    sorts = {
        "worst": "worst first",
        "best": "best first",
        "list": "order of the list",
        "caption": "caption, by alphabet",
    }
    if len(shown) > 1:
        names = [one.run.name for one in shown[:2]]
        sorts["ahead"] = f"where {names[0]} is most ahead of {names[1]}"
        sorts["behind"] = f"where {names[0]} is most behind {names[1]}"
    run = ""
    if len(shown) > 1:
        run = _choice("run", "ranks of", {str(at): one.run.name for at, one in enumerate(shown)})
    return [
        '<h2 id="index">All queries, text-to-audio</h2>',
        '<p class="dim">A rank is the place of the clip that the caption was written for, averaged '
        "over seeds. Open a query to see what was found for it.</p>",
        '<p class="dim screen"><kbd>/</kbd> filter, <kbd>n</kbd> and <kbd>p</kbd> next and '
        "previous page, <kbd>Tab</kbd> and <kbd>Enter</kbd> open a query.</p>",
        '<div class="controls" role="search">',
        '<label class="grow">caption or clip contains<input id="filter" type="search" '
        'autocomplete="off"></label>',
        _choice("places", "rank", PLACES),
        _choice("sort", "sorted", sorts),
        run,
        "</div>",
        '<p id="count" class="dim" aria-live="polite"></p>',
        "<noscript><p>The list of queries needs JavaScript.</p></noscript>",
        '<ol class="queries" id="queries"></ol>',
        '<div class="pager"><button id="before">previous page</button>'
        '<button id="after">next page</button></div>',
    ]


def _choice(name: str, label: str, options: Mapping[str, str]) -> str:
    listed = "".join(
        f'<option value="{_text(value)}">{_text(text)}</option>' for value, text in options.items()
    )
    return f'<label>{label}<select id="{name}">{listed}</select></label>'


def _data(shown: Sequence[Shown], *, scores: bool) -> dict[str, Any]:
    """Return what the script of the page shows."""
    with_ranks = [one for one in shown if one.ranks]
    first = with_ranks[0].first if with_ranks else None
    if first is None:
        return {"clips": [], "queries": [], "captions": [], "runs": [], "top": 0}
    top = min(SHOWN_TOP, first.top_clips.shape[1])
    queries = zip(first.query_clip.tolist(), first.query_caption.tolist(), strict=True)
    return {
        "clips": [_unicode(clip) for clip in first.clips],
        "queries": list(queries),
        "captions": [_unicode(caption) for caption in first.captions],
        "top": top,
        "runs": [_run_data(one, top, scores=scores) for one in with_ranks],
    }


def _run_data(one: Shown, top: int, *, scores: bool) -> dict[str, Any]:
    first = next(iter(one.ranks.values()))
    found: dict[str, Any] = {
        "name": one.run.name,
        "seeds": list(one.ranks),
        "shown": 0,
        "ranks": [[_short(rank + 1) for rank in r.t2v_ranks.tolist()] for r in one.ranks.values()],
        "top": first.top_clips[:, :top].reshape(-1).tolist(),
        "experts": list(first.experts),
    }
    if scores:
        found["scores"] = np.round(first.top_scores[:, :top].astype(float), 3).reshape(-1).tolist()
    if first.experts:
        found["weights"] = np.rint(100 * first.weights).astype(int).reshape(-1).tolist()
    return found


def _short(number: float) -> float | int:
    return int(number) if number == int(number) else number


def _table(rows: Rows) -> str:
    """Return a table whose first row is its heading."""
    head, *body = rows
    heads = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in head)
    lines = "".join(
        f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in body
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="table"><table><thead><tr>'
        f"{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _seeds(run: StoredRun) -> str:
    count = len(run.seeds)
    return f"{count} seed{'' if count == 1 else 's'} ({', '.join(run.seeds)})"


def _text(text: str) -> str:
    """Return foreign text as HTML."""
    return escape(_unicode(text))


def _unicode(text: str) -> str:
    """Return foreign text with a question mark for what is no valid Unicode."""
    return text.encode("utf-8", "replace").decode()


def _hash(content: str) -> str:
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"
