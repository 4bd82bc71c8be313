"""The verb tpu-check: whether an experiment will run on a TPU, told by a machine that has none."""

import argparse
import json

from official_maskrcnn.cli.arguments import VerbParser, add_experiment, load_experiment
from official_maskrcnn.cli.output import console
from official_maskrcnn.errors import UserError

_RESNET = "deep_mask_head_rcnn_resnetfpn_coco"
_PUBLISHED = f"{_RESNET} --config_file configs/deep_mask_head_rcnn_voc_r50_hg52.yaml"


def add_verbs(parser: VerbParser) -> None:
    """Adds tpu-check."""
    verb = parser.add_verb(
        "tpu-check",
        "Compiles an experiment's step for a TPU, and says what it takes; no TPU is needed.\n\n"
        "Whether all of it compiles, whether it fits into the memory, and the time that a step\n"
        "takes at least. Each core has its share of the global batch. The exit code is 0 if it\n"
        "compiles and fits, else 2. It takes minutes, and the extra: "
        "pip install 'official-maskrcnn[tpu-check]'",
        (
            f"{_PUBLISHED} --topology v3-32",
            f"{_PUBLISHED} --topology v5e-16 --inference --json "
            "task.validation_data.global_batch_size=16",
        ),
    )
    add_experiment(verb)
    verb.add_argument(
        "--topology",
        required=True,
        metavar="NAME",
        help="the slice: v2, v3, v4 or v5p and its number of cores, v5e or v6e and its chips",
    )
    verb.add_argument(
        "--inference",
        action="store_true",
        help="the evaluation step with validation_data's batch, in place of the training step",
    )
    verb.add_argument(
        "--find-batch",
        action="store_true",
        help="also find the largest batch of a core that fits; compiles several times",
    )
    verb.add_argument("--json", action="store_true", help="print JSON in place of tables")
    verb.set_defaults(run=_tpu_check)


def _tpu_check(arguments: argparse.Namespace) -> None:
    import rich.console

    from official_maskrcnn.training.tpu_topology import GIB, parse_topology

    topology = parse_topology(arguments.topology)
    experiment = load_experiment(
        arguments, flags={"--topology": "runtime.distribution_strategy=tpu"}
    ).config
    progress = rich.console.Console(stderr=True)
    with progress.status("loading TensorFlow"):
        from official_maskrcnn.training import tpu_check, tpu_compiler
    tpu_compiler.require_compiler()
    with progress.status("tracing and compiling the step, which takes minutes"):
        result = tpu_check.check(experiment, topology, arguments.inference, arguments.find_batch)
    if arguments.json:
        print(json.dumps(result.to_dict(), indent=1))
    else:
        console().print(*result.tables())
    if not result.program.fits:
        needed, there = (size / GIB for size in (result.program.total_bytes, topology.hbm_bytes))
        raise UserError(
            f"a batch of {result.batch_size} on a {topology.device_name} of {topology.name} needs "
            f"{needed:.2f} GiB of memory, more than it has of its {there:g} GiB: use a smaller "
            "global batch (--find-batch finds the largest), a larger slice or bfloat16"
        )
