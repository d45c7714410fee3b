"""How training rows became ids: what the trainer's folder says, and what goes without saying.

What a person asks for comes before both (`Encoding.asked`).
"""

from __future__ import annotations

from taughtby.data.tokenize import NO_TEMPLATE, Encoding
from taughtby.models.training_metadata import MetadataEntry, TrainingMetadata

LONGEST = 1024  # tokens of a row that are kept where nobody says otherwise and the model reads as many
FOLLOWED = ("max_length", "truncate", "mask", "template")


def default_options(origin: TrainingMetadata, window: int, *, raw: bool) -> Encoding:
    """The Encoding to read rows by; `raw` rows are plain texts, to which no chat template belongs."""
    return Encoding(
        max_length=min(origin.max_length or LONGEST, window),
        truncate=origin.truncate or "right",
        mask=origin.mask or "response",
        template=origin.template or (NO_TEMPLATE if raw else None),
    )


def followed_metadata(origin: TrainingMetadata, encoding: Encoding) -> list[MetadataEntry]:
    """The facts of a trainer's folder that an Encoding goes by, to be told with the file that says them."""
    first = {what: next((fact for fact in origin.entries if fact.name == what), None) for what in FOLLOWED}
    return [fact for what, fact in first.items() if fact and fact.value == getattr(encoding, what)]
