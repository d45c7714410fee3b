"""The page and what it may ask, over HTTP. No path of a request reaches the disk; no answer is older than its index."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException as Refusal

from taughtby.attribution import query
from taughtby.errors import TaughtbyError
from taughtby.reporting import html as report
from taughtby.server.jobs import Busy, Job
from taughtby.server.security import AccessPolicy, SecurityMiddleware
from taughtby.server.session import Session

Text = Annotated[str, Field(min_length=1, max_length=100_000, pattern=r"\S")]
Top = Annotated[int, Field(ge=1, le=200)]
Count = Annotated[int, Field(ge=0, le=100_000)]


class Turn(BaseModel):
    """A turn of the conversation around the prompt."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "user", "assistant", "tool"]
    content: Annotated[str, Field(max_length=100_000)]


class Asked(BaseModel):
    """A prompt for the model, whose answer is then traced."""

    model_config = ConfigDict(extra="forbid")
    prompt: Text
    method: Annotated[str, Field(max_length=200)] | None = None
    top: Top = 20


class Ticked(BaseModel):
    """Rows, by their ids."""

    model_config = ConfigDict(extra="forbid")
    rows: Annotated[list[Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]], Field(min_length=1, max_length=20_000)]


class Question(Asked):
    """A prompt and the answer to explain, as `taughtby trace` takes them."""

    response: Text
    span: Text | None = None
    span_range: tuple[Count, Count] | None = None
    desired: Text | None = None
    before: Annotated[list[Turn], Field(max_length=100)] = []
    after: Annotated[list[Turn], Field(max_length=100)] = []

    def query(self) -> query.Query:
        """The same as the trace has it."""
        before, after = (tuple(turn.model_dump() for turn in turns) for turns in (self.before, self.after))
        return query.Query(
            self.prompt, self.response, self.span, self.desired, before, after, span_range=self.span_range
        )


def app(desk: Session, door: AccessPolicy) -> FastAPI:
    """The server of one desk, behind a door."""
    made = FastAPI(title="taughtby", docs_url=None, redoc_url=None)
    made.add_middleware(SecurityMiddleware, door=door)
    _errors(made)
    _files(made)
    _reading(made, desk)
    _asking(made, desk)
    return made


def _errors(made: FastAPI) -> None:
    """Every mistake in the same words: what, got, do."""

    @made.exception_handler(TaughtbyError)
    def mistake(_: Request, fault: TaughtbyError) -> JSONResponse:
        return _said(503 if isinstance(fault, Busy) else 400, fault.what, fault.got, fault.do)

    @made.exception_handler(RequestValidationError)
    def unreadable(_: Request, fault: RequestValidationError) -> JSONResponse:
        first = fault.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:] or first["loc"])
        return _said(422, f"{where} cannot be used", str(first["msg"]), "fix it, and ask again")

    @made.exception_handler(Refusal)
    def refused(_: Request, fault: Refusal) -> JSONResponse:
        return _said(fault.status_code, str(fault.detail), None, "open the page again", fault.headers)


def _said(status: int, what: str, got: str | None, do: str, headers: Any = None) -> JSONResponse:
    clean = [text and text.encode("utf-8", "backslashreplace").decode() for text in (what, got, do)]
    return JSONResponse(dict(zip(("what", "got", "do"), clean, strict=True)), status, headers)


def _files(made: FastAPI) -> None:
    """The page, its style and its modules, read once: a name is looked up among these, never on the disk."""
    files = report.page_files()

    @made.get("/", include_in_schema=False)
    @made.get("/{name}.{kind}", include_in_schema=False)
    def file(name: str = "page", kind: str = "html") -> Response:
        held = files.get(f"{name}.{kind}")
        if (name, kind) == ("favicon", "ico"):  # browsers ask for it unasked
            return Response(status_code=204)
        if held is None:
            raise HTTPException(404, "there is no such page")
        types = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
        return Response(held, media_type=f"{types[kind]}; charset=utf-8")


