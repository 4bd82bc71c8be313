"""A predictor that many use at once."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from official_maskrcnn.errors import UserError
from official_maskrcnn.inference.detections import Detections
from official_maskrcnn.inference.predictor import Predictor, PreparedImage
from official_maskrcnn.inference.serving.admission import Workplace
from official_maskrcnn.inference.serving.faults import RequestFault
from official_maskrcnn.inference.serving.metrics import Metrics
from official_maskrcnn.inference.serving.options import MaskForm, ServiceOptions
from official_maskrcnn.inference.serving.reading import choose_mask_form, read_image


class _Task(NamedTuple):
    """What the model is to do with an image.

    Attributes:
      image: ready for the network.
      boxes: [n, 4] as fractions of the image, whose masks are wanted; None to find objects.
      classes: of the boxes.
    """

    image: PreparedImage
    boxes: np.ndarray | None = None
    classes: Sequence[int | str] | None = None


class Service(Workplace[_Task, Detections]):
    """Finds objects in images, and the masks of given boxes; used from one event loop.

    A request holds room for one image already (`admit`) when it asks for something.

    Attributes:
      predictor: the model.
    """

    def __init__(self, predictor: Predictor, options: ServiceOptions, metrics: Metrics):
        """Starts with `start`."""
        super().__init__(self._find, options, metrics)
        self.predictor = predictor

    def warm_up(self) -> None:
        """Makes the graphs, which takes longer than many requests."""
        image = self._prepare(np.zeros([64, 64, 3], np.uint8))
        for count in {1, self.options.max_batch}:
            self.predictor.predict([image] * count)
        config = self.predictor.config
        if config.include_mask and config.mask_head.class_agnostic:
            self.predictor.segment(image, [[0, 0, 64, 64]])

    def mask_form(self, wanted: MaskForm | None) -> MaskForm:
        """The form that masks are given in.

        Raises:
          RequestFault: masks are wanted of a model that has none.
        """
        has_masks = self.predictor.config.include_mask
        return choose_mask_form(wanted, has_masks, self.options.mask_form)

    async def detect(self, sources: Sequence[bytes | np.ndarray]) -> list[Detections]:
        """The objects in images.

        Args:
          sources: content of image files, or pixels uint8 [h, w, 3].

        Raises:
          RequestFault: an image cannot be used, or there is no room for all of them now.
        """
        with self.admit(len(sources) - 1):
            work = [asyncio.create_task(self._detect(source)) for source in sources]
            try:
                found = await asyncio.gather(*work)
            finally:
                for task in work:
                    task.cancel()
        self.metrics.detections.inc(sum(map(len, found)))
        return found

    async def _detect(self, source: bytes | np.ndarray) -> Detections:
        return await self.submit(_Task(await self.in_pool(self._prepare, source)))

    async def segment(
        self, encoded: bytes, boxes: np.ndarray, classes: Sequence[int | str] | None
    ) -> Detections:
        """The masks of given boxes.

        Args:
          encoded: content of an image file.
          boxes: [n, 4] (ymin, xmin, ymax, xmax) as fractions of the image.
          classes: n ids or names; None where the model needs none.

        Raises:
          RequestFault: the image or a box cannot be used, or the model cannot do it.
        """
        image = await self.in_pool(self._prepare, encoded)
        try:
            return await self.submit(_Task(image, boxes, classes))
        except UserError as error:
            raise RequestFault(400, str(error)) from error

    def _prepare(self, source: bytes | np.ndarray) -> PreparedImage:
        return self.predictor.prepare(read_image(source, self.options))

    def _find(self, tasks: Sequence[_Task]) -> list[Detections | Exception]:
        """What the model's thread does with a batch."""
        answers: dict[int, Detections | Exception] = {}
        together = [i for i, task in enumerate(tasks) if task.boxes is None]
        if len(together) > 1:
            with contextlib.suppress(Exception):  # then one by one: the others are to get theirs
                found = self.predictor.predict([tasks[i].image for i in together])
                answers.update(zip(together, found, strict=True))
        for i, task in enumerate(tasks):
            if i not in answers:
                answers[i] = self._find_alone(task)
        return [answers[i] for i in range(len(tasks))]

    def _find_alone(self, task: _Task) -> Detections | Exception:
        try:
            if task.boxes is None:
                return self.predictor.predict([task.image])[0]
            boxes = task.boxes * np.tile(task.image.size, 2)
            return self.predictor.segment(task.image, boxes, task.classes)
        except Exception as error:
            return error
