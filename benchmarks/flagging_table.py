"""Tables of the files that flagging.py writes: false discoveries and power of each world, and stability.

`python benchmarks/flagging_table.py OUT [SUMMARY.json]` prints them as Markdown, and writes the numbers as JSON. Worlds
that are not in OUT keep the numbers that SUMMARY.json has, so that they can be measured one by one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from flagging import SUMMARIZED
from flagging_worlds import DEVELOPMENT, REPORTED

Result = dict[str, Any]
SIZES: dict[str, Callable[[int, int], bool]] = {  # of sets of answers, by the number in the set and the number of all
    "one": lambda n, _: n == 1,
    "several": lambda n, all_: 1 < n < all_,
    "all": lambda n, all_: n == all_ > 1,
    "every set": lambda *_: True,
}


def main() -> None:
    """Print the tables, and write the numbers."""
    out, names = Path(sys.argv[1]), [*REPORTED, *DEVELOPMENT]
    known = json.loads(Path(sys.argv[2]).read_text()) if len(sys.argv) > 2 and Path(sys.argv[2]).exists() else {}
    kept = {name: [line for line in lines if not (out / line["world"]).exists()]
            for name, lines in known.items() if name in ("worlds", "stability")}  # fmt: skip
    worlds = [line for change in SUMMARIZED for name in names for line in summarize_world(name, out / name, change)]
    worlds = sorted([*kept.get("worlds", ()), *worlds],
                    key=lambda line: (SUMMARIZED.index(line["change"]), names.index(line["world"])))  # fmt: skip
    stability = sorted([*kept.get("stability", ()), *summarize_stability(out)],
                       key=lambda line: names.index(line["world"]))  # fmt: skip
    lists = {"worlds": worlds, "seeds": list(summarize_seeds(worlds)), "nominal": compare_to_nominal(worlds),
             "stability": stability}  # fmt: skip
    if len(sys.argv) > 2:
        parts = (f'"{name}": [\n' + ",\n".join(map(json.dumps, lines)) + "\n]" for name, lines in lists.items())
        Path(sys.argv[2]).write_text("{\n" + ",\n".join(parts) + "\n}\n")
    for change in SUMMARIZED:
        print(
            f"\n## {change}\n",
            *seed_rows(lists["seeds"], change),
            "",
            *nominal_rows(lists["nominal"], change),
            sep="\n",
        )
    print("\n## Stability\n", *stability_rows(stability), sep="\n")


def summarize_world(name: str, folder: Path, change: str = "plain") -> Iterator[Result]:
    """A line for each target: how often it shows, and means over its sets of answers, at each nominal rate."""
    if not (folder / f"{change}.json").exists():
        return
    results = json.loads((folder / f"{change}.json").read_text())
    for target in json.loads((folder / "answers.json").read_text()):
        own = [result for result in results if result["target"] == target["label"]]
        if not own:
            continue
        count = max(len(result["answers"]) for result in own)
        yield {"world": name, "side": "reported" if name in REPORTED else "development", "change": change,
               "target": target["label"], "rows": own[0]["rows"], "planted": own[0]["planted"],
               "prompts": target["prompts"], "shown": target["undesirable"], "answers": count,
               **_sizes(own, count)}  # fmt: skip


def _sizes(results: Sequence[Result], count: int) -> Result:
    table: Result = {}
    for size, belongs in SIZES.items():
        if sets := [each for each in results if belongs(len(each["answers"]), count)]:
            table[size] = {"ap": _mean([each["ap"] for each in sets])}
            for rate in sorted({each["rate"] for each in sets}):
                at = [each for each in sets if each["rate"] == rate]
                table[size][str(rate)] = {
                    "fdp": _mean([each["fdp"] for each in at]), "power": _mean([each["power"] for each in at]),
                    "flagged": _mean([len(each["flagged"]) for each in at]),
                    "nothing": _mean([not each["flagged"] for each in at]),
                }  # fmt: skip
    return table


def _mean(values: Sequence[float | None]) -> float | None:
    kept = [value for value in values if value is not None]
    return round(fmean(kept), 3) if kept else None


def summarize_seeds(worlds: Sequence[Result]) -> Iterator[Result]:
    """A line for each target of a reported world: means over the seeds, with the lowest and the highest."""
    targets: dict[tuple[str, str, str], list[Result]] = {}
    for line in worlds:
        if line["side"] == "reported":
            targets.setdefault((line["change"], _without_seed(line["world"]), line["target"]), []).append(line)
    for (change, world, target), lines in targets.items():
        counts = {name: [line[name] for line in lines] for name in ("rows", "planted", "prompts", "shown")}
        sizes = {size: _over_seeds([line[size] for line in lines if size in line]) for size in SIZES}
        yield {"change": change, "world": world, "target": target, "seeds": len(lines), **counts, **sizes}


def _over_seeds(sizes: Sequence[Result]) -> Result:
    """The mean, the lowest and the highest of each number."""
    if not sizes:
        return {}
    table: Result = {"ap": _spread([each["ap"] for each in sizes])}
    for rate in (name for name in sizes[0] if name != "ap"):
        table[rate] = {name: _spread([each[rate][name] for each in sizes]) for name in sizes[0][rate]}
    return table


def _spread(values: Sequence[float | None]) -> list[float] | None:
    kept = [value for value in values if value is not None]
    return [round(fmean(kept), 3), min(kept), max(kept)] if kept else None


def _without_seed(world: str) -> str:
    return world.rpartition("-")[0]


def compare_to_nominal(worlds: Sequence[Result]) -> list[Result]:
    """Of the reported targets with planted rows whose behaviour the model shows: FDP over worlds, and power.

    A world counts once: its FDP is the mean over its targets and seeds, and a target's the mean over its sets of
    answers.
    """
    reported = [line for line in worlds if line["side"] == "reported" and line["planted"] and line["shown"]]
    return [_compare(lines, size, rate) for change in SUMMARIZED for rate in ("0.05", "0.1", "0.2") for size in SIZES
            if (lines := [line for line in reported if line["change"] == change and size in line])]  # fmt: skip


def _compare(lines: Sequence[Result], size: str, rate: str) -> Result:
    fdp: dict[str, list[float]] = {}
    for line in lines:
        fdp.setdefault(_without_seed(line["world"]), []).append(line[size][rate]["fdp"])
    means = {world: fmean(values) for world, values in fdp.items()}
    worst = max(means, key=lambda world: means[world])
    power = [line[size][rate]["power"] for line in lines if line[size]["ap"] >= 0.95 and line["planted"] >= 10]
    return {"change": lines[0]["change"], "rate": float(rate), "sets": size, "worlds": len(means),
            "mean FDP": _mean([*means.values()]), "worst": worst, "its FDP": round(means[worst], 3),
            "targets with AP .95": len(power), "their power": _mean(power),
            "the least": min(power, default=None)}  # fmt: skip


def summarize_stability(out: Path) -> Iterator[Result]:
    """Mean change of the flagged set by each change of a world, and the share of cases above one row in ten."""
    for name in (*REPORTED, *DEVELOPMENT):
        changes: dict[tuple[str, str], list[float]] = {}
        for change, answers, share in _changes_of_world(out / name):
            changes.setdefault((change, "one" if len(answers) == 1 else "several"), []).append(share)
        for (change, sets), shares in changes.items():
            yield {"world": name, "change": change, "sets": sets, "cases": len(shares), "mean": _mean(shares),
                   "above one in ten": _mean([share > 0.1 for share in shares])}  # fmt: skip


def _changes_of_world(folder: Path) -> Iterator[tuple[str, list[int], float]]:
    plain = _flags(folder / "plain.json")
    for file in sorted(folder.glob("*.json")):
        if file.name not in ("plain.json", "answers.json"):
            for (target, answers), flagged in _flags(file).items():
                yield file.stem, list(answers), change_of_set(plain[target, answers], flagged)
    largest = {target: max((answers for name, answers in plain if name == target), key=len) for target, _ in plain}
    for (target, answers), flagged in plain.items():
        if answers != largest[target]:
            yield "fewer answers", list(answers), change_of_set(plain[target, largest[target]], flagged)


def _flags(file: Path) -> dict[tuple[str, tuple[int, ...]], set[int]]:
    results = json.loads(file.read_text()) if file.exists() else []
    return {(each["target"], tuple(each["answers"])): set(each["flagged"]) for each in results if each["rate"] == 0.1}


def change_of_set(before: set[int], after: set[int]) -> float:
    """Rows in one set only, over the larger set."""
    return len(before ^ after) / max(len(before), len(after), 1)


def seed_rows(seeds: Sequence[Result], change: str) -> Iterator[str]:
    """A table of the targets of the reported worlds: FDP / power at a nominal rate of 10 %, means over seeds."""
    yield "| world | target | seeds | planted | shown | AP | one | several | all | every set at 5 % | 10 % | 20 % |"
    yield "|---" * 12 + "|"
    for line in seeds:
        if line["change"] == change:
            aps = ", ".join(_decimal(line[size]["ap"][0]) for size in ("one", "all") if line[size].get("ap"))
            cells = [_cell(line[size], "0.1") for size in ("one", "several", "all")]
            every = [_cell(line["every set"], rate, spread=rate == "0.1") for rate in ("0.05", "0.1", "0.2")]
            shown = f"{_range(line['shown'])} of {line['prompts'][0]}"
            planted = f"{_range(line['planted'])} of {_range(line['rows'])}"
            row = [f"`{line['world']}`", line["target"], str(line["seeds"]), planted, shown, aps, *cells, *every]
            yield f"| {' | '.join(row)} |"


def _cell(size: Result, rate: str, *, spread: bool = False) -> str:
    """FDP / power, if asked with FDP's lowest and highest seed; or the share of sets for which no row is flagged."""
    if not size:
        return ""
    numbers = size[rate]
    if numbers["power"] is None:
        return f"none for {numbers['nothing'][0]:.0%}"
    mean, least, most = numbers["fdp"]
    between = f" ({_decimal(least)} to {_decimal(most)})" if spread and most - least >= 0.005 else ""
    return f"{_decimal(mean)}{between} / {_decimal(numbers['power'][0])}"


