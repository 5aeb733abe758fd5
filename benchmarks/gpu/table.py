"""The figures of one or several runs of the suite as a Markdown table."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.figures import FAILED, SKIPPED, read_results
from wpm.errors import UserError
from wpm.files import write_bytes

BEGIN, END = "<!-- figures of benchmarks.gpu begin -->", "<!-- figures of benchmarks.gpu end -->"
Key = tuple[str, str, str, str]  # stage, what, unit, precision


def read_run(folder: Path, stages: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the results of the stages that ran, in their order."""
    found = {stage: read_results(folder, stage) for stage in stages}
    return {stage: content for stage, content in found.items() if content is not None}


def format_report(run: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the report of one run: the machine, how each stage ended, and all figures."""
    lines = ["# Figures of `python -m benchmarks.gpu`", ""]
    lines += [*_describe_machines([run]), "", "| stage | ended | seconds |", "|---|---|---:|"]
    for stage, content in run.items():
        ended = content["state"] + (f": {content['reason']}" if content["reason"] else "")
        lines.append(f"| {stage} | {ended} | {content['seconds']:.0f} |")
    lines += ["", "| stage | what | precision | value | n | note |", "|---|---|---|---:|---:|---|"]
    for stage, content in run.items():
        for figure in content["figures"]:
            n = figure["n"] if figure["value"] is not None else ""
            lines.append(
                f"| {stage} | {figure['what']} | {figure['precision']} | {_format_value(figure)} "
                f"| {n} | {figure['note']} |"
            )
    return "\n".join(lines) + "\n"


def format_comparison(runs: Sequence[Mapping[str, Mapping[str, Any]]]) -> str:
    """Return a table with a column a run, and an empty one where no run had a GPU.

    What was skipped in all runs is left out, and skipped ones are empty.
    """
    values: dict[Key, list[str]] = {}
    for column, run in enumerate(runs):
        for stage, content in run.items():
            for figure in content["figures"]:
                if figure["verdict"] == SKIPPED:
                    continue
                key = stage, figure["what"], figure["unit"], figure["precision"]
                cells = values.setdefault(key, [""] * len(runs))
                n = f" (n = {figure['n']})" if figure["n"] > 1 else ""
                cells[column] = _format_value(figure) + n
    headings = _headings(runs)
    has_gpu = any("CUDA" in content["versions"] for run in runs for content in run.values())
    if not has_gpu:
        headings.append("GPU")
    lines = [*_describe_machines(runs), ""]
    lines.append("| stage | what | precision | " + " | ".join(headings) + " |")
    lines.append("|---|---|---|" + "---:|" * len(headings))
    for (stage, what, _, precision), cells in values.items():
        cells = cells if has_gpu else [*cells, ""]
        lines.append(f"| {stage} | {what} | {precision} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def fill_document(document: Path, table: str) -> None:
    """Put a table between the two markers of a document, in place of what is there.

    Raises:
        UserError: the document has not exactly one pair of markers.
    """
    text = document.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(f"{document}: must hold {BEGIN} and {END}, once each and in this order")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    write_bytes(document, f"{before}{BEGIN}\n\n{table}\n{END}{after}".encode())


def _heading(run: Mapping[str, Mapping[str, Any]]) -> str:
    content = next(iter(run.values()))
    kind = content["device"].split(",")[0] if "CUDA" in content["versions"] else "CPU"
    torch = content["versions"]["torch"].split("+")[0]
    return f"{kind}, torch {torch}{', quick' if content['quick'] else ''}"


def _headings(runs: Sequence[Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Return a heading a run, numbered where several runs were made alike."""
    headings = [_heading(run) for run in runs]
    return [
        f"{heading}, run {headings[: position + 1].count(heading)}"
        if headings.count(heading) > 1
        else heading
        for position, heading in enumerate(headings)
    ]


def _describe_machines(runs: Sequence[Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Return a line a run: hardware, versions, and whether sizes are those of a trial run."""
    lines = []
    for heading, run in zip(_headings(runs), runs, strict=True):
        content = next(iter(run.values()))
        sizes = "batches of 4 at 64 px" if content["quick"] else "batches of 32 at 227 px"
        lines += [f"- {heading}:", f"  {content['device']}; {content['trunk']}, {sizes};"]
        versions = [f"{name} {number}" for name, number in content["versions"].items()]
        lines += [f"  {', '.join(versions[:4])},", f"  {', '.join(versions[4:])}"]
    return lines


def _format_value(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return str(figure["verdict"])
    number = f"{figure['value']:,.4g}" if abs(figure["value"]) < 1000 else f"{figure['value']:,.0f}"
    verdict = f" ({figure['verdict']})" if figure["verdict"] else ""
    return f"{number} {figure['unit']}{verdict}"


def count_wrong(run: Mapping[str, Mapping[str, Any]]) -> tuple[int, int]:
    """Return how many figures are wrong, and how many failed."""
    verdicts = [f["verdict"] for content in run.values() for f in content["figures"]]
    return verdicts.count("WRONG"), verdicts.count(FAILED)
