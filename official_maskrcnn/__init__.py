"""Instance segmentation when boxes are plenty and masks are few.

    experiment = official_maskrcnn.load_experiment("deep_mask_head_rcnn_resnetfpn_coco")
    task = official_maskrcnn.build_task(experiment)
    metrics = official_maskrcnn.run(experiment, mode="train_and_eval", model_dir="runs/first")
    detections = official_maskrcnn.Predictor("runs/first")("photograph.jpg").above(0.5)

Importing the package is cheap: TensorFlow is loaded when one of these names is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from official_maskrcnn.errors import UserError

if TYPE_CHECKING:
    from official_maskrcnn.inference.detections import Detections
    from official_maskrcnn.inference.predictor import Predictor
    from official_maskrcnn.tasks import build_task, load_experiment
    from official_maskrcnn.training.run import run

__version__ = "0.1.0"
__all__ = [
    "Detections",
    "Predictor",
    "UserError",
    "__version__",
    "build_task",
    "load_experiment",
    "run",
]

_MODULES = {
    "Detections": "official_maskrcnn.inference.detections",
    "Predictor": "official_maskrcnn.inference.predictor",
    "build_task": "official_maskrcnn.tasks",
    "load_experiment": "official_maskrcnn.tasks",
    "run": "official_maskrcnn.training.run",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
