"""What the verbs share: what a help page has, how a mistake reads, how an experiment is named."""

import argparse
import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from official_maskrcnn.errors import UserError

if TYPE_CHECKING:
    from official_maskrcnn.configs.loading import LoadedExperiment

# Leaves the descriptions' line breaks, and room for all names beside what they mean.
_HelpFormatter = functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=32)
_INVALID_CHOICE = re.compile(r"invalid choice: '([^']*)'")


class VerbParser(argparse.ArgumentParser):
    """A parser of a verb; a mistake is a `UserError`, which names the verbs nearest to a wrong one.

    Add verbs below it with `add_verb`, and `set_defaults(run=...)` with what does the work.
    """

    def __init__(self, prog: str, description: str, epilog: str = ""):
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )
        self._verbs: argparse._SubParsersAction[VerbParser] | None = None

    def add_verb(self, name: str, description: str, examples: tuple[str, str]) -> "VerbParser":
        """A new verb; its help page says what it is for, and ends in examples that can be run."""
        if self._verbs is None:
            self._verbs = self.add_subparsers(metavar="VERB", required=True, title="verbs")
        lines = [f"  {self.prog} {name} {example}".rstrip() for example in examples]
        return self._verbs.add_parser(
            name,
            help=description.partition("\n")[0].rstrip("."),
            prog=f"{self.prog} {name}",
            description=description,
            epilog="\n".join(["examples:", *lines]),
        )

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Like `parse_args`; changes of the form k=v may stand anywhere behind the experiment."""
        arguments, rest = self.parse_known_args(argv)
        changes = [text for text in rest if not text.startswith("-")]
        if "overrides" in arguments:
            arguments.overrides = [*arguments.overrides, *changes]
            rest = [text for text in rest if text.startswith("-")]
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return arguments

    def error(self, message: str) -> NoReturn:
        """Raises what is wrong, and where to look it up."""
        wrong = _INVALID_CHOICE.search(message)
        if wrong and self._verbs is not None and wrong[1] not in self._verbs.choices:
            near = difflib.get_close_matches(wrong[1], self._verbs.choices, n=2)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            known = ", ".join(self._verbs.choices)
            message = f"unknown verb {wrong[1]!r}{hint} (known: {known})"
        raise UserError(f"{message}\nSee {self.prog} --help")


def add_experiment(verb: VerbParser) -> None:
    """Arguments that name an experiment and change it: EXPERIMENT [--config_file ...] [k=v ...]."""
    verb.add_argument("experiment", metavar="EXPERIMENT", help="a registered experiment; see ls")
    verb.add_argument(
        "overrides",
        nargs="*",
        metavar="k=v",
        default=[],
        help="changes after all files, such as trainer.train_steps=100",
    )
    verb.add_argument(
        "--config_file",
        action="append",
        default=[],
        metavar="FILE",
        help="YAML that changes the experiment; may be repeated, a later one wins",
    )
    verb.add_argument(
        "--params_override",
        action="append",
        default=[],
        metavar="TEXT",
        help="a.b=1,c=[2,3], YAML text or a YAML file, before those of k=v; may be repeated",
    )


def load_experiment(
    arguments: argparse.Namespace,
    mode: str | None = None,
    flags: Mapping[str, str] | None = None,
) -> "LoadedExperiment":
    """The experiment that the arguments of `add_experiment` name, checked for a mode if given."""
    from official_maskrcnn import tasks  # noqa: F401 - enters the rules that need its code
    from official_maskrcnn.configs.loading import load

    given = {"command line": ",".join(arguments.overrides)} if arguments.overrides else {}
    return load(
        arguments.experiment,
        arguments.config_file,
        arguments.params_override,
        {**given, **(flags or {})},
        mode,
    )


def positive_int(text: str) -> int:
    """Type of an argument that counts something."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return value
