"""Put what the page shows into JSON types: first whether all is well, then every study."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wpm.formatting import format_duration, name_first
from wpm.live_page.study_view import Best, Running, Stage, StudyView
from wpm.records import TrialState

_MOST_PROBLEMS = 5  # of a study; the others are counted
_MOST_CONCERNS = 3  # of one kind, so that what is best stays in sight
# A letter for every state in which a trial ends.
_LETTERS = {
    TrialState.COMPLETE: "c",
    TrialState.PRUNED: "s",
    TrialState.DIVERGED: "d",
    TrialState.FAILED: "f",
}


def describe_study(view: StudyView, now: float) -> dict[str, Any]:
    """Return what the page shows of a study.

    It stays the same while the study's records do, so that an unchanged study is not sent again.

    Args:
        view: what was read.
        now: in seconds since 1970; decides only which trainings are silent.
    """
    silent = view.silent(now)
    return {
        "name": view.place.name,
        "group": f"{view.place.dataset}/{view.place.protocol}",
        "row": view.place.label,
        "stage": view.stage,
        "budget": view.budget,
        "ended": len(view.trials),
        "counts": {state.for_people: view.count(state) for state in _LETTERS},
        "states": "".join(_LETTERS.get(trial.state, "f") for trial in view.trials),
        "scores": [None if t.score is None else round(t.score, 5) for t in view.trials],
        "best": None if view.best is None else _describe_best(view.best),
        "running": [_describe_running(running, running in silent) for running in view.running],
        "failed": view.failures[0],
        "failures": [
            {"name": f.name, "state": f.state, "reason": f.reason, "log": list(f.log)}
            for f in view.failures[1]
        ],
        "tested": view.tested,
        "device_time": _device_time(view.seconds, view.gpu_seconds),
        "expected_end": view.expected_end,
        "max_epochs": view.max_epochs,
        "max_steps": view.max_steps,
        "folds": view.folds,
        "problems": _first_problems(view.problems),
        "notes": list(view.notes),
    }


def _describe_best(best: Best) -> dict[str, Any]:
    return {
        "trial": best.number,
        "score": best.score,
        "parameters": _write_parameters(best.parameters),
    }


def _describe_running(running: Running, is_silent: bool) -> dict[str, Any]:
    training = running.training
    return {
        "title": running.title,
        "parameters": _write_parameters(training.parameters),
        "origin": training.origin,
        "waits": training.waits,
        "epoch": training.epoch,
        "folds": training.folds,
        "score": training.score,
        "curve": training.curve,
        "changed_at": round(training.changed_at),
        "silent": is_silent,
    }


def _write_parameters(parameters: Mapping[str, float]) -> dict[str, str]:
    return {
        name: f"{value:.4g}" if isinstance(value, float) else str(value)
        for name, value in sorted(parameters.items())
    }


def _device_time(seconds: float, gpu_seconds: float) -> str:
    """Write what was used: GPU-hours where there were GPUs, else the time of workers."""
    if gpu_seconds:
        return f"{gpu_seconds / 3600:.3g} GPU-hours"
    return f"{format_duration(seconds)} of workers" if seconds else "-"


def _first_problems(problems: Sequence[str]) -> list[str]:
    more = len(problems) - _MOST_PROBLEMS
    return [*problems[:_MOST_PROBLEMS], *([f"and {more} more damaged records"] if more > 0 else [])]


def describe_overall(views: Sequence[StudyView], now: float) -> dict[str, Any]:
    """Return in a few words whether all is well, and a line for everything that is not.

    Returns:
        `mood`: "good" (something runs and nothing needs a look), "look" (something does) or "rest"
        (nothing runs, nothing needs a look); `headline`; `concerns`; `expected_end` of the last
        study, None where it is not known of one that runs.
    """
    running = [view for view in views if view.stage is Stage.RUNNING]
    concerns = list(_find_concerns(views, now))
    return {
        "mood": "look" if concerns else "good" if running else "rest",
        "headline": _headline(views, running),
        "facts": _facts(views),
        "concerns": concerns,
        "expected_end": _last_end(running),
    }


def _headline(views: Sequence[StudyView], running: Sequence[StudyView]) -> str:
    if not views:
        return "No studies yet"
    if running:
        at_work = sum(len(view.at_work) for view in running)
        studies, trainings = _studies(len(views)), _count(at_work, "training", "trainings")
        return f"{len(running)} of {studies} running, {trainings} at work"
    left = sum(view.stage is Stage.INTERRUPTED for view in views)
    if left:
        return f"Nothing is running, {left} of {_studies(len(views))} unfinished"
    return f"Finished: {_studies(len(views))}"


def _facts(views: Sequence[StudyView]) -> str:
    """Write how far everything is, and what it has used."""
    ended, budget = sum(len(view.trials) for view in views), sum(view.budget for view in views)
    tested = sum(view.tested for view in views)
    gpu_seconds = sum(view.gpu_seconds for view in views)
    facts = [f"{ended} of {budget} trials ended"] if budget else []
    facts += [f"{_count(tested, 'final run', 'final runs')} tested"] if tested else []
    facts.append(_device_time(sum(view.seconds for view in views), gpu_seconds))
    return ", ".join(fact for fact in facts if fact != "-")


def _studies(number: int) -> str:
    return _count(number, "study", "studies")


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _last_end(running: Sequence[StudyView]) -> float | None:
    ends = [v.expected_end for v in running if len(v.trials) < v.budget]
    known = [end for end in ends if end is not None]
    return max(known) if known and len(known) == len(ends) else None


def _find_concerns(views: Sequence[StudyView], now: float) -> Iterator[str]:
    """Yield lines about everything that a person should look at, the gravest first."""
    unreadable = [view for view in views if view.stage is Stage.UNREADABLE]
    others = [view for view in views if view.stage is not Stage.UNREADABLE]
    yield from _shorten([line for view in unreadable for line in view.problems])
    yield from _shorten([_say_silent(view, now) for view in others])
    damaged = [(view, len(view.problems), "record is damaged") for view in others]
    yield from _shorten([_say_count(*entry, "records are damaged") for entry in damaged])
    trials = [(view, view.count(TrialState.FAILED), "trial failed") for view in others]
    yield from _shorten([_say_count(*entry, "trials failed") for entry in trials])
    runs = [(view, view.failed_runs, "final run failed") for view in others]
    yield from _shorten([_say_count(*entry, "final runs failed") for entry in runs])
    interrupted = [view.place.name for view in others if view.stage is Stage.INTERRUPTED]
    if interrupted:
        yield f"interrupted, the same command continues: {name_first(interrupted)}"


def _say_silent(view: StudyView, now: float) -> str:
    silent = view.silent(now)
    if not silent:
        return ""
    longest = max(now - running.training.changed_at for running in silent)
    names = name_first([running.title for running in silent])
    return f"{view.place.name}: nothing new of {names} for {format_duration(longest)}"


def _say_count(view: StudyView, number: int, one: str, many: str) -> str:
    return f"{view.place.name}: {_count(number, one, many)}" if number else ""


def _shorten(lines: Sequence[str]) -> Iterator[str]:
    """Yield the first of the lines that say something, and how many more studies there are."""
    said = [line for line in lines if line]
    yield from said[:_MOST_CONCERNS]
    if len(said) > _MOST_CONCERNS:
        yield f"and the same of {_studies(len(said) - _MOST_CONCERNS)} more"
