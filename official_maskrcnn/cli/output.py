"""Tables on the terminal, and in a pipe."""

import rich.console


def console() -> rich.console.Console:
    """Tables as wide as they need to be where the output is a file or a pipe."""
    terminal = rich.console.Console()
    return terminal if terminal.is_terminal else rich.console.Console(width=160)
