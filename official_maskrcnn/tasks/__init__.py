"""Tasks: what is trained and evaluated."""

from official_maskrcnn.configs.experiment import ExperimentConfig
from official_maskrcnn.configs.loading import load_experiment
from official_maskrcnn.tasks import rules  # noqa: F401 - enters them
from official_maskrcnn.tasks.deep_mask_head_rcnn import MaskRCNNTask


def build_task(experiment: ExperimentConfig) -> MaskRCNNTask:
    """The task of an experiment."""
    return MaskRCNNTask(experiment.task, experiment.runtime)


__all__ = ["MaskRCNNTask", "build_task", "load_experiment"]
