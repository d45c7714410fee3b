"""Requests that work an incident through: verdicts on rows, the cleaned data, and the retraining experiment."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, Response
from starlette.background import BackgroundTask

from taughtby.errors import TaughtbyError
from taughtby.remediation.row_verdicts import RowVerdict
from taughtby.reporting.html import to_json_text
from taughtby.server.requests import RetrainingRequest, RowId, RowSelection, VerdictRequest
from taughtby.server.responses import job_response, json_response
from taughtby.server.retraining import describe, proof_path, read_result
from taughtby.server.session import Session


def add_clean_route(app: FastAPI, session: Session) -> None:
    """Add the download of the cleaned data."""

    @app.post("/api/clean", response_class=FileResponse)
    def clean(selection: RowSelection) -> Response:
        """The training data without the selected rows."""
        folder = TemporaryDirectory(prefix="taughtby-")
        name = f"cleaned-{session.data_file.name if session.data_file else ''}"
        try:
            session.clean(selection.rows, Path(folder.name) / name)
        except BaseException:
            folder.cleanup()
            raise
        return FileResponse(Path(folder.name) / name, filename=name, background=BackgroundTask(folder.cleanup))


def add_verdict_routes(app: FastAPI, session: Session) -> None:
    """Add the user's verdicts on rows, which are stored next to the index."""

    @app.get("/api/verdicts")
    def verdicts() -> Response:
        """All verdicts."""
        return json_response(session.verdicts.to_json())

    @app.put("/api/verdicts/{id}", responses={404: {}})
    def set_verdict(id: RowId, request: VerdictRequest) -> Response:
        """Record the verdict on a row; it is on disk when this is answered."""
        rows = session.row_browser.lookup([id])
        if not rows:
            raise HTTPException(404, "there is no such row")
        verdict = RowVerdict(id, rows[0]["source"], rows[0]["label"], request.verdict, request.note)
        session.verdicts.set(verdict)
        return json_response(asdict(verdict))

    @app.get("/api/verdicts.{kind}")
    def export(kind: Literal["csv", "json"]) -> Response:
        """All verdicts as a file that `taughtby clean --rows` reads."""
        headers = {"content-disposition": f'attachment; filename="verdicts.{kind}"'}
        if kind == "csv":
            return Response(session.verdicts.to_csv(), media_type="text/csv; charset=utf-8", headers=headers)
        content = to_json_text(session.verdicts.to_json())
        return Response(content, media_type="application/json", headers=headers)


def add_retraining_routes(app: FastAPI, session: Session) -> None:
    """Add the retraining experiment: whether it can be run, its job, and its last result."""

    @app.get("/api/retraining")
    def retraining() -> Response:
        """The training options, or why nothing can be trained; the job under way; the last result."""
        state: dict[str, Any] = {"recipe": None, "notes": [], "refusal": None}
        try:
            state |= describe(session.subject)
        except TaughtbyError as error:
            state["refusal"] = {"what": error.what, "got": error.got, "do": error.do}
        job = session.retraining_job
        state |= {"job": job.id if job and not job.has_ended else None, "result": read_result(session.index)}
        return json_response(state)

    @app.post("/api/retraining", status_code=202)
    def retrain(request: RetrainingRequest) -> Response:
        """Submit the experiment, whose files are written beside the index."""
        return job_response(session, session.submit_retraining(request.retraining()), 202)

    @app.get("/api/retraining.json", response_class=FileResponse, responses={404: {}})
    def download() -> Response:
        """The last result as a file."""
        file = proof_path(session.index)
        if not file.is_file():
            raise HTTPException(404, "no experiment is finished")
        return FileResponse(file, filename=file.name, media_type="application/json")
