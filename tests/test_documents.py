"""The documents: narrow enough to read, and everything that they name exists."""

import contextlib
import importlib
import io
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from wpm.cli.arguments import build_parser

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("docs", "analysis", "benchmarks", "clusters", "tests")
PACKAGES = "wpm|analysis|benchmarks|tests"
WIDEST_LINE, WIDEST_CELL = 100, 100

DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md")),
]
documents = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS]
)
# Flags in documents that belong to Ray, gcloud, SLURM and the like.
FOREIGN_FLAGS = {"--block", "--host", "--no-wait", "--node-ip-address", "--signal"}


def read_lines(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Yield number, text and whether it is code, of every line."""
    fenced = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fence = line.startswith("```")
        yield number, line, fenced or fence or line.startswith("    ")
        fenced ^= fence


def split_cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def slug_of(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors_of(path: Path) -> set[str]:
    return {
        slug_of(line.lstrip("#"))
        for _, line, is_code in read_lines(path)
        if line.startswith("#") and not is_code
    }


def commands_in(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (module or script, its arguments) of every command of ours in code."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    indented = [line for line in text.splitlines() if line.startswith("    ")]
    inline = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for code in [*indented, *inline]:
        command = re.sub(r"\s+", " ", code).partition(" #")[0]
        for part in re.split(r"&&|;|'| > ", command):
            match = re.search(rf"(launch\.py|-m (?:{PACKAGES})\.[\w.]+)(.*)", part)
            if match:
                yield match[1].removeprefix("-m "), match[2]


@cache
def flags_of(module: str) -> set[str]:
    """Return the flags that a command of ours takes."""
    if module == "launch.py":
        text = build_parser(None).format_help()
    elif module.startswith("analysis."):
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
            importlib.import_module(module).main(["--help"])
        text = out.getvalue()
    else:  # slow to import
        place = module.replace(".", "/")
        is_package = (ROOT / place).is_dir()
        files = [
            f"{place}/__main__.py" if is_package else f"{place}.py",
            "benchmarks/image_data.py",
        ]
        text = "".join((ROOT / file).read_text(encoding="utf-8") for file in files)
    return set(re.findall(r"--[a-z][a-z-]*", text))


def resolve(name: str) -> object:
    """Return the module, or what is in it, that a dotted name stands for."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            found = getattr(found, attribute)
        return found
    raise ModuleNotFoundError(name)


@documents
def test_cells_of_tables_are_short(path: Path) -> None:
    wide = [
        f"{path.name}:{number} ({len(cell)}): {cell}"
        for number, line, is_code in read_lines(path)
        if line.startswith("|") and not is_code
        for cell in split_cells(line)
        if len(cell) > WIDEST_CELL
    ]
    assert not wide, "make a paragraph of what is longer"


@documents
def test_prose_is_wrapped(path: Path) -> None:
    wide = [
        f"{path.name}:{number} ({len(line)})"
        for number, line, is_code in read_lines(path)
        if len(line) > WIDEST_LINE
        and not (is_code or line.startswith(("|", "#")) or "http" in line)
    ]
    assert not wide


@documents
def test_links_lead_somewhere(path: Path) -> None:
    broken = []
    text = "\n".join(line for _, line, is_code in read_lines(path) if not is_code)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    assert not broken


@documents
def test_named_paths_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = re.findall(
        rf"(?<![\w/~.-])((?:{PACKAGES}|clusters)/(?:[\w.-]+/)*(?:[\w-]+\.[a-z]+)?)", text
    )
    # Capitals stand for a name that the reader chooses.
    real = {name for name in named if not Path(name).stem.isupper()}
    assert sorted(name for name in real if not (ROOT / name).exists()) == []


@documents
def test_named_modules_and_functions_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    modules = set(re.findall(rf"-m ((?:{PACKAGES})\.[\w.]*\w)", text))
    # Capitals stand for a name that the reader chooses.
    real = {name for name in modules if not name.rpartition(".")[2].isupper()}
    assert sorted(name for name in real if find_spec(name) is None) == []
    for name in re.findall(r"`((?:wpm|analysis|benchmarks)(?:\.\w+)+)[`(]", text):
        resolve(name)


@documents
def test_names_are_in_the_files_where_documents_place_them(path: Path) -> None:
    text = re.sub(r"\s+", " ", path.read_text(encoding="utf-8"))
    for name, file in re.findall(rf"`(\w+)` in `((?:{PACKAGES})/[\w/]+\.py)`", text):
        source = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"\b{name}\b", source), f"{file} has no {name}"


