"""JSON files: local ones, or those at a URL (gs://...) by way of TensorFlow's file systems."""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from official_maskrcnn.errors import UserError


def read_json(path: str | os.PathLike[str]) -> Any:
    """Content of a JSON file.

    Raises:
      UserError: it cannot be read, or is not JSON.
    """
    path = os.fspath(path)
    try:
        with _open(path, "r") as file:
            return json.loads(file.read())
    except ValueError as error:
        raise UserError(f"{path}: not a JSON file ({error})") from error
    except Exception as error:  # remote file systems have errors of their own
        raise UserError(f"{path}: cannot be read ({error})") from error


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Writes a JSON file; it appears when it is complete."""
    with _written(path) as file:
        json.dump(content, file)


def write_json_list(path: str | os.PathLike[str], entries: Iterable[Mapping[str, Any]]) -> None:
    """Writes entries one a line as they come; the file appears when it is complete."""
    with _written(path) as file:
        separator = "["
        for entry in entries:
            file.write(f"{separator}\n{json.dumps(entry)}")
            separator = ","
        file.write("[]\n" if separator == "[" else "\n]\n")


@contextlib.contextmanager
def _written(path: str | os.PathLike[str]) -> Iterator[Any]:
    path = os.fspath(path)
    unfinished = f"{path}.unfinished"
    with _open(unfinished, "w") as file:
        yield file
    if "://" in path:
        import tensorflow as tf

        tf.io.gfile.rename(unfinished, path, overwrite=True)
    else:
        os.replace(unfinished, path)


def _open(path: str, mode: str) -> Any:
    if "://" in path:
        import tensorflow as tf  # takes seconds: only where it is needed

        return tf.io.gfile.GFile(path, mode)
    return open(path, mode, encoding="utf-8")
