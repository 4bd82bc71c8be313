"""The verbs that run an experiment: train and eval; and what they share with train.py."""

import argparse
import json

from absl import logging

from official_maskrcnn.cli.arguments import VerbParser, add_experiment, load_experiment

_RESNET = "deep_mask_head_rcnn_resnetfpn_coco"
_SHAPES = "image_dir=runs/shapes/images task.{0}_data.annotation_file=runs/shapes/instances.json"
_TINY = (
    "task.model.num_classes=30 task.model.input_size=[128,128,3] task.init_checkpoint=null "
    "task.model.backbone.resnet.model_id=18 runtime.mixed_precision_dtype=float32"
)


def add_verbs(parser: VerbParser) -> None:
    """Adds train and eval."""
    train = parser.add_verb(
        "train",
        "Trains an experiment, by default with evaluations; goes on where it was stopped.\n\n"
        "The same as train.py, which takes Model Garden's flags.",
        (
            f"{_RESNET} --model_dir runs/nuts --config_file configs/nuts.yaml",
            f"{_RESNET} --model_dir runs/first --mode train task.train_data."
            f"{_SHAPES.format('train')} task.train_data.global_batch_size=2 {_TINY} "
            "trainer.train_epochs=0.1 trainer.boundary_epochs=[0.04,0.08]",
        ),
    )
    _add_job(train)
    train.add_argument(
        "--allow_config_change",
        action="store_true",
        help="go on even with other data, losses or settings of the model",
    )
    train.add_argument(
        "--mode",
        choices=("train", "train_and_eval"),
        default="train_and_eval",
        help="default: %(default)s",
    )
    evaluate = parser.add_verb(
        "eval",
        "Evaluates the latest checkpoint of a training, chosen ones, or each one that it writes.",
        (
            f"{_RESNET} --model_dir runs/nuts --config_file configs/nuts.yaml",
            f"{_RESNET} --model_dir runs/first task.validation_data."
            f"{_SHAPES.format('validation')} {_TINY}",
        ),
    )
    _add_job(evaluate)
    evaluate.add_argument(
        "--checkpoint",
        default="latest",
        metavar="WHICH",
        help="latest, all, a step, a range of steps such as 1000-5000, or a path; "
        "default: %(default)s",
    )
    evaluate.add_argument(
        "--continuous",
        dest="mode",
        action="store_const",
        const="continuous_eval",
        default="eval",
        help="each checkpoint of a training in another process, until its last",
    )


def _add_job(verb: VerbParser) -> None:
    add_experiment(verb)
    verb.add_argument(
        "--model_dir",
        required=True,
        metavar="DIR",
        help="where checkpoints, metrics and pictures are; local or gs://",
    )
    verb.add_argument("--tpu", metavar="NAME", help="name or address of the TPU")
    verb.add_argument("--gin_file", action="append", default=[], metavar="FILE")
    verb.add_argument("--gin_params", action="append", default=[], metavar="BINDING")
    verb.set_defaults(run=_run_verb, checkpoint="latest", allow_config_change=False)


def _run_verb(arguments: argparse.Namespace) -> None:
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)  # as train.py, whose --verbosity is absl's
    run_job(arguments)


def run_job(arguments: argparse.Namespace) -> None:
    """Runs what the flags of train.py, or the arguments of train or eval, ask for."""
    flags = {"--tpu": f"runtime.tpu={json.dumps(arguments.tpu)}"} if arguments.tpu else {}
    experiment = load_experiment(arguments, arguments.mode, flags).config

    from official_maskrcnn.tasks import build_task, gin_bindings
    from official_maskrcnn.training.run import run

    gin_bindings.bind(arguments.gin_file, arguments.gin_params)
    run(
        experiment,
        arguments.mode,
        arguments.model_dir,
        build_task(experiment),
        arguments.checkpoint,
        arguments.allow_config_change,
    )
