"""Try a wrong input, and find what is not as it should be."""

import contextlib
import hashlib
import importlib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.wrong_inputs.stage import Stage
from tests.wrong_inputs.wrong_input import WrongInput


@dataclass(frozen=True)
class Answer:
    """What a wrong input led to.

    Attributes:
        code: the exit code.
        out: what was printed on stdout.
        err: what was printed on stderr.
        changes: files that were changed, lost, or written where nothing may be written.
    """

    code: int
    out: str
    err: str
    changes: list[str]


def try_input(wrong: WrongInput, stage: Stage) -> Answer:
    """Prepare the stage, run the program in this process, and compare the disk with before."""
    meanwhile = wrong.prepare(stage) or contextlib.nullcontext()
    places = {"tmp": stage.tmp, "images": stage.images, "runs": stage.runs}
    words = [word.format(**places) for word in shlex.split(wrong.arguments)]
    for flag, folder in (("--run-root", stage.runs), ("--work-root", stage.tmp / "work")):
        if flag not in words and (flag == "--run-root" or wrong.program in ("launch", "embed")):
            words += [flag, str(folder)]
    main = importlib.import_module(
        "launch" if wrong.program == "launch" else f"analysis.{wrong.program}"
    ).main
    before = _digest(stage.tmp)
    with meanwhile, _captured(stage.tmp.with_suffix(".out")) as printed:
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code
    out, err = printed
    return Answer(int(code), out, err, _compare(before, _digest(stage.tmp)))


@contextlib.contextmanager
def _captured(path: Path) -> Iterator[list[str]]:
    """Send stdout and stderr to files, whose content is in the list afterwards."""
    printed: list[str] = []
    with path.open("w+") as out, path.with_suffix(".err").open("w+") as err:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield printed
        for file in (out, err):
            file.flush()
            file.seek(0)
            printed.append(file.read())


def _digest(root: Path) -> dict[str, str]:
    """Return all files and folders with what is in them; symbolic links are not followed."""
    found = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if path.is_file() and not path.is_symlink():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "folder"
    return found


def _compare(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Name the files that changed. Decoded pixels and lock files may come, a journal may grow."""
    changes = [f"lost {name}" for name in before.keys() - after.keys()]
    locks = [Path(name) for name in after if name.endswith("lock")]
    around = {str(folder) for lock in locks for folder in lock.parents}
    for name, digest in after.items():
        if name.endswith("lock") or (name in around and name not in before):
            continue
        if name.endswith("study.journal") and name in before:
            continue  # Optuna notes every opening
        if name.startswith("work/pixels/digests-"):
            continue  # it remembers more files
        if name in before:
            if before[name] != digest:
                changes.append(f"changed {name}")
        elif not name.startswith(("work", "runs/logs")):
            changes.append(f"wrote {name}")
    return sorted(changes)


def find_troubles(wrong: WrongInput, answer: Answer) -> list[str]:
    """Return in which ways the answer is not one line, exit code 2 and an unchanged disk."""
    name = "launch.py" if wrong.program == "launch" else wrong.program
    lines = [line for line in answer.err.splitlines() if not line.startswith("note: ")]
    troubles = []
    if answer.code != 2:
        troubles.append(f"exit code {answer.code}")
    if len(lines) != 1 or not lines[0].startswith(f"{name}: error: "):
        troubles.append(f"not one line of {name}: {lines}")
    if wrong.says not in answer.err:
        troubles.append(f"does not say {wrong.says!r}")
    if "Traceback" in answer.err + answer.out:
        troubles.append("a traceback")
    return troubles + answer.changes
