"""The plan of a study: an existing study is continued with the same values, or refused by name."""

import dataclasses
from pathlib import Path

import pytest

from tests.support.tiny import make_plan
from tests.support.trials import killed_launch
from wpm.errors import UserError
from wpm.files import write_json
from wpm.procedure import PROCEDURE, describe_procedure
from wpm.protocol_fields import Value, WholeNumber
from wpm.protocol_files import find_protocol
from wpm.protocols import Protocol, field_types
from wpm.records import read_study, read_trials, write_study
from wpm.rows import Row
from wpm.spaces import SearchSpace, load_space
from wpm.studies.best_trials import check_same_loss, check_same_study, choose_best_trials
from wpm.studies.plan import StudyPlan, record_plan
from wpm.studies.study import Study

OTHER: dict[str, Value] = {
    "trunk": "bninception", "optimizer": "rmsprop", "precision": "bf16",
    "stopping": "none", "validate_untrained": True,
    "crop_scale": (0.5, 0.75), "crop_ratio": (0.5, 0.75), "flip": 0.25,
    "learning_rate": 0.25, "weight_decay": 0.25, "loss_weight_decay": 0.25,
}  # fmt: skip


def change(protocol: Protocol, field: str) -> Protocol:
    """Return the protocol under its own name with one other value, as after a file was edited."""
    value = OTHER.get(field)
    if value is None:
        value = getattr(protocol, field) + (-1 if field == "crop" else 1)
    return dataclasses.replace(protocol, **{field: value})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> StudyPlan:
    plan = make_plan(tmp_path_factory.mktemp("study"))
    record_plan(plan, trials=4)
    return plan


@pytest.mark.parametrize("field", list(field_types()))
def test_one_changed_value_is_refused_by_the_name_of_its_field(
    field: str, begun: StudyPlan
) -> None:
    before, changed = begun.protocol, change(begun.protocol, field)
    plan = dataclasses.replace(
        begun,
        protocol=changed,
        images={"pixels": f"folder-{changed.resize}px-0123"},  # another resize, another cache
    )
    old, new = (
        list(value) if isinstance(value, tuple) else value
        for value in (getattr(before, field), getattr(changed, field))
    )
    difference = f"protocol.{field} = {old!r}, now {new!r}; put it back, or save the protocol"
    with pytest.raises(UserError) as caught:
        record_plan(plan, trials=4)
    assert f"study folder/smoke/contrastive was started with {difference}" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError) as caught:
        check_same_study(plan.place, changed, plan.pixel_cache, "random")
    assert f"study folder/smoke/contrastive was searched with {difference}" in str(caught.value)


