"""TFRecord files, without TensorFlow: a process that writes them starts in a second."""

import contextlib
import os
import pathlib
import re
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import IO

import google_crc32c
import numpy as np

from official_maskrcnn.data.locks import lock
from official_maskrcnn.errors import UserError

HEADER_SIZE = 12  # length of the data and its checksum
_CHECKSUM_SIZE = 4

Feature = np.ndarray | bytes | Sequence[bytes]


class UnwritableOutput(UserError):
    """A disk that is full, or a folder that cannot be written to."""


@contextlib.contextmanager
def writing(folder: pathlib.Path) -> Iterator[None]:
    """What goes wrong with files in a folder, as what it is to the user.

    Raises:
      UnwritableOutput: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise UnwritableOutput(f"cannot write to {folder}: {error.strerror}") from error


def encode_example(features: Mapping[str, Feature]) -> bytes:
    """Serialized tf.train.Example.

    The wire format of protocol buffers (https://protobuf.dev/programming-guides/encoding) for
    tensorflow/core/example/{example,feature}.proto; the keys are sorted, so that equal features
    give equal bytes.

    Args:
      features: by key; an integer array gives an int64_list, a floating array a float_list, bytes
        or a sequence of them a bytes_list.
    """
    entries = (
        _field(1, _field(1, key.encode()) + _field(2, _encode_feature(features[key])))
        for key in sorted(features)
    )
    return _field(1, b"".join(entries))


def _encode_feature(values: Feature) -> bytes:
    if not isinstance(values, np.ndarray):
        values = [values] if isinstance(values, bytes) else values
        return _field(1, b"".join(_field(1, value) for value in values))
    if np.issubdtype(values.dtype, np.floating):
        return _field(2, _field(1, values.astype("<f4").tobytes()))
    return _field(3, _field(1, b"".join(map(_varint, values.tolist()))))


def _field(number: int, payload: bytes) -> bytes:
    """A field of the type that has a length: texts, messages and packed numbers."""
    return bytes([number << 3 | 2]) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative numbers as two's complement
    groups = bytearray()
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def frame(record: bytes) -> bytes:
    """A record as it stands in a TFRecord file: length, data, and a checksum of each.

    The format is https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details.
    """
    length = struct.pack("<Q", len(record))
    return b"".join([length, _masked_crc(length), record, _masked_crc(record)])


def record_size(header: bytes) -> int | None:
    """Bytes of a record, its frame included, by its first HEADER_SIZE; None if they are damaged."""
    if len(header) < HEADER_SIZE or _masked_crc(header[:8]) != header[8:]:
        return None
    return HEADER_SIZE + struct.unpack("<Q", header[:8])[0] + _CHECKSUM_SIZE


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


class ShardWriter:
    """Writes records to PREFIX-00000-of-00008.tfrecord and so on; use it as a context manager.

    The files are written into a hidden folder beside them and get their names when all are whole;
    shards of an earlier run are replaced only then. After an error or interruption there are the
    old ones or none.
    """

    def __init__(self, prefix: str, num_shards: int):
        """Names the files.

        Raises:
          UserError: the prefix is not local, or names no file; or there is to be no shard.
        """
        if "://" in prefix:
            raise UserError(f"{prefix}: records are written locally; copy them there afterwards")
        if not pathlib.Path(prefix).name or prefix.endswith("/"):
            raise UserError(f"{prefix!r} is no prefix of file names, such as records/train")
        if not 1 <= num_shards < 100_000:
            raise UserError(f"the number of shards ({num_shards}) must be from 1 to 99999")
        self._prefix = pathlib.Path(prefix)
        self._staging = self._prefix.with_name(f".{self._prefix.name}.incomplete")
        self.names = [
            f"{self._prefix.name}-{i:05d}-of-{num_shards:05d}.tfrecord" for i in range(num_shards)
        ]
        self._open = contextlib.ExitStack()
        self._current: tuple[int, IO[bytes]] | None = None

    def __enter__(self) -> "ShardWriter":
        """Makes room for the files.

        Raises:
          UserError: another process writes them, or they cannot be written.
        """
        with writing(self._prefix.parent):
            self._staging.mkdir(parents=True, exist_ok=True)
            self._lock()
            for leftover in self._staging.iterdir():
                leftover.unlink()
            for name in self.names:
                (self._staging / name).touch()
        return self

    def _lock(self) -> None:
        """Keeps other processes out; after a process was killed its folder is free again."""
        self._folder = os.open(self._staging, os.O_RDONLY)
        try:
            lock(self._folder, self._staging, wait=False)
        except BlockingIOError:
            os.close(self._folder)
            raise UserError(f"another process is writing {self._prefix} at this moment") from None

    def write(self, shard: int, record: bytes) -> None:
        """Appends a record; it is fastest when one shard comes after the other.

        Raises:
          UnwritableOutput: the disk is full.
        """
        with writing(self._prefix.parent):
            if self._current is None or self._current[0] != shard:
                self._open.close()
                path = self._staging / self.names[shard]
                self._current = shard, self._open.enter_context(path.open("ab"))
            self._current[1].write(frame(record))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            with writing(self._prefix.parent):
                self._open.close()
                if kind is None:
                    self._publish()
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)
            os.close(self._folder)

    def _publish(self) -> None:
        shard_name = re.compile(re.escape(self._prefix.name) + r"-\d{5}-of-\d{5}\.tfrecord")
        for path in self._prefix.parent.iterdir():
            if shard_name.fullmatch(path.name):
                path.unlink()
        for name in self.names:
            (self._staging / name).replace(self._prefix.with_name(name))
