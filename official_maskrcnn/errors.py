"""The one exception that means: the user's input is wrong."""

import importlib.util
from collections.abc import Sequence

# Begins the message of a check within a TensorFlow graph, where no UserError can be raised.
DATA_FAULT = "unusable data: "


class UserError(Exception):
    """A fault in what the user gave: a configuration, a flag, data or a checkpoint.

    The command line prints its message without a traceback and exits with code 2. The message
    says what is wrong, where, and what to do; several faults are reported together, one a line.
    """


def require_packages(packages: Sequence[str], purpose: str, extra: str) -> None:
    """Raises a `UserError` that names the extra if some of the packages are not installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"{purpose} needs {', '.join(missing)}: pip install 'official-maskrcnn[{extra}]'"
        )
