"""Do what a launch was asked for: search, final runs, download, dry run, doctor or a check.

It is imported once the flags are known to be good, because torch and Optuna take seconds to import.
"""

from collections.abc import Sequence
from contextlib import ExitStack

from wpm.cli.console import Console, log_to_file, new_log
from wpm.cli.launch_plan import LaunchPlan, locate_images, make_plan
from wpm.cli.model_checks import check_parameters, check_trunk, locate_weights
from wpm.cli.notify import LaunchEnd
from wpm.cli.options import LaunchOptions
from wpm.cli.prepare import (
    OnStudyEnd,
    Prepared,
    prepare_retraining,
    prepare_search,
)
from wpm.cli.prepare_images import prepare_images
from wpm.cli.protocol_choice import choose_protocol
from wpm.model.embedding import check_model
from wpm.spaces import SearchSpace


def launch(
    options: LaunchOptions, spaces: Sequence[SearchSpace], on_study_end: OnStudyEnd
) -> LaunchEnd:
    """Do what the options ask for.

    Args:
        options: the flags, checked by `wpm.cli.checks`.
        spaces: the search space of each row.
        on_study_end: called when a study has ended.

    Raises:
        UserError: something that the user can fix keeps the launch from its work.
    """
    with Console() as console:
        if options.check_pipeline:
            return _check_pipeline(options, console)
        plan = _make_checked_plan(options, spaces, console)
        if not (options.doctor or options.only_fetches):
            for line in plan.describe_further():
                console.line(line)
        if options.doctor or options.dry_run:
            return _look_ahead(plan)
        if options.only_fetches:
            prepare_images(plan, console)
            console.line("fetched; next: the same command with --rows instead of --fetch")
            return LaunchEnd.FINISHED
        prepare = prepare_retraining if options.best_only else prepare_search
        with ExitStack() as stack:
            prepared = prepare(plan, console, stack, on_study_end)
            if prepared is not None and not run_on_ray(plan, prepared, console, on_study_end):
                return LaunchEnd.BUDGET
        console.clear()
        console.line(f"done; next: {_name_next(options)} with the same selection")
    return LaunchEnd.FINISHED


def _name_next(options: LaunchOptions) -> str:
    """Return the command that takes up what this launch has done."""
    if options.best_only:
        return "python -m analysis.table"
    searches = f" --searches {options.searches}" if options.searches > 1 else ""
    return f"python launch.py --best-only{searches}"


def _make_checked_plan(
    options: LaunchOptions, spaces: Sequence[SearchSpace], console: Console
) -> LaunchPlan:
    """Return the plan, once its model and every row's loss were built."""
    source = locate_images(options)
    protocol = choose_protocol(options, source, console)
    check_trunk(options, protocol)
    weights = locate_weights(options, protocol.trunk)
    check_model(protocol, weights)
    for space in spaces:
        check_parameters(space, options.search_spaces)
    return make_plan(options, protocol, source, spaces, weights)


def _check_pipeline(options: LaunchOptions, console: Console) -> LaunchEnd:
    # It opens test images, so a search does not even load it.
    from wpm.cli.check_pipeline import check_pipeline

    agrees = check_pipeline(_make_checked_plan(options, (), console), console)
    return LaunchEnd.FINISHED if agrees else LaunchEnd.DISAGREES


def _look_ahead(plan: LaunchPlan) -> LaunchEnd:
    from wpm.cli.preview import examine_cluster, print_forecast  # imports Ray

    if plan.options.doctor:
        return LaunchEnd.FINISHED if examine_cluster(plan) else LaunchEnd.UNHEALTHY
    print_forecast(plan)
    return LaunchEnd.FINISHED


def run_on_ray(
    plan: LaunchPlan, prepared: Prepared, console: Console, on_study_end: OnStudyEnd
) -> bool:
    """Run work on Ray while everything that libraries print goes to a log file.

    Returns:
        Whether all work was done, so that no limit ended it.
    """
    log = new_log(plan.run_root)
    console.line(f"log: {log}")
    console.live(lambda: "starting Ray ...")
    with log_to_file(log):
        # Imported here: what Ray prints while it is imported belongs in the log.
        from wpm.cli.running import run_prepared

        metered = run_prepared(plan, prepared, console, on_study_end)
    console.clear()
    remaining, limit = prepared.work.remaining, metered.limit_reached()
    if remaining and limit:
        console.line(f"stopped at {limit}; run the command with a higher limit to resume")
        return False
    return not (remaining and metered.stopped_studies)
