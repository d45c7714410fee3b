"""Format the results of a benchmark as terminal tables, Markdown and sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from taughtby.bench.metrics import CUTS, Spread, median_of_known
from taughtby.text import make_visible, markdown_code, markdown_text

TRIVIAL = ("bm25", "tfidf", "rftc", "first-word", "random")
REPT, LOOP = "rept", "RepT's own loop"
METRICS = {
    "ap": "AP",
    **{f"p@{k}": f"P@{k}" for k in CUTS},
    **{f"recall@{k}": f"R@{k}" for k in CUTS},
    **{f"auprc@{k}": f"auPRC@{k}" for k in CUTS},
    "auroc": "AUROC",
    "mrr": "MRR",
    "together": "AP together",
    "hit@1": "word hit@1",
    "fdp": "flagged wrongly",
    "power": "power",
    "none": "none flagged",
}
LEGEND = (
    "AP: average precision over all rows, the mean over the bad answers; ± its standard deviation over the seeds. "
    "After the bar: the same answers traced with the base model, as a control (=: the method reads no model)."
)
EXPLAINED = (
    LEGEND + " R@k: recall. auPRC@k: as in RepT's code, the average precision of one pool of every query's top k rows, "
    "which ignores planted rows outside all of them; it does not replace AP. AP together: answers for which a method "
    "ranks rows alike, explained as one (`lesson` does so by default). Word hit@1: of as many top rows as are planted, "
    "the share of planted ones whose top-scoring word is a planted word. Flagged wrongly: of the flagged rows, at a "
    "nominal false discovery rate of 10 %. Power: of the planted rows, the share that is flagged. None flagged: of the "
    "answers, the share without flagged rows."
)
COSTS = (
    "Medians over suites and seeds. CPU s: CPU seconds of the index, over all cores. +MB: memory on top of the loaded "
    "model. *: the index is shared by methods with equal features, and its cost is that of one pass. –: text only, "
    "needs no index. RepT's own loop: two passes per row, one row at a time, as in its authors' code, timed on "
    "a few rows."
)
Result = dict[str, Any]


def show(document: Result, console: Console) -> None:
    """Print accuracy, cost and sentences; suites that do not fit side by side are printed below each other."""
    suites: list[Result] = document["suites"]
    start = 0
    while start < len(suites):
        tables = [_accuracy(document, suites[start:stop]) for stop in range(start + 1, len(suites) + 1)]
        wide = console.options.update(width=10_000)  # otherwise tables are measured after they are squeezed
        fitting = [table for table in tables if console.measure(table, options=wide).maximum <= console.width]
        fitting = fitting or tables[:1]
        fitting[-1].title = "AP, fine-tuned │ base model" if start == 0 else None
        console.print(fitting[-1])
        start += len(fitting)
    console.print(LEGEND, style="dim")
    for refusal in refusals(document):
        console.print(Text(make_visible(refusal), "dim"))
    heads, rows = costs(document)
    table = Table(title="Cost", title_justify="left", box=box.SIMPLE, pad_edge=False)
    for at, head in enumerate(heads):
        table.add_column(head, justify="right" if at else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(make_visible(cell)) for cell in row))
    console.print(table)
    console.print(COSTS, style="dim")
    for sentence in sentences(document).values():
        console.print(Text("\n" + make_visible(sentence)))


def _accuracy(document: Result, suites: Sequence[Result]) -> Table:
    """AP of every method on these suites."""
    table = Table(title_justify="left", box=box.SIMPLE, pad_edge=False)
    for head in ("method", *(suite["name"] for suite in suites)):
        table.add_column(Text(make_visible(head)), no_wrap=True, justify="left" if head == "method" else "right")
    for method in ranked(document):
        cells = (_cell(suite, method) for suite in suites)
        table.add_row(Text(make_visible(method)), *cells, style="dim" if method in TRIVIAL else None)
    return table


def markdown(document: Result) -> str:
    """Return all results: sentences, one table per suite with all metrics, cost, and provenance."""
    methods = ranked(document)
    lines = ["# How well each method finds the planted rows", "", LEGEND, ""]
    heads = ["method", *(suite["name"] for suite in document["suites"])]
    cells = [[markdown_text(method), *(_cell(suite, method) for suite in document["suites"])] for method in methods]
    lines += [*markdown_grid(heads, cells), *(f"- {markdown_text(refusal)}" for refusal in refusals(document)), ""]
    verdicts = sentences(document)
    for suite in document["suites"]:
        shown = [key for key in METRICS if any(key in line["metrics"] for line in suite["results"])]
        rows = [[markdown_text(line["method"]) + (", base model" if line["which"] == "untuned" else ""),
                 *(format_spread(line["metrics"].get(key)) for key in shown)]
                for line in suite["results"] if line["metrics"] and _own(line)]  # fmt: skip
        lines += [f"## {suite['name']}", "", markdown_text(verdicts[suite["name"]]), ""]
        lines += markdown_grid(["method", *(METRICS[key] for key in shown)], rows)
    heads, rows = costs(document)
    cost = markdown_grid(heads, [[markdown_text(cell) for cell in row] for row in rows])
    lines += [EXPLAINED, "", "## Cost", "", *cost, COSTS, "", "## Provenance", "", *_provenance(document)]
    return "\n".join(lines) + "\n"


def format_spread(value: Result | None) -> str:
    """Return a mean, with its standard deviation if there are several seeds."""
    if value is None:
        return "–"
    return f"{value['mean']:.3f}" + (f" ±{value['sd']:.3f}" if len(value["each"]) > 1 else "")


def ranked(document: Result) -> list[str]:
    """Return the methods by mean AP over the suites, best first."""
    means: dict[str, list[float]] = {}
    for suite in document["suites"]:
        for line in suite["results"]:
            if line["which"] == "tuned":
                means.setdefault(line["method"], []).extend([line["metrics"]["ap"]["mean"]] if _ranks(line) else [])
    return sorted(means, key=lambda method: -sum(means[method]) / max(1, len(means[method])))


def costs(document: Result) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the cost table; the reference's own loop comes last."""
    heads = ["method", "index s", "CPU s", "tokens/s", "+MB", "bytes/row", "query s"]
    rows: list[list[str]] = []
    for method in ranked(document):
        lines = [line["cost"] for suite in document["suites"] for line in suite["results"]
                 if line["method"] == method and line["which"] == "tuned" and line["cost"]]  # fmt: skip
        star = "*" if any(cost["shared_with"] for cost in lines) else ""
        keys = ("index_seconds", "index_cpu", "index_tokens_per_second", "index_more", "bytes_per_row", "query_seconds")
        texts = [_plain(median_of_known(cost[key] for cost in lines)) for key in keys]
        rows.append([method, texts[0] + star, *texts[1:]])
    if loop := _loop(document):
        rows.append([LOOP, *map(_plain, loop), "–"])
    return heads, rows