def test_study_on_images_that_are_decoded_otherwise_now_is_told_why(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    record_plan(plan, trials=4)
    cache = tmp_path / "new-cache"
    former = {"name": plan.images["pixels"], "reason": "3 images are turned upright"}
    write_json(cache / "meta.json", {"before_readings": former})
    now = dataclasses.replace(plan, images={"pixels": cache.name}, pixel_cache=cache)
    message = (
        "by a version that decoded its images otherwise: now 3 images are turned upright; start"
    )
    with pytest.raises(UserError, match=message):
        record_plan(now, trials=4)
    with pytest.raises(UserError, match=message):
        check_same_study(plan.place, plan.protocol, cache, "random")
    # Other images than those of before are still called so.
    write_json(cache / "meta.json", {"before_readings": {**former, "name": "folder-20px-other"}})
    with pytest.raises(UserError, match=r"was started with images.pixels = "):
        record_plan(now, trials=4)
    with pytest.raises(UserError, match="was searched on other images"):
        check_same_study(plan.place, plan.protocol, cache, "random")


def test_every_field_of_the_protocol_is_in_the_record(begun: StudyPlan) -> None:
    study = read_study(begun.place)
    assert study is not None
    assert study["identity"]["protocol"].keys() == {"name", *field_types()}
    assert all(field in OTHER for field, kind in field_types().items()
               if not isinstance(kind, WholeNumber))  # fmt: skip


def test_study_of_before_precision_was_a_field_continues(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    record_plan(plan, trials=4)
    study = read_study(plan.place)
    assert study is not None
    del study["identity"]["protocol"]["precision"]
    write_study(plan.place, {key: study[key] for key in ("identity", "trials", "provenance")})
    record_plan(plan, trials=4)
    check_same_study(plan.place, plan.protocol, plan.pixel_cache, "random")


def make_old(plan: StudyPlan, writer: str = "0.2.0") -> None:
    """Write the study as version 0.2 did: without a number of the procedure."""
    record_plan(plan, trials=4)
    study = read_study(plan.place)
    assert study is not None
    identity = {k: v for k, v in study["identity"].items() if k not in ("procedure", "trial_seeds")}
    identity["protocol"] = {
        field: value
        for field, value in identity["protocol"].items()
        if field not in ("validate_untrained", "stopping")
    }
    provenance = {**study["provenance"], "wpm": writer}
    write_study(plan.place, {"identity": identity, "trials": 4, "provenance": provenance})


def test_study_of_an_older_procedure_is_read_and_not_continued(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    with killed_launch(plan) as begun:
        assert begun.ask() is not None
    make_old(plan)
    study = read_study(plan.place)
    assert study is not None
    assert study["identity"]["procedure"] == 1
    assert study["identity"]["protocol"]["stopping"] == "halving"
    for attempt in (
        lambda: record_plan(plan, trials=4),
        lambda: Study(plan),
        lambda: choose_best_trials(plan.place, allow_unfinished=True),
        lambda: record_plan(plan, trials=0),  # --best-only --published
    ):
        with pytest.raises(UserError) as caught:
            attempt()
        message = str(caught.value)
        assert "\n" not in message
        assert message.startswith(
            "study folder/smoke/contrastive was begun by wpm 0.2.0 under procedure 1 of wpm 0.2 "
            "(since then classes of batches are dealt from a deck, a diverged trial scores 0, "
        )
        assert "and mlrc counts epoch 0 for patience and stops no trial" in message
        assert "Start a new study with another --run-root, or move " in message
    (record,), problems = read_trials(plan.place)
    assert (record.number, problems) == (0, [])


def test_study_of_an_older_procedure_without_a_trial_is_begun_anew(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    make_old(plan)
    with Study(plan):
        study = read_study(plan.place)
    assert study is not None and study["identity"]["procedure"] == PROCEDURE


def test_row_without_training_knows_no_procedure(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "pretrained")
    make_old(plan)
    record_plan(plan, trials=0)
    study = read_study(plan.place)
    assert study is not None and study["identity"]["procedure"] == 1


def test_study_of_a_newer_procedure_is_refused(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    record_plan(plan, trials=4)
    study = read_study(plan.place)
    assert study is not None
    identity = {**study["identity"], "procedure": PROCEDURE + 1}
    write_study(plan.place, {"identity": identity, "trials": 4, "provenance": {"wpm": "9.0"}})
    match = f"begun by wpm 9.0 under procedure {PROCEDURE + 1}, which is newer than this version"
    with pytest.raises(UserError, match=match):
        record_plan(plan, trials=4)


def test_every_older_procedure_says_what_changed() -> None:
    for number in range(1, PROCEDURE):
        assert describe_procedure(number).startswith(f"procedure {number} of wpm 0.")


def test_two_changes_of_one_protocol_have_studies_of_their_own(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    record_plan(plan, trials=4)
    changes: dict[str, Value] = {"max_epochs": 5}
    protocol = find_protocol("smoke", "folder", changes=changes)
    place = dataclasses.replace(plan.place, protocol=protocol.name)
    record_plan(dataclasses.replace(plan, protocol=protocol, place=place), trials=4)
    assert place.folder == tmp_path / "runs" / "folder" / "smoke-max_epochs_5" / "contrastive"
    assert read_study(place) is not None


# The loss


def write_rows(folder: Path, text: str) -> SearchSpace:
    folder.mkdir(exist_ok=True)
    (folder / "contrastive.toml").write_text(text, encoding="utf-8")
    return load_space(Row("contrastive"), folder)


RANGES = """
[search.pos_margin]
low = -0.2
high = 2.0
reason = "in other words"
[search.neg_margin]
low = -0.2
high = 2.0
"""


def test_other_words_for_a_range_are_the_same_study(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    record_plan(plan, trials=4)
    space = write_rows(tmp_path / "rows", RANGES)
    assert space.searched != plan.space.searched
    record_plan(dataclasses.replace(plan, space=space), trials=4)
    study = read_study(plan.place)
    assert study is not None
    assert "MLRC" in study["identity"]["searched"]["pos_margin"]["reason"], "kept as recorded"


@pytest.mark.parametrize(
    ("head", "difference"),
    [
        ('loss = "SignalToNoiseRatioContrastiveLoss"',
         "loss.class = 'ContrastiveLoss', now 'SignalToNoiseRatioContrastiveLoss'"),
        ('loss = "ContrastiveLoss"\nreducer = "MeanReducer"',
         "loss.arguments.reducer = None, now {'class': 'MeanReducer', 'arguments': {}}"),
        ('loss = "ContrastiveLoss"\nminer = "PairMarginMiner"',
         "loss.miner = None, now {'class': 'PairMarginMiner', 'arguments': {}}"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "of an older version"])
def test_other_class_or_argument_is_refused_by_name(
    head: str, difference: str, recorded: bool, tmp_path: Path
) -> None:
    plan = make_plan(tmp_path)
    record_plan(plan, trials=4)
    if not recorded:
        forget_loss(plan)
    record_plan(plan, trials=4)
    check_same_loss(plan.place, plan.space.loss)
    space = write_rows(tmp_path / "rows", f"{head}\n{RANGES}")
    with pytest.raises(UserError) as caught:
        record_plan(dataclasses.replace(plan, space=space), trials=4)
    assert f"study folder/smoke/contrastive was started with {difference}; " in str(caught.value)
    with pytest.raises(UserError) as caught:
        check_same_loss(plan.place, space.loss)
    assert f"study folder/smoke/contrastive was searched with {difference}; " in str(caught.value)
    assert "\n" not in str(caught.value)


def forget_loss(plan: StudyPlan) -> None:
    """Write the study as versions did in which a row's file named no loss."""
    study = read_study(plan.place)
    assert study is not None
    del study["identity"]["loss"]
    write_study(plan.place, {key: study[key] for key in ("identity", "trials", "provenance")})


OWN = "class Loss(torch.nn.Module): ...\n"


def test_text_of_an_own_loss_is_recorded_and_another_text_is_another_study(
    tmp_path: Path,
) -> None:
    rows, plan = tmp_path / "rows", make_plan(tmp_path)
    rows.mkdir()
    (rows / "own.py").write_text(OWN)
    plan = dataclasses.replace(plan, space=write_rows(rows, f'loss = "own:Loss"\n{RANGES}'))
    record_plan(plan, trials=4)
    study = read_study(plan.place)
    assert study is not None
    assert study["provenance"]["own_modules"] == {"own": OWN}
    assert OWN not in str(study["identity"])
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "own.py").write_text(OWN)
    moved = write_rows(tmp_path / "moved", f'loss = "own:Loss"\n{RANGES}')
    record_plan(dataclasses.replace(plan, space=moved), trials=4)
    (rows / "own.py").write_text(OWN + "# changed\n")
    changed = write_rows(rows, f'loss = "own:Loss"\n{RANGES}')
    with pytest.raises(UserError, match=r"started with loss\.modules\.own\.sha256 = '"):
        record_plan(dataclasses.replace(plan, space=changed), trials=4)
