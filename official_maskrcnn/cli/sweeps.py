"""The verbs of `sweep`: plan, run, table."""

import argparse
import fnmatch
import json
import pathlib
import sys
from typing import TYPE_CHECKING

from official_maskrcnn.cli.arguments import VerbParser, positive_int
from official_maskrcnn.cli.output import console
from official_maskrcnn.errors import UserError

if TYPE_CHECKING:
    from official_maskrcnn.configs.sweep import Sweep
    from official_maskrcnn.training.sweeps.executors import Executor
    from official_maskrcnn.training.sweeps.runner import Job

_FIRST = "experiments/nuts_agnostic.yaml"
_SMALL = "experiments/mask_heads_small.yaml"
_MODE = "train_and_eval"
_LAST_LINES = 15  # of the log of a run that failed


def add_verbs(parser: VerbParser) -> None:
    """Adds `sweep` with its own verbs."""
    sweep = parser.add_verb(
        "sweep",
        "Plans and runs many variants of an experiment, and makes a table of their results.",
        (f"plan {_FIRST}", f"run {_FIRST} --jobs 2"),
    )
    _add_plan(sweep)
    _add_run(sweep)
    _add_table(sweep)


def _add_plan(sweep: VerbParser) -> None:
    verb = sweep.add_verb(
        "plan",
        "Lists the runs of a sweep with what they change, and checks all of them.\n\n"
        "As `validate` does, the data included. The exit code is 0 if all is right, else 2, with\n"
        "every fault of every run.",
        (f"{_FIRST}", f"{_SMALL} --mode none --json"),
    )
    _add_sweep(verb)
    verb.add_argument(
        "--mode",
        choices=(_MODE, "none"),
        default=_MODE,
        help="none: without looking for data; default: %(default)s",
    )
    verb.add_argument("--json", action="store_true", help="print JSON in place of a table")
    verb.set_defaults(run=_plan)


def _plan(arguments: argparse.Namespace) -> None:
    import rich.markup
    import rich.table

    sweep = _load(arguments, None if arguments.mode == "none" else arguments.mode)
    if arguments.json:
        runs = [
            {
                "name": run.name,
                "labels": dict(run.row.labels),
                "seed": run.seed,
                "experiment": run.row.experiment,
                "changes": [list(change) for change in run.row.changes],
                "digest": run.digest,
            }
            for run in sweep.runs
        ]
        print(json.dumps({"sweep": sweep.name, "runs": runs}, indent=1))
        return
    title = f"{sweep.name}: {len(sweep.rows)} rows, {len(sweep.seeds)} seeds, "
    table = rich.table.Table(
        *("row", "its options set"),
        title=f"{title}{len(sweep.runs)} runs",
        show_lines=True,
    )
    for row in sweep.rows:
        changes = "\n".join(f"{path}: {value}" for path, value in row.changes)
        table.add_row(row.name, rich.markup.escape(changes) or "nothing")
    console().print(table)


def _add_run(sweep: VerbParser) -> None:
    verb = sweep.add_verb(
        "run",
        "Runs a sweep: each run a process with a folder of its own, OUTPUT/ROW/seedN.\n\n"
        "What is finished is not run again, and what was stopped goes on from its checkpoint.\n"
        "Ctrl-C stops all runs after they have saved. The exit code is 1 if runs failed, 2 if the\n"
        "sweep is wrong.",
        (f"{_FIRST} --jobs 2", f"{_FIRST} --only '*agnostic_true*' --output runs/agnostic"),
    )
    _add_sweep(verb)
    _add_output(verb)
    verb.add_argument("--only", default="*", metavar="GLOB", help="runs (ROW/seedN) to run")
    verb.add_argument(
        "--jobs",
        type=positive_int,
        metavar="N",
        help="runs at a time, which share cores and GPUs; default: 1, on Ray as many as fit",
    )
    verb.add_argument(
        "--retries",
        type=int,
        default=1,
        metavar="N",
        help="new starts of a run that fails; default: %(default)s",
    )
    verb.add_argument(
        "--executor",
        choices=("local", "ray"),
        default="local",
        help="ray: on a Ray cluster that shares this folder (extra: ray); default: %(default)s",
    )
    verb.add_argument("--ray_address", metavar="ADDRESS", help="default: RAY_ADDRESS, or a new one")
    verb.add_argument(
        "--cpus", type=positive_int, default=1, metavar="N", help="cores of a run, on Ray"
    )
    verb.add_argument("--gpus", type=float, default=0, metavar="N", help="GPUs of a run, on Ray")
    verb.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from absl import logging

    from official_maskrcnn.training.sweeps.progress import SweepProgress
    from official_maskrcnn.training.sweeps.runner import State, run_sweep

    sweep = _load(arguments, _MODE)
    runs = [run for run in sweep.runs if fnmatch.fnmatchcase(run.name, arguments.only)]
    if not runs:
        raise UserError(f"--only {arguments.only!r} matches no run; see sweep plan {sweep.path}")
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    output = _output(arguments, sweep)
    with SweepProgress(sweep.name, sweep.metrics) as progress:
        jobs = run_sweep(runs, output, _executor(arguments), arguments.retries, progress)
    failed = [job for job in jobs if job.state is State.FAILED]
    print(f"{len(jobs) - len(failed)} of {len(jobs)} runs are finished, in {output}")
    for job in failed:
        _print_failure(job)
    return 1 if failed else 0