def points(document: Result) -> list[tuple[str, float, float]]:
    """Name, index seconds and mean AP of each method that has an index; the reference's own loop comes last."""
    by_method: dict[str, tuple[str, float, float]] = {}
    for method in ranked(document):
        lines = [line for suite in document["suites"] for line in suite["results"]
                 if line["method"] == method and line["which"] == "tuned" and _ranks(line)]  # fmt: skip
        seconds = median_of_known(line["cost"]["index_seconds"] for line in lines)
        if seconds is not None:
            aps = [line["metrics"]["ap"]["mean"] for line in lines]
            by_method[method] = (method, seconds, sum(aps) / len(aps))
    loop = _loop(document)
    if loop and loop[0] and REPT in by_method:
        by_method[LOOP] = (LOOP, loop[0], by_method[REPT][2])
    return list(by_method.values())


def refusals(document: Result) -> list[str]:
    """Return which methods could not run on which model, and why."""
    errors = (
        (line["method"], line["which"], line["error"]) for suite in document["suites"] for line in suite["results"]
    )
    return [f"{method}, {which}: {error}" for method, which, error in dict.fromkeys(errors) if error]


def sentences(document: Result) -> dict[str, str]:
    """For each suite, in sentences: the best method, and whether text-only methods or the base model do as well."""
    return {suite["name"]: _verdict(suite) for suite in document["suites"]}


def _verdict(suite: Result) -> str:
    seeds = suite["seeds"]
    before, after = (sum(seed[key] for seed in seeds) / len(seeds) for key in ("base_rate", "rate"))
    text = f"{suite['name']}: bad answers before fine-tuning {before:.0%}, after {after:.0%}."
    if any(seed.get("published") for seed in seeds):
        text += " The model gives too few of its own, so published ones were traced."
    elif before > after / 2:
        text += " The base model gives such answers too, so the rows are not the cause."
    tuned = [line for line in suite["results"] if line["which"] == "tuned" and _ranks(line)]
    words, able = ({line["method"]: _ap(line) for line in tuned if line["reads"] == by} for by in ("words", "model"))
    if not able:
        if not any(seed["planted"] for seed in seeds):
            return text + " No rows are planted in this suite." + _none_flagged(suite)
        return text + (" No bad answer, so nothing was traced." if not tuned else "")
    best = max(able, key=lambda method: able[method].mean)
    over = f", {able[best].low:.3f}–{able[best].high:.3f} over {len(able[best].each)} seeds" if len(seeds) > 1 else ""
    text += f" Best: {best} (AP {able[best].mean:.3f}{over})."
    base = {line["method"]: _ap(line) for line in suite["results"]
            if line["which"] == "untuned" and _ranks(line) and line["reads"] == "model"}  # fmt: skip
    text += _rivals(words, able[best], "Of the text-only methods", "none does as well")
    return text + _rivals(base, able[best], "On the base model", "no method does as well")


