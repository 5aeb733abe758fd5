"""What a run folder does otherwise than published is listed from its records, and counted."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from analysis import deviations, table
from analysis.studies.deviations import _NAMES, find_deviations, name_field
from analysis.studies.row_record import RowRecord
from analysis.studies.row_results import read_row
from tests.support.stored import COMPLETE, write_final, write_run, write_search
from wpm.files import read_json, write_json
from wpm.protocol_files import find_protocol
from wpm.protocols import field_types
from wpm.records import (
    FORMAT,
    ScoredRun,
    StudyPlace,
    read_study,
    write_run_result,
    write_study,
)
from wpm.rows import Row
from wpm.spaces import load_space


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def write_published(
    root: Path,
    row: str = "triplet",
    trials: int = 50,
    runs: int = 10,
    chosen: int | None = 2,
    settings: Mapping[str, Any] = {},
    dataset: str = "cub200",
    **identity: Any,
) -> StudyPlace:
    """Write a study exactly as published, but for what the arguments change."""
    protocol = {**as_json(asdict(find_protocol("mlrc", dataset))), **settings}
    space = load_space(Row.parse(row), dataset=dataset)
    place = write_search(
        root, row, [COMPLETE] * trials, trials, dataset=dataset, protocol="mlrc",
        settings=protocol, **{
            "early_stopping": False, "weights": "bn_inception-52deb4733.pth", "sampler": "gp",
            "trial_seeds": "new",
            "searched": {name: asdict(r) for name, r in space.searched.items()}, **identity,
        },
    )  # fmt: skip
    final = write_final(place, "aa", chosen, None if chosen is None else 0.2)
    for seed in range(runs):
        write_run(final, seed, 0.6)
    return place


def read(place: StudyPlace) -> RowRecord:
    row, problems = read_row(place)
    assert problems == []
    return row


def found_in(place: StudyPlace) -> set[tuple[str, str, str]]:
    return {(d.what, d.here, d.published) for d in find_deviations(read(place))}


def test_nothing_deviates_in_a_study_as_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_published(tmp_path)
    assert deviations.main(["--run-root", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "cub200/mlrc/triplet\nnothing in the records deviates\n"
    assert table.main(["--run-root", str(tmp_path)]) == 0
    assert "not as published" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"early_stopping": True},
            ("stopping across trials", "halving from epoch 10, factor 3", "none"),
        ),
        ({"sampler": "tpe"}, ("search by", "tpe", "Gaussian process (Ax)")),
        ({"trial_seeds": "common"}, ("training seeds of trials", "common", "new for each trial")),
        ({"procedure": 1}, ("training procedure", "1", "2")),
        ({"weights": "random"}, ("weights of the trunk", "random", "ImageNet")),
        (
            {"split": {"file": "mine.csv", "sha256": "0"}},
            ("split of classes", "the user's own", "halves of the classes"),
        ),
        ({"trials": 12}, ("trials", "12", "50")),
        ({"runs": 3}, ("final runs", "3", "10")),
        ({"settings": {"trunk": "convnet"}}, ("trunk", "convnet", "bninception")),
        ({"settings": {"precision": "bf16"}}, ("precision", "bf16", "float32")),
        ({"settings": {"max_epochs": 20}}, ("epochs at most", "20", "1000")),
        ({"settings": {"classes_per_batch": 4}}, ("classes per batch", "4", "8")),
        (
            {"settings": {"crop_scale": [0.6, 1.0]}},
            ("share of the area that a random crop covers", "0.6 to 1", "0.16 to 1"),
        ),
        (
            {"row": "triplet+wpm", "settings": {"trunk_passes": 2}},
            ("trunk passes T of a view", "2", "8"),
        ),
        ({"chosen": None}, ("search", "none: a published configuration", "50 trials")),
        ({"row": "nca"}, ("row", "nca", "no such row")),
    ],
)  # fmt: skip
def test_each_deviation_is_the_only_one_listed(
    changes: dict[str, Any], expected: tuple[str, str, str], tmp_path: Path
) -> None:
    assert found_in(write_published(tmp_path, **changes)) == {expected}


def test_what_was_tried_first_deviates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = write_published(tmp_path)
    study = read_study(place)
    assert study is not None
    point = {"parameters": {"margin": 0.1}, "origin": "published cub200"}
    kept = {key: study[key] for key in ("identity", "trials", "provenance")}
    write_study(place, {**kept, "first_points": []})
    assert found_in(place) == set()
    write_study(place, {**kept, "first_points": [point]})
    assert found_in(place) == {("tried first", "1 known configurations", "nothing")}
    assert table.main(["--run-root", str(tmp_path), "--against", "published"]) == 0
    said = "1 known configurations tried first (published: none): triplet"
    assert said in capsys.readouterr().out
    # Parameters that were left to the sampler were not known.
    write_study(place, {**kept, "first_points": [{**point, "parameters": {}}]})
    assert found_in(place) == set()


def test_values_that_a_row_does_not_use_are_not_listed(tmp_path: Path) -> None:
    unused = {"trunk_passes": 2, "embedding_masks": 3, "grace_epochs": 1, "trials": 9, "runs": 2}
    assert found_in(write_published(tmp_path, settings=unused)) == set()


def test_ranges_are_compared_with_those_of_the_published_searches(tmp_path: Path) -> None:
    searched = {"margin": {"low": 0.0, "high": 2.0, "scale": "linear", "type": "float"}}
    place = write_published(tmp_path, searched=searched)
    assert found_in(place) == {("range of margin", "0 to 2, linear", "-0.2 to 2, linear")}
    bins = {"low": 2, "high": 100, "scale": "log", "type": "int"}
    place = write_published(tmp_path, "fast_ap", searched={"num_bins": bins})
    assert found_in(place) == {
        ("range of num_bins", "2 to 100, log, whole", "2 to 250, linear, whole")
    }
    place = write_published(tmp_path, "contrastive", searched={"pos_margin": bins})
    assert ("range of neg_margin", "not searched", "-0.2 to 2, linear") in found_in(place)


def test_ranges_are_those_of_the_data_set(tmp_path: Path) -> None:
    for number, row in enumerate(("soft_triple", "arcface")):
        root = tmp_path / str(number)
        found = {what for what, _, _ in found_in(write_published(root, row, dataset="sop"))}
        assert not any(what.startswith("range of") for what in found)
    general = load_space(Row("soft_triple")).searched
    searched = {name: asdict(limits) for name, limits in general.items()}
    place = write_published(tmp_path, "soft_triple", dataset="sop", searched=searched)
    assert found_in(place) >= {
        ("range of la", "0.01 to 100, linear", "0.01 to 200, linear"),
        ("range of reg_weight", "0 to 1, linear", "not searched"),
    }


def test_a_field_that_is_added_later_is_covered_under_a_readable_name(
    tmp_path: Path,
) -> None:
    place = write_published(tmp_path, settings={"epoch_zero_counts": False})
    assert found_in(place) == {("epoch zero counts", "no", "no such value")}
    assert set(_NAMES) <= set(field_types()), "a name for a field that no protocol has"
    for field in field_types():
        assert "_" not in name_field(field)


def test_other_data_and_images_left_out_are_listed(tmp_path: Path) -> None:
    place = write_published(tmp_path, dataset="omniglot")
    assert ("data set", "omniglot", "cub200, cars196, sop") in found_in(place)
    study = read_json(place.folder / "study.json")
    write_json(
        place.folder / "study.json", {**study, "provenance": {"left_out": [["a.png", "broken"]]}}
    )
    final = place.folder / "finals" / "aa"
    scores = {"precision_at_1": 0.5, "r_precision": 0.4, "map_at_r": 0.3}
    lost = (("b.png", "broken"), ("c.png", "broken"))
    write_run_result(final / "seed-0", ScoredRun(0, scores, scores, 3, 9, 2, lost))
    assert found_in(place) == {
        ("data set", "omniglot", "cub200, cars196, sop"),
        ("images to train on", "without 1", "all"),
        ("test images", "without 2", "all"),
    }


def test_untrained_row_deviates_in_its_reduction_and_its_model_alone(tmp_path: Path) -> None:
    settings = {**as_json(asdict(find_protocol("small", "cub200"))), "name": "mlrc"}
    place = write_search(
        tmp_path, "pretrained", [], 0, dataset="cub200", protocol="mlrc", settings=settings
    )
    final = place.folder / "finals" / "aa"
    write_json(final / "final.json", {"format": FORMAT, "chosen": {"trial": None, "score": None}})
    write_run(final, 1000, 0.5)
    assert found_in(place) == {
        (
            "reduction of features",
            "PCA of the trainval features",
            "standardised, PCA of the test features",
        ),
        ("trunk", "convnet", "bninception"),
        ("shorter side of images, px", "28", "256"),
        ("side of crops, px", "24", "227"),
    }


def test_formats_show_the_same_and_name_the_sources(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_published(tmp_path, early_stopping=True, settings={"max_epochs": 20})
    write_published(tmp_path, "margin")
    for style in ("text", "markdown"):
        assert deviations.main(["--run-root", str(tmp_path), "--format", style]) == 0
        out = capsys.readouterr().out
        assert "cub200/mlrc/triplet: 2 deviations\n" in out
        assert "mlrc.toml: search_spaces/protocols/mlrc.toml, the published protocol" in out
        assert "MLRC: Musgrave, Belongie, Lim" in out
        assert "search_ranges.csv" not in out
        assert "nothing in the records deviates" in out
    assert deviations.main(["--run-root", str(tmp_path), "--format", "csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(line["row"], line["what"], line["here"]) for line in lines] == [
        ("triplet", "epochs at most", "20"),
        ("triplet", "stopping across trials", "halving from epoch 10, factor 3"),
    ]


def test_table_counts_deviations_and_names_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_published(tmp_path, early_stopping=True, settings={"max_epochs": 20})
    write_published(tmp_path, "margin", early_stopping=True)
    write_published(tmp_path, "ntxent")
    line = (
        "not as published: 1 deviation of margin; 2 deviations of triplet (python -m "
        "analysis.deviations --dataset cub200 --protocol mlrc lists them)"
    )
    for style in ("text", "markdown", "csv", "latex"):
        assert table.main(["--run-root", str(tmp_path), "--format", style]) == 0
        out, err = capsys.readouterr()
        # LaTeX would make a dash of two hyphens.
        assert line in (err if style == "csv" else out.replace("-{}-", "--")), style


def test_wrong_arguments_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert deviations.main(["--run-root", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"deviations: error: no studies under {tmp_path}; run a search first")
    write_published(tmp_path)
    assert deviations.main(["--run-root", str(tmp_path), "--dataset", "sop"]) == 2
    assert "no studies of --dataset sop" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        deviations.main(["--format", "latex"])
