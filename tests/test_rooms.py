"""The rooms of the house: imports go down, and Ray, Optuna and the test images have one door each.

`python -m tests.test_rooms` prints the figures: files, floors, arrows between rooms, circles.
"""

import ast
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# From the bottom up. Rooms of one line stand side by side and never import one another.
WPM_ORDER = [
    {"ground"},
    {"data", "records"},
    {"model"},
    {"training"},
    {"jobs"},
    {"studies", "cluster", "live_page"},
    {"cli"},
]
ANALYSIS_ORDER = [{"numbers"}, {"studies"}, {"text"}, {"report_page"}, {"ground"}]
PRODUCT = [
    *sorted((ROOT / "wpm").rglob("*.py")),
    *sorted((ROOT / "analysis").rglob("*.py")),
    ROOT / "launch.py",
]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in PRODUCT}


def imports_of(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module


def users_of(package: str) -> set[str]:
    """Return the modules of the product that import a package."""
    return {
        module
        for module, path in MODULES.items()
        if any(name == package or name.startswith(f"{package}.") for name in imports_of(path))
    }


def room_of(module: str, package: str) -> str | None:
    """Name a module's room; a file directly in the package belongs to the ground."""
    parts = module.split(".")
    if parts[0] != package:
        return None
    # The package itself holds the version, and nothing else.
    is_room = len(parts) > 1 and (ROOT / package / parts[1]).is_dir()
    return parts[1] if is_room else "ground"


def arrows(package: str) -> Iterator[tuple[str, str, str]]:
    """Yield (room, imported room, what imports what) where the two differ."""
    for module, path in MODULES.items():
        source = room_of(module, package)
        for name in imports_of(path):
            target = room_of(name, package)
            if source and target and source != target:
                yield source, target, f"{module} imports {name}"


def find_circle(edges: Iterable[tuple[str, str]]) -> list[str]:
    """Return the nodes of one circle, or nothing."""
    following = defaultdict(set)
    for source, target in edges:
        following[source].add(target)
    done: set[str] = set()

    def visit(node: str, trail: list[str]) -> list[str]:
        if node in trail:
            return trail[trail.index(node) :]
        if node in done:
            return []
        for target in sorted(following[node]):
            if circle := visit(target, [*trail, node]):
                return circle
        done.add(node)
        return []

    for node in sorted(following):
        if circle := visit(node, []):
            return circle
    return []


def module_edges() -> set[tuple[str, str]]:
    return {
        (module, name)
        for module, path in MODULES.items()
        for name in imports_of(path)
        if name in MODULES and name != module
    }


@pytest.mark.parametrize(
    ("package", "order"),
    [("wpm", WPM_ORDER), ("analysis", ANALYSIS_ORDER)],
    ids=["wpm", "analysis"],
)
def test_rooms_import_downward_and_never_a_sibling(package: str, order: list[set[str]]) -> None:
    floor = {room: level for level, rooms in enumerate(order) for room in rooms}
    folders = {p.parent.name for p in (ROOT / package).glob("*/__init__.py")}
    assert folders == set(floor) - {"ground"}, "give every room a place in the order"
    wrong = {text for source, target, text in arrows(package) if floor[target] >= floor[source]}
    assert not wrong


def test_no_module_imports_itself_in_a_circle() -> None:
    assert find_circle([("a", "b"), ("b", "c"), ("c", "b")]) == ["b", "c"]
    assert find_circle(module_edges()) == []


def test_ray_and_optuna_have_one_room_each() -> None:
    assert {room_of(module, "wpm") for module in users_of("ray")} == {"cluster"}
    optuna = users_of("optuna")
    assert {room_of(module, "wpm") for module in optuna} == {"studies", None}
    assert [m for m in optuna if room_of(m, "wpm") is None] == [
        "analysis.studies.parameter_importance"
    ]


def test_the_web_has_one_room() -> None:
    for library in ("starlette", "uvicorn"):
        assert {room_of(module, "wpm") for module in users_of(library)} == {"live_page"}


def test_test_images_are_opened_behind_one_door() -> None:
    asking = {
        module
        for module, path in MODULES.items()
        if "select_test_images(" in path.read_text(encoding="utf-8")
    }
    assert asking == {"wpm.jobs.held_out", "wpm.data.halves"}  # the latter defines it
    assert users_of("wpm.jobs.held_out") == {
        "wpm.jobs.scoring_job",
        "wpm.jobs.held_out_embeddings",
        "wpm.jobs.pipeline_check",
        "wpm.cli.image_findings",  # of the doctor, which never trains
    }


def test_analysis_reads_records_and_ground_files_only() -> None:
    allowed = {"ground", "records"}
    doors = {"wpm.cli.parser", "wpm.cli.entry"}
    of_command = {
        "analysis.embed": {"wpm.jobs.held_out_embeddings", "wpm.data.index", "wpm.data.parts"},
        # It looks at a user's images with exported models, and reads no records at all.
        "analysis.neighbours": {
            "wpm.model.embedded_folder", "wpm.model.exported", "wpm.data.image_file",
        },
    }  # fmt: skip
    for module, path in MODULES.items():
        if not module.startswith("analysis"):
            continue
        for name in imports_of(path):
            if room_of(name, "wpm") not in (None, *allowed):
                assert name in doors | of_command.get(module, set()), f"{module} imports {name}"


def test_what_lies_in_analysis_can_be_run_and_is_not_imported() -> None:
    commands = {
        f"analysis.{path.stem}"
        for path in (ROOT / "analysis").glob("*.py")
        if path.stem not in ("__init__", "command_line")
    }
    for command in commands:
        assert "__main__" in MODULES[command].read_text(encoding="utf-8"), command
        assert users_of(command) == set(), command


@pytest.mark.parametrize(
    "module",
    ["wpm.records", "wpm.data.decoding", "wpm.cli.arguments", "analysis.studies.row_results"]
    + [f"analysis.{path.stem}" for path in sorted((ROOT / "analysis").glob("*.py"))],
)
def test_reading_records_does_not_load_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_rooms_say_what_comes_in_and_what_goes_out() -> None:
    for path in ROOT.glob("*/*/__init__.py"):
        if path.parent.parent.name in ("wpm", "analysis"):
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            first = docstring.splitlines()[0]
            assert " in" in first and first.endswith("out."), path


def test_names_are_not_taken_twice_or_collected_by_pytest() -> None:
    names = Counter(
        node.name
        for path in PRODUCT
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []
    assert not [p for p in PRODUCT if p.stem.startswith("test_") or p.stem.endswith("_test")]


def test_tests_import_no_tests() -> None:
    tests = [p for p in (ROOT / "tests").rglob("*.py") if p != Path(__file__)]
    for path in [*tests, *(ROOT / "benchmarks").glob("*.py")]:
        for name in imports_of(path):
            assert not name.split(".")[-1].startswith("test_"), f"{path.name} imports {name}"


def test_outside_names_import() -> None:
    from wpm.model import load_exported
    from wpm.retrieval import retrieval_scores
    from wpm.splits import class_disjoint_splits
    from wpm.within_pair import WithinPairLoss, compute_pair_matrices, mine_within_pairs

    for name in (
        load_exported, retrieval_scores, class_disjoint_splits, WithinPairLoss,
        compute_pair_matrices, mine_within_pairs,
    ):  # fmt: skip
        assert callable(name)


def describe_house() -> str:
    """Return the figures of the house, for its documents."""
    ground = len([p for p in (ROOT / "wpm").glob("*.py") if p.stem != "__init__"])
    rooms = len(list((ROOT / "wpm").glob("*/__init__.py")))
    between = {(source, target) for source, target, _ in arrows("wpm")}
    circle = find_circle(module_edges())
    return (
        f"wpm: {ground} files and {rooms} rooms on {len(WPM_ORDER)} floors, "
        f"{len(between)} arrows between rooms, circles: {' -> '.join(circle) or 'none'}"
    )


if __name__ == "__main__":
    print(describe_house())
