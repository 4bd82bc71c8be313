"""The slot for converters, and the contract of what goes into it."""

from typing import Protocol

from official_maskrcnn.configs.registry import Registry
from official_maskrcnn.data.faults import FaultReport


class Converter(Protocol):
    """Writes PREFIX-00000-of-0000N.tfrecord, then PREFIX.json with what is in them.

    What is wrong with an image or annotation ends up in the report; a `UserError` says that the
    input as a whole cannot be read, or the output cannot be written. No file has its final name
    unless it is whole.
    """

    def __call__(
        self,
        images: str,
        annotations: str,
        output: str,
        shards: int,
        workers: int | None = None,
        progress: bool = True,
    ) -> FaultReport:
        """Converts a data set.

        Args:
          images: folder of the images.
          annotations: file or folder of the annotations.
          output: prefix of the files to write.
          shards: number of record files.
          workers: processes; by default one for each core.
          progress: whether to show how far it is.
        """


CONVERTERS: Registry[Converter] = Registry("converter")
