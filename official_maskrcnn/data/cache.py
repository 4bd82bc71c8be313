"""Records of a COCO folder, made once and kept until an image or annotation changes."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator

from absl import logging

from official_maskrcnn.data import coco
from official_maskrcnn.data.converters.coco import convert_coco
from official_maskrcnn.data.locks import lock
from official_maskrcnn.data.tfrecord import UnwritableOutput
from official_maskrcnn.errors import UserError

_FORMAT_VERSION = 2  # to be raised when the converter writes other records for the same data
_PREFIX = "records"
_SOURCE = "source.json"  # says which files the records of a folder were made of
_IMAGES_PER_SHARD = 256
_MAX_SHARDS = 256


def ensure_records(image_dir: str, annotation_file: str, cache_dir: str | None = None) -> list[str]:
    """Record files of a COCO data set; converts it unless that was done before.

    They are in a folder that is named by a fingerprint of the annotation file's content, the
    path of the images and the names, sizes and times of those that it lists. Several processes
    may ask at once: one converts, the others wait. Folders of earlier contents stay, as a run may
    read them; the log names them.

    Args:
      image_dir: folder of the images.
      annotation_file: COCO instances JSON.
      cache_dir: where the folders are; by default ~/.cache/official_maskrcnn/records.

    Raises:
      UserError: as `convert_coco` does, or the folder cannot be written.
    """
    if not os.path.isdir(image_dir):
        raise UserError(f"the folder of images {image_dir} does not exist")
    root = pathlib.Path(cache_dir or "~/.cache/official_maskrcnn/records").expanduser()
    file = coco.load_coco(annotation_file)
    names = [image.entry["file_name"] for image in file.images]
    folder = root / _fingerprint(image_dir, annotation_file, names)
    num_shards = min(-(-len(names) // _IMAGES_PER_SHARD), _MAX_SHARDS) or 1
    del file  # the converter reads it again; its index need not be there twice
    try:
        with _locked(root, folder.name):
            files = _whole_files(folder)
            if files:
                logging.info("Records of %s: %s, made before.", annotation_file, folder)
                return files
            return _convert(image_dir, annotation_file, folder, num_shards)
    except OSError as error:
        raise UserError(
            f"cannot write records to {root}: {error.strerror}; set cache_dir to another folder"
        ) from error
    except UnwritableOutput as error:
        raise UserError(f"{error}; set cache_dir to another folder") from error


def _convert(image_dir: str, annotation_file: str, folder: pathlib.Path, shards: int) -> list[str]:
    logging.info("Making records of %s in %s.", annotation_file, folder)
    partial = folder.with_name(f"{folder.name}.incomplete")
    for leftover in (partial, folder):
        if leftover.exists():
            shutil.rmtree(leftover)
    faults = convert_coco(image_dir, annotation_file, str(partial / _PREFIX), shards)
    source = json.dumps([os.path.abspath(image_dir), os.path.abspath(annotation_file)])
    (partial / _SOURCE).write_text(source)
    partial.rename(folder)
    if faults:
        logging.warning("Faults of %s: %s.", annotation_file, faults.summary())
        logging.warning("All of them, with ids: %s", folder / f"{_PREFIX}.json")
    with contextlib.suppress(OSError):  # others may delete them, or own them
        _name_earlier(folder, source)
    return _whole_files(folder)


def _name_earlier(folder: pathlib.Path, source: str) -> None:
    sources = folder.parent.glob(f"*/{_SOURCE}")
    earlier = [path.parent for path in sources if path.read_text() == source]
    earlier.remove(folder)
    if earlier:
        size = sum(file.stat().st_size for other in earlier for file in other.iterdir())
        logging.warning(
            "Records of earlier contents of the same files take %.1f GB; delete those that no run "
            "reads: %s",
            *(size / 1e9, " ".join(map(str, sorted(earlier)))),
        )


def _whole_files(folder: pathlib.Path) -> list[str]:
    """The record files, or none unless all are there with the sizes that they were written with."""
    try:
        shards = json.loads((folder / f"{_PREFIX}.json").read_text())["shards"]
        sizes = {name: (folder / name).stat().st_size for name in shards}
    except (OSError, ValueError, KeyError):
        return []
    return [str(folder / name) for name in sorted(shards)] if sizes == shards else []


def _fingerprint(image_dir: str, annotation_file: str, names: list[str]) -> str:
    digest = hashlib.sha256()
    with open(annotation_file, "rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    root = os.path.abspath(image_dir)
    digest.update(repr((_FORMAT_VERSION, content, root)).encode())
    for name in names:
        try:
            status = os.stat(os.path.join(root, name))
            state = status.st_size, status.st_mtime_ns
        except (OSError, ValueError):
            state = None
        digest.update(repr((name, state)).encode())
    return digest.hexdigest()[:20]


@contextlib.contextmanager
def _locked(root: pathlib.Path, name: str) -> Iterator[None]:
    """Only one process at a time; the lock of one that died is free."""
    root.mkdir(parents=True, exist_ok=True)
    with open(root / f".{name}.lock", "w") as file:
        lock(file.fileno(), root, wait=True)
        yield