@documents
def test_flags_exist(path: Path) -> None:
    unknown = [
        f"{module} {flag}"
        for module, arguments in commands_in(path)
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", arguments)
        if flag not in flags_of(module)
    ]
    assert not unknown


@documents
def test_flags_in_prose_are_ours(path: Path) -> None:
    """A flag at the start of inline code belongs to some command of the repository."""
    sources = [
        file.read_text(encoding="utf-8")
        for pattern in (
            "wpm/cli/*.py",
            "analysis/*.py",
            "benchmarks/**/*.py",
            "*.yaml",
            "clusters/*.sh",
        )
        for file in ROOT.glob(pattern)
    ]
    known = {flag for source in sources for flag in re.findall(r"--[a-z][a-z-]*", source)}
    prose = " ".join(line for _, line, is_code in read_lines(path) if not is_code)
    named = set(re.findall(r"`(--[a-z][a-z-]*)", prose))
    assert sorted(named - known - FOREIGN_FLAGS) == []


@documents
def test_verbs_of_make_exist(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = re.findall(r"(?:`|^    )make ((?:[a-z-]+ ?)+)", path.read_text(encoding="utf-8"), re.M)
    assert {verb for verbs in named for verb in verbs.split()} <= known


@pytest.mark.parametrize("name", ["README.md", "docs/architecture.md"])
def test_maps_show_every_room_and_every_file_of_the_ground(name: str) -> None:
    code = "\n".join(line for _, line, is_code in read_lines(ROOT / name) if is_code)
    words = set(re.findall(r"[\w/]+", code))
    rooms = {f"{path.parent.name}/" for path in (ROOT / "wpm").glob("*/__init__.py")}
    ground = {path.stem for path in (ROOT / "wpm").glob("*.py")} - {"__init__"}
    assert sorted((rooms | ground) - words) == []


def test_every_page_and_benchmark_can_be_found() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert sorted(page for page in pages if f"({page})" not in readme) == []
    listed = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    run = {
        path.stem
        for path in (ROOT / "benchmarks").glob("*.py")
        if "__main__" in path.read_text(encoding="utf-8")
    }
    assert sorted(name for name in run if f"`{name}`" not in listed) == []


def test_oracles_see_what_is_wrong(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    cell, line = "x" * (WIDEST_CELL + 1), "y " * (WIDEST_LINE // 2 + 1)
    page.write_text(
        f"# A page\n\n{line}\n\n| a | {cell} |\n\n[gone](gone.md) [anchor](#nothing) `wpm/no.py`\n"
        "`python -m analysis.nothing` `Row` in `wpm/losses_of.py` `python launch.py --never`\n"
        "`--nobody` `make nothing`\n\n    python -m analysis.table --never\n",
        encoding="utf-8",
    )
    checks = [
        test_cells_of_tables_are_short, test_prose_is_wrapped, test_links_lead_somewhere,
        test_named_paths_exist, test_named_modules_and_functions_exist,
        test_names_are_in_the_files_where_documents_place_them, test_flags_exist,
        test_flags_in_prose_are_ours, test_verbs_of_make_exist,
    ]  # fmt: skip
    for check in checks:
        with pytest.raises((AssertionError, AttributeError, ImportError, OSError)):
            check(page)
    assert anchors_of(page) == {"a-page"}
    assert split_cells(r"| a \| b | c |") == [r"a \| b", "c"]
    assert slug_of(" Why `+wpm` is refused, sometimes: 2 cases") == (
        "why-wpm-is-refused-sometimes-2-cases"
    )
