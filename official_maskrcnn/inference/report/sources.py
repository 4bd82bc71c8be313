"""Where the detections of a report come from: a trained model, or a file of COCO results."""

import dataclasses
import os
import pathlib
from typing import Any

from official_maskrcnn.configs.experiment import ExperimentConfig
from official_maskrcnn.data.ids import image_number
from official_maskrcnn.errors import UserError
from official_maskrcnn.evaluation.detections import DetectionStore
from official_maskrcnn.files import read_json
from official_maskrcnn.inference.journal import Journal
from official_maskrcnn.inference.prediction_files import Options, predict_files
from official_maskrcnn.inference.predictor import Predictor
from official_maskrcnn.inference.report.data import ReportData
from official_maskrcnn.inference.trained_model import load_trained_experiment
from official_maskrcnn.tasks.metrics_file import read_metrics

_MAX_STEPS = 400  # of a training curve
_CURVES = ("AP", "AP50", "AP/seen", "AP/unseen")


@dataclasses.dataclass(frozen=True)
class Source:
    """A model, its results, or both: then nothing is predicted.

    Attributes:
      model_dir: of a training, or None.
      results: file of COCO results, or None.
      checkpoint: as for a Predictor.
      precision: as for a Predictor.
    """

    model_dir: str | None = None
    results: str | None = None
    checkpoint: str = "best"
    precision: str | None = None

    @classmethod
    def parse(cls, text: str, precision: str | None = None) -> "Source":
        """A model_dir, model_dir@checkpoint, or a file of results.

        Raises:
          UserError: there is no such thing.
        """
        if text.endswith(".json") and os.path.isfile(text):
            return cls(results=text)
        folder, at, checkpoint = text.rpartition("@")
        if at and not os.path.exists(text):
            return cls(folder, None, checkpoint, precision)
        if "://" not in text and not os.path.exists(text):
            raise UserError(f"{text}: no such model_dir, and no such file of results")
        return cls(text, precision=precision)

    @property
    def experiment(self) -> ExperimentConfig | None:
        """The configuration of the training."""
        return load_trained_experiment(self.model_dir) if self.model_dir else None


@dataclasses.dataclass(frozen=True)
class Detected:
    """What a source has for the data.

    Attributes:
      name: of the source, for people.
      store: the detections.
      has_masks: whether all of them have one.
      faults: kind by path, of images that could not be read.
    """

    name: str
    store: DetectionStore
    has_masks: bool
    faults: dict[str, str]


def detect(source: Source, data: ReportData, work: pathlib.Path, batch_size: int) -> Detected:
    """Predicts, or reads the results.

    Args:
      source: what is reported.
      data: images to look at.
      work: folder of the predictions; one of a call that was stopped is gone on with.
      batch_size: images through the model at a time.

    Raises:
      UserError: there is no such model, or the results are none.
    """
    store = DetectionStore()
    if source.results:
        results = read_json(source.results)
        if not isinstance(results, list) or not all(isinstance(r, dict) for r in results):
            raise UserError(f"{source.results}: not a file of COCO results, which is a list")
        results = [r for r in results if image_number(r.get("image_id")) not in data.left_out]
        has_masks = not results or any(result.get("segmentation") for result in results)
        try:
            store.add_results(data.ground_truth, results, has_masks)
        except UserError as error:
            raise UserError(f"{source.results}: {error}") from error
        return Detected(source.results, store, has_masks, {})
    assert source.model_dir is not None
    predictor = Predictor(source.model_dir, source.checkpoint, source.precision)
    outcome = predict_files(
        predictor, data.images, str(work), Options(overlays=False, batch_size=batch_size)
    )
    has_masks = predictor.config.include_mask
    for _, _, _, own in Journal(work).predictions(data.images):
        store.add_results(data.ground_truth, own, has_masks)
    checkpoint = os.path.relpath(predictor.checkpoint, source.model_dir)
    if checkpoint.startswith(os.pardir):  # an export's lies elsewhere
        checkpoint = os.path.basename(checkpoint)
    return Detected(f"{source.model_dir}, {checkpoint}", store, has_masks, outcome.faults)


def training_curves(source: Source) -> dict[str, Any]:
    """Losses, learning rate and AP by step, {phase: {"steps": [n], "series": {name: [n]}}}."""
    experiment = source.experiment
    if experiment is None or source.model_dir is None:
        return {}
    folder = experiment.trainer.validation_summary_subdir
    curves = {}
    for phase in ("train", "eval"):
        metrics = read_metrics(source.model_dir, phase, folder)
        every = -(-len(metrics) // _MAX_STEPS) or 1
        steps = list(metrics)[::-every][::-1]  # the last one is there
        names = dict.fromkeys(name for step in steps for name in metrics[step] if _is_shown(name))
        if names:
            series = {name: [metrics[step].get(name) for step in steps] for name in names}
            curves[phase] = {"steps": steps, "series": series}
    return curves


def _is_shown(name: str) -> bool:
    return name.endswith("loss") or name == "learning_rate" or name.partition("/")[2] in _CURVES
