"""A lock on a folder, which the system frees when its process dies."""

import contextlib
import fcntl
import os
import platform
from collections.abc import Iterator

from official_maskrcnn.errors import UserError

_NAME = ".lock"


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
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "a process of another machine"
            raise UserError(refusal.format(owner=owner)) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield
