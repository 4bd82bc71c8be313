"""The one exception that means: the user's input is wrong."""

import importlib.util
import re
from collections.abc import Sequence

# Begins the message of a check within a TensorFlow graph, where no UserError can be raised.
DATA_FAULT = "unusable data: "
_END_OF_CHECK = re.compile(r"\](?: \[|$|\n)")  # where the message of such a check ends


class UserError(Exception):
    """A fault in what the user gave: a configuration, a flag, data or a checkpoint.

    The command line prints its message without a traceback and exits with code 2. The message
    says what is wrong, where, and what to do; several faults are reported together, one a line.
    """


def data_fault(message: str) -> UserError | None:
    """What a TensorFlow error's message says of the data; None if something else went wrong."""
    _, mark, fault = message.partition(DATA_FAULT)
    return UserError(_END_OF_CHECK.split(fault)[0]) if mark else None


def require_packages(packages: Sequence[str], purpose: str, extra: str) -> None:
    """Raises a `UserError` that names the extra if some of the packages are not installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"{purpose} needs {', '.join(missing)}: pip install 'official-maskrcnn[{extra}]'"
        )
