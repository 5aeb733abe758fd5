"""Wrong inputs, one after another: what each prints. `python -m tests.wrong_inputs` lists them.

Every one is a line that says what is wrong and how to mend it, and exit code 2; nothing is written
into the run folder, and no file is changed or lost anywhere. `test_wrong_inputs.py` checks
it. They run in this process: a hundred take less than a minute.
"""

import argparse
import contextlib
import hashlib
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.wrong_inputs.stage import (
    Stage,
    WrongInput,
    all_failed,
    copy_stage,
    flip_a_pixel,
    images,
    in_use,
    leave_without_checkpoint,
    make_stage,
    no_write_permission,
    of_another_format,
    remove,
    space,
    torn_zip,
    truncate,
    two_studies,
    unfinished,
    unreadable_images,
    without_a_key,
    write,
    zip_that_escapes,
)


@dataclass(frozen=True)
class Answer:
    """What came of it.

    Attributes:
        code: exit code.
        out: what was printed.
        err: on stderr.
        changes: files that were changed, lost, or written where nothing may be.
    """

    code: int
    out: str
    err: str
    changes: list[str]


def try_input(wrong: WrongInput, stage: Stage) -> Answer:
    """Prepare the stage, run the program in this process, and compare what lies there."""
    held = wrong.prepare(stage) or contextlib.nullcontext()
    places = {"tmp": stage.tmp, "images": stage.images, "runs": stage.runs}
    words = [word.format(**places) for word in wrong.arguments.split()]
    words = ["" if word == "''" else word.replace("~", " ") for word in words]
    for flag, folder in (("--run-root", stage.runs), ("--work-root", stage.tmp / "work")):
        if flag not in words and (flag == "--run-root" or wrong.program in ("launch", "embed")):
            words += [flag, str(folder)]
    main = importlib.import_module(
        "launch" if wrong.program == "launch" else f"analysis.{wrong.program}"
    ).main
    before = _digest(stage.tmp)
    with held, _captured(stage.tmp.with_suffix(".out")) as printed:
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
    """Name what is not as it was: decoded pixels may come, and lock files; a journal may grow."""
    changes = [f"lost {name}" for name in before.keys() - after.keys()]
    locks = [Path(name) for name in after if name.endswith("lock")]
    around = {str(folder) for lock in locks for folder in lock.parents}
    for name, digest in after.items():
        if name.endswith("lock") or (name in around and name not in before):
            continue
        if name.endswith("study.journal") and name in before:
            continue  # Optuna notes every opening
        if name in before:
            changes += [f"changed {name}"] * (before[name] != digest)
        elif not name.startswith(("work", "runs/logs")):
            changes.append(f"wrote {name}")
    return sorted(changes)


FOLDER = "--dataset folder --data-root {images} --protocol smoke --rows contrastive"

