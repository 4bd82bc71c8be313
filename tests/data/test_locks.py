"""The lock on a folder where there is none; that it keeps others out is tested where it is used."""

import errno
import fcntl
import logging
import os

import pytest

from official_maskrcnn.data import tfrecord
from official_maskrcnn.data.locks import only_process


def _refuse(monkeypatch, number: int) -> None:
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_gets_a_warning(tmp_path, monkeypatch, caplog, number):
    _refuse(monkeypatch, number)
    with caplog.at_level(logging.WARNING), only_process(tmp_path, ""):
        (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"{tmp_path} is on a file system without locks (")
    assert os.strerror(number) in message
    with tfrecord.ShardWriter(str(tmp_path / "records"), 1) as writer:
        writer.write(0, b"x")
    assert len(list(tmp_path.glob("*.tfrecord"))) == 1


def test_other_errors_are_not_taken_for_it(tmp_path, monkeypatch):
    _refuse(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"), only_process(tmp_path, ""):
        pass
