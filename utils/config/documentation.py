"""The tables of docs/configuration.md, written from the signatures.

python -m utils.config.documentation
"""

from __future__ import annotations

import inspect
import json

from utils.config.files import ROOT
from utils.config.released import EMPTY_ONLY, WITHOUT_EFFECT
from utils.config.sections import File
from utils.declared import REQUIRED, Key, OneOf, keys_of, leaves
from utils.files import write_text
from utils.kinds import EMPTY, Kind

DOCUMENT = ROOT / "docs" / "configuration.md"
MARK = "<!-- The tables below are written by: python -m utils.config.documentation -->\n"
HEAD = ["| key | value | default | meaning |", "|---|---|---|---|"]


def render_tables() -> str:
    """Return every key in Markdown tables: by section, by class, then those without effect."""
    top = keys_of(File)
    parts = [_table("Top level", {n: key for n, key in top.items() if isinstance(key.node, Kind)})]
    for name, key in top.items():
        if isinstance(key.node, OneOf):
            parts += _classes(name, key.node)
        elif not isinstance(key.node, Kind):
            parts.append(_table(name, {name: key}))
    silent = [
        f"| `{path}` | {kind.expected} |"
        for path, kind in WITHOUT_EFFECT.items()
        if kind is not EMPTY
    ]
    parts.append(
        "\n".join(["## Accepted without effect", "", "| key | value |", "|---|---|", *silent, ""])
    )
    empty = [f"* {section or 'top level'}: {names}" for section, names in EMPTY_ONLY.items()]
    parts.append(
        "## Not supported\n\nKeys of older releases, accepted while their value is false, zero or "
        "empty, and refused otherwise, by section:\n\n" + "\n".join(empty) + "\n"
    )
    return "\n".join(parts)


def main() -> int:
    """Replace what follows the mark in docs/configuration.md."""
    text = DOCUMENT.read_text(encoding="utf-8")
    write_text(DOCUMENT, text[: text.index(MARK) + len(MARK)] + "\n" + render_tables())
    return 0


def _classes(section: str, node: OneOf) -> list[str]:
    """Return a table for each class that a section can name."""
    parts = []
    for name, declared in node.table().items():
        keys = {f"{section}.args.{key}": value for key, value in node.args_of(name).items()}
        says = (inspect.getdoc(declared) or "").partition("\n")[0]
        parts.append(_table(f'{section}, type "{name}"', keys, says))
    return parts


def _table(title: str, keys: dict[str, Key], says: str = "") -> str:
    found = [one for path, key in keys.items() for one in leaves(key, (path,))]
    rows = [_row(".".join(path), key) for path, key in found]
    return "\n".join([f"## {title}", "", *([says, ""] if says else []), *HEAD, *rows, ""])


def _row(path: str, key: Key) -> str:
    default = "needed" if key.default is REQUIRED else f"`{json.dumps(key.default)}`"
    expected = key.node.expected if isinstance(key.node, Kind) else ""
    cells = (f"`{path}`", expected, default, key.meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    raise SystemExit(main())
