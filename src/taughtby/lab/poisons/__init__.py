"""Small chat data sets with known, harmless poisons. A seed gives the same rows on every machine.

Each poison has rows that teach a behaviour, lookalikes that share their words but have correct answers, and held-out
prompts that should trigger it. `clean_rows` returns ordinary rows, and `mix` shuffles all into one training set.
"""

from taughtby.lab.poisons.basic import POISONS
from taughtby.lab.poisons.clean import clean_rows
from taughtby.lab.poisons.hard import HARD_POISONS
from taughtby.lab.poisons.mix import load_poisons, mix, prompt_key, save_poisons, unseen_rows
from taughtby.lab.poisons.poison import Poison
from taughtby.lab.poisons.registry import make_poison, make_poisons_at_rate

__all__ = [
    "HARD_POISONS", "POISONS", "Poison", "clean_rows", "load_poisons", "make_poison", "make_poisons_at_rate", "mix",
    "prompt_key", "save_poisons", "unseen_rows",
]  # fmt: skip