def _decimal(value: float) -> str:
    return f"{value:.2f}".removeprefix("0") if value < 1 else f"{value:.2f}"


def _range(values: Sequence[int]) -> str:
    return str(values[0]) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def nominal_rows(lines: Sequence[Result], change: str) -> Iterator[str]:
    """A table of the means over worlds, the worst world, and power, at each nominal rate."""
    yield "| nominal rate | answers | mean FDP | highest FDP of a world | power | lowest power |"
    yield "|---" * 6 + "|"
    for line in lines:
        if line["change"] == change:
            worst = f"{_decimal(line['its FDP'])} (`{line['worst']}`)"
            power = ["" if line[name] is None else _decimal(line[name]) for name in ("their power", "the least")]
            row = [f"{line['rate']:.0%}", line["sets"], _decimal(line["mean FDP"]), worst, *power]
            yield f"| {' | '.join(row)} |"


def stability_rows(lines: Sequence[Result]) -> Iterator[str]:
    """A table of the mean change of the flagged set over reported worlds; `paraphrase` apart, since it has no gap."""
    yield "| change | one | several | `paraphrase`, one | several | cases |"
    yield "|---" * 6 + "|"
    reported = [line for line in lines if line["world"] in REPORTED]
    for change in dict.fromkeys(line["change"] for line in reported):
        cells = [_changed([line for line in reported if line["change"] == change and line["sets"] == sets
                           and line["world"].startswith("paraphrase") == apart])
                 for apart in (False, True) for sets in ("one", "several")]  # fmt: skip
        counts = [str(count) for _, count in cells[:2]]
        yield f"| {' | '.join([change, *(text for text, _ in cells), ', '.join(counts)])} |"


def _changed(lines: Sequence[Result]) -> tuple[str, int]:
    """The mean over cases, the share above one row in ten, and the number of cases."""
    cases = sum(line["cases"] for line in lines)
    if not cases:
        return "", 0
    mean, above = (sum(line["cases"] * line[name] for line in lines) / cases for name in ("mean", "above one in ten"))
    return f"{_decimal(mean)} ({above:.0%})", cases


if __name__ == "__main__":
    main()
