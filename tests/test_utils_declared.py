"""The reader of small records: what a callable declares is what it is given."""

import json
from dataclasses import dataclass, field
from typing import Annotated

import pytest

from utils.declared import Mistakes, built_with, keys_of, leaves, read_file, read_table, read_values
from utils.errors import CheckpointError, DataError
from utils.kinds import at_least


@dataclass(frozen=True)
class Size:
    width: Annotated[int, at_least(1), "columns"]
    height: Annotated[int, at_least(1), "rows"] = 2
    names: Annotated[dict[str, bool], "switches"] = field(default_factory=dict)

    @staticmethod
    def check(*, width: int, height: int, **_: object) -> Mistakes:
        if height > width:
            yield "height", f"found {height}, expected at most {width}"


def keys_in(error):
    return {line.split(": ")[1] for line in str(error.value).splitlines() if ": " in line}


def test_values_are_read_with_defaults():
    assert read_values(Size, {"width": 3, "names": {"a": 1}}, "x") == Size(3, 2, {"a": True})
    first, second = (read_values(Size, {"width": 3}, "x") for _ in range(2))
    assert first.names == {}
    assert first.names is not second.names


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        ({}, {"width"}),
        ({"width": 0, "hight": 1}, {"width", "hight"}),
        ({"width": True, "names": {"a": 3}}, {"width", "names.a"}),
        ({"width": 1}, {"height"}),
        ({"width": 1, "height": 3, "names": 3}, {"height", "names"}),
        ({"width": "1", "height": 3}, {"width"}),  # nothing to compare the height with
    ],
)
def test_all_mistakes_are_named(values, keys):
    with pytest.raises(DataError) as caught:
        read_values(Size, values, "size.json")
    assert keys_in(caught) == keys


def test_keys_of_no_concern_are_passed_over():
    assert read_values(Size, {"width": 3, "depth": 4}, "x", more=True) == Size(3)
    with pytest.raises(DataError):
        read_values(Size, {"width": 3, "depth": 4}, "x")


def test_an_error_says_what_to_do_next():
    for values in ({}, {"width": 0, "height": 0}):
        with pytest.raises(CheckpointError, match="; measure again"):
            read_values(Size, values, "x", error=CheckpointError, advice="measure again")


def test_files_and_tables(tmp_path):
    path = tmp_path / "sizes.json"
    path.write_text(json.dumps({"width": 4}))
    assert read_file(Size, path) == Size(4)
    path.write_text(json.dumps({"a": {"width": 4}, "b": {"width": 0}}))
    with pytest.raises(DataError, match=r"sizes\.json: b\.width"):
        read_table(Size, path)


def test_functions_and_their_attributes():
    @built_with(check=Size.check)
    def build(plain: int, *, size: Annotated[Size, "both"], deep: Annotated[bool, "more"]) -> None:
        """Take a size."""

    assert build.check is Size.check
    assert list(keys_of(build)) == ["size", "deep"]
    paths = [path for name, key in keys_of(build).items() for path, _ in leaves(key, (name,))]
    assert paths == [("size", "width"), ("size", "height"), ("size", "names", "<name>"), ("deep",)]
