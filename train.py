#!/usr/bin/env python3
"""Trains and evaluates an experiment; the flags are those of TensorFlow Model Garden.

    python3 train.py --experiment=deep_mask_head_rcnn_resnetfpn_coco --mode=train_and_eval \\
        --model_dir=runs/nuts --config_file=configs/nuts.yaml

Exit code 0: done; 2: the user's input is wrong, and the message says where; 143: stopped by
SIGTERM, everything saved, and the same command goes on.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from absl import app, flags

from official_maskrcnn.cli.jobs import run_job
from official_maskrcnn.errors import UserError

_EXPERIMENT = flags.DEFINE_string("experiment", None, "Name of a registered experiment.")
_MODE = flags.DEFINE_enum(
    "mode",
    None,
    ["train", "eval", "train_and_eval", "continuous_eval"],
    "continuous_eval evaluates each new checkpoint of a training job in another process.",
)
_MODEL_DIR = flags.DEFINE_string(
    "model_dir", None, "Where checkpoints, metrics and summaries go; local or gs://."
)
_CONFIG_FILE = flags.DEFINE_multi_string(
    "config_file", [], "YAML file that changes the experiment; repeat it, a later one wins."
)
_PARAMS_OVERRIDE = flags.DEFINE_multi_string(
    "params_override",
    [],
    "Changes after all config files: a.b=1,c=[2,3], YAML text or a YAML file; may be repeated.",
)
_TPU = flags.DEFINE_string("tpu", None, "Name or address of the TPU; sets runtime.tpu.")
_GIN_FILE = flags.DEFINE_multi_string("gin_file", [], "Gin file; may be repeated.")
_GIN_PARAMS = flags.DEFINE_multi_string("gin_params", [], "Gin binding; may be repeated.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    "latest",
    "What mode eval evaluates: latest, all, a step, a range of steps such as 1000-5000, or a path.",
)
_ALLOW_CONFIG_CHANGE = flags.DEFINE_bool(
    "allow_config_change",
    False,
    "Go on with a training even with other data, losses or settings of the model.",
)
flags.mark_flags_as_required(["experiment", "mode", "model_dir"])


def main(argv: Sequence[str]) -> None:
    """Loads the configuration, then runs it; a fault of the user's ends with exit code 2."""
    try:
        if len(argv) > 1:
            raise UserError(f"train.py takes only flags, but got: {' '.join(argv[1:])}")
        _run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _run() -> None:
    # TensorFlow is loaded from here on: --help and a mistyped flag need not wait for it.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # hides TensorFlow's start-up notices
    run_job(
        argparse.Namespace(
            experiment=_EXPERIMENT.value,
            overrides=[],
            config_file=_CONFIG_FILE.value,
            params_override=_PARAMS_OVERRIDE.value,
            mode=_MODE.value,
            model_dir=_MODEL_DIR.value,
            tpu=_TPU.value,
            gin_file=_GIN_FILE.value,
            gin_params=_GIN_PARAMS.value,
            checkpoint=_CHECKPOINT.value,
            allow_config_change=_ALLOW_CONFIG_CHANGE.value,
        )
    )


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except SystemExit:  # absl leaves with code 1 after --help, which is no failure
        sys.exit(0)
    except flags.Error as error:
        print(f"error: {error}\nPass --help to see the flags.", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
