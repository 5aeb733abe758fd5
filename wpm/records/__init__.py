"""Configurations, reports and results in; the run folder, and checked records of it, out."""

from wpm.records.costs import device_hours, gpu_seconds, worker_seconds
from wpm.records.finals import FinalRecord, best_tested, note_test_access, read_finals
from wpm.records.layout import FORMAT, StudyPlace, check_format, configuration_key
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
from wpm.records.trainings import TrainingFolder, TrainingRecord, model_file, summarise

__all__ = [
    "FORMAT",
    "FinalRecord",
    "StudyPlace",
    "TrainingFolder",
    "TrainingRecord",
    "TrialState",
    "best_tested",
    "check_format",
    "configuration_key",
    "device_hours",
    "find_studies",
    "gpu_seconds",
    "is_running",
    "model_file",
    "note_test_access",
    "provenance",
    "read_all_reports",
    "read_finals",
    "read_study",
    "read_trials",
    "remove_empty_study",
    "summarise",
    "timestamp",
    "trial_numbers",
    "worker_seconds",
    "write_study",
]
