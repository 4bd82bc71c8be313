"""Which checkpoints there are: their names, their steps, and texts that select some of them."""

import os
import re

import tensorflow as tf

from official_maskrcnn.errors import UserError

NAME = "ckpt"  # of checkpoints, before -STEP
_INDEX = re.compile(rf"{NAME}-\d+\.index")
_STEP = re.compile(r"-(\d+)$")  # at the end of a checkpoint's path


def find_all(model_dir: str) -> list[str]:
    """Path prefixes of the checkpoints of a folder, the oldest first."""
    names = tf.io.gfile.listdir(model_dir) if tf.io.gfile.isdir(model_dir) else []
    indices = [name for name in names if _INDEX.fullmatch(name)]
    paths = [os.path.join(model_dir, index.removesuffix(".index")) for index in indices]
    return sorted(paths, key=step_of)


def choose(model_dir: str, selection: str) -> list[str]:
    """Path prefixes of the checkpoints that a text selects, the oldest first.

    Args:
      model_dir: of the training.
      selection: `latest`, `all`, a step, a range of steps such as 1000-5000 with both ends, or the
        path of a checkpoint.

    Raises:
      UserError: there is none.
    """
    paths = find_all(model_dir)
    if not paths and not os.path.dirname(selection):
        raise UserError(
            f"there is no checkpoint in model_dir {model_dir}: give the model_dir of a "
            "training, or train first (mode train)"
        )
    if selection in ("latest", "all"):
        return paths[-1:] if selection == "latest" else paths
    if steps := re.fullmatch(r"(\d+)(?:-(\d+))?", selection):
        first, last = int(steps[1]), int(steps[2] or steps[1])
        chosen = [path for path in paths if first <= step_of(path) <= last]
        if not chosen:
            there = ", ".join(str(step_of(path)) for path in paths)
            raise UserError(f"no checkpoint of step {selection} in {model_dir}; there are {there}")
        return chosen
    if not os.path.dirname(selection):
        raise UserError(
            f"unknown checkpoint {selection!r}; accepts latest, all, a step, a range of steps such "
            "as 1000-5000, or the path of a checkpoint"
        )
    return [find_checkpoint(selection)]


def step_of(path: str) -> int:
    """The training step in the name of a checkpoint, such as model_dir/ckpt-1200."""
    match = _STEP.search(path)
    if match is None:
        raise UserError(f"{path} is not named like a checkpoint ({NAME}-STEP)")
    return int(match.group(1))


def find_checkpoint(path: str) -> str:
    """Path prefix of a checkpoint, from such a prefix or a folder (its latest checkpoint).

    Raises:
      UserError: there is no checkpoint at `path`, which may be remote (gs://).
    """
    try:
        if tf.io.gfile.isdir(path):
            # Other projects name theirs otherwise, and keep a record of them.
            latest = find_all(path)[-1:] or [tf.train.latest_checkpoint(path)]
            if latest[0] is None:
                raise UserError(f"the folder {path} has no checkpoint")
            return latest[0]
        prefix = path.removesuffix(".index")
        if tf.io.gfile.exists(f"{prefix}.index"):
            return prefix
    except tf.errors.OpError as error:
        raise UserError(f"cannot look for a checkpoint at {path}: {error.message}") from error
    raise UserError(
        f"there is no checkpoint {path}: give a folder, or what precedes .index in its file name"
    )
