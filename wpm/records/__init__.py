"""Configurations, reports and results in; the run folder, and checked records of it, out."""

from wpm.records.best import best_tested, chosen_order, validation_order
from wpm.records.costs import device_hours, gpu_seconds, saving_share, worker_seconds
from wpm.records.finals import (
    Chosen,
    FinalRecord,
    finals_folder,
    note_test_access,
    read_finals,
    read_run_result,
    write_final,
    write_run_result,
)
from wpm.records.first_points import (
    START_KEYS,
    UNRECORDED,
    FirstPoint,
    SearchCost,
    count_known,
    describe_start,
    read_first_points,
    read_twin_cost,
)
from wpm.records.layout import FORMAT, StudyPlace, check_format, configuration_key
from wpm.records.outcomes import FailedRun, Outcome, ScoredRun
from wpm.records.packing import read_records
from wpm.records.provenance import provenance, timestamp
from wpm.records.states import TrialState
from wpm.records.studies import (
    find_studies,
    is_running,
    read_all_reports,
    read_study,
    read_trials,
    remove_empty_study,
    trial_numbers,
    write_study,
)
from wpm.records.trainings import TrainingFolder, TrainingRecord, model_file

__all__ = [
    "FORMAT",
    "START_KEYS",
    "UNRECORDED",
    "Chosen",
    "FailedRun",
    "FinalRecord",
    "FirstPoint",
    "Outcome",
    "ScoredRun",
    "SearchCost",
    "StudyPlace",
    "TrainingFolder",
    "TrainingRecord",
    "TrialState",
    "best_tested",
    "check_format",
    "chosen_order",
    "configuration_key",
    "count_known",
    "describe_start",
    "device_hours",
    "finals_folder",
    "find_studies",
    "gpu_seconds",
    "is_running",
    "model_file",
    "note_test_access",
    "provenance",
    "read_all_reports",
    "read_finals",
    "read_first_points",
    "read_records",
    "read_run_result",
    "read_study",
    "read_trials",
    "read_twin_cost",
    "remove_empty_study",
    "saving_share",
    "timestamp",
    "trial_numbers",
    "validation_order",
    "worker_seconds",
    "write_final",
    "write_run_result",
    "write_study",
]
