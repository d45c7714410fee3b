"""Reports of an audit: an HTML page, and Markdown with the commands that reproduce each finding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taughtby.data.chat_template import NO_TEMPLATE
from taughtby.data.dataset import ReadOptions
from taughtby.errors import OptionError
from taughtby.models.paths import absolute_name
from taughtby.remediation.audit import AuditCase
from taughtby.remediation.experiment import ALL, CLEANED, RANDOM, TOP
from taughtby.remediation.stage_cache import STAGES
from taughtby.remediation.statistics import (
    bad_of_judged,
    claims,
    curve,
    describe_masking,
    get_condition,
    loss_change,
    markdown,
    tables,
)
from taughtby.remediation.trace_file import Document
from taughtby.reporting import html
from taughtby.reporting.plots import removal_curve
from taughtby.reporting.text import format_number
from taughtby.text import cli_command, collapse_whitespace, make_visible, markdown_code, markdown_text

PROOF, CURVE, TEMPLATE = "proof.json", "curve.png", "template.jinja"
FILES = ("report.md", "audit.json", "trace.json", PROOF, CURVE, TEMPLATE, "answers.jsonl", "queries.jsonl")
MAX_QUOTED_ROWS = 5
MAX_QUOTED_CHARACTERS = 160
TITLES = {
    "supported": "The model misbehaves, and retraining supports that these rows are the cause",
    "not supported": "The model misbehaves; retraining does not support that these rows are the cause",
    "inconclusive": "The model misbehaves; the retraining experiment is inconclusive",
}


def check_folder(folder: Path) -> None:
    """Refuse a folder without stages whose files an audit would replace or remove."""
    names = [name for name in (*FILES, "report.html", "prompts.jsonl", "bad.jsonl") if (folder / name).exists()]
    if names and not (folder / STAGES).is_dir():
        do = "give a folder that is empty or does not exist"
        raise OptionError(f"{folder} has files that the audit would replace", got=", ".join(names), do=do)


def write_report(case: AuditCase, results: Document, folder: Path) -> None:
    """Write the reports and results of an audit to its folder.

    Always report.md, report.html and audit.json; proof.json, curve.png and the chat template of the trainer's recipe
    if the results have them. Files that an earlier audit left there and these results do not have are removed.
    """
    for name in set(FILES) - set(report_files(results)):
        (folder / name).unlink(missing_ok=True)
    html.save_json(results, folder / "audit.json")
    if results["proof"]:
        save_proof(results["proof"], folder)
    if template := _template_file(results):
        (folder / TEMPLATE).write_bytes(template.encode("utf-8", "backslashreplace"))
    page = results["trace"] or {"version": 2, "queries": []}
    html.save_page({**page, "summary": summary(case, results)}, folder / "report.html")
    text = report_markdown(case, results, str(folder.resolve()))
    (folder / "report.md").write_text(text, encoding="utf-8", errors="backslashreplace")


def report_files(results: Document) -> list[str]:
    """Return the names of the files that these results have in the audit's folder, besides its stages and its page."""
    proof = results["proof"]
    present = {"trace.json": results["trace"], PROOF: proof, CURVE: proof and _removal_curve(proof),
               TEMPLATE: _template_file(results)}  # fmt: skip
    return [name for name in FILES if present.get(name, True)]


def _template_file(results: Document) -> str | None:
    """The chat template to save as a file; None if the tokenizer's own, or none, is used."""
    template = results.get("template")
    return None if template == NO_TEMPLATE else template


def save_proofs(results: Sequence[Document], out: Path) -> list[Path]:
    """Save the experiment of each seed, the first in `out`, the others in subfolders; return the files and folders.

    The experiments of seeds that an earlier run saved there are removed.
    """
    folders = [out / f"seed-{result['recipe']['seed']}" if number else out for number, result in enumerate(results)]
    for result, folder in zip(results, folders, strict=True):
        save_proof(result, folder)
    for folder in set(out.glob("seed-*")) - set(folders):
        for name in (PROOF, CURVE):
            (folder / name).unlink(missing_ok=True)
    return [out / PROOF, out / CURVE, *folders[1:]]


def save_proof(proof: Document, folder: Path) -> None:
    """Write proof.json, and curve.png of the first behaviour; remove curve.png if there is no removal curve.

    The folder is created.
    """
    folder.mkdir(parents=True, exist_ok=True)
    html.save_json(proof, folder / PROOF)
    if lines := _removal_curve(proof):
        removal_curve(*lines, path=folder / CURVE)
    else:
        (folder / CURVE).unlink(missing_ok=True)


def _removal_curve(proof: Document) -> list[Any]:
    """The points of the first behaviour's removal curve and of its references; empty if there is nothing to plot."""
    name = proof["behaviours"][0]["name"]
    lines = [curve(proof, name, kind) for kind in (TOP, CLEANED, RANDOM)]
    return lines if len(lines[0]) > 1 and all(lines) else []


@dataclass(frozen=True)
class Section:
    """A finding, its evidence, and the commands that reproduce it."""

    title: str
    text: str
    commands: tuple[str, ...] = ()


