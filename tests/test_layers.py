"""Imports go downward only; Ray, Optuna and the test images each have one door."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = [
    {"errors", "trunk", "precision", "watchdog", "disk", "training_log"},
    {"atomic", "splits", "tables", "decoding"},
    {"config", "retrieval", "glyphs", "journal"},
    {"datasets", "spaces", "arguments"},
    {"published_sets", "contents", "within_pair", "bninception", "zoo_trunks"},
    {"model", "losses", "pixels"},
    {"crops"},
    {"batches", "steps"},
    {"evaluate"},
    {"train", "pretrained"},
    {"gpus"},
    {"records", "console"},
    {"curves"},
    {"jobs", "status", "machine"},
    {"final_test", "work", "exported", "doctor"},
    {"study", "retrain", "final_embeddings", "budget", "forecast", "notify"},
    {"search"},
    {"cluster"},
    {"inputs", "prepare"},
]
MODULES = sorted((ROOT / "wpm").glob("*.py"))
LAYER_OF = {name: level for level, names in enumerate(LAYERS) for name in names}
# Upward imports, each inside a function: workers start a test by its name, and a published set is
# loaded by its name from modules that are built with what `datasets` offers.
ALLOWED_UPWARD = {("jobs", "final_test"), ("datasets", "published_sets")}
ALLOWED_UPWARD |= {("model", "exported")}  # a trained model is loaded where models are built


def imports_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def users_of(package: str, *folders: str) -> set[str]:
    paths = [p for folder in folders for p in (ROOT / folder).glob("*.py")] + [ROOT / "launch.py"]
    return {p.stem for p in paths if any(name.split(".")[0] == package for name in imports_of(p))}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_imports_go_downward(path: Path) -> None:
    if path.stem == "__init__":
        return
    assert path.stem in LAYER_OF, f"give {path.stem} a layer here and in docs/architecture.md"
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "wpm" and len(parts) > 1 and parts[1] in LAYER_OF:
            upward = LAYER_OF[parts[1]] >= LAYER_OF[path.stem]
            assert not upward or (path.stem, parts[1]) in ALLOWED_UPWARD, f"{path.stem} -> {name}"


def test_every_layer_entry_is_a_module() -> None:
    assert set(LAYER_OF) == {p.stem for p in MODULES} - {"__init__"}


def test_ray_is_imported_by_cluster_only() -> None:
    assert users_of("ray", "wpm", "analysis", "analysis/report_page") == {"cluster"}


def test_optuna_is_imported_by_study_and_its_file_only() -> None:
    assert users_of("optuna", "wpm") == {"study", "journal"}


def test_test_images_are_opened_in_one_place() -> None:
    """Only final_test asks for the test classes' images; a search never imports it."""
    source = {p.stem: p.read_text(encoding="utf-8") for p in MODULES}
    asking = {stem for stem, text in source.items() if "subset(splits.test_classes)" in text}
    assert asking == {"final_test"}
    importing = {p.stem for p in MODULES if "wpm.final_test" in imports_of(p)}
    assert importing == {"jobs", "retrain", "final_embeddings"}
