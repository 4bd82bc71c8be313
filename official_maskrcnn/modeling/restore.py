"""Reading weights out of object-based checkpoints, and saying exactly which ones.

TensorFlow matches checkpoint and model by walking both object graphs along edges of equal name. The
same walk is done here beforehand, on names and shapes alone, so that what will be restored, and
what will not, is known before a single value changes.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf
import tf_keras
from absl import logging
from tensorflow.core.protobuf import trackable_object_graph_pb2

from official_maskrcnn.errors import UserError
from official_maskrcnn.modeling.checkpoint_files import find_checkpoint

_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
_LISTED_NAMES = 12  # of variables, in one message


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be read."""


@dataclasses.dataclass(frozen=True)
class SavedVariable:
    """A variable by its path in an object graph, such as backbone/layer_with_weights-0/kernel."""

    name: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {list(self.shape)}"


@dataclasses.dataclass(frozen=True)
class RestoreReport:
    """How the variables of some modules and of a checkpoint correspond.

    Attributes:
      checkpoint: path prefix of the checkpoint.
      restored: module name to its variables that the checkpoint has, in the same shape.
      missing: module name to its variables that the checkpoint does not have.
      mismatched: pairs of a variable and the checkpoint's, which has another shape.
      unused: variables of the checkpoint's modules that the modules do not have.
    """

    checkpoint: str
    restored: dict[str, list[SavedVariable]]
    missing: dict[str, list[SavedVariable]]
    mismatched: list[tuple[SavedVariable, SavedVariable]]
    unused: list[SavedVariable]

    def __str__(self) -> str:
        lines = [f"weights from {self.checkpoint}:"]
        for module, restored in self.restored.items():
            missing = self.missing[module]
            total = len(restored) + len(missing)
            lines.append(f"  {module}: {len(restored)} of {total} variables restored")
            lines += [f"    not in the checkpoint: {name}" for name in shorten(missing)]
        if self.unused:
            lines.append(f"  {len(self.unused)} variables of the checkpoint are not used")
            lines += [f"    {name}" for name in shorten(self.unused)]
        return "\n".join(lines)


def compare(checkpoint_path: str, modules: Mapping[str, Any]) -> RestoreReport:
    """Finds for each variable of some modules what a checkpoint has for it; changes nothing.

    Args:
      checkpoint_path: path prefix.
      modules: name of the root under which the checkpoint holds a module, to that module. A name
        that is not a root of the checkpoint is looked for under `model/` too.

    Raises:
      UserError: the checkpoint cannot be read, or was not written by `tf.train.Checkpoint`.
    """
    return _compare(_SavedGraph(checkpoint_path), modules)


def _compare(saved: "_SavedGraph", modules: Mapping[str, Any]) -> RestoreReport:
    restored: dict[str, list[SavedVariable]] = {}
    missing: dict[str, list[SavedVariable]] = {}
    mismatched = []
    used: set[int] = set()
    roots = {name: saved.find_root(name)[1] for name in modules}
    for name, module in modules.items():
        nodes = _pair(module, roots[name], saved)
        restored[name], missing[name] = [], []
        for path, variable in _variables(name, module):
            own = SavedVariable(path, tuple(variable.shape))
            theirs = saved.variable(path, nodes[id(variable)]) if id(variable) in nodes else None
            if theirs is None:
                missing[name].append(own)
            elif own.shape != theirs.shape:
                mismatched.append((own, theirs))
            else:
                restored[name].append(own)
        used.update(nodes.values())
    unused = {
        node: variable
        for name, root in roots.items()
        if root is not None
        for node, variable in saved.variables(name, root)
        if node not in used
    }
    return RestoreReport(saved.path, restored, missing, mismatched, list(unused.values()))


def restore_modules(checkpoint_path: str, modules: Mapping[str, Any]) -> RestoreReport:
    """Restores parts of a model from a checkpoint, and logs what was and was not restored.

    Args:
      checkpoint_path: path prefix of a checkpoint or a folder with some, local or gs://.
      modules: name of the root under which the checkpoint holds a module, to that module (any
        trackable, variables created), such as {"backbone": model.backbone}. Where the checkpoint
        has no such root, the module is read from below its `model`.

    Raises:
      UserError: there is no such checkpoint; nothing of a module is in it; or a variable has
        another shape there. No value has changed then.
    """
    path = find_checkpoint(checkpoint_path)
    saved = _SavedGraph(path)
    report = _compare(saved, modules)
    faults = [
        f"{own.name} has shape {list(own.shape)}, but {list(theirs.shape)} in the checkpoint"
        for own, theirs in report.mismatched
    ]
    mismatched = {own.name.partition("/")[0] for own, _ in report.mismatched}
    roots = ", ".join(saved.roots)
    faults += [
        f"nothing of {name} is in the checkpoint, whose roots are: {roots}"
        for name in modules
        if report.missing[name] and not report.restored[name] and name not in mismatched
    ]
    if faults:
        lines = "".join(f"\n  {fault}" for fault in shorten(faults))
        raise UserError(f"cannot start from the weights in {path}:{lines}")
    _checkpoint(saved, modules).read(path).expect_partial()
    logging.info("%s", report)
    return report


def restore_weights(path: str, model: tf_keras.Model) -> None:
    """Loads the weights of a checkpoint, or the moving averages that a training kept of them.

    Args:
      path: path prefix of a checkpoint of a training, or of its best evaluation.
      model: the checkpoint must have exactly its variables. Those of a distribution strategy need
        its scope.

    Raises:
      UserError: the checkpoint is of another model, or cannot be read.
    """
    check_same_model(path, model)
    saved = _SavedGraph(path)
    nodes = _pair(model, saved.roots["model"], saved)
    try:
        tf.train.Checkpoint(model=model).read(path).expect_partial()
        reader = tf.train.load_checkpoint(path)
        averages = saved.slots("average")
        for _, variable in _variables("model", model):
            if nodes[id(variable)] in averages:
                variable.assign(reader.get_tensor(averages[nodes[id(variable)]]))
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise DamagedCheckpoint(f"cannot read the checkpoint {path}: {error}") from error


