"""The model card and the list of attributions that go with the default model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from misc.default_model.corpus import Listed
from utils.files import write_text

CARD = """# The default model

`misc/search.py` and `misc/serve.py` answer with it when no `--run` is named. The folder is a run
like any other, in files that ship with the project.

| file | contents |
|---|---|
| `trained_model.safetensors` | the weights, under the names of checkpoints |
| `config.json` | the configuration |
| `text_encoder.json` | the record of the text encoder of its captions |
| `scores.json` | the scores below |
| `ATTRIBUTION.md` | file, author, licence and source of every recording |

* **Form**: linear alignment (`model/linear_alignment.py`): mean, maximum and standard deviation of
  the expert `aisfx`, standardised, mapped by ridge regression to MiniLM's sentence vectors.
* **Data**: {recordings} recordings of {phrases} phrases ({licences}).
  Mixtures of two of them ("x while y", seed {seed}) were tried; {mixtures} are in it, as the scores
  said. The recordings are not part of the project.
* **Licences**: these weights are under the project's licence, the attributions go with them. The
  networks it needs keep theirs: aisfx (A. B. Ma and A. Lerch, ISMIR 2022) CC BY 4.0,
  all-MiniLM-L6-v2 Apache-2.0.
* **Made by** `python misc/make_default_model.py --sounds FOLDER`
* **Limits**: English, short descriptions of single sounds. Most recordings are
  sound effects: animals, weapons, doors, steps, weather, voices of creatures. Music, speech
  contents and long scenes were not trained on.

## Scores

Phrases held out: five folds that share no phrase and no source, each searched by a model of the
other four, among about 130 recordings. A phrase is found at rank k when a recording of it is the
k-th.
The form in bold was chosen by these very scores, so that its own are a little too good.

| form | mixtures | R@1 | R@5 | R@10 | median rank |
|---|---|---|---|---|---|
{scores}
"""
ATTRIBUTION = """# Recordings that the default model was trained on

Their statistics were used; none is part of the project.

| file | author | licence | source |
|---|---|---|---|
{rows}
"""


def write_card(
    folder: Path,
    listed: Sequence[Listed],
    scores: Sequence[Mapping[str, Any]],
    best: Mapping[str, Any],
    *,
    seed: int,
) -> None:
    """Write README.md, the card, and ATTRIBUTION.md, a line for each recording."""
    licences = Counter(one.licence for one in listed)
    rows = []
    for one in scores:
        form = f"**{one['form']}**" if one is best else one["form"]
        found = f"{one['R@1']} | {one['R@5']} | {one['R@10']} | {one['MedR']:g}"
        rows.append(f"| {form} | {one['mixtures']} | {found} |")
    card = CARD.format(
        recordings=len(listed),
        phrases=len({one.phrase for one in listed}),
        licences=", ".join(f"{count} {name}" for name, count in licences.most_common()),
        seed=seed,
        mixtures=best["mixtures"] or "none",
        scores="\n".join(rows),
    )
    write_text(folder / "README.md", card)
    lines = [
        f"| {cell(one.file)} | {cell(one.author)} | {cell(one.licence)} | {cell(one.source)} |"
        for one in listed
    ]
    write_text(folder / "ATTRIBUTION.md", ATTRIBUTION.format(rows="\n".join(lines)))


def cell(text: str) -> str:
    """Return text that keeps to its cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
