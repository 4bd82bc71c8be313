"""The one exception that means: the user's input is wrong."""

# Begins the message of a check within a TensorFlow graph, where no UserError can be raised.
DATA_FAULT = "unusable data: "


class UserError(Exception):
    """A fault in what the user gave: a configuration, a flag, data or a checkpoint.

    The command line prints its message without a traceback and exits with code 2. The message
    says what is wrong, where, and what to do; several faults are reported together, one a line.
    """