def check_same_model(path: str, model: tf_keras.Model) -> None:
    """Raises `UserError` unless a checkpoint has exactly the variables of a model."""
    report = compare(path, {"model": model})
    faults = [
        f"{own.name} has shape {list(own.shape)}, but {list(theirs.shape)} in the checkpoint"
        for own, theirs in report.mismatched
    ]
    faults += [f"{variable} is not in the checkpoint" for variable in report.missing["model"]]
    faults += [f"{variable} is only in the checkpoint" for variable in report.unused]
    if faults:
        lines = "".join(f"\n  {fault}" for fault in shorten(faults))
        raise UserError(
            f"{path} is of another model than the configuration (task.model) describes:{lines}\n"
            "Use the configuration in params.yaml beside the checkpoint, or another model_dir; to "
            "start from these weights, give them as task.init_checkpoint"
        )


def is_readable(path: str) -> bool:
    """Whether a checkpoint is whole as far as its index says; it may still be in the making."""
    try:
        _SavedGraph(path)
    except UserError:
        return False
    return True


def shorten(items: list[Any]) -> list[str]:
    """The first items as text, and how many more there are."""
    more = len(items) - _LISTED_NAMES
    shown = [str(item) for item in items[:_LISTED_NAMES]]
    return [*shown, f"... and {more} more"] if more > 0 else shown


def _checkpoint(saved: "_SavedGraph", modules: Mapping[str, Any]) -> tf.train.Checkpoint:
    """Checkpoint object with each module at the place where the file has it."""
    nested = {name: module for name, module in modules.items() if saved.find_root(name)[0]}
    top = {name: module for name, module in modules.items() if name not in nested}
    if nested:
        top["model"] = tf.train.Checkpoint(**nested)
    return tf.train.Checkpoint(**top)


class _SavedGraph:
    """Object graph of a checkpoint: nodes, named edges between them, and shapes."""

    def __init__(self, path: str):
        self.path = path
        try:
            reader = tf.train.load_checkpoint(path)
            if not reader.has_tensor(_GRAPH_KEY):
                raise UserError(
                    f"{path} is not an object-based checkpoint of TensorFlow 2 "
                    "(written by tf.train.Checkpoint)"
                )
            graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(
                reader.get_tensor(_GRAPH_KEY)
            )
        except (tf.errors.OpError, IndexError, RuntimeError, ValueError) as error:
            raise DamagedCheckpoint(f"cannot read the checkpoint {path}: {error}") from error
        self._nodes = graph.nodes
        self._shapes = reader.get_variable_to_shape_map()
        self.roots = self.children(0)

    def children(self, node: int) -> dict[str, int]:
        return {child.local_name: child.node_id for child in self._nodes[node].children}

    def find_root(self, name: str) -> tuple[bool, int | None]:
        """Whether a root is below `model`, and its node, None if it is nowhere."""
        if name in self.roots:
            return False, self.roots[name]
        if "model" in self.roots:
            node = self.children(self.roots["model"]).get(name)
            return node is not None, node
        return False, None

    def variable(self, name: str, node: int) -> SavedVariable | None:
        """The value at a node, None if the node is not a variable."""
        for attribute in self._nodes[node].attributes:
            if attribute.name == "VARIABLE_VALUE" and attribute.checkpoint_key in self._shapes:
                return SavedVariable(name, tuple(self._shapes[attribute.checkpoint_key]))
        return None

    def slots(self, name: str) -> dict[int, str]:
        """Nodes of variables to the keys of what an optimizer keeps of them under a name."""
        return {
            slot.original_variable_node_id: attribute.checkpoint_key
            for node in self._nodes
            for slot in node.slot_variables
            if slot.slot_name == name
            for attribute in self._nodes[slot.slot_variable_node_id].attributes
        }

    def variables(self, name: str, root: int) -> Iterator[tuple[int, SavedVariable]]:
        """All variables below a node, by their shortest paths."""
        found, seen = [(name, root)], {root}
        for path, node in found:
            variable = self.variable(path, node)
            if variable is not None:
                yield node, variable
            for edge, child in self.children(node).items():
                if child not in seen:
                    seen.add(child)
                    found.append((f"{path}/{edge}", child))


def _pair(module: Any, root: int | None, saved: _SavedGraph) -> dict[int, int]:
    """Object id to node, of what is found on both sides along edges of equal name."""
    if root is None:
        return {}
    nodes = {id(module): root}
    found = [module]  # grows while it is walked, and keeps temporary objects from being freed
    for item in found:
        edges = saved.children(nodes[id(item)])
        for edge, child in tf.train.TrackableView.children(item).items():
            if edge in edges and id(child) not in nodes:
                nodes[id(child)] = edges[edge]
                found.append(child)
    return nodes


def _variables(name: str, module: Any) -> Iterator[tuple[str, tf.Variable]]:
    """All variables of a module, by their shortest paths."""
    found, seen = [(name, module)], {id(module)}
    for path, item in found:
        if isinstance(item, tf.Variable):
            yield path, item
            continue
        for edge, child in tf.train.TrackableView.children(item).items():
            if id(child) not in seen:
                seen.add(id(child))
                found.append((f"{path}/{edge}", child))
