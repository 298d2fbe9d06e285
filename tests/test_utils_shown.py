"""Values of untrusted files in messages are short, printable and never endless."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.shown import LONGEST, printable, shown

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
)


@given(VALUES)
def test_every_value_is_shown_short_and_printable(value):
    text = shown(value)
    assert text.isprintable()
    assert len(text) <= 12 * LONGEST


@pytest.mark.parametrize(
    "value",
    ["\x1b[2J", "x" * (20 << 20), 10**10_000, "\ud800"],
    ids=["escape", "long", "digits", "surrogate"],
)
def test_hostile_values_are_escaped_and_shortened(value):
    assert shown(value).isprintable()
    assert len(shown(value)) <= LONGEST


def test_a_list_nested_in_itself_ends():
    nested = []
    for _ in range(32):
        nested = [nested, nested]
    nested.append(nested)
    assert len(shown(nested)) <= LONGEST
    assert shown([1, "a"]) == "[1, 'a']"


def test_names_keep_their_letters():
    assert printable("größe") == "größe"
    assert printable("a\nb") == "a\\nb"
