"""An audit told so that somebody else can check it: each claim with its numbers and the command that makes it again.

As Markdown, and as what the page shows above the trace. Knows the document of `whence.proof.audit`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from whence import report
from whence.bench.pictures import removal_curve
from whence.paths import absolute
from whence.proof.audit import Case
from whence.proof.claims import arm, claims, curve, loss_change, markdown, masked, tables
from whence.proof.prove import Document
from whence.proof.trial import ALL, CLEANED, FIRST, RANDOM
from whence.text import code, command, one_line, prose, visible
from whence.words import figure

QUOTED = 5  # rows that are shown
LONGEST = 160  # characters of what is quoted
TITLES = {
    "proved": "It misbehaves, and these rows taught it",
    "not proved": "It misbehaves; that these rows taught it is not proved",
    "inconclusive": "It misbehaves; the proof is inconclusive",
}


def publish(case: Case, found: Document, folder: Path) -> None:
    """Write report.md, report.html and audit.json, and what there is of proof.json and curve.png, into the folder."""
    report.save(found, folder / "audit.json")
    if found["proof"]:
        save(found["proof"], folder)
    page = found["trace"] or {"version": 1, "queries": []}
    report.save_page({**page, "summary": summary(case, found)}, folder / "report.html")
    (folder / "report.md").write_text(
        story(case, found, str(folder.resolve())), encoding="utf-8", errors="backslashreplace"
    )


def save(proof: Document, folder: Path) -> None:
    """Write proof.json, and where rows were taken out one after the other, curve.png of the first behaviour."""
    report.save(proof, folder / "proof.json")
    name = proof["behaviours"][0]["name"]
    first, *beside = (curve(proof, name, kind) for kind in (FIRST, CLEANED, RANDOM))
    if len(first) > 1 and all(beside):
        removal_curve(first, *beside, path=folder / "curve.png")


@dataclass(frozen=True)
class Chapter:
    """A claim, what stands behind it, and the commands that make it again."""

    claim: str
    text: str
    commands: tuple[str, ...] = ()


def story(case: Case, found: Document, folder: str) -> str:
    """The audit that lies in `folder`, as Markdown."""
    again = "Under each claim stands the command that makes its numbers again."
    parts = [f"# {_title(found)}\n\n{_lead(case, code)} {again}\n"]
    for chapter in chapters(case, found, folder):
        block = "\n```sh\n" + "\n".join(chapter.commands) + "\n```\n" if chapter.commands else ""
        parts.append(f"## {chapter.claim}\n\n{chapter.text}\n{block}")
    return "\n".join(parts)


def summary(case: Case, found: Document) -> Document:
    """What the page shows above the trace: title, lead, facts and tables."""
    facts, lead, proof = [{"name": "answers are bad", "value": _share(found["said"])}], _lead(case, str), found["proof"]
    if found["trace"]:
        facts.append({"name": "training rows called", "value": f"{len(found['removals'])} of {found['rows']}"})
    if proof:
        (claim,) = claims(proof)
        lead += f" {claim.says}"
        kinds = ((ALL, "again on all rows"), (CLEANED, "without them"))
        counts = [(said, arm(proof, kind)["behaviours"][claim.behaviour]) for kind, said in kinds]
        facts += [{"name": f"bad, trained {said}", "value": _share(count)} for said, count in counts]
        facts.append({"name": "by Fisher's exact test", "value": claim.verdict})
    return {
        "title": _title(found),
        "lead": lead,
        "facts": facts,
        "tables": tables(proof) if proof else [],
    }


def chapters(case: Case, found: Document, folder: str) -> list[Chapter]:
    """The claims in their order, as far as the audit came."""
    made, proof = commands(case, found, folder), found["proof"]
    told = [Chapter(f"It misbehaves: {_counts(found['said'])}", _said(found), (made["respond"], made["judge"]))]
    if found["trace"]:
        told.append(Chapter(_called(case, found), _rows(found), (made["index"], made["trace"])))
    if found["cleaned"]:
        beside = "Beside it lies a manifest: which rows went, by which answer, at which rank, and why."
        told.append(Chapter("The data without them", f"{code(found['cleaned'])}. {beside}", (made["clean"],)))
    if proof:
        (claim,) = claims(proof)
        tabled = "\n\n".join(map(markdown, tables(proof)))
        retrained = f"The model trained without them: {code(arm(proof, CLEANED)['model'])}."
        drawn = "\n![Bad answers by how many rows are taken out](curve.png)\n" if len(tables(proof)) > 1 else ""
        text = f"{claim.says} {retrained}\n\n{tabled}{drawn}"
        told.append(Chapter(f"The proof: {claim.verdict}", text, (made["prove"],)))
        told.append(Chapter("What it costs, and what it spares", _cost(proof)))
    if doubts := _doubts(found):
        told.append(Chapter("What to know before believing it", "\n".join(f"- {prose(one)}" for one in doubts)))
    return told


def commands(case: Case, found: Document, folder: str) -> dict[str, str]:
    """The command of each stage, over the files in the audit's folder; to be run from anywhere."""
    model, data = absolute(case.model), absolute(case.data)
    adapter, base = (name and absolute(name) for name in (case.adapter, case.base))
    reading, behaviour = case.reading, case.behaviour
    read = {} if reading is None else {
        "columns": ",".join(f"{what}={name}" for what, name in reading.columns) or None,
        "turns": reading.turns if reading.turns != "last" else None,
        "response_template": reading.response_template, "split": reading.split,
    }  # fmt: skip
    run = {
        "dtype": case.dtype if case.dtype != "auto" else None,
        "device": case.device if case.device != "auto" else None,
    }
    files = {name: absolute(file) for name, file in case.files.items()}
    depth = max((len(query["rows"]) for query in found["trace"]["queries"]), default=1) if found["trace"] else 1
    trace, above, top = f"{folder}/trace.json", {"adapter": adapter}, {"top": case.top}
    design = {"random": case.draws, "curve": ",".join(map(str, case.curve)) or None, "truth": list(case.truth),
              "mask_words": case.mask_words, **case.recipe, **files}  # fmt: skip
    return {
        "respond": command("respond", model, f"{folder}/prompts.jsonl", out=f"{folder}/answers.jsonl",
                           max_new=case.max_new, **above, **run),
        "judge": command("judge", f"{folder}/answers.jsonl", by=behaviour.judge, out=f"{folder}/bad.jsonl"),
        "index": command("index", model, data, out=found["index"], base=base, **above, **read, **run),
        "trace": command("trace", str(found["index"]), queries=f"{folder}/queries.jsonl", top=depth, json=trace),
        "clean": command("clean", trace, data, out=found["cleaned"], **top, **read),
        "prove": command("prove", trace, data, out=folder, prompts=f"{folder}/prompts.jsonl", judge=behaviour.judge,
                         max_new=case.max_new, **top, **design, **read, **run),
    }  # fmt: skip


