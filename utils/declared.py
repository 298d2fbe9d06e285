"""Read mappings by the signature of the callable they are meant for.

A parameter (or the field of a dataclass) whose annotation is `Annotated` is a key: its type, range
and default bound its values, a text beside them gives its meaning.

    def __init__(self, margin: Annotated[float, above(0), "margin of the ranking"] = 0.2) -> None:

    problems = Problems("loss.json")
    arguments = read(MaxMarginRankingLoss, {"margn": 0.3}, problems)
    problems.raise_if_any()  # loss.json: margn: unknown key; did you mean 'margin'?
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from types import NoneType, UnionType
from typing import Any, TypeVar

from utils.errors import DataError, nearest, nearest_word
from utils.files import read_json
from utils.kinds import (
    FLAG,
    MAPPING,
    TEXT,
    Kind,
    Range,
    choice,
    nullable,
    real,
    real_pair,
    shown,
    texts,
    whole,
    wholes,
)
from utils.problems import Path, Problems, join_path

REQUIRED = inspect.Parameter.empty
"""The default of a key that has to be given."""
ANY = "<name>"

Declared = Callable[..., Any]
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Key:
    """One key: what it holds, its default (REQUIRED: there is none) and its meaning."""

    node: Node
    default: Any = REQUIRED
    meaning: str = ""


@dataclass
class Reader:
    """Reads values, noting every mistake."""

    problems: Problems
    accepted: Callable[[Path], Kind | None] = lambda _: None
    """Kinds of keys that are not declared, yet accepted without effect."""
    elsewhere: Callable[[], Mapping[str, Path]] = dict
    """Name -> path of keys of other sections, to which a misplaced one is pointed."""

    def section(self, keys: Mapping[str, Key], values: object, path: Path = ()) -> dict[str, Any]:
        """Return the values of keys, defaults filled in; None for a wrong or missing one."""
        if not isinstance(values, Mapping):
            self.problems.add(path, f"found {shown(values)}, expected a section with keys")
            return {name: _nothing(key.node) for name, key in keys.items()}
        found = {}
        for name, value in values.items():
            if name in keys:
                found[name] = keys[name].node.read(value, (*path, name), self)
            else:
                self._refuse(name, value, path, keys)
        for name, key in keys.items():
            if name not in values:
                found[name] = self._absent(key, (*path, name))
        return found

    def _absent(self, key: Key, path: Path) -> Any:  # noqa: ANN401
        if key.default is not REQUIRED:
            return key.default
        if not isinstance(key.node, Kind):
            return key.node.read({}, path, self)
        self.problems.add(path, f"missing, expected {key.node.expected}")
        return None

    def _refuse(self, name: str, value: object, path: Path, keys: Mapping[str, Key]) -> None:
        """Note an undeclared key, unless it is accepted without effect."""
        kind = self.accepted((*path, name))
        if kind is not None:
            kind.read(value, (*path, name), self)
            return
        hint = "" if self.problems.are_many else self._hint((*path, name), keys)
        self.problems.add((*path, name), f"unknown key{hint}")

    def _hint(self, path: Path, keys: Mapping[str, Key]) -> str:
        """Return the nearest key of the section, else of another one, and the known keys."""
        hint = nearest(path[-1], keys)
        if not hint:
            others = {name: place for name, place in self.elsewhere().items() if place != path}
            word = nearest_word(path[-1], others)
            hint = "" if word is None else f"; did you mean {join_path(others[word])!r}?"
        return f"{hint} (known: {', '.join(sorted(keys))})"


@dataclass(frozen=True)
class Section:
    """A mapping whose keys are the parameters of `declared`."""

    declared: Declared

    def read(self, value: object, path: Path, reader: Reader) -> Any:  # noqa: ANN401
        """Return what `declared` makes of its arguments, None among them where one is wrong."""
        return self.declared(**reader.section(keys_of(self.declared), value, path))


@dataclass(frozen=True)
class AnyNames:
    """A mapping of names of any kind to values of one kind."""

    value: Key

    def read(self, values: object, path: Path, reader: Reader) -> dict[str, Any]:
        """Return the values by name; None for a wrong one."""
        if not isinstance(values, Mapping):
            reader.problems.add(path, f"found {shown(values)}, expected a section with keys")
            return {}
        node = self.value.node
        return {name: node.read(value, (*path, name), reader) for name, value in values.items()}


@dataclass(frozen=True)
class Part:
    """The name of a class in a table, and its arguments."""

    type: str
    args: dict[str, Any]


@dataclass(frozen=True)
class OneOf:
    """{"type": a name in a table of classes, "args": the arguments of that class}."""

    table: Callable[[], Mapping[str, Declared]]
    from_elsewhere: tuple[str, ...] = ()
    """Parameters that another section gives."""

    def read(self, value: object, path: Path, reader: Reader) -> Part | None:
        """Return the part; None where its type is not known."""
        keys = {"type": self.type_key(), "args": Key(MAPPING, {})}
        found = reader.section(keys, value, path)
        if found.get("type") is None:
            return None
        declared = self.args_of(self.table()[found["type"]])
        arguments = reader.section(declared, found["args"] or {}, (*path, "args"))
        return Part(found["type"], arguments)

    def args_of(self, declared: Declared) -> dict[str, Key]:
        """Return the keys that a class has in "args"."""
        keys = keys_of(declared)
        return {name: key for name, key in keys.items() if name not in self.from_elsewhere}

    def type_key(self) -> Key:
        """Return the key of the class's name."""
        return Key(choice(*self.table()), REQUIRED, "one of the classes below")


