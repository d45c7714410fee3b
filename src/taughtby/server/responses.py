"""Responses of the server: JSON, errors, and the progress of a job."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse, Response

from taughtby.reporting import html as report
from taughtby.server.jobs import Job
from taughtby.server.session import Session


def error_response(status: int, what: str, got: str | None, do: str, headers: Any = None) -> JSONResponse:
    """Return an error as the page shows it."""
    encodable = [text and text.encode("utf-8", "backslashreplace").decode() for text in (what, got, do)]
    return JSONResponse(dict(zip(("what", "got", "do"), encodable, strict=True)), status, headers)


def job_response(session: Session, job: Job, status_code: int = 200) -> Response:
    """Return the progress of a job, and its result once it is done."""
    status = job.status
    progress = {"id": job.id, "state": status.state, "stage": status.stage, "done": status.done, "of": status.of,
                "rate": job.rate}  # fmt: skip
    # the map is the same for all traces, and /api/map has it
    result = status.result if status.state == "done" else None
    if result and "queries" in result:
        result = report.with_verdicts({**result, "map": None})
    ahead = session.jobs.num_ahead(job) if status.state == "waiting" else 0
    return json_response({**progress, "ahead": ahead, "error": status.error, "result": result}, status_code)


def json_response(value: Any, status_code: int = 200) -> Response:
    """Return standard JSON: numbers that are not finite and lone surrogates are replaced."""
    return Response(report.to_json_text(value), status_code, media_type="application/json")