def _title(found: Document) -> str:
    if found["proof"]:
        return TITLES[claims(found["proof"])[0].verdict]
    if found["trace"]:
        return "It misbehaves, and no training row is called for it"
    return "It misbehaves, but gives no text to trace" if found["said"]["bad"] else "It does not misbehave"


def _lead(case: Case, write: Callable[[str], str]) -> str:
    """What was asked of what; `write` makes of a name what the page or Markdown needs."""
    name = f"{write(case.model)} with the adapter {write(case.adapter)}" if case.adapter else write(case.model)
    return (f"{name}, trained on {write(case.data)}, was asked {len(case.behaviour.prompts)} prompts; an answer is bad "
            f"where the judge {write(_cut(case.behaviour.judge))} says so.")  # fmt: skip


def _said(found: Document) -> str:
    bad = next((one for one in found["verdicts"] if one["bad"]), None)
    if bad is None:
        return "There is nothing to trace."
    return f"The first of them, to {_quoted(bad['prompt'])}: {_quoted(bad['response'])}: {prose(bad['why'])}."


def _called(case: Case, found: Document) -> str:
    count, traced = len(found["removals"]), len(found["trace"]["queries"])
    if not count:
        return f"No row is called for any of {traced} bad answers"
    how = f"among the first {case.top} of" if case.top else "called by"
    return f"{count} of {found['rows']} training rows are {how} {traced} of the bad answers"


