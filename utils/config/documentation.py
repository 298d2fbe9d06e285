"""The tables of docs/configuration.md, written from the schema.

python -m utils.config.documentation
"""

from __future__ import annotations

import json

from utils.config.files import ROOT
from utils.config.kinds import Unused
from utils.config.schema import REQUIRED, SCHEMA, Key
from utils.files import write_text

DOCUMENT = ROOT / "docs" / "configuration.md"
MARK = "<!-- The tables below are written by: python -m utils.config.documentation -->\n"


def render_tables() -> str:
    """Return every key in Markdown tables: those with an effect by section, then the others."""
    sections: dict[str, list[str]] = {}
    old: list[str] = []
    silent: list[str] = []
    for path, key in SCHEMA.items():
        if isinstance(key.kind, Unused):
            old.append(f"`{path}`")
        elif not key.has_effect:
            silent.append(_row(path, key))
        else:
            section = path.split(".")[0] if "." in path else "Top level"
            sections.setdefault(section, []).append(_row(path, key))
    parts = [_table(title, rows) for title, rows in sections.items()]
    parts.append(_table("Accepted without effect", silent))
    parts.append(
        "## Not supported\n\nKeys of older releases, accepted while their value is false, zero or "
        f"empty, and refused otherwise:\n{', '.join(old)}.\n"
    )
    return "\n".join(parts)


def main() -> int:
    """Replace what follows the mark in docs/configuration.md."""
    text = DOCUMENT.read_text(encoding="utf-8")
    write_text(DOCUMENT, text[: text.index(MARK) + len(MARK)] + "\n" + render_tables())
    return 0


def _table(title: str, rows: list[str]) -> str:
    head = ["| key | value | default | meaning |", "|---|---|---|---|"]
    return "\n".join([f"## {title}", "", *head, *rows, ""])


def _row(path: str, key: Key) -> str:
    default = "needed" if key.default is REQUIRED else f"`{json.dumps(key.default)}`"
    cells = (f"`{path}`", key.kind.expected, default, key.meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    raise SystemExit(main())
