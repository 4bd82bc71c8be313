"""One object that a trained model is used by."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from official_maskrcnn.configs.model import DeepMaskHeadRCNN
from official_maskrcnn.errors import UserError
from official_maskrcnn.inference import images as image_files
from official_maskrcnn.inference.detections import Detections, from_outputs
from official_maskrcnn.inference.exported_model import is_export, load_exported
from official_maskrcnn.inference.trained_model import load_trained_model

_MAX_BOXES_AT_A_TIME = 128  # through the mask head


class PreparedImage(NamedTuple):
    """An image as the network takes it: of one size, however large the photograph is.

    Attributes:
      pixels: [height, width, 3] of the network input.
      info: float32 [4, 2], image_info.
      size: height and width of the image in pixels.
    """

    pixels: tf.Tensor
    info: tf.Tensor
    size: tuple[int, int]


class Predictor:
    """Finds objects in images, and the masks of given boxes.

        predictor = official_maskrcnn.Predictor("runs/mine")
        detections = predictor("photograph.jpg").above(0.5)
        picture = detections.draw(predictor.read("photograph.jpg"))

    One graph serves images of all sizes; memory does not grow with the number of calls. Calls from
    several threads are safe.

    Attributes:
      config: of the model.
      class_names: by category id; empty if the model does not know them.
      path: of the model.
      checkpoint: whose weights it has.
      precision: in which its layers compute.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        checkpoint: str = "best",
        precision: str | None = None,
        min_score: float = 0.0,
    ):
        """Loads a model.

        Args:
          path: the model_dir of a training, or the folder of an export.
          checkpoint: best (the latest one if none was kept as the best), latest, a step, or a path.
          precision: of the layers: float32, bfloat16 or auto; None for that of the training. Of an
            export, checkpoint and precision are fixed.
          min_score: detections of a lower score are not looked for, which saves time; at least the
            model's own detection_generator.pre_nms_score_threshold.

        Raises:
          UserError: there is no model at `path`.
        """
        self.path = os.fspath(path)
        model = (
            load_exported(self.path, checkpoint, precision)
            if is_export(self.path)
            else load_trained_model(self.path, checkpoint, precision, min_score)
        )
        self.config: DeepMaskHeadRCNN = model.config
        self.class_names, self.checkpoint = model.class_names, model.checkpoint
        self.precision = model.precision
        self._graphs, self._min_score = model.graphs, min_score

    @staticmethod
    def read(source: Any) -> np.ndarray:
        """The pixels that a call with the same source sees: uint8 [h, w, 3], RGB.

        Args:
          source: a path, the content of an image file, a Pillow image, or an array of pixels. What
            comes from a file is turned upright by its EXIF orientation.

        Raises:
          ImageFault: of a file, see `inference.images`.
          ValueError: pixels of another shape or type.
        """
        if isinstance(source, bytes | bytearray | memoryview):
            return image_files.decode(bytes(source))
        if isinstance(source, str | os.PathLike):
            return image_files.decode(image_files.read_file(source))
        return image_files.as_rgb(source)

    def prepare(self, image: Any) -> PreparedImage:
        """What `predict` and `segment` do with an image first; they take the result in its place.

        Args:
          image: as in `read`.
        """
        if isinstance(image, PreparedImage):
            return image
        pixels = self.read(image)
        network_input, info = self._graphs.prepare(pixels)
        return PreparedImage(network_input, info, pixels.shape[:2])

    def __call__(self, image: Any) -> Detections:
        """The objects in one image; `image` as in `read`."""
        return self.predict([image])[0]

    def predict(self, images: Sequence[Any]) -> list[Detections]:
        """The objects in several images, which may differ in size, in one batch.

        Args:
          images: as in `read`.
        """
        if not images:
            return []
        inputs, info, sizes = self._stack([self.prepare(image) for image in images])
        outputs = {name: value.numpy() for name, value in self._graphs.detect(inputs, info).items()}
        found = from_outputs(outputs, sizes, self.class_names)
        return [detections.above(self._min_score) for detections in found]  # an export has all

    def segment(
        self, image: Any, boxes: Any, classes: Sequence[int | str] | None = None
    ) -> Detections:
        """The masks of given boxes of an image, each in its place, with score 1.

        Args:
          image: as in `read`.
          boxes: [n, 4] (ymin, xmin, ymax, xmax) in pixels of the image; they may reach over its
            edges.
          classes: n ids or names. A class-agnostic mask head needs none, and they are 0 then.

        Raises:
          UserError: the model has no masks; its mask head needs classes, or does not know them; or
            the boxes are not boxes in the image.
        """
        prepared = self.prepare(image)
        boxes = self._check_boxes(boxes, prepared.size)
        class_ids = self._class_ids(classes, len(boxes))
        inputs, info, _ = self._stack([prepared])
        side = self.config.mask_roi_aligner.crop_size * self.config.mask_head.upsample_factor
        crops, outer = [np.zeros([0, side, side], np.float32)], [np.zeros([0, 4], np.float32)]
        for start in range(0, len(boxes), _MAX_BOXES_AT_A_TIME):
            part = slice(start, start + _MAX_BOXES_AT_A_TIME)
            indices = np.zeros(len(boxes[part]), np.int32)
            masks, mask_boxes = self._graphs.segment(
                inputs, info, boxes[part], indices, class_ids[part].astype(np.int32)
            )
            crops.append(masks.numpy())
            outer.append(mask_boxes.numpy())
        return Detections(
            boxes,
            class_ids,
            np.ones(len(boxes), np.float32),
            self.class_names,
            prepared.size,
            np.concatenate(crops),
            np.concatenate(outer),
        )

    def class_id(self, name: int | str) -> int:
        """The id of a class, given its id or its name.

        Raises:
          UserError: the model has no such class.
        """
        if isinstance(name, int | np.integer):
            known = 0 < name < self.config.num_classes
            found = [int(name)] if known else []
        else:
            found = [number for number, text in self.class_names.items() if text == name]
        if not found:
            known_names = ", ".join(self.class_names.values()) or "names are not known; give ids"
            raise UserError(f"the model has no class {name!r} (it has: {known_names})")
        return found[0]

    def _stack(
        self, images: Sequence[PreparedImage]
    ) -> tuple[tf.Tensor, tf.Tensor, list[tuple[int, int]]]:
        pixels, info, sizes = zip(*images, strict=True)
        return tf.stack(pixels), tf.stack(info), list(sizes)

    def _check_boxes(self, boxes: Any, size: tuple[int, int]) -> np.ndarray:
        if not self.config.include_mask:
            raise UserError("the model has no masks (task.model.include_mask is false)")
        boxes = np.asarray(boxes, np.float32).reshape([-1, 4])
        bad = np.flatnonzero(~have_area(boxes, size))
        if len(bad):
            raise UserError(
                f"box {bad[0]} is {boxes[bad[0]].tolist()}, which is no (ymin, xmin, ymax, xmax) "
                f"within an image of {size[0]} x {size[1]} pixels"
            )
        return boxes

    def _class_ids(self, classes: Sequence[int | str] | None, count: int) -> np.ndarray:
        if classes is None:
            if not self.config.mask_head.class_agnostic and count:
                raise UserError(
                    "the mask head has a mask for each class (class_agnostic is false): say the "
                    "class of each box"
                )
            return np.zeros(count, np.int64)
        if len(classes) != count:
            raise UserError(f"{count} boxes, but {len(classes)} classes")
        return np.array([self.class_id(name) for name in classes], np.int64)


def have_area(boxes: np.ndarray, image_size: tuple[int, ...]) -> np.ndarray:
    """Bool [n]: which of the boxes [n, 4] (ymin, xmin, ymax, xmax) have one within their image."""
    y1, x1, y2, x2 = np.clip(boxes, 0, [*image_size, *image_size]).T
    return (y2 > y1) & (x2 > x1)  # not where there is a NaN