def report_markdown(case: AuditCase, results: Document, folder: str) -> str:
    """Return the report of the audit in `folder`, as Markdown."""
    lead = f"{_lead(case, markdown_code)} Each section ends with the command that reproduces its numbers."
    parts = [f"# {title(results)}\n\n{lead}\n"]
    for section in sections(case, results, folder):
        block = "\n```sh\n" + "\n".join(section.commands) + "\n```\n" if section.commands else ""
        parts.append(f"## {section.title}\n\n{section.text}\n{block}")
    return "\n".join(parts)


def summary(case: AuditCase, results: Document) -> Document:
    """Return what the page shows above the trace: title, lead, facts and tables."""
    lead, proof = _lead(case, str), results["proof"]
    facts = [{"name": "answers are bad", "value": bad_of_judged(results["answers"])}]
    if results["trace"]:
        facts.append({"name": "training rows flagged", "value": f"{len(results['removals'])} of {results['num_rows']}"})
    if proof:
        (claim,) = claims(proof)
        lead += f" {claim.finding}"
        for kind, text in ((ALL, "again on all rows"), (CLEANED, "without them")):
            count = get_condition(proof, kind)["behaviours"][claim.behaviour]
            facts.append({"name": f"bad, trained {text}", "value": bad_of_judged(count)})
        facts.append({"name": "by exact McNemar tests", "value": claim.headline})
    return {"title": title(results), "lead": lead, "facts": facts, "tables": tables(proof) if proof else []}


def sections(case: AuditCase, results: Document, folder: str) -> list[Section]:
    """Return the findings of all stages that ran, in order."""
    command, proof = commands(case, results, folder), results["proof"]
    count = results["answers"]
    interval = f"{bad_of_judged(count)} answers (95 %: {count['low']:.0%} to {count['high']:.0%})"
    judged = (command["generate"], command["judge"])
    result = [Section(f"The model misbehaves: {interval}", _first_bad_answer(results), judged)]
    if results["trace"]:
        result.append(Section(_flagged(case, results), _rows(results), (command["index"], command["trace"])))
    if results["cleaned"]:
        text = "The manifest beside it records which rows were removed, for which query, at which rank, and why."
        text = f"{markdown_code(results['cleaned'])}. {text}"
        result.append(Section("The data without these rows", text, (command["clean"],)))
    if proof:
        (claim,) = claims(proof)
        grids = "\n\n".join(map(markdown, tables(proof)))
        model = f"The model trained without them: {markdown_code(get_condition(proof, CLEANED)['model'])}."
        picture = "\n![Bad answers by number of rows removed](curve.png)\n" if _removal_curve(proof) else ""
        text = f"{claim.finding} {model}\n\n{grids}{picture}"
        result.append(Section(f"Retraining: {claim.headline}", text, (command["retrain"],)))
        result.append(Section("Side effects", _side_effects(proof)))
    if caveats := _caveats(results):
        result.append(Section("Caveats", "\n".join(f"- {markdown_text(caveat)}" for caveat in caveats)))
    return result


def commands(case: AuditCase, results: Document, folder: str) -> dict[str, str]:
    """Return the command of each stage, with absolute paths of the audit's files."""
    model, data = absolute_name(case.model), absolute_name(case.data)
    adapter, base = (name and absolute_name(name) for name in (case.adapter, case.base))
    reading = ReadOptions(**results.get("reading", {}))
    read = {"columns": ",".join(f"{what}={name}" for what, name in reading.columns) or None, "turns": reading.turns,
            "response_template": reading.response_template, "split": reading.split}  # fmt: skip
    template = f"{folder}/{TEMPLATE}" if _template_file(results) else results.get("template")
    run = {name: value if value != "auto" else None for name, value in (("dtype", case.dtype), ("device", case.device))}
    files = {name: absolute_name(file) for name, file in case.files.items()}
    depth = max((len(query["rows"]) for query in results["trace"]["queries"]), default=1) if results["trace"] else 1
    trace, prompts, judge = f"{folder}/trace.json", f"{folder}/prompts.jsonl", case.behaviour.judge
    design = {"random": case.num_random, "curve": ",".join(map(str, case.curve)) or None,
              "truth": list(case.truth_labels), "mask_words": case.mask_words, **case.recipe, **files}  # fmt: skip
    return {
        "generate": cli_command("lab generate", model, prompts, out=f"{folder}/answers.jsonl",
                                max_new_tokens=case.max_new_tokens, template=template, adapter=adapter, **run),
        "judge": cli_command("lab judge", f"{folder}/answers.jsonl", judge=judge, out=f"{folder}/bad.jsonl"),
        "index": cli_command("index build", model, data, out=results["index"], base=base,
                             no_base=not (adapter or base), adapter=adapter, **read, **run),
        "trace": cli_command("trace", str(results["index"]), queries=f"{folder}/queries.jsonl", top_k=depth,
                             json=trace),
        "clean": cli_command("clean", trace, data, out=results["cleaned"], top_k=case.top_k, **read),
        "retrain": cli_command("retrain", trace, data, out=folder, prompts=prompts, judge=judge,
                               max_new_tokens=case.max_new_tokens, top_k=case.top_k, **design, **read, **run),
    }  # fmt: skip


def title(results: Document) -> str:
    """Return the title of the report, which states the verdict."""
    if results["proof"]:
        return TITLES[claims(results["proof"])[0].verdict]
    if results["trace"]:
        return "The model misbehaves, and no training row is flagged"
    if results["answers"]["bad"]:
        return "The model misbehaves, but all of its bad answers are empty"
    return "The model does not misbehave"


def _lead(case: AuditCase, quote: Callable[[str], str]) -> str:
    """What was measured; `quote` formats a name for the page or for Markdown."""
    name = f"{quote(case.model)} with the adapter {quote(case.adapter)}" if case.adapter else quote(case.model)
    return (f"{name}, trained on {quote(case.data)}, answered {len(case.behaviour.prompts)} prompts; the answers are "
            f"judged by {quote(_shorten(case.behaviour.judge))}.")  # fmt: skip


def _first_bad_answer(results: Document) -> str:
    bad = next((verdict for verdict in results["verdicts"] if verdict["bad"]), None)
    if bad is None:
        return "There is nothing to trace."
    return f"The first of them, to {_quote(bad['prompt'])}: {_quote(bad['response'])}: {markdown_text(bad['why'])}."


def _flagged(case: AuditCase, results: Document) -> str:
    count, num_queries = len(results["removals"]), len(results["trace"]["queries"])
    if not count:
        return f"No row is flagged for any of {num_queries} bad answers"
    relation = f"among the top {case.top_k} of" if case.top_k else "flagged for"
    return f"{count} of {results['num_rows']} training rows are {relation} {num_queries} of the bad answers"


def _rows(results: Document) -> str:
    trace, removals = results["trace"], results["removals"]
    if not removals:
        why = "There are too few rows to tell a relevant row from chance"
        if any(query["num_flagged"] is not None for query in trace["queries"]):
            why = "No row scores higher for these answers than training rows score for each other by chance"
        return f"{why}. The ranking is in trace.json; `--top-k K` selects rows by rank."
    texts = {row["id"]: row["messages"] for query in trace["queries"] for row in query["rows"]}
    lines = ["| row | rank | p | response |", "|---|---|---|---|"]
    for removal in removals[:MAX_QUOTED_ROWS]:
        response = _quote(str(texts[removal["id"]][-1]["content"])) if removal["id"] in texts else ""
        row = _quote(removal["source"].rsplit("/", 1)[-1])
        lines.append(f"| {row} | {removal['rank']} | {format_number(removal['p_value'])} | {response} |")
    more = len(removals) - MAX_QUOTED_ROWS
    rate = f"The nominal false discovery rate is {trace['fdr']:.0%}.\n\n" if removals[0]["why"] == "flagged" else ""
    return rate + "\n".join(lines) + (f"\n\nand {more} more, in trace.json." if more > 0 else "")


def _side_effects(proof: Document) -> str:
    """Held-out loss and ordinary answers without the rows, and the effect of masking words instead."""
    whole, cleaned, held_out = get_condition(proof, ALL), get_condition(proof, CLEANED), proof["held_out"]
    sentences: list[str] = []
    if change := loss_change(cleaned, whole):
        where = "held out of every training" if held_out["set_aside"] else "from a separate file"
        sentences.append(f"The mean loss on {held_out['num_rows']} clean rows, {where}, changes by {change[0]:+.1%} "
                         f"(95 %: {change[1]:+.1%} to {change[2]:+.1%}).")  # fmt: skip
    for name, count in cleaned["ordinary"].items():
        if count["judged"]:
            sentences.append(f"Of {count['judged']} answers to ordinary prompts, {count['bad']} are bad without the "
                             f"rows, {whole['ordinary'][name]['bad']} with them.")  # fmt: skip
    if masking := describe_masking(proof):
        sentences.append(masking)
    if truth := proof["truth"]:
        others = proof["num_flagged"] - truth["num_flagged"]
        labels = markdown_text(", ".join(truth["labels"]))
        sentences.append(f"Of {truth['num_rows']} rows labelled {labels}, {truth['num_flagged']} are flagged, and "
                         f"{others} others.")  # fmt: skip
    return " ".join(sentences)


def _caveats(results: Document) -> list[str]:
    """What was assumed, left out, or failed."""
    caveats = list(results["notes"])
    if failed := results["answers"]["failed"]:
        caveats.append(f"The judge gave no verdict on {failed} answers; they are not counted.")
    if skipped := results["num_skipped"]:
        caveats.append(f"{skipped} rows of the data were skipped, for example because they are too long.")
    return [*caveats, *(results["trace"] or {}).get("warnings", ())]


def _quote(text: str) -> str:
    """Quote untrusted text as code in a line or table of Markdown; nothing in it can end the code."""
    flat = _shorten(text).replace("`", "'").replace("|", "/")
    return f"`{flat}`"


def _shorten(text: str) -> str:
    line = collapse_whitespace(make_visible(text)).strip()
    return line[:MAX_QUOTED_CHARACTERS] + "…" * (len(line) > MAX_QUOTED_CHARACTERS)
