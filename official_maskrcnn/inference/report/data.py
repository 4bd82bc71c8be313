"""The images and annotations that a report is about."""

import dataclasses
import os

import tensorflow as tf

from official_maskrcnn.configs.experiment import ExperimentConfig
from official_maskrcnn.data.ids import image_number
from official_maskrcnn.errors import UserError
from official_maskrcnn.evaluation.ground_truth import GroundTruth, load_ground_truth
from official_maskrcnn.files import read_json
from official_maskrcnn.inference.image_list import ImageFile, find_images
from official_maskrcnn.tasks.model_dir import RECORD

_GIVE = "give --data and --image_dir"


@dataclasses.dataclass(frozen=True)
class ReportData:
    """What detections are compared with.

    Attributes:
      annotation_file: COCO file.
      ground_truth: of the images that count.
      images: these, in ascending order of their ids; some may not be there.
      left_out: ids of the images of the file that do not count.
    """

    annotation_file: str
    ground_truth: GroundTruth
    images: list[ImageFile]
    left_out: frozenset[int]


def load_data(annotation_file: str, image_dir: str | None, limit: int | None) -> ReportData:
    """Reads annotations and finds their images.

    Args:
      annotation_file: COCO file.
      image_dir: folder of the images; by default that of the file.
      limit: only so many images, those of the lowest ids.

    Raises:
      UserError: the file is no COCO file, or none of its images is there.
    """
    files = {image_number(image.id): image for image in find_images(annotation_file, image_dir)}
    whole = load_ground_truth(annotation_file, image_dir or os.path.dirname(annotation_file))
    chosen = {i: size for i, size in list(whole.image_sizes.items())[:limit] if i in files}
    annotations = [a for a in whole.annotations if a["image_id"] in chosen]
    ground_truth = GroundTruth(chosen, whole.categories, annotations)
    left_out = frozenset(whole.image_sizes.keys() - chosen)
    return ReportData(annotation_file, ground_truth, [files[i] for i in chosen], left_out)


def validation_data(model_dir: str, experiment: ExperimentConfig) -> tuple[str, str]:
    """The annotation file and the folder of images that a training was validated on.

    Paths that were relative to the folder that the training ran in are found from elsewhere too.

    Raises:
      UserError: they are not to be found, or it was validated on records.
    """
    task = experiment.task
    data = task.validation_data
    if not data.image_dir:
        raise UserError(
            f"{model_dir} was validated on records ({data.input_path or 'none'}), and a report "
            f"needs image files: {_GIVE}"
        )
    folder = _working_directory(model_dir)
    found = []
    for path in (task.annotation_file or data.annotation_file, data.image_dir):
        places = [path, os.path.join(folder, path)]
        place = next((place for place in places if tf.io.gfile.exists(place)), None)
        if place is None:
            raise UserError(f"{path}, on which {model_dir} was validated, is not there: {_GIVE}")
        found.append(os.path.normpath(place) if "://" not in place else place)
    return found[0], found[1]


def _working_directory(model_dir: str) -> str:
    record = os.path.join(model_dir, RECORD)
    return read_json(record).get("working_directory", "") if tf.io.gfile.exists(record) else ""
