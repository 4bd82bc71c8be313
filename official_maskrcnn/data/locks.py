"""A lock on a folder, which the system frees when its process dies."""

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

    On a file system without locks it only warns.

    Args:
      folder: gets a lock file.
      refusal: what the others are told; {owner} stands for this process.

    Raises:
      UserError: another process has the lock.
    """
    with open(os.path.join(folder, _NAME), "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "a process of another machine"
            raise UserError(refusal.format(owner=owner)) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            logging.warning(
                "%s is on a file system without locks (%s): see to it yourself that no other "
                "process works in it",
                *(folder, error.strerror),
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield
