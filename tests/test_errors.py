"""The tree of errors: one shape of message, one root, and the drawing in the docstring is the tree itself."""

from __future__ import annotations

import pytest

from whence import errors
from whence.errors import DataError, LabError, ModelError, OptionError, StoreError, WhenceError

LEAVES = (DataError, ModelError, OptionError, StoreError, LabError)


def test_says_what_got_and_do() -> None:
    fault = DataError("rows.jsonl:3: broken JSON", got="{", do="mend that line")
    assert str(fault) == "rows.jsonl:3: broken JSON\n  got: {\n  do:  mend that line"
    assert (fault.what, fault.got, fault.do) == ("rows.jsonl:3: broken JSON", "{", "mend that line")


def test_says_nothing_of_what_was_not_got() -> None:
    assert str(StoreError("no index", do="build one")) == "no index\n  do:  build one"
    assert str(StoreError("no index", got="", do="build one")) == "no index\n  got: \n  do:  build one"


def test_cannot_be_raised_without_advice() -> None:
    with pytest.raises(TypeError, match="do"):
        WhenceError("something is wrong")  # type: ignore[call-arg]


@pytest.mark.parametrize("leaf", LEAVES)
def test_each_is_a_whence_error_and_no_other(leaf: type[WhenceError]) -> None:
    with pytest.raises(WhenceError) as caught:
        raise leaf("w", do="d")
    assert [kind for kind in LEAVES if isinstance(caught.value, kind)] == [leaf]


def test_the_drawn_tree_is_the_tree() -> None:
    drawn = {line.split()[1] for line in (errors.__doc__ or "").splitlines() if "──" in line}
    assert drawn == {leaf.__name__ for leaf in LEAVES}
    assert drawn == {kind.__name__ for kind in WhenceError.__subclasses__()}