def _executor(arguments: argparse.Namespace) -> "Executor":
    from official_maskrcnn.training.sweeps.executors import LocalExecutor, RayExecutor

    if arguments.executor == "local":
        return LocalExecutor(arguments.jobs or 1)
    return RayExecutor(arguments.jobs, arguments.ray_address, arguments.cpus, arguments.gpus)


def _print_failure(job: "Job") -> None:
    if job.error:  # the log may be gone
        print(f"\n{job.run.name} failed: {job.error}")
        return
    lines = job.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
    print(f"\n{job.run.name} failed with exit code {job.exit_code}; {job.log} ends:")
    print("".join(f"  {line}\n" for line in lines), end="")


def _add_table(sweep: VerbParser) -> None:
    verb = sweep.add_verb(
        "table",
        "Makes a table of what the runs of a sweep gave: mean and spread over the seeds.\n\n"
        "Writes a line for each run that has ended to a CSV file, and a plot beside it. Lines of\n"
        "runs whose folders are not here stay; those of other configurations are taken out only\n"
        "with --prune.",
        (
            f"{_FIRST} --csv runs/nuts_agnostic.csv",
            f"{_SMALL} --csv runs/small.csv --format markdown",
        ),
    )
    _add_sweep(verb)
    _add_output(verb)
    verb.add_argument(
        "--csv", metavar="FILE", help="the lines of the runs; default: FILE with the suffix .csv"
    )
    verb.add_argument(
        "--prune",
        action="store_true",
        help="take lines that are of no run with this configuration out of the CSV file",
    )
    verb.add_argument(
        "--format",
        choices=("rich", "markdown", "csv"),
        default="rich",
        help="of what is printed; default: %(default)s",
    )
    verb.add_argument(
        "--readme",
        metavar="FILE",
        help="Markdown file to put the table into, between <!-- NAME --> and <!-- /NAME -->",
    )
    verb.set_defaults(run=_table)


def _table(arguments: argparse.Namespace) -> None:
    from official_maskrcnn import files
    from official_maskrcnn.training.sweeps import table
    from official_maskrcnn.training.sweeps.results import gather, write_csv

    sweep = _load(arguments, None)
    path = pathlib.Path(arguments.csv or pathlib.Path(sweep.path).with_suffix(".csv"))
    results = gather(sweep, _output(arguments, sweep), path, arguments.prune)
    readme = ""
    if arguments.readme:  # before anything is written: it may be the wrong file
        markdown = table.markdown_table(results)
        readme = files.read_text(arguments.readme)
        readme = table.insert_markdown(readme, sweep.name, markdown)
    write_csv(results, path)
    table.plot(results, path.with_suffix(".png"))
    if arguments.readme:
        files.write_text(arguments.readme, readme)
    if arguments.format == "rich":
        console().print(table.rich_table(results))
    else:
        make = {"markdown": table.markdown_table, "csv": table.csv_table}
        print(make[arguments.format](results), end="")
    if results.missing:
        lines = "".join(f"\n  {name}: {reason}" for name, reason in results.missing.items())
        print(
            f"{len(results.missing)} of {len(sweep.runs)} runs are missing:{lines}", file=sys.stderr
        )


def _add_sweep(verb: VerbParser) -> None:
    verb.add_argument("file", metavar="FILE", help="YAML; experiments/README.md says what is in it")
    verb.add_argument(
        "overrides",
        nargs="*",
        metavar="k=v",
        default=[],
        help="changes to all runs, after all that the file says",
    )


def _add_output(verb: VerbParser) -> None:
    verb.add_argument(
        "--output", metavar="DIR", help="where the runs are; default: runs/ and the sweep's name"
    )


def _output(arguments: argparse.Namespace, sweep: "Sweep") -> pathlib.Path:
    return pathlib.Path(arguments.output or pathlib.Path("runs", sweep.name))


def _load(arguments: argparse.Namespace, mode: str | None) -> "Sweep":
    import rich.console
    import rich.status

    from official_maskrcnn import tasks  # noqa: F401 - enters the rules that need its code
    from official_maskrcnn.configs.sweep import load_sweep

    with rich.status.Status(
        "checking the runs", console=rich.console.Console(stderr=True)
    ) as status:
        return load_sweep(
            arguments.file,
            arguments.overrides,
            mode,
            lambda done, total: status.update(f"checking the runs: {done} of {total} rows"),
        )
