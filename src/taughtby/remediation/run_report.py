"""Records of audits and retraining experiments for experiment trackers: numbers, tables and files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from taughtby.remediation.audit import AuditCase
from taughtby.remediation.audit_report import report_files
from taughtby.remediation.clean import manifest_path
from taughtby.remediation.retrain import mean_loss
from taughtby.remediation.statistics import claims, seed_table
from taughtby.remediation.statistics import tables as proof_tables
from taughtby.remediation.trace_file import Document
from taughtby.tracking.run_record import Cell, RunRecord, make_record

TRACE_COLUMNS = (
    "query", "prompt", "response", "rank", "flagged", "score", "p_value", "row", "row_id", "row_prompt", "row_response"
)  # fmt: skip


def audit_record(case: AuditCase, results: Document, folder: Path) -> RunRecord:
    """Return the record of an audit, whose reports are in the folder."""
    answers, trace, proof = results["answers"], results["trace"], results["proof"]
    metrics = {**_rate("answers/", answers), "rows/all": results["num_rows"], "rows/skipped": results["num_skipped"],
               "rows/removed": len(results["removals"])}  # fmt: skip
    proofs = [proof] if proof else []
    settings = {"model": case.model, "adapter": case.adapter, "base": case.base, "data": case.data,
                "judge": case.behaviour.judge, "cleaned": results["cleaned"]}  # fmt: skip
    cleaned = [Path(results["cleaned"]), manifest_path(Path(results["cleaned"]))] if results["cleaned"] else []
    tables = _proof_tables(proofs)
    if trace:
        settings |= _trace_settings(trace)
        metrics["rows/flagged"] = count_flagged(trace)
        tables["trace"] = TRACE_COLUMNS, list(trace_rows(trace))
    return make_record(
        settings | _verdicts(proofs),
        metrics | _proof_metrics(proofs),
        tables,
        folder / "report.html",
        [*(folder / name for name in report_files(results)), *cleaned],
    )


def retrain_record(trace: Document, proofs: Sequence[Document], data: str, files: Sequence[Path]) -> RunRecord:
    """Return the record of a retraining experiment with one proof per seed."""
    first = proofs[0]
    judges = ", ".join(behaviour["judge"] for behaviour in first["behaviours"])
    settings = {"model": trace["model"], "adapter": trace["adapter"], "data": data, "judge": judges}
    return make_record(
        settings | _trace_settings(trace) | _verdicts(proofs),
        {"rows/all": first["num_rows"], "rows/removed": first["num_flagged"], "rows/flagged": count_flagged(trace)}
        | _proof_metrics(proofs),
        {"trace": (TRACE_COLUMNS, list(trace_rows(trace)))} | _proof_tables(proofs),
        files=files,
    )


def trace_rows(trace: Document) -> Iterator[list[Cell]]:
    """Yield the ranked rows of each query of a trace, as cells under `TRACE_COLUMNS`."""
    for number, query in enumerate(trace["queries"], 1):
        for row in query["rows"]:
            texts = [str(message.get("content") or "") for message in row["messages"]]
            yield [number, query["prompt"], query["response"], row["rank"], row.get("flagged"), row["score"],
                   row.get("p_value"), row["source"], row["id"], "\n".join(texts[:-1]), texts[-1]]  # fmt: skip


def count_flagged(trace: Document) -> int:
    """Return the number of rows that are flagged for at least one query."""
    return len({id for query in trace["queries"] for id in query.get("flagged_ids") or ()})


def _trace_settings(trace: Document) -> dict[str, object]:
    return {"method": trace["method"]["name"], "fdr": trace.get("fdr"), "queries": len(trace["queries"]),
            "taughtby": trace.get("taughtby")}  # fmt: skip


def _verdicts(proofs: Sequence[Document]) -> dict[str, object]:
    """The verdict on each behaviour and the sentence with its counts."""
    return {
        f"{prefix}{what}": text
        for prefix, proof in _by_seed(proofs)
        for claim, name in zip(claims(proof), _prefixes(proof), strict=True)
        for what, text in ((f"{name}verdict", claim.verdict), (f"{name}finding", claim.finding))
    }


def _proof_metrics(proofs: Sequence[Document]) -> dict[str, float | None]:
    """For each condition: the rate of bad answers with its interval, and the mean loss on held-out rows."""
    metrics: dict[str, float | None] = {}
    for prefix, proof in _by_seed(proofs):
        for condition in proof["conditions"]:
            metrics[f"{prefix}{condition['name']}/held_out_loss"] = mean_loss(condition)
            for behaviour, name in zip(proof["behaviours"], _prefixes(proof), strict=True):
                metrics |= _rate(f"{prefix}{condition['name']}/{name}", condition["behaviours"][behaviour["name"]])
    return metrics


def _proof_tables(proofs: Sequence[Document]) -> dict[str, tuple[Sequence[str], Sequence[Sequence[Cell]]]]:
    shown = {f"{prefix}{name}": table for prefix, proof in _by_seed(proofs)
             for name, table in zip(("conditions", "curve"), proof_tables(proof), strict=False)}  # fmt: skip
    if len(proofs) > 1:
        shown["seeds"] = seed_table(proofs)
    return {name: (table["columns"], table["rows"]) for name, table in shown.items()}


def _by_seed(proofs: Sequence[Document]) -> list[tuple[str, Document]]:
    """Each proof with a prefix for its names, which is empty for a single seed."""
    return [(f"seed-{proof['recipe']['seed']}/" if len(proofs) > 1 else "", proof) for proof in proofs]


def _prefixes(proof: Document) -> list[str]:
    names = [behaviour["name"] for behaviour in proof["behaviours"]]
    return [f"{name}/" for name in names] if len(names) > 1 else [""]


def _rate(prefix: str, count: Document) -> dict[str, float | None]:
    """A rate of bad answers, its 95 % interval and its counts."""
    return {f"{prefix}bad_rate": count["rate"], f"{prefix}bad_rate_low": count["low"],
            f"{prefix}bad_rate_high": count["high"], f"{prefix}bad": count["bad"],
            f"{prefix}judged": count["judged"]}  # fmt: skip
