"""The bodies of the requests: every field has a type and a limit, and no other field is accepted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from taughtby.attribution.query import Query
from taughtby.remediation.row_verdicts import Verdict
from taughtby.server.retraining import Retraining

Text = Annotated[str, Field(min_length=1, max_length=100_000, pattern=r"\S")]
RowId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Position = Annotated[int, Field(ge=0, le=100_000)]


class Turn(BaseModel):
    """A turn of the conversation around the prompt."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant", "tool", "function", "ipython"]
    content: Annotated[str, Field(max_length=100_000)]


class PromptRequest(BaseModel):
    """A prompt; the model generates the answer, which is then traced."""

    model_config = ConfigDict(extra="forbid")
    prompt: Text
    method: Annotated[str, Field(max_length=200)] | None = None
    top: Annotated[int, Field(ge=1, le=200)] = 20


class TraceRequest(PromptRequest):
    """A prompt and the answer to trace, with the fields of a query of `taughtby trace`."""

    response: Text
    span: Text | None = None
    span_range: tuple[Position, Position] | None = None
    desired: Text | None = None
    before: Annotated[list[Turn], Field(max_length=100)] = []
    after: Annotated[list[Turn], Field(max_length=100)] = []

    def query(self) -> Query:
        """Return the request as a query."""
        before, after = (tuple(turn.model_dump() for turn in turns) for turns in (self.before, self.after))
        return Query(self.prompt, self.response, self.span, self.desired, before, after, span_range=self.span_range)


class VerdictRequest(BaseModel):
    """A verdict on a row, or null; and a note."""

    model_config = ConfigDict(extra="forbid")
    verdict: Verdict | None = None
    note: Annotated[str, Field(max_length=10_000)] = ""


class RowSelection(BaseModel):
    """Rows by their ids."""

    model_config = ConfigDict(extra="forbid")
    rows: Annotated[list[RowId], Field(min_length=1, max_length=20_000)]


class CleaningRequest(RowSelection):
    """The rows to remove, and the trace that the manifest names: that of a job, or a saved one by its number."""

    job: Annotated[str, Field(max_length=40)] | None = None
    document: Annotated[int, Field(ge=0, le=100_000)] | None = None


class RetrainingRequest(RowSelection):
    """The rows to leave out, the prompts that elicit the behaviour, the words of a bad answer, and training options."""

    prompts: Annotated[list[Text], Field(min_length=1, max_length=1000)]
    words: Annotated[str, Field(min_length=1, max_length=1000, pattern=r"\S")]
    epochs: Annotated[int, Field(ge=1, le=1000)] | None = None
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None

    def retraining(self) -> Retraining:
        """Return the request for the session."""
        options = {"epochs": self.epochs, "learning_rate": self.learning_rate}
        given = {name: value for name, value in options.items() if value is not None}
        return Retraining(tuple(self.rows), tuple(self.prompts), self.words, given)
