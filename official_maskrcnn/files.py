"""Text files: local ones, or those at a URL (gs://...) by way of TensorFlow's file systems.

What is written makes its folders and appears when it is complete; a `UserError` says why it
cannot be written.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from official_maskrcnn.errors import UserError


def read_text(path: str | os.PathLike[str]) -> str:
    """Content of a text file.

    Raises:
      UserError: it cannot be read, or is not in UTF-8.
    """
    path = os.fspath(path)
    try:
        with _open(path, "r") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8 ({error})") from error
    except Exception as error:  # remote file systems have errors of their own
        raise UserError(f"{path}: cannot be read ({error})") from error


def read_json(path: str | os.PathLike[str]) -> Any:
    """Content of a JSON file.

    Raises:
      UserError: it cannot be read, or is not JSON.
    """
    text = read_text(path).removeprefix("\ufeff")  # the mark that some programs begin UTF-8 with
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{os.fspath(path)}: not a JSON file ({error})") from error


def require_local(path: str | os.PathLike[str]) -> None:
    """Refuses a URL, for what is written by more than one file at a time.

    Raises:
      UserError: it is one.
    """
    if "://" in os.fspath(path):
        raise UserError(f"{path}: this is written locally alone; copy it there afterwards")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file."""
    with _written(path) as file:
        file.write(text)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Writes a JSON file."""
    with _written(path) as file:
        json.dump(content, file)


def write_json_list(path: str | os.PathLike[str], entries: Iterable[Mapping[str, Any]]) -> None:
    """Writes entries one a line as they come."""
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
    try:
        if "://" not in path:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with _open(unfinished, "w") as file:
            yield file
        if "://" in path:
            import tensorflow as tf

            tf.io.gfile.rename(unfinished, path, overwrite=True)
        else:
            os.replace(unfinished, path)
    except _faults(path) as error:
        raise UserError(f"cannot write {path}: {error}") from error


def _faults(path: str) -> tuple[type[Exception], ...]:
    """What the file system of a path raises."""
    if "://" in path:
        import tensorflow as tf

        return OSError, tf.errors.OpError
    return (OSError,)


def _open(path: str, mode: str) -> Any:
    if "://" in path:
        import tensorflow as tf  # takes seconds: only where it is needed

        return tf.io.gfile.GFile(path, mode)
    return open(path, mode, encoding="utf-8")