def _rows(found: Document) -> str:
    trace, chosen = found["trace"], found["removals"]
    if not chosen:
        why = "There are too few rows to tell a culprit from chance"
        if any(query["culprits"] is not None for query in trace["queries"]):
            why = "None answers to them more than training rows answer to each other by chance"
        return f"{why}. What ranks first stands in trace.json; `--top K` takes rows by rank all the same."
    texts = {row["id"]: row["messages"] for query in trace["queries"] for row in query["rows"]}
    lines = ["| row | rank | p | learned |", "|---|---|---|---|"]
    for one in chosen[:QUOTED]:
        answer = _quoted(str(texts[one["id"]][-1]["content"])) if one["id"] in texts else ""
        row = _quoted(one["source"].rsplit("/", 1)[-1])
        lines.append(f"| {row} | {one['rank']} | {figure(one['p_value'])} | {answer} |")
    more = f"\n\nand {len(chosen) - QUOTED} more, in trace.json." if len(chosen) > QUOTED else ""
    called = chosen[0]["why"].startswith("called")
    rate = f"Of the rows called, {trace['rate']:.0%} may be innocent.\n\n" if called else ""
    return rate + "\n".join(lines) + more


def _cost(proof: Document) -> str:
    """Held-out loss and ordinary answers without the rows, and what masking words does instead."""
    whole, cleaned = arm(proof, ALL), arm(proof, CLEANED)
    change = loss_change(cleaned, whole)
    told: list[str] = []
    if change:
        where = "set aside before any training" if proof["held_out"]["aside"] else "given"
        told.append(f"The mean loss on {proof['held_out']['rows']} clean rows, {where}, changes by {change[0]:+.1%} "
                    f"(95 %: {change[1]:+.1%} to {change[2]:+.1%}).")  # fmt: skip
    for name, usual in cleaned["ordinary"].items():
        if usual["judged"]:
            told.append(f"Of {usual['judged']} ordinary answers {usual['bad']} are bad without the rows, "
                        f"{whole['ordinary'][name]['bad']} with them.")  # fmt: skip
    if said := masked(proof):
        told.append(said)
    if known := proof["truth"]:
        others = proof["called"] - known["called"]
        labels = prose(", ".join(known["labels"]))
        told.append(f"Of {known['rows']} rows labelled {labels} {known['called']} were called, and {others} others.")
    return " ".join(told)


def _doubts(found: Document) -> list[str]:
    """What was assumed, left out, or failed."""
    doubts = list(found["notes"])
    if found["said"]["failed"]:
        doubts.append(f"The judge gave no verdict on {found['said']['failed']} answers; they count as neither.")
    if found["skipped"]:
        doubts.append(f"{found['skipped']} rows of the data could not be read as the model learned them.")
    return [*doubts, *(found["trace"] or {}).get("warnings", ())]


def _share(count: Document) -> str:
    return f"{count['bad']} of {count['judged']}"


def _counts(count: Document) -> str:
    return f"{_share(count)} answers (95 %: {count['low']:.0%} to {count['high']:.0%})"


def _quoted(text: str) -> str:
    """A stranger's text in a line or a table of Markdown: as code, which nothing in it can end."""
    flat = _cut(text).replace("`", "'").replace("|", "/")
    return f"`{flat}`"


def _cut(text: str) -> str:
    """The text on one line, and no longer than is quoted."""
    flat = one_line(visible(text)).strip()
    return flat[:LONGEST] + "…" * (len(flat) > LONGEST)
