"""Entry point of the command line; nothing is computed here, and TensorFlow is not loaded."""

import os
import sys
from collections.abc import Sequence

from official_maskrcnn.cli import (
    data,
    environment,
    experiments,
    export,
    jobs,
    predict,
    report,
    serve,
    sweeps,
    tpu_check,
)
from official_maskrcnn.cli.arguments import VerbParser
from official_maskrcnn.errors import UserError

_PROGRAM = "python3 -m official_maskrcnn"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      argv: what stands after the program's name; by default from the command line.

    Returns:
      The exit code: 0 done; 2 the user's input is wrong, and the message on stderr says where;
      130 interrupted. A training that SIGTERM stops raises SystemExit with 143.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # hides TensorFlow's start-up notices
    try:
        arguments = command_parser().parse(argv)
        code = arguments.run(arguments)  # None, but for verbs with a code of their own
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = None
    return code or 0


def command_parser() -> VerbParser:
    """The parser of the whole command line."""
    parser = VerbParser(
        _PROGRAM,
        "Instance segmentation when boxes are plenty and masks are few.",
        epilog="train.py takes Model Garden's flags: python3 train.py --help",
    )
    verbs_in_order = (
        *(experiments, jobs, predict, report, export, serve),
        *(sweeps, tpu_check, data, environment),
    )
    for verbs in verbs_in_order:
        verbs.add_verbs(parser)
    return parser
