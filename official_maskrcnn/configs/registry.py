"""Named choices for the slots that users swap: experiments, mask heads, converters."""

import difflib
import fnmatch
import inspect
from collections.abc import Callable
from typing import Generic, TypeVar

from official_maskrcnn.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps names to the entries of one kind.

    Adding an entry is one decorated definition; the names can be listed by glob; an unknown name is
    a `UserError` that shows the nearest ones.

        MASK_HEADS = Registry("mask head")

        @MASK_HEADS.register("default")
        class ConvMaskHead: ...

        MASK_HEADS.get("default")
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that enters its target under `name`; a name can be taken only once."""

        def enter(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is already registered")
            self._entries[name] = entry
            return entry

        return enter

    def get(self, name: str) -> T:
        """The entry of that name; `UserError` with the nearest names if there is none."""
        try:
            return self._entries[name]
        except KeyError:
            raise UserError(self.unknown(name)) from None

    def unknown(self, name: str) -> str:
        """Message for a name that is no entry, with the nearest that are."""
        near = difflib.get_close_matches(name, self._entries, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        return f"unknown {self.kind} {name!r}{hint} (known: {', '.join(self.names())})"

    def summary(self, name: str) -> str:
        """What an entry is: the first line of its docstring."""
        return (inspect.getdoc(self.get(name)) or "").partition("\n")[0]

    def names(self, glob: str = "*") -> list[str]:
        """Sorted names that match a shell pattern."""
        return sorted(fnmatch.filter(self._entries, glob))
