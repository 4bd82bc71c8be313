"""The argument parser that all verbs share: what a help page has, and how a mistake reads."""

import argparse
import difflib
import functools
import re
from typing import NoReturn

from official_maskrcnn.errors import UserError

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
        lines = [f"  {self.prog} {name} {example}" for example in examples]
        return self._verbs.add_parser(
            name,
            help=description.partition("\n")[0].rstrip("."),
            prog=f"{self.prog} {name}",
            description=description,
            epilog="\n".join(["examples:", *lines]),
        )

    def error(self, message: str) -> NoReturn:
        """Raises what is wrong, and where to look it up."""
        wrong = _INVALID_CHOICE.search(message)
        if wrong and self._verbs is not None and wrong[1] not in self._verbs.choices:
            near = difflib.get_close_matches(wrong[1], self._verbs.choices, n=2)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            known = ", ".join(self._verbs.choices)
            message = f"unknown verb {wrong[1]!r}{hint} (known: {known})"
        raise UserError(f"{message}\nSee {self.prog} --help")


def positive_int(text: str) -> int:
    """Type of an argument that counts something."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return value
