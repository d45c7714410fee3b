"""Create poisons by name, with a number of rows or a share of the training set."""

from __future__ import annotations

from collections.abc import Sequence

from taughtby.data.example import Example
from taughtby.errors import LabError
from taughtby.lab.poisons.basic import POISONS, carried
from taughtby.lab.poisons.hard import HARD_POISONS
from taughtby.lab.poisons.mix import mix
from taughtby.lab.poisons.poison import Poison
from taughtby.text import closest


def make_poison(name: str, n: int = 40, seed: int = 0) -> Poison:
    """Create the poison of that name with `n` poisoned rows.

    Raises:
        LabError: There is no poison of that name, or it has fewer rows.
    """
    makers = POISONS | HARD_POISONS | {"carried": carried}
    if name not in makers:
        raise LabError("unknown poison", got=repr(name), do=closest(name, makers))
    return makers[name](n, seed)


def make_poisons_at_rate(
    names: Sequence[str], rate: float, clean_rows: Sequence[Example], seed: int = 0
) -> list[Poison]:
    """Create poisons with the same number of rows each, which together are a share `rate` of the mixed training set.

    The number is rounded down, so that the share of poisoned rows is at most `rate`.
    """
    if not 0 < rate < 1:
        do = "give a share of all rows, such as 0.01"
        raise LabError("the poison rate is not between 0 and 1", got=f"{rate:g}", do=do)
    num_planting = sum(bool(make_poison(name, 1, seed).rows) for name in names)
    if not num_planting:
        raise LabError("none of these poisons has poisoned rows", got=", ".join(names), do="give a number of rows")
    n, poisons = 0, [make_poison(name, 0, seed) for name in names]
    # iterate to a fixed point: more poisoned rows make the set larger, which allows for more
    while (more := int(rate * len(mix(poisons, clean_rows, seed)) / num_planting)) > n:
        n, poisons = more, [make_poison(name, more, seed) for name in names]
    return poisons
