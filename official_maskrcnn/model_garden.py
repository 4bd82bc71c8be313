"""The one door to tf-models-official.

The packages of tf-models-official import all their contents in `__init__`, which brings in
TensorFlow Text, TensorFlow Datasets and the NLP library: several seconds and hundreds of megabytes
of which nothing is used here. `light_imports` makes those packages lazy.
"""

import contextlib
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from typing import Any

_PACKAGES_WITH_HEAVY_INIT = (
    "official.core",
    "official.nlp",
    "official.nlp.modeling",
    "official.nlp.modeling.layers",
    "official.vision",
    "official.vision.configs",
    "official.vision.modeling",
    "official.vision.modeling.backbones",
    "official.vision.modeling.decoders",
    "official.vision.modeling.heads",
    "official.vision.modeling.layers",
)
# The vision blocks name these as attributes of the NLP package: module and class.
_NLP_LAYERS = (
    ("transformer_encoder_block", "TransformerEncoderBlock"),
    ("transformer_scaffold", "TransformerScaffold"),
)


class _LazyPackage(types.ModuleType):
    """A package that imports its submodules when they are asked for.

    Its `__init__` runs only when a name is asked for that is no submodule, so that code which
    relies on it (`import tensorflow_models`) still works in the same process.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        submodule = f"{self.__name__}.{name}"
        if importlib.util.find_spec(submodule) is not None:
            return importlib.import_module(submodule)
        if "_init_was_run" not in self.__dict__:
            self._init_was_run = True
            assert self.__spec__ is not None and self.__spec__.loader is not None
            self.__spec__.loader.exec_module(self)
            if name in self.__dict__:
                return self.__dict__[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


@contextlib.contextmanager
def light_imports() -> Iterator[None]:
    """Imports modules of tf-models-official without their packages' `__init__`.

    Use it around `from official.... import ...` statements. Packages imported before stay as they
    are; the others stay lazy, for good.
    """
    for name in _PACKAGES_WITH_HEAVY_INIT:
        if name in sys.modules:
            continue
        spec = importlib.util.find_spec(name)
        assert spec is not None
        package = importlib.util.module_from_spec(spec)
        package.__class__ = _LazyPackage
        sys.modules[name] = package
        parent, _, child = name.rpartition(".")
        setattr(sys.modules[parent], child, package)
    layers = sys.modules["official.nlp.modeling.layers"]
    for module, layer in _NLP_LAYERS:
        if layer not in layers.__dict__:
            source = importlib.import_module(f"official.nlp.modeling.layers.{module}")
            setattr(layers, layer, getattr(source, layer))
    yield
