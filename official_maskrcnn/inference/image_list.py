"""Which images a prediction is asked for: a folder, a pattern, a list, or an annotation file."""

import glob
import os
import pathlib
import re
from typing import NamedTuple

from official_maskrcnn.data.coco import load_coco
from official_maskrcnn.data.ids import IdKey, id_key
from official_maskrcnn.errors import UserError
from official_maskrcnn.inference.picture_files import is_written

_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".jp2"),
)


class ImageFile(NamedTuple):
    """An image to look at.

    Attributes:
      id: of the annotation file; else the number that the file is named by, if all are, or its
        place in the list, from 1.
      name: path relative to the folder, the pattern's folder or the annotation file's images.
      path: where it lies.
      is_annotated: whether it is from an annotation file; the coordinates then are those of the
        stored pixels, whatever an EXIF orientation says.
    """

    id: int | str
    name: str
    path: str
    is_annotated: bool

    @property
    def key(self) -> IdKey:
        """What ids are compared by."""
        return id_key(self.id)


def find_images(
    source: str, image_dir: str | None = None, output: str | None = None
) -> list[ImageFile]:
    """Images that a text names.

    Args:
      source: a folder (with those below it), an image, a pattern with *, ? or [], a text file with
        a path on each line, or a COCO annotation file.
      image_dir: folder of a COCO file's images; by default the one that the file lies in.
      output: folder that is predicted into; its pictures are none of a folder or pattern.

    Raises:
      UserError: there are none.
    """
    if source.endswith(".json"):
        folder = image_dir or os.path.dirname(source)
        entries = [image.entry for image in load_coco(source).images]
        found = [
            ImageFile(
                entry["id"], entry["file_name"], os.path.join(folder, entry["file_name"]), True
            )
            for entry in entries
        ]
        if found and not any(os.path.exists(image.path) for image in found):
            raise UserError(
                f"none of the images of {source} is in {folder or '.'}: give --image_dir"
            )
    else:
        folder, paths = _find_files(source)
        if output is not None and not source.endswith(".txt"):
            paths = [path for path in paths if not is_written(path, output)]
        found = _number(folder, paths)
    if not found:
        raise UserError(f"no images in {source}")
    return found


def _find_files(source: str) -> tuple[str, list[str]]:
    """A folder, and the files in order."""
    if os.path.isdir(source):
        files = pathlib.Path(source).rglob("*")
        return source, sorted(str(f) for f in files if f.suffix.lower() in _SUFFIXES)
    if source.endswith(".txt"):
        try:
            lines = pathlib.Path(source).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{source} cannot be read: {error}") from error
        return "", [line.strip() for line in lines if line.strip()]
    if os.path.exists(source):
        return os.path.dirname(source), [source]
    pattern_folder = os.path.dirname(re.split(r"[*?[]", source)[0])
    paths = [path for path in glob.glob(source, recursive=True) if os.path.isfile(path)]
    if not paths:
        raise UserError(f"{source}: no such file or folder, and no file fits it as a pattern")
    return pattern_folder, sorted(paths)


def _number(folder: str, paths: list[str]) -> list[ImageFile]:
    names = [os.path.relpath(path, folder) if folder else path.lstrip("/") for path in paths]
    numbers = [pathlib.PurePath(name).stem for name in names]
    by_name = all(text.isdecimal() for text in numbers) and len({*map(int, numbers)}) == len(paths)
    return [
        ImageFile(int(number) if by_name else place, name, path, False)
        for place, (number, name, path) in enumerate(zip(numbers, names, paths, strict=True), 1)
    ]