FLAGS = [
    WrongInput("--trial 3", "unrecognized arguments: --trial 3"),
    WrongInput("search", "unrecognized arguments: search"),
    WrongInput("--trials -1", "argument --trials: -1 is too small, must be at least 1"),
    WrongInput("--trials 0", "argument --trials: 0 is too small, must be at least 1"),
    WrongInput("--trials many", "argument --trials: 'many' is not a whole number"),
    WrongInput("--trials 1.5", "argument --trials: '1.5' is not a whole number"),
    WrongInput("--runs 0", "argument --runs: 0 is too small"),
    WrongInput("--top 0 --best-only", "argument --top: 0 is too small"),
    WrongInput("--seed -3", "argument --seed: -3 is too small"),
    WrongInput("--cpus-per-trial 0", "argument --cpus-per-trial: 0 must be above 0"),
    WrongInput("--cpus-per-trial -1", "argument --cpus-per-trial: -1 must be at least 0"),
    WrongInput("--gpus-per-trial 1.5", "must be a fraction below 1 or a whole number"),
    WrongInput("--gpus-per-trial nan", "argument --gpus-per-trial: nan must be at least 0"),
    WrongInput("--gpus-per-trial many", "argument --gpus-per-trial: 'many' is not a number"),
    WrongInput("--max-hours 0", "argument --max-hours: 0 must be above 0"),
    WrongInput("--max-hours -2", "argument --max-hours: -2 must be at least 0"),
    WrongInput("--max-hours inf", "argument --max-hours: inf must be at least 0"),
    WrongInput("--max-gpu-hours -1", "argument --max-gpu-hours: -1 must be at least 0"),
    WrongInput("--max-hours-per-study 0", "--max-hours-per-study: 0 must be above 0"),
    WrongInput("--max-gpu-hours-per-study 0", "--max-gpu-hours-per-study: 0 must be above 0"),
    WrongInput("--max-disk -5", "argument --max-disk: -5 must be at least 0"),
    WrongInput("--max-disk 5GB", "argument --max-disk: '5GB' is not a number"),
    WrongInput("--best-only --status", "argument --status: not allowed with argument --best-only"),
    WrongInput("--watch", "--watch needs --status"),
    WrongInput("--status --watch 0", "argument --watch: 0 must be above 0"),
    WrongInput("--top 2", "--top needs --best-only after a search"),
    WrongInput("--published", "--published needs --best-only"),
    WrongInput("--precision fp8", "argument --precision: invalid choice: 'fp8'"),
    WrongInput("--warm-start mine", "argument --warm-start: invalid choice: 'mine'"),
    WrongInput("--sampler grid", "unknown sampler 'grid'; choose from tpe, gp, cmaes, qmc, random"),
    WrongInput("--protocol tiny", "unknown protocol 'tiny'; choose from small, mlrc, smoke"),
    WrongInput("--notify no-such-command", "no command 'no-such-command' here; give its path"),
    WrongInput("--notify mail~'me", "close the quote"),
    WrongInput("--address here", "argument --address: 'here' is not"),
    WrongInput("--address localhost:port", "argument --address: 'localhost:port' is not"),
    WrongInput("--address localhost:1", "--address localhost:1: nothing answers there"),
    WrongInput("--address no.such.host.invalid:6379", "nothing answers there"),
    WrongInput("--address http://localhost:8265", "http addresses are for --status"),
    WrongInput("--status --watch --address http://localhost:8265", "--watch needs an --address of"),
    WrongInput("--status --address localhost:1", "--address localhost:1: nothing answers there"),
]
ROWS = [
    WrongInput("--rows", "argument --rows: expected at least one argument"),
    WrongInput("--rows kontrastive", "unknown row 'kontrastive'; choose from arcface, "),
    WrongInput("--rows Contrastive", "row 'Contrastive' is not LOSS or LOSS+wpm"),
    WrongInput("--rows contrastive+wpn", "row 'contrastive+wpn' is not LOSS or LOSS+wpm"),
    WrongInput("--rows ../../etc", "row '../../etc' is not LOSS or LOSS+wpm"),
    WrongInput("--rows ''", "row '' is not LOSS or LOSS+wpm"),
    WrongInput("--rows wpm", "unknown row 'wpm'"),
    WrongInput("--rows arcface+wpm", "there is no pair to mine within"),
    WrongInput("--trunk resnet50", "unknown trunk 'resnet50'; choose from convnet, bninception, "),
    WrongInput("--trunk torchvision:resnet5", "did you mean torchvision:resnet50"),
    WrongInput("--trunk timm:resnet18", "no weights that could be fetched; download model.safet"),
    WrongInput("--trunk torchvision:resnet18", "add --fetch, or download https://download.pytorch"),
    WrongInput("--weights random.pth", "--weights has no meaning for trunk convnet"),
    WrongInput("--dataset cub200", "no weights of trunk bninception at"),
    WrongInput(
        "--dataset cub200 --weights {tmp}/images",
        "no weights of trunk bninception at",
        what="a folder",
    ),
    WrongInput(
        "--dataset cub200 --weights {tmp}/w.pth",
        "w.pth",
        write("w.pth", "text"),
        what="a text file",
    ),
]
IMAGES = [
    WrongInput("--dataset imagenet", "unknown data set 'imagenet'; choose from glyphs, omniglot"),
    WrongInput("--dataset ../etc", "'../etc' cannot name a folder"),
    WrongInput("--dataset folder", "--dataset folder needs --data-root DIR"),
    WrongInput("--data-root {images}", "has no meaning for glyphs"),
    WrongInput("--dataset folder --data-root {tmp}/nowhere", "nowhere does not exist"),
    WrongInput("--dataset folder --data-root {images}/class_00", "holds images itself"),
    WrongInput(
        "--dataset folder --data-root {tmp}/a.txt", "a.txt", write("a.txt", "text"),
        what="a text file",
    ),
    WrongInput(FOLDER, "no images under", images(classes=0), what="an empty folder"),
    WrongInput(FOLDER, "15 classes are too few", images(classes=15), what="15 classes"),
    WrongInput(FOLDER, "at least two images", images(count=1), what="one image a class"),
    WrongInput(FOLDER, "2 of 32 images", unreadable_images, what="two damaged images"),
    WrongInput(
        "--dataset folder --data-root {tmp}/images.zip", "images.zip", torn_zip, what="half a zip"
    ),
    WrongInput(
        "--dataset folder --data-root {tmp}/images.zip", "evil.png", zip_that_escapes,
        what="a zip with ../../evil.png",
    ),
    WrongInput("--dataset omniglot", "omniglot is not at"),
    WrongInput("--dataset cub200 --weights random", "cub200 is not at"),
    WrongInput(FOLDER, "pixel cache is damaged", flip_a_pixel, what="a flipped bit in the cache"),
    WrongInput(
        FOLDER, "meta.json: damaged", truncate("work/pixels/folder-*/meta.json"),
        what="half of the cache's index",
    ),
]  # fmt: skip
SPACES = [
    WrongInput("--search-spaces {tmp}/nowhere", "nowhere"),
    WrongInput("--search-spaces {tmp}/spaces", "not valid TOML", space("[search"), what="torn"),
    WrongInput(
        "--search-spaces {tmp}/spaces", "low must be below high",
        space("[search.pos_margin]\nlow = 2\nhigh = 1\n"), what="low above high",
    ),
    WrongInput(
        "--search-spaces {tmp}/spaces", "a log scale needs low > 0",
        space("[search.pos_margin]\nlow = 0\nhigh = 1\nscale = 'log'\n"), what="log from 0",
    ),
    WrongInput(
        "--search-spaces {tmp}/spaces", "must be 'linear' or 'log'",
        space("[search.pos_margin]\nlow = 0\nhigh = 1\nscale = 'cubic'\n"), what="scale = 'cubic'",
    ),
    WrongInput(
        "--search-spaces {tmp}/spaces", "has no high", space("[search.pos_margin]\nlow = 0\n"),
        what="no high",
    ),
    WrongInput(
        "--search-spaces {tmp}/spaces", "must be a finite number",
        space("[search.pos_margin]\nlow = 'a'\nhigh = 1\n"), what="low = 'a'",
    ),
    WrongInput(
        "--search-spaces {tmp}/spaces", "which is not known",
        space("[serach.pos_margin]\nlow = 0\nhigh = 1\n"), what="[serach.pos_margin]",
    ),
    WrongInput(
        "--search-spaces {tmp}/spaces --rows contrastive",
        "contrastive.toml: row contrastive needs a value for pos_margin",
        space("[search.pos_margn]\nlow = 0\nhigh = 1\n[search.neg_margin]\nlow = 0\nhigh = 1\n"),
        what="[search.pos_margn]",
    ),
    WrongInput(
        "--search-spaces {tmp}/spaces --rows contrastive+wpm", "it must set exactly",
        write("spaces/wpm.toml", "[fixed]\nsharpness = 32\n"), what="wpm.toml without dropout",
    ),
]  # fmt: skip
FOLDERS = [
    WrongInput("--run-root {tmp}/a", "a: cannot be written", write("a", ""), what="a file"),
    WrongInput("--run-root {tmp}/a/b", "b: cannot be written", write("a", ""), what="below a file"),
    WrongInput("--work-root {tmp}/a", "a: cannot be written", write("a", ""), what="a file"),
    WrongInput("--run-root /proc/runs", "cannot be written", what="a system folder"),
    WrongInput("--status --run-root {tmp}/nowhere", "no studies under"),
    WrongInput("--status --run-root {tmp}/a", "no studies under", write("a", ""), what="a file"),
    WrongInput("--best-only", "no study glyphs/small/contrastive under"),
    WrongInput(FOLDER + " --best-only", "unfinished: 2 of 3 trials", unfinished, what="one to go"),
    WrongInput(FOLDER + " --best-only", "no complete trial", all_failed, what="all trials failed"),
    WrongInput(
        FOLDER + " --best-only", "result.json: damaged",
        truncate("runs/*/*/*/trials/0001/result.json"), what="half a result",
    ),
    WrongInput(FOLDER, "is in use by process", in_use, what="a launch runs"),
    WrongInput(FOLDER, "study.json: damaged", truncate("runs/*/*/*/study.json"), what="torn"),
    WrongInput(FOLDER, "no study.json; restore study.json", remove("runs/*/*/*/study.json"),
               what="a study without study.json"),
    WrongInput(FOLDER, "study file is damaged", write("runs/folder/smoke/contrastive/study.journal",
               "{}\n"), what="another journal"),
    WrongInput(FOLDER, "written by wpm 7.0 in record format 99", of_another_format,
               what="of a later version"),
    WrongInput(FOLDER + " --seed 1", "was started with seed = 0, now 1"),
    WrongInput(FOLDER + " --sampler random", "was started with sampler = 'tpe', now 'random'"),
    WrongInput(FOLDER + " --no-early-stopping", "with early_stopping = True, now False"),
    WrongInput(FOLDER, "was started with images.pixels = ", images(count=3), what="other images"),
    WrongInput(FOLDER + " --best-only", "was searched on other images", images(count=3),
               what="other images"),
    WrongInput(
        FOLDER + " --search-spaces {tmp}/spaces", "was started with searched.neg_margin.high = 2.0",
        space("[search.pos_margin]\nlow = -0.2\nhigh = 2.0\n[search.neg_margin]\nlow = -0.2\n"
              "high = 3.0\n"),
        what="a wider search space",
    ),
    WrongInput(FOLDER + " --trials 5", "checkpoint is damaged or missing; delete",
               leave_without_checkpoint, what="a checkpoint lost"),
]  # fmt: skip
ANALYSIS = [
    WrongInput("--run-root {tmp}/nowhere", "no studies under", program="rank_trials"),
    WrongInput("--row triplet", "no studies of --rows triplet", program="rank_trials"),
    WrongInput("--row ../x", "cannot name a folder", program="rank_trials"),
    WrongInput("--top 0", "0 is too small, must be at least 1", program="rank_trials"),
    WrongInput("--top a", "'a' is not a whole number", program="rank_trials"),
    WrongInput("--where score", "score", program="rank_trials"),
    WrongInput("--sort beauty", "unknown name 'beauty'; choose from", program="rank_trials"),
    WrongInput("--columns beauty", "unknown name 'beauty'; choose from", program="rank_trials"),
    WrongInput("", "none of the 1 selected studies can be read", without_a_key, "rank_trials",
               what="study.json without a key"),
    WrongInput("", "none of the 1 selected studies can be read", truncate("runs/*/*/*/study.json"),
               "rank_trials", what="half a study"),
    WrongInput("--format pdf", "invalid choice: 'pdf'", program="table"),
    WrongInput("--against nobody", "invalid choice: 'nobody'", program="table"),
    WrongInput("--side-by-side --format csv", "--side-by-side is not for csv", program="table"),
    WrongInput("--dataset cub200", "no studies of --dataset cub200", program="table"),
    WrongInput("contrastive", "give two rows, before the flags", program="compare"),
    WrongInput("contrastive triplet", "no row triplet among the selected", program="compare"),
    WrongInput("--all-twins", "no row has its +wpm twin", program="compare"),
    WrongInput("contrastive contrastive --curves", "--curves is for --format csv",
               program="compare"),
    WrongInput("--row margin", "no studies of --rows margin", program="importance"),
    WrongInput("", "no tested final runs in the selected studies", program="validate"),
    WrongInput("--points", "--points is for --format csv", program="validate"),
    WrongInput("", "the following arguments are required: --out", program="export"),
    WrongInput("--out {tmp}/out", "has 0 tested runs, not 1; make more", program="export"),
    WrongInput("--out {tmp}/out --run 0", "0 is too small", program="export"),
    WrongInput("--out {tmp}/out", "2 studies are selected", two_studies, "export",
               what="two studies"),
    WrongInput("--out {tmp}/images", "images: ", program="report", what="a folder"),
    WrongInput("--out {tmp}/a/r.html", "cannot be written", write("a", ""), "report",
               what="below a file"),
    WrongInput("", "has a tested final run with a model; make one", program="embed"),
]  # fmt: skip
ON_RAY = [
    WrongInput(FOLDER + " --trials 5 --gpus-per-trial 64", "lower --cpus-per-trial or --gpus",
               what="two trials more", starts_ray=True),
    WrongInput(FOLDER + " --trials 5 --max-gpu-hours 1 --gpus-per-trial 0",
               "--max-gpu-hours has no meaning where trials take no GPU",
               what="two trials more", starts_ray=True),
    WrongInput(FOLDER.removesuffix("contrastive") + "triplet --cpus-per-trial 4096",
               "a trial wants 4096 CPUs", what="a new study", starts_ray=True),
    WrongInput(FOLDER + " --dry-run --cpus-per-trial 4096", "no node can hold a trial",
               starts_ray=True),
]  # fmt: skip
if os.geteuid() != 0:  # root may do everything
    FOLDERS.append(
        WrongInput("--run-root {tmp}/closed", "cannot be written", no_write_permission,
                   what="a folder without permission")
    )  # fmt: skip