def _reading(made: FastAPI, desk: Session) -> None:
    """What is answered at once."""

    @made.get("/api/state")
    def state() -> Response:
        """The index in a few words, and whether its model is there yet."""
        return _json(desk.state())

    @made.get("/api/documents")
    def documents() -> Response:
        """The traces that were made before."""
        return _json([report.with_verdicts(document) for document in desk.documents])

    @made.get("/api/rows")
    def rows(
        start: Annotated[int, Query(ge=0, le=2**40)] = 0,
        size: Annotated[int, Query(ge=1, le=100)] = 20,
        find: Annotated[str, Query(max_length=200)] = "",
        label: Annotated[str | None, Query(max_length=200)] = None,
    ) -> Response:
        """A page of training rows, of those with these words and this label."""
        return _json(desk.shelf.page(start, size, find, label))

    @made.get("/api/rows/{place}", responses={404: {}})
    def row(place: int) -> Response:
        """One training row."""
        found = desk.shelf.row(place)
        if found is None:
            raise HTTPException(404, "there is no such row")
        return _json(found)

    @made.get("/api/map")
    def plane() -> Response:
        """The training set as points in a plane; null where its method has no vectors."""
        return _json(desk.map())

    @made.post("/api/clean", response_class=FileResponse)
    def clean(ticked: Ticked) -> Response:
        """The training data without these rows."""
        folder = TemporaryDirectory(prefix="taughtby-")
        name = f"cleaned-{desk.data.name if desk.data else ''}"
        try:
            desk.clean(ticked.rows, Path(folder.name) / name)
        except BaseException:
            folder.cleanup()
            raise
        return FileResponse(Path(folder.name) / name, filename=name, background=BackgroundTask(folder.cleanup))


def _asking(made: FastAPI, desk: Session) -> None:
    """What the model is needed for: jobs, one at a time."""

    @made.post("/api/trace", status_code=202)
    def trace(question: Question) -> Response:
        """Queue a trace."""
        return _told(desk, desk.trace(question.query(), question.method, question.top), 202)

    @made.post("/api/ask", status_code=202)
    def ask(asked: Asked) -> Response:
        """Queue a prompt for the model, and the trace of its answer."""
        return _told(desk, desk.ask(asked.prompt, asked.method, asked.top), 202)

    @made.get("/api/jobs/{id}", responses={404: {}})
    def job(id: str) -> Response:
        """How far a job is; its result once it is done."""
        return _told(desk, _known(desk, id))

    @made.delete("/api/jobs/{id}", responses={404: {}})
    def cancel(id: str) -> Response:
        """Let go of a job."""
        found = _known(desk, id)
        desk.jobs.cancel(found)
        return _told(desk, found)

    @made.post("/api/jobs/{id}/depths", status_code=202, responses={404: {}})
    def depths(id: str) -> Response:
        """Queue the ranks at other layers of a finished trace's rows."""
        return _told(desk, desk.depths(_traced(desk, id)), 202)

    @made.get("/api/jobs/{id}/page", responses={404: {}})
    def page(id: str) -> Response:
        """A finished trace as a page that needs no server."""
        found = _traced(desk, id)
        name = {"content-disposition": 'attachment; filename="taughtby.html"'}
        return Response(report.render_page(found.result), media_type="text/html; charset=utf-8", headers=name)


def _known(desk: Session, id: str) -> Job:
    found = desk.jobs.get(id)
    if found is None or found is desk.loading:
        raise HTTPException(404, "this trace is no longer kept: ask again")
    return found


def _traced(desk: Session, id: str) -> Job:
    found = _known(desk, id)
    if found.state != "done":
        raise HTTPException(404, "there is no trace yet")
    return found


def _told(desk: Session, job: Job, status: int = 200) -> Response:
    now = job.status
    state = {"id": job.id, "state": now.state, "stage": now.stage, "done": now.done, "of": now.of}
    # the map is the same for every trace, and answered once
    result = report.with_verdicts({**now.result, "map": None}) if now.state == "done" else None
    ahead = desk.jobs.before(job) if now.state == "waiting" else 0
    return _json({**state, "ahead": ahead, "error": now.error, "result": result}, status)


def _json(value: Any, status: int = 200) -> Response:
    """As JSON that any parser reads: no number that is none, no half characters."""
    return Response(report.to_json_text(value), status, media_type="application/json")
