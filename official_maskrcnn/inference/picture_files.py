"""Where the pictures of an image are written: always below the output folder."""

import os
import pathlib

_OVERLAYS, _MASKS = "overlays", "masks"


def overlay_path(folder: pathlib.Path, name: str) -> pathlib.Path:
    """A JPEG: of "a/b.jpg" overlays/a/b.jpg, of "../b.png" overlays/_up/b.png.jpg."""
    path = folder / _OVERLAYS / _below(name)
    return path if _is_jpg(path) else path.with_name(f"{path.name}.jpg")


def mask_folder(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Of "a/b.jpg" masks/a/b, of "a/b.png" masks/a/b.png."""
    path = folder / _MASKS / _below(name)
    return path.with_suffix("") if _is_jpg(path) else path


def is_written(path: str, folder: str | os.PathLike[str]) -> bool:
    """Whether a file lies where the pictures of a prediction into a folder are written."""
    below = pathlib.Path(os.path.abspath(folder))
    return any(
        pathlib.Path(os.path.abspath(path)).is_relative_to(below / name)
        for name in (_OVERLAYS, _MASKS)
    )


def _below(name: str) -> pathlib.PurePath:
    """A name as a path that leads to no other folder than below the one it is joined to."""
    path = pathlib.PurePath(name)
    parts = ["_up" if part == os.pardir else part for part in path.parts]
    return pathlib.PurePath(*parts[bool(path.anchor) :])


def _is_jpg(path: pathlib.PurePath) -> bool:
    return path.suffix == ".jpg"