Node = Kind | Section | AnyNames | OneOf


def read(declared: Declared, values: object, problems: Problems) -> dict[str, Any]:
    """Return the arguments of a callable that a mapping gives, noting every mistake."""
    return Reader(problems).section(keys_of(declared), values)


def read_file(declared: Declared, path: FilePath) -> dict[str, Any]:
    """Return the arguments of a callable that a JSON file gives; DataError with all mistakes."""
    problems = Problems(str(path))
    arguments = read(declared, read_json(path), problems)
    problems.raise_if_any(DataError)
    return arguments


def _keys_of(declared: Declared) -> dict[str, Key]:
    """Return the declared parameters of a callable, or fields of a dataclass, by name."""
    called: Any = declared
    if isinstance(declared, type) and not dataclasses.is_dataclass(declared):
        called = declared.__init__  # type: ignore[misc]
    hints = typing.get_type_hints(called, include_extras=True)
    return {
        name: _key(hints[name], parameter.default)
        for name, parameter in inspect.signature(declared).parameters.items()
        if typing.get_origin(hints.get(name)) is typing.Annotated
    }


keys_of: Callable[[Declared], dict[str, Key]] = functools.cache(_keys_of)


def leaves(key: Key, path: Path = ()) -> Iterator[tuple[Path, Key]]:
    """Yield every key that holds a value; the name ANY takes the place of names of any kind."""
    node = key.node
    if isinstance(node, Kind):
        yield path, key
        return
    inner: Iterable[tuple[Path, Key]]
    if isinstance(node, Section):
        inner = [((name,), one) for name, one in keys_of(node.declared).items()]
    elif isinstance(node, AnyNames):
        meaning = node.value.meaning or key.meaning
        inner = [((ANY,), Key(node.value.node, None, meaning))]
    else:
        classes = node.table().values()
        inner = [(("type",), node.type_key())] + [
            (("args", name), one)
            for declared in classes
            for name, one in node.args_of(declared).items()
        ]
    for below, one in inner:
        yield from leaves(one, (*path, *below))


def checked_by(check: Callable[..., Any]) -> Callable[[F], F]:
    """Give a function a check of arguments that do not go together, as its attribute `check`.

    It takes what the function takes, and yields the key and the problem of each. Classes define
    a static method of this name instead.
    """

    def attach(function: F) -> F:
        vars(function)["check"] = check
        return function

    return attach


def _nothing(node: Node) -> Any:  # noqa: ANN401
    """Return the value of a node of which nothing is known."""
    if isinstance(node, Section):
        keys = keys_of(node.declared)
        return node.declared(**{name: _nothing(key.node) for name, key in keys.items()})
    return {} if isinstance(node, AnyNames) else None


def _key(hint: Any, default: object) -> Key:  # noqa: ANN401
    meaning = next((note for note in hint.__metadata__ if isinstance(note, str)), "")
    return Key(_node(hint.__origin__, hint.__metadata__), default, meaning)


def _node(hint: Any, notes: tuple[object, ...]) -> Node:  # noqa: ANN401
    """Return the node of a type; a node among the notes beside it comes before the type."""
    if typing.get_origin(hint) in (UnionType, typing.Union):
        [inner] = (one for one in typing.get_args(hint) if one is not NoneType)
        node = _node(inner, notes)
        return nullable(node) if isinstance(node, Kind) else node
    for note in notes:
        if isinstance(note, Node):
            return note
    bounds = next((note for note in notes if isinstance(note, Range)), Range())
    simple = {bool: FLAG, int: whole(bounds), float: real(bounds), str: TEXT}
    if hint in simple:
        return simple[hint]
    if hint == tuple[float, float]:
        return real_pair(bounds)
    if hint == tuple[str, ...]:
        return texts()
    if hint == tuple[int, ...]:
        return wholes(bounds)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return choice(*inner)
    if origin in (dict, Mapping):
        of_values = inner[1]
        if typing.get_origin(of_values) is typing.Annotated:
            return AnyNames(_key(of_values, REQUIRED))
        return AnyNames(Key(_node(of_values, notes)))
    if dataclasses.is_dataclass(hint):
        return Section(hint)  # type: ignore[arg-type]
    raise TypeError(f"{hint} is not a type of keys; give a Kind beside it")
