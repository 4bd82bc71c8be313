"""Gin: bindings for the constructors of mask heads and learning rate schedules.

The configuration is the way to set what it has a field for. Gin reaches what it has none for, such
as an argument of a mask head of one's own, and overrides the fields of a schedule. The classes go
by their own names: `LinearWarmup.warmup_steps = 100`.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gin
from absl import logging

from official_maskrcnn.errors import UserError
from official_maskrcnn.model_garden import light_imports
from official_maskrcnn.modeling.heads import MASK_HEADS

with light_imports():
    from official.modeling.optimization import optimizer_factory

_registered: set[type] = set()


def bind(files: Sequence[str], bindings: Sequence[str]) -> None:
    """Reads gin files, then single bindings; both stay in force for the process.

    Raises:
      UserError: a file is missing, or a binding names no class or no argument of it.
    """
    if not files and not bindings:
        return
    _register()
    try:
        gin.parse_config_files_and_bindings(list(files), list(bindings))
    except (ValueError, OSError, SyntaxError, TypeError) as error:
        known = ", ".join(sorted(cls.__name__ for cls in _registered))
        message = str(error).strip().replace("\n", " ")
        raise UserError(f"--gin_file or --gin_params: {message} (classes: {known})") from error
    logging.info("gin sets:\n%s", in_force())


def in_force() -> str:
    """All bindings, as gin writes them; empty if there are none."""
    return gin.config_str().strip()


@contextlib.contextmanager
def exactly(bindings: str) -> Iterator[None]:
    """These bindings, in the words of `in_force`, are in force inside and no others."""
    before = in_force()
    _replace(bindings)
    try:
        yield
    finally:
        _replace(before)


def _replace(bindings: str) -> None:
    if bindings == in_force():
        return
    _register()
    with gin.unlock_config():
        gin.clear_config()
        gin.parse_config(bindings)


def _register() -> None:
    for name in MASK_HEADS.names():
        _make_configurable(MASK_HEADS.get(name))
    for classes in (optimizer_factory.LR_CLS, optimizer_factory.WARMUP_CLS):
        for name, schedule in classes.items():
            if isinstance(schedule, type):
                _make_configurable(schedule)
                classes[name] = _bindings_first(schedule)


def _make_configurable(cls: type) -> None:
    if cls not in _registered:
        gin.configurable(cls.__name__)(cls)
        _registered.add(cls)


def _bindings_first(cls: type) -> Callable[..., Any]:
    # Gin yields to arguments that are given, and a schedule is given all of them.
    def build(*args: Any, **kwargs: Any) -> Any:
        return cls(*args, **{**kwargs, **gin.get_bindings(cls)})

    return build
