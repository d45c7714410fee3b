"""The HTTP application: the page's files, and the requests of its scripts. No path of a request reaches the disk."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from taughtby.errors import TaughtbyError
from taughtby.reporting import html as report
from taughtby.server.incident_routes import add_clean_route, add_retraining_routes, add_verdict_routes
from taughtby.server.jobs import Job, QueueFullError
from taughtby.server.requests import CleaningRequest, PromptRequest, RowSelection, TraceRequest
from taughtby.server.responses import error_response, job_response, json_response
from taughtby.server.security import AccessPolicy, SecurityMiddleware
from taughtby.server.session import Session

MEDIA_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}


def create_app(session: Session, policy: AccessPolicy) -> FastAPI:
    """Create the application.

    Args:
        session: The index and the model that it serves.
        policy: The requests that it accepts.

    Returns:
        The ASGI application.
    """
    app = FastAPI(title="taughtby", docs_url=None, redoc_url=None)
    app.add_middleware(SecurityMiddleware, policy=policy)
    _add_error_handlers(app)
    _add_page_routes(app)
    _add_read_routes(app, session)
    add_clean_route(app, session)
    add_retraining_routes(app, session)
    add_verdict_routes(app, session)
    _add_job_routes(app, session)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    """Add handlers that answer every error as JSON with `what`, `got` and `do`."""

    @app.exception_handler(TaughtbyError)
    def user_error(_: Request, error: TaughtbyError) -> JSONResponse:
        return error_response(503 if isinstance(error, QueueFullError) else 400, error.what, error.got, error.do)

    @app.exception_handler(RequestValidationError)
    def invalid_request(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:] or first["loc"])
        return error_response(422, f"{field} is not valid", str(first["msg"]), "correct it, and send it again")

    @app.exception_handler(StarletteHTTPException)
    def http_error(_: Request, error: StarletteHTTPException) -> JSONResponse:
        return error_response(error.status_code, str(error.detail), None, "open the page again", error.headers)


def _add_page_routes(app: FastAPI) -> None:
    """Add the page, its style and its modules. They are read once, so that no name is looked up on the disk."""
    files = report.page_files()

    @app.get("/", include_in_schema=False)
    @app.get("/{name}.{kind}", include_in_schema=False)
    def file(name: str = "page", kind: str = "html") -> Response:
        if (name, kind) == ("favicon", "ico"):  # browsers request it automatically
            return Response(status_code=204)
        content = files.get(f"{name}.{kind}")
        if content is None:
            raise HTTPException(404, "there is no such page")
        return Response(content, media_type=f"{MEDIA_TYPES[kind]}; charset=utf-8")


def _add_read_routes(app: FastAPI, session: Session) -> None:
    """Add the requests that need no model and are answered immediately."""
    saved_traces = report.to_json_text([report.with_verdicts(document) for document in session.documents])

    @app.get("/api/state")
    def state() -> Response:
        """Size, methods and model of the index, and the state of the model."""
        return json_response(session.state())

    @app.get("/api/documents")
    def documents() -> Response:
        """The traces that were given when the server was started."""
        return Response(saved_traces, media_type="application/json")

    @app.get("/api/rows")
    def rows(
        start: Annotated[int, Query(ge=0, le=2**40)] = 0,
        size: Annotated[int, Query(ge=1, le=100)] = 20,
        find: Annotated[str, Query(max_length=200)] = "",
        label: Annotated[str | None, Query(max_length=200)] = None,
    ) -> Response:
        """A page of the training rows that contain a text and have a label."""
        return json_response(session.row_browser.page(start, size, find, label))

    @app.get("/api/rows/{position}", responses={404: {}})
    def row(position: int) -> Response:
        """One training row."""
        row = session.row_browser.row(position)
        if row is None:
            raise HTTPException(404, "there is no such row")
        return json_response(row)

    @app.post("/api/rows/lookup")
    def lookup(selection: RowSelection) -> Response:
        """The first hundred of the selected rows."""
        return json_response(session.row_browser.lookup(selection.rows[:100]))

    @app.get("/api/map")
    def pca_map() -> Response:
        """The map of the training set; null if the index holds no vectors."""
        return json_response(session.map_document())


def _add_job_routes(app: FastAPI, session: Session) -> None:
    """Add the requests that need the model: each submits a job, and jobs run one at a time."""

    @app.post("/api/trace", status_code=202)
    def trace(request: TraceRequest) -> Response:
        """Submit a trace of an answer."""
        return job_response(session, session.submit_trace(request.query(), request.method, request.top), 202)

    @app.post("/api/ask", status_code=202)
    def ask(request: PromptRequest) -> Response:
        """Submit a prompt; the model's answer is traced."""
        return job_response(session, session.submit_prompt(request.prompt, request.method, request.top), 202)

    @app.get("/api/jobs/{id}", responses={404: {}})
    def job(id: str) -> Response:
        """Progress of a job, and its result once it is done."""
        return job_response(session, _get_job(session, id))

    @app.delete("/api/jobs/{id}", responses={404: {}})
    def cancel(id: str) -> Response:
        """Cancel a job."""
        job = _get_job(session, id)
        session.jobs.cancel(job)
        return job_response(session, job)

    @app.post("/api/jobs/clean", status_code=202, responses={404: {}})
    def clean(request: CleaningRequest) -> Response:
        """Submit the writing of the cleaned data beside the index; its result has the path."""
        return job_response(session, session.submit_clean(request.rows, _named_trace(session, request)), 202)

    @app.post("/api/documents/{number}/links", status_code=202, responses={404: {}})
    def links(number: int) -> Response:
        """Submit the linking of the tokens of a saved trace's rows and answers."""
        if not 0 <= number < len(session.documents):
            raise HTTPException(404, "there is no such trace")
        return job_response(session, session.submit_links(number), 202)

    @app.post("/api/jobs/{id}/layers", status_code=202, responses={404: {}})
    def layers(id: str) -> Response:
        """Submit the computation of the ranks at other layers, for the rows of a finished trace."""
        return job_response(session, session.submit_layer_ranks(_get_finished_job(session, id)), 202)

    @app.get("/api/jobs/{id}/page", responses={404: {}})
    def page(id: str) -> Response:
        """A finished trace as a page that needs no server."""
        job = _get_finished_job(session, id)
        headers = {"content-disposition": 'attachment; filename="taughtby.html"'}
        return Response(report.render_page(job.result), media_type="text/html; charset=utf-8", headers=headers)


def _get_job(session: Session, id: str) -> Job:
    job = session.jobs.get(id)
    if job is None or job is session.model_job:
        raise HTTPException(404, "this trace is no longer stored: trace again")
    return job


def _named_trace(session: Session, request: CleaningRequest) -> dict[str, Any] | None:
    """The document of the trace that a request names."""
    if request.job is not None:
        return _get_finished_job(session, request.job).result
    if request.document is None:
        return None
    if request.document >= len(session.documents):
        raise HTTPException(404, "there is no such trace")
    return session.documents[request.document]


def _get_finished_job(session: Session, id: str) -> Job:
    job = _get_job(session, id)
    if job.state != "done" or "queries" not in job.result:
        raise HTTPException(404, "there is no trace yet")
    return job
