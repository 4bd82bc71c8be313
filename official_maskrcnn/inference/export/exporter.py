"""A trained model as files that other programs run, which need not have this package."""

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

import official_maskrcnn
from official_maskrcnn.configs.loading import save_params
from official_maskrcnn.configs.model import DeepMaskHeadRCNN
from official_maskrcnn.data import parser
from official_maskrcnn.errors import UserError, require_packages
from official_maskrcnn.files import read_json, require_local, write_json
from official_maskrcnn.inference.export import conversions
from official_maskrcnn.inference.export.signatures import serving_signatures
from official_maskrcnn.inference.exported_model import is_export
from official_maskrcnn.inference.formats import ABOUT, FORMATS
from official_maskrcnn.inference.graphs import save_module
from official_maskrcnn.inference.trained_model import TrainedModel, load_trained_model
from official_maskrcnn.modeling import checkpoint_files
from official_maskrcnn.modeling.mask_rcnn import MaskRCNN
from official_maskrcnn.tasks.metrics_file import read_metrics
from official_maskrcnn.tasks.model_dir import PARAMS

_QUANTIZATION = {"tflite": None, "tflite_float16": "float16", "tflite_int8": "int8"}

Step = Callable[[str], contextlib.AbstractContextManager[Any]]


def export_model(
    path: str,
    output: str,
    formats: Sequence[str] = ("saved_model",),
    checkpoint: str = "best",
    precision: str = "float32",
    paste_masks: bool = False,
    batch_size: int = 1,
    step: Step = contextlib.nullcontext,
) -> None:
    """Writes a model in one or several formats, and what it is into export.json and params.yaml.

    Args:
      path: the model_dir of a training.
      output: folder to write, which must not hold anything; it appears when it is whole.
      formats: of `FORMATS`.
      checkpoint: as for `load_trained_model`.
      precision: of the layers of the SavedModel and of StableHLO: float32, bfloat16 or auto. TFLite
        and ONNX are made of float32.
      paste_masks: the signatures of the SavedModel give masks of the images' size.
      batch_size: images that StableHLO takes; a SavedModel takes any number, the others one.
      step: is entered for each part of the work, with a text that says what it is.

    Raises:
      UserError: there is no such training or checkpoint, an extra is missing, the folder is there,
        or the model cannot have what is asked for.
    """
    _refuse_output(path, output)
    folder = pathlib.Path(output).resolve()
    _require_extras(formats)
    with step("loading the model"):
        trained = load_trained_model(path, checkpoint, precision)
    _refuse_formats(trained.config, formats, paste_masks)
    about = _describe(path, trained, paste_masks)
    staging = folder.with_name(f".{folder.name}.incomplete")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        exporter = _Exporter(path, trained, staging, paste_masks, batch_size, about)
        for name in formats:
            with step(f"making {name}"):
                exporter.make(name)
        save_params(trained.experiment, str(staging / PARAMS))
        write_json(staging / ABOUT, about)
        staging.replace(folder)
    except (OSError, tf.errors.ResourceExhaustedError) as error:  # TensorFlow's: a full disk
        raise UserError(f"cannot write to {output}: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def size_in_bytes(folder: str | os.PathLike[str], name: str) -> int:
    """Size of one format in the folder of an export; of a SavedModel, with its variables."""
    path = pathlib.Path(folder, FORMATS[name])
    files = [path]
    if name == "saved_model":
        files += (path.parent / "variables").iterdir()
    return sum(file.stat().st_size for file in files)


class _Exporter:
    """Writes formats into a folder, and into `about` what was written."""

    def __init__(
        self,
        path: str,
        trained: TrainedModel,
        folder: pathlib.Path,
        paste_masks: bool,
        batch_size: int,
        about: dict[str, Any],
    ):
        self._path, self._trained, self._folder = path, trained, folder
        self._paste_masks, self._batch_size = paste_masks, batch_size
        self._about = about
        self._static: dict[str, MaskRCNN] = {}
        self._graph: conversions.PortableGraph | None = None

    def make(self, name: str) -> None:
        """Writes a format."""
        file: dict[str, Any] = {"file": FORMATS[name]}
        if name == "saved_model":
            self._save()
        elif name == "stablehlo":
            dtype = self._trained.precision
            content, shapes = conversions.to_stablehlo(
                self._static_model(dtype), self._batch_size, tf.as_dtype(dtype)
            )
            file |= shapes
        else:
            if self._graph is None:
                self._graph = conversions.PortableGraph(self._static_model("float32"))
            changes = {"precision": "float32", "paste_masks": False, "files": {name: file}}
            text = json.dumps({**self._about, **changes})
            if name == "onnx":
                content = conversions.to_onnx(self._graph, text)
            else:
                content = conversions.to_tflite(self._graph, _QUANTIZATION[name], text)
        if name != "saved_model":
            (self._folder / FORMATS[name]).write_bytes(content)
        self._about["files"][name] = file

    def _save(self) -> None:
        graphs = self._trained.graphs
        signatures = serving_signatures(graphs, self._trained.config, self._paste_masks)
        save_module(graphs, str(self._folder), signatures)

    def _static_model(self, precision: str) -> MaskRCNN:
        if precision not in self._static:
            checkpoint = self._trained.checkpoint
            trained = load_trained_model(self._path, checkpoint, precision, static_shapes=True)
            self._static[precision] = trained.model
        return self._static[precision]


def _refuse_output(path: str, output: str) -> None:
    require_local(output)
    folder = pathlib.Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{output} exists: give another --output, or delete it")
    if is_export(path):
        raise UserError(f"{path} is an export: give the model_dir of its training")


def _require_extras(formats: Sequence[str]) -> None:
    if "onnx" in formats:
        require_packages(conversions.ONNX_PACKAGES, "--formats onnx", "onnx")
    if "stablehlo" in formats:
        require_packages(conversions.STABLEHLO_PACKAGES, "--formats stablehlo", "stablehlo")


def _refuse_formats(config: DeepMaskHeadRCNN, formats: Sequence[str], paste_masks: bool) -> None:
    if paste_masks and not config.include_mask:
        raise UserError("--paste_masks: the model has no masks (task.model.include_mask is false)")
    if paste_masks and "saved_model" not in formats:
        raise UserError("--paste_masks is of the format saved_model, which --formats leaves out")
    static = [name for name in formats if name != "saved_model"]
    if static and config.detection_generator.soft_nms_sigma is not None:
        raise UserError(
            f"Soft-NMS (task.model.detection_generator.soft_nms_sigma is "
            f"{config.detection_generator.soft_nms_sigma}) can be exported as saved_model alone, "
            f"not as {', '.join(static)}"
        )


def _describe(path: str, trained: TrainedModel, paste_masks: bool) -> dict[str, Any]:
    """What export.json says: all that a program needs to know of the model."""
    config = trained.config
    names = trained.class_names
    return {
        "made_by": f"official-maskrcnn {official_maskrcnn.__version__}",
        "tensorflow": tf.__version__,
        "model": path,
        "checkpoint": os.path.basename(trained.checkpoint),
        "precision": trained.precision,
        "categories": [{"id": number, "name": name} for number, name in names.items()],
        "metrics": _metrics(path, trained),
        "preprocessing": {
            "input_size": config.input_size[:2],
            "fit": "scaled by min(height / h, width / w), sides rounded to whole pixels, bilinear "
            "with half-pixel centres and no antialiasing, at the top left",
            "mean": [255 * value for value in parser.MEAN],
            "stddev": [255 * value for value in parser.STDDEV],
            "padding": "0 after normalisation",
        },
        "class_agnostic_masks": config.include_mask and config.mask_head.class_agnostic,
        "paste_masks": paste_masks,
        "files": {},
    }


def _metrics(path: str, trained: TrainedModel) -> dict[str, float | None]:
    """Those of the checkpoint's evaluation, as far as the training kept them."""
    folder = os.path.dirname(trained.checkpoint)
    best = os.path.join(folder, "metrics.json")
    if tf.io.gfile.exists(best):
        return read_json(best)["metrics"]
    if os.path.normpath(folder) != os.path.normpath(path):
        return {}
    evaluations = read_metrics(path, "eval", trained.experiment.trainer.validation_summary_subdir)
    return evaluations.get(checkpoint_files.step_of(trained.checkpoint), {})