WRONG_INPUTS = [*FLAGS, *ROWS, *IMAGES, *SPACES, *FOLDERS, *ANALYSIS, *ON_RAY]


def describe(wrong: WrongInput) -> str:
    """Return the command as a person would type it."""
    program = "launch.py" if wrong.program == "launch" else f"-m analysis.{wrong.program}"
    command = f"{program} {wrong.arguments}".replace("~", " ").strip()
    for name in ("tmp", "images", "runs"):
        command = command.replace(f"{{{name}}}/", "").replace(f"{{{name}}}", name.upper())
    return f"`{command}`" + (f" ({wrong.what})" if wrong.what else "")


def main() -> int:
    """Try all, print a table; the exit code tells whether one was not refused as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-ray", action="store_true", help="leave out those that start Ray")
    args = parser.parse_args()
    chosen = [wrong for wrong in WRONG_INPUTS if not (args.no_ray and wrong.starts_ray)]
    bad = 0
    print("| | input | exit code | what it printed |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        template = make_stage(Path(folder) / "template")
        for number, wrong in enumerate(chosen, 1):
            stage = copy_stage(template, Path(folder) / f"t{number}")
            answer = try_input(wrong, stage)
            troubles = find_troubles(wrong, answer)
            bad += bool(troubles)
            said = answer.err.strip().replace(str(stage.tmp), "TMP").replace("|", "\\|")
            said = said.replace("\n", "<br>")
            print(f"| {number} | {describe(wrong)} | {answer.code} | {said} |")
            for trouble in troubles:
                print(f"| | **{trouble}** | | |")
    print(f"\n{len(chosen)} wrong inputs, {bad} not refused as they should be")
    return 1 if bad else 0


def find_troubles(wrong: WrongInput, answer: Answer) -> list[str]:
    """Return what is not as it should be."""
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


if __name__ == "__main__":
    sys.exit(main())
