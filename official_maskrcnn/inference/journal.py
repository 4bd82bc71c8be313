"""What is predicted so far, an image a line: a stopped run goes on behind its last whole line."""

import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from official_maskrcnn.errors import UserError
from official_maskrcnn.inference.detections import Detections
from official_maskrcnn.inference.image_list import ImageFile

RESULTS = SUBMISSION, IMAGES = "submission.json", "images.json"  # written beside it in the end
_NAME = "predictions.jsonl"


class Prediction(NamedTuple):
    """What is known of an image.

    Attributes:
      image: with the id that it has in the list of now.
      height: pixels.
      width: pixels.
      results: entries of COCO's results format, with that id.
    """

    image: ImageFile
    height: int
    width: int
    results: list[dict[str, Any]]


class Journal:
    """A file in a folder: a header with the options, then a line for each image.

    An image is known by its path, as its id is but its place in a list, which may change; where
    annotations or given boxes go by the id, by both.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        """Finds the lines that are whole; there need not be a file.

        Raises:
          UserError: it is no such file.
        """
        self._path = pathlib.Path(folder, _NAME)
        self._header: dict[str, Any] = {}
        self._places: dict[tuple[Any, ...], int] = {}  # in the file, of the line of an image
        self._end = 0  # of the last whole line
        try:
            for line in self._whole_lines():
                entry = json.loads(line)
                if self._end:
                    self._places[tuple(entry["key"])] = self._end
                else:
                    self._header = entry
                self._end += len(line)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self._path} cannot be gone on with: give another --output, or delete it"
            ) from error

    def __contains__(self, image: ImageFile) -> bool:
        return self._key(image) in self._places

    def start(self, header: Mapping[str, Any]) -> None:
        """Makes the file ready for more lines.

        Args:
          header: what must be as it was; by the names of options, and "boxes": None, or what the
            given boxes are known by.

        Raises:
          UserError: the file has another header, or there is none beside results.
        """
        if self._end:
            differing = [name for name in header if self._header.get(name) != header[name]]
            if differing:
                raise UserError(
                    f"{self._path.parent} holds predictions that differ in "
                    f"{' and '.join(differing)}: give another --output, or delete it"
                )
            os.truncate(self._path, self._end)
        else:
            if own := [path for path in map(self._path.with_name, RESULTS) if path.exists()]:
                raise UserError(
                    f"{own[0]} is there, and not of a prediction: give another --output"
                )
            self._path.unlink(missing_ok=True)
            self._header = dict(header)
            self._append(self._header)

    def add(self, image: ImageFile, found: Detections) -> None:
        """Writes the line of an image."""
        self._places[self._key(image)] = self._end
        self._append(
            {
                "key": self._key(image),
                "size": found.image_size,
                "results": found.to_coco(image.id),
            }
        )

    def predictions(self, images: Iterable[ImageFile]) -> Iterator[Prediction]:
        """Those of the images that have a line, in the order of the images."""
        with self._path.open("rb") as file:
            for image in images:
                place = self._places.get(self._key(image))
                if place is None:
                    continue
                file.seek(place)
                entry = json.loads(file.readline())
                height, width = entry["size"]
                results = [result | {"image_id": image.id} for result in entry["results"]]
                yield Prediction(image, height, width, results)

    def _key(self, image: ImageFile) -> tuple[Any, ...]:
        goes_by_id = image.is_annotated or self._header.get("boxes") is not None
        return image.path, image.is_annotated, image.id if goes_by_id else None

    def _append(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry).encode() + b"\n"
        with self._path.open("ab") as file:
            file.write(line)
        self._end += len(line)

    def _whole_lines(self) -> Iterator[bytes]:
        if self._path.exists():
            with self._path.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):  # killed while it was written
                        return
                    yield line
