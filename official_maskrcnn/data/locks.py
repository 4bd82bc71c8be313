"""Locks between processes, which the system frees when theirs dies.

On a file system without locks there is only a warning.
"""

import contextlib
import errno
import fcntl
import os
import platform
from collections.abc import Iterator

from absl import logging

from official_maskrcnn.errors import UserError

_NAME = ".lock"
# Of file systems without locks, such as Lustre mounted without -o flock, or some of NFS.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextlib.contextmanager
def only_process(folder: str | os.PathLike[str], refusal: str) -> Iterator[None]:
    """Keeps other processes that ask for the same out of a local folder, which exists.

    Args:
      folder: gets a lock file.
      refusal: what the others are told; {owner} stands for this process.

    Raises:
      UserError: another process has the lock.
    """
    with open(os.path.join(folder, _NAME), "a+", encoding="utf-8") as file:
        try:
            lock(file.fileno(), folder, wait=False)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "a process of another machine"
            raise UserError(refusal.format(owner=owner)) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield


def lock(descriptor: int, folder: str | os.PathLike[str], wait: bool) -> None:
    """Locks an open file or folder until it is closed.

    Args:
      descriptor: of the file.
      folder: that nobody else is to work in, for the warning.
      wait: whether to wait for a process that has the lock.

    Raises:
      BlockingIOError: a process has the lock, and `wait` is false.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logging.warning(
            "%s is on a file system without locks (%s): see to it yourself that no other process "
            "works in it",
            *(folder, error.strerror),
        )
