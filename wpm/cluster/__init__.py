"""Work from a source in; the same work, done on the workers of a Ray cluster, out.

Ray is imported in this room only. It reads the variables below at import or at first use, so they
are set before any module of the room imports it.
"""

import os

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no telemetry
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our records are the log
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours lets running epochs finish
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # By default Tune starts one actor at a time; `WorkSearcher` limits how many wait instead.
    "TUNE_MAX_PENDING_TRIALS_PG": "100000",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # Tune's snapshots are never read
}
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)
