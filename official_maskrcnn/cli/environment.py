"""The verbs about the installation: env and completion."""

import argparse
import json
import sys

from official_maskrcnn.cli.arguments import VerbParser
from official_maskrcnn.cli.output import console

_EXTRAS = {
    "tpu": "cloud-tpu-client",
    "onnx": "tf2onnx",
    "stablehlo": "jaxlib",
    "serve": "fastapi",
    "ray": "ray",
    "tpu-check": "libtpu",
}


def add_verbs(parser: VerbParser) -> None:
    """Adds env and completion."""
    env = parser.add_verb(
        "env",
        "Prints versions and devices, and what is missing: for bug reports.",
        ("", "--json"),
    )
    env.add_argument("--json", action="store_true", help="print JSON in place of a table")
    env.set_defaults(run=_env)

    completion = parser.add_verb(
        "completion",
        "Prints the script that completes official-maskrcnn's verbs and flags in a shell.\n\n"
        "bash: write it to ~/.local/share/bash-completion/completions/official-maskrcnn\n"
        "zsh: write it to a file _official-maskrcnn in a folder of $fpath",
        ("bash", "zsh"),
    )
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    completion.set_defaults(run=lambda arguments: _completion(parser, arguments.shell))


def _env(arguments: argparse.Namespace) -> None:
    import rich.table

    from official_maskrcnn.training import environment

    found = environment.describe()
    found["executable"] = sys.executable
    found["extras"] = {
        name: environment.version(package) or f"missing: pip install 'official-maskrcnn[{name}]'"
        for name, package in _EXTRAS.items()
    }
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    table = rich.table.Table(show_header=False)
    for name, value in found.items():
        if isinstance(value, dict):
            for part, text in value.items():
                table.add_row(f"{name} {part}", text or "missing")
        else:
            table.add_row(name, ", ".join(value) if isinstance(value, list) else str(value))
    console().print(table)


def _completion(parser: VerbParser, shell: str) -> None:
    import shtab

    parser.prog = "official-maskrcnn"
    print(shtab.complete(parser, shell))
