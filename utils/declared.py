"""Read mappings by the signature of the callable they are meant for.

A parameter (or the field of a dataclass) whose annotation is `Annotated` is a key: its type, range
and default bound its values, a text beside them gives its meaning. A static method `check` takes
the same, and yields the key and the problem of values that do not go together; it is asked where
the arguments that it names are right.

    @dataclass(frozen=True)
    class RunFile:
        seeds: Annotated[tuple[int, ...], "seeds of the run, in order"]

    read_file(RunFile, Path("run.json"))  # or run.json: sedes: unknown key; did you mean 'seeds'?
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
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
    list_of,
    nullable,
    real,
    texts,
    whole,
)
from utils.problems import Path, Problems, join_path

REQUIRED = inspect.Parameter.empty
"""The default of a key that has to be given."""
ANY = "<name>"
"""A name of any kind in the path of a key."""
ANYTHING = Kind("anything", lambda value: value)

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
Declared = Callable[..., T]
Mistakes = Iterator[tuple[str, str]]
"""The key and the problem of each, as `check` yields them."""


@dataclass(frozen=True)
class Key:
    """One key: what it holds, its default (REQUIRED: there is none), its meaning, and all notes."""

    node: Node
    default: Any = REQUIRED
    meaning: str = ""
    notes: tuple[Any, ...] = ()


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
            MAPPING.read(values, path, self)
            return Reader(Problems("")).section(keys, {}, path)
        found = {}
        for name, value in values.items():
            known = keys[name].node if name in keys else self.accepted((*path, name))
            if known is None:
                self._refuse((*path, name), keys)
                continue
            read = known.read(value, (*path, name), self)
            if name in keys:
                found[name] = read
        absent = {name: key for name, key in keys.items() if name not in values}
        return found | {name: self._absent(key, (*path, name)) for name, key in absent.items()}

    def _absent(self, key: Key, path: Path) -> Any:  # noqa: ANN401
        if key.default is not REQUIRED:
            return key.default
        if not isinstance(key.node, Kind):
            return key.node.read({}, path, self)
        self.problems.add(path, f"missing, expected {key.node.expected}")
        return None

    def _refuse(self, path: Path, keys: Mapping[str, Key]) -> None:
        """Note an undeclared key, with the nearest one of its section, else of another one."""
        hint = ""
        if not self.problems.are_many:
            hint = nearest(path[-1], keys)
            others = {} if hint else {k: v for k, v in self.elsewhere().items() if v != path}
            word = nearest_word(path[-1], others)
            hint = hint if word is None else f"; did you mean {join_path(others[word])!r}?"
            hint += f" (known: {', '.join(sorted(keys))})"
        self.problems.add(path, f"unknown key{hint}")


@dataclass(frozen=True)
class Section:
    """A mapping whose keys are the parameters of `declared`."""

    declared: Declared[Any]

    def read(self, value: object, path: Path, reader: Reader) -> Any:  # noqa: ANN401
        """Return what `declared` makes of its arguments, None among them where one is wrong."""
        arguments = reader.section(keys_of(self.declared), value, path)
        check = getattr(self.declared, "check", None)
        read = inspect.signature(check).parameters if check else ()
        if check and not any(reader.problems.at((*path, name)) for name in read):
            for key, message in check(**arguments):
                reader.problems.add((*path, key), message)
        return self.declared(**arguments)

    def inner(self) -> Iterator[tuple[Path, Key]]:
        """Yield the parameters."""
        for name, key in keys_of(self.declared).items():
            yield (name,), key


@dataclass(frozen=True)
class AnyNames:
    """A mapping of names of any kind to values of one kind."""

    value: Key

    def read(self, values: object, path: Path, reader: Reader) -> dict[str, Any]:
        """Return the values by name; None for a wrong one."""
        known = values if isinstance(values, Mapping) else {}
        return reader.section(dict.fromkeys(known, self.value), values, path)

    def inner(self) -> Iterator[tuple[Path, Key]]:
        """Yield one key in the place of all."""
        yield (ANY,), self.value


@dataclass(frozen=True)
class Part:
    """The name of a class in a table, and its arguments."""

    type: str
    args: dict[str, Any]


@dataclass(frozen=True)
class OneOf:
    """{"type": a name in a table of classes, "args": the arguments of that class}."""

    table: Callable[[], Mapping[str, Declared[Any]]]
    from_elsewhere: tuple[str, ...] = ()
    """Parameters that another section gives."""

    def read(self, value: object, path: Path, reader: Reader) -> Any:  # noqa: ANN401
        """Return the Part; None where its type is not known."""
        found = reader.section({"type": self._type(), "args": Key(MAPPING, {})}, value, path)
        if found["type"] is None:
            return None
        keys = self.args_of(found["type"])
        return Part(found["type"], reader.section(keys, found["args"] or {}, (*path, "args")))

    def inner(self) -> Iterator[tuple[Path, Key]]:
        """Yield the type, then the arguments of every class."""
        yield ("type",), self._type()
        for name in self.table():
            for argument, key in self.args_of(name).items():
                yield ("args", argument), key

    def args_of(self, name: str) -> dict[str, Key]:
        """Return the keys that a class has in "args"."""
        keys = keys_of(self.table()[name])
        return {name: key for name, key in keys.items() if name not in self.from_elsewhere}

    def _type(self) -> Key:
        return Key(choice(*self.table()), REQUIRED, "one of the classes below")


Node = Kind | Section | AnyNames | OneOf


def arguments_of(declared: Declared[Any], values: object, problems: Problems) -> dict[str, Any]:
    """Return the arguments of a callable that a mapping gives, noting every mistake."""
    return Reader(problems).section(keys_of(declared), values)


def read_values(
    declared: Declared[T],
    values: object,
    source: object,
    *,
    error: type[Exception] = DataError,
    more: bool = False,
    advice: str = "",
) -> T:
    """Return what a callable makes of a mapping of `source`; an error of all its mistakes.

    `more`: the mapping may have keys of no concern. `advice` ends the message.
    """
    problems = Problems(str(source))
    reader = Reader(problems, lambda _: ANYTHING if more else None)
    found: T = Section(declared).read(values, (), reader)
    problems.raise_if_any(error, advice)
    return found


def read_file(declared: Declared[T], path: FilePath, *, more: bool = False, advice: str = "") -> T:
    """Return what a callable makes of a JSON file; DataError with all mistakes."""
    return read_values(declared, read_json(path), path, more=more, advice=advice)


def read_table(declared: Declared[T], path: FilePath) -> dict[str, T]:
    """Return what a callable makes of each entry of a JSON file; DataError with all mistakes."""
    problems = Problems(str(path))
    found = AnyNames(Key(Section(declared))).read(read_json(path), (), Reader(problems))
    problems.raise_if_any(DataError)
    return found


def _keys_of(declared: Declared[Any]) -> dict[str, Key]:
    """Return the declared parameters of a callable, or fields of a dataclass, by name.

    A field whose default is made anew for each has to be given.
    """
    called: Any = declared
    if isinstance(declared, type) and not dataclasses.is_dataclass(declared):
        called = declared.__init__  # type: ignore[misc]
    hints = typing.get_type_hints(called, include_extras=True)
    fields = dataclasses.fields(called) if dataclasses.is_dataclass(called) else ()
    anew = {one.name for one in fields if one.default_factory is not dataclasses.MISSING}
    return {
        name: _key(hints[name], REQUIRED if name in anew else parameter.default)
        for name, parameter in inspect.signature(declared).parameters.items()
        if typing.get_origin(hints.get(name)) is typing.Annotated
    }


keys_of: Callable[[Declared[Any]], dict[str, Key]] = functools.cache(_keys_of)


def leaves(key: Key, path: Path = ()) -> Iterator[tuple[Path, Key]]:
    """Yield every key that holds a value; the name ANY takes the place of names of any kind."""
    if isinstance(key.node, Kind):
        yield path, key
    else:
        for below, one in key.node.inner():
            yield from leaves(one, (*path, *below))


def built_with(**attributes: Callable[..., Any]) -> Callable[[F], F]:
    """Give a function attributes, as a class has static methods.

    `check` yields the key and the problem of arguments that do not go together; others belong to
    the table that the function is in.
    """

    def attach(function: F) -> F:
        vars(function).update(attributes)
        return function

    return attach


def _key(hint: Any, default: object) -> Key:  # noqa: ANN401
    notes = hint.__metadata__
    meaning = next((note for note in notes if isinstance(note, str)), "")
    return Key(_node(hint.__origin__, notes, meaning), default, meaning, notes)


def _node(hint: Any, notes: tuple[object, ...], meaning: str) -> Node:  # noqa: ANN401
    """Return the node of a type; a node among the notes beside it comes before the type."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _node(hint.__origin__, hint.__metadata__, meaning)
    if origin in (UnionType, typing.Union):
        [inner_type] = (one for one in inner if one is not NoneType)
        node = _node(inner_type, notes, meaning)
        return nullable(node) if isinstance(node, Kind) else node
    for note in notes:
        if isinstance(note, Node):
            return note
    bounds = next((note for note in notes if isinstance(note, Range)), Range())
    kinds = {
        bool: FLAG,
        int: whole(bounds),
        float: real(bounds),
        str: TEXT,
        tuple[float, float]: list_of(real(bounds), f"a list of two numbers {bounds}", 2),
        tuple[int, ...]: list_of(whole(bounds), f"a list of whole numbers {bounds}"),
        tuple[str, ...]: texts(),
    }
    if hint in kinds:
        return kinds[hint]
    if origin is typing.Literal:
        return choice(*inner)
    if origin in (dict, Mapping):
        return AnyNames(Key(_node(inner[1], notes, ""), None, meaning))
    if dataclasses.is_dataclass(hint):
        return Section(hint)  # type: ignore[arg-type]
    raise TypeError(f"{hint} is not a type of keys; give a Kind beside it")