def _none_flagged(suite: Result) -> str:
    """How often each method that flags rows flags none."""
    shares = {line["method"]: line["metrics"]["none"]["mean"] for line in suite["results"]
             if line["which"] == "tuned" and "none" in line["metrics"]}  # fmt: skip
    text = ", ".join(f"{method} for {share:.0%}" for method, share in shares.items())
    return f" Answers without flagged rows: {text}." if text else ""


def _ranks(line: Result) -> bool:
    """Whether there are planted rows to rank."""
    return "ap" in line["metrics"]


def _rivals(others: dict[str, Spread], best: Spread, where: str, none: str) -> str:
    """Which methods do as well as the best within the spread, or which comes closest."""
    if not others:
        return ""
    equal = [method for method, ap in others.items() if ap.reaches(best)]
    if equal:
        verb = "does" if len(equal) == 1 else "do"
        named = ", ".join(f"{method} ({others[method].mean:.3f})" for method in equal)
        return f" {where}, {named} {verb} as well within the spread."
    near = max(others, key=lambda method: others[method].mean)
    return f" {where}, {none}; the best is {near} ({others[near].mean:.3f})."


def _ap(line: Result) -> Spread:
    ap = line["metrics"]["ap"]
    return Spread(ap["mean"], ap["low"], ap["high"], ap["sd"], tuple(ap["each"]))


def _cell(suite: Result, method: str) -> str:
    """AP of the fine-tuned model and, after a bar, of the base model."""
    lines = {line["which"]: line for line in suite["results"] if line["method"] == method}
    if "tuned" not in lines or not _ranks(lines["tuned"]):
        return "–"
    tuned, base = format_spread(lines["tuned"]["metrics"]["ap"]), lines.get("untuned")
    if base is None or base["reads"] == "words":
        return tuned + (" │   =  " if base else "")
    return f"{tuned} │ " + (f"{base['metrics']['ap']['mean']:.3f}" if _ranks(base) else "  –  ")


def _own(line: Result) -> bool:
    """Whether the line is not a duplicate: a text-only method has the same result on both models."""
    return line["which"] == "tuned" or line["reads"] == "model"


def markdown_grid(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a Markdown table as lines, ending with a blank one; all columns but the first are right-aligned."""
    line: Callable[[Sequence[str]], str] = lambda cells: "| " + " | ".join(cells) + " |"  # noqa: E731
    return [line(heads), line(["---", *["---:"] * (len(heads) - 1)]), *map(line, rows), ""]


def _provenance(document: Result) -> list[str]:
    provenance, settings = document["provenance"], document["settings"]
    machine, packages = provenance.get("machine"), provenance.get("packages") or {}
    counts = machine and [f"{_each(machine['cores'])} cores", f"{_each(machine['threads'])} threads"]
    facts = {
        "command": markdown_code(settings["command"]) if settings.get("command") else None,
        "at": " to ".join(dict.fromkeys([at] if isinstance(at := provenance.get("at") or [], str) else at)),
        "machine": machine and ", ".join([_each(machine["processor"]), *counts, *map(_each, machine["accelerators"])]),
        "number format": provenance["dtype"],
        "versions": ", ".join(f"{package} {_each(versions)}" for package, versions in packages.items()),
        "commit": _each(provenance["commit"]),
        "seeds": ", ".join(map(str, range(settings["seeds"]))),
        "model": markdown_text(settings["model"]),
    }
    return [f"- {key}: {value}" for key, value in facts.items() if value]


def _each(values: Any) -> str:
    """A value, or the distinct values of several stages, as text."""
    listed = values if isinstance(values, list) else [values]
    return " and ".join("unknown" if value is None else ", ".join(value) if isinstance(value, list) else str(value)
                        for value in listed)  # fmt: skip


def _loop(document: Result) -> list[float | None] | None:
    """The costs of the reference's own loop, scaled to the rows of a suite, in the columns of the cost table."""
    loops = [(suite["reference"], suite["seeds"][0]["rows"]) for suite in document["suites"] if suite["reference"]]
    if not loops:
        return None
    whole = [[loop[key] * count for loop, count in loops if key in loop] for key in ("seconds_per_row", "cpu_per_row")]
    rates = [[loop[key] for loop, _ in loops] for key in ("tokens_per_second", "more", "bytes_per_row")]
    return [median_of_known(values) for values in [*whole, *rates]]


def _plain(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.3f}"
