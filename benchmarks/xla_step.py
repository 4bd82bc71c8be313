"""A training step as a StableHLO file, and its time on whatever device JAX has.

    python benchmarks/xla_step.py export ours.zip --side ours --size 1024 --precision bfloat16
    python benchmarks/xla_step.py run reference.zip ours.zip

`export` writes the training step of ResNet-50 for a batch of 2 images of 7 instances, ours or
that of tf-models-official; it needs the extra tpu-check. The hourglasses of the latter do not
compile for XLA as they are: here their upsampling repeats pixels. `run` times such files in turn
on the default JAX device, with random weights; it needs JAX, NumPy and rich. The share of the peak
is that of the FLOP/s of a large matrix product in the same precision. Writes xla_step.csv beside.
"""

import argparse
import io
import json
import math
import pathlib
import re
import statistics
import time
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from support.sides import report

_STEP, _INPUTS, _ABOUT = "step.stablehlo", "inputs.npz", "about.json"
_BATCH = 2
_PEAK_SIZE = {"cpu": 2048, "gpu": 16384, "tpu": 16384}  # side of a matrix
_HEADER = (
    *("file", "device", "precision", "ms a step", "images/s"),
    *("TFLOP", "TFLOP/s", "TFLOP/s of a product", "share of peak"),
)


def _export(path: pathlib.Path, side: str, hourglass: bool, size: int, precision: str) -> None:
    import tensorflow as tf
    from jaxlib import xla_client

    from official_maskrcnn import precision as precisions
    from official_maskrcnn.tasks import stablehlo

    with precisions.policy(precision):
        step, arguments = (_ours if side == "ours" else _reference)(hourglass, size, precision)
        function = tf.function(step, jit_compile=True).get_concrete_function(*arguments)
    hlo = stablehlo.lower(function)
    code = stablehlo.serialize(hlo)
    cost = xla_client._xla.hlo_module_cost_analysis(
        xla_client.make_cpu_client(), xla_client.XlaComputation(hlo).as_hlo_module()
    )

    names = {id(variable.handle): variable.name for variable in function.graph.variables}
    variables, inputs = {}, {}
    for number, value in enumerate([*tf.nest.flatten(arguments), *function.captured_inputs]):
        if value.dtype == tf.resource:
            variables[number] = names.get(id(value), "")
        else:
            inputs[str(number)] = value.numpy()
    arrays = io.BytesIO()
    np.savez(arrays, **inputs)
    about = {"precision": precision, "flops": cost["flops"], "variables": variables}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(_STEP, code)
        file.writestr(_INPUTS, arrays.getvalue())
        file.writestr(_ABOUT, json.dumps(about))


def _ours(hourglass: bool, size: int, precision: str) -> tuple[Callable[..., Any], tuple]:
    import tensorflow as tf
    from support import steps
    from support.scenes import random_batch

    experiment = steps.experiment_of(size, steps.HOURGLASS if hourglass else "")
    experiment.runtime.enable_xla = True  # static shapes
    batch = random_batch(size, size, _BATCH, instances=7)
    batch["image"] = tf.cast(batch["image"], precision)
    return steps.training_step(experiment), (tf.nest.map_structure(tf.constant, batch),)


def _reference(hourglass: bool, size: int, precision: str) -> tuple[Callable[..., Any], tuple]:
    import tensorflow as tf
    import tf_keras
    from training_step import reference_step

    def repeat(layer: Any, images: tf.Tensor) -> tf.Tensor:
        for axis, times in enumerate(layer.size, start=1):
            images = tf.repeat(images, times, axis)
        return images

    tf_keras.layers.UpSampling2D.call = repeat
    step, images, labels = reference_step(hourglass, size)
    return step, (tf.cast(images, precision), labels)


class _Step:
    """An exported step on a device, with random weights."""

    def __init__(self, path: pathlib.Path, device: Any):
        import jax
        from jax.interpreters import mlir
        from jaxlib import xla_client
        from jaxlib.mlir.dialects import stablehlo

        with zipfile.ZipFile(path) as file:
            about = json.loads(file.read(_ABOUT))
            inputs = np.load(io.BytesIO(file.read(_INPUTS)), allow_pickle=False)
            code = file.read(_STEP)
        self.precision, self.flops = about["precision"], about["flops"]
        with mlir.make_ir_context() as context:
            module = stablehlo.deserialize_portable_artifact(context, code)
            kinds = [mlir.ir.RankedTensorType(kind) for kind in _main(module).type.inputs]
            shapes = [(tuple(kind.shape), str(kind.element_type)) for kind in kinds]
            aliases = str(module.operation.attributes["mhlo.input_output_alias"])
            self._executable = device.client.compile_and_load(
                module, xla_client.DeviceList((device,)), xla_client.CompileOptions()
            )
        # Which result is the new value of which parameter.
        found = re.findall(r"parameter_number = (\d+).*?output_index = array<i64: (\d+)>", aliases)
        self._aliases = [(int(parameter), int(result)) for parameter, result in found]
        rng = np.random.default_rng(0)
        self._arguments = [
            jax.device_put(
                inputs[str(number)]
                if str(number) in inputs
                else _initial(about["variables"][str(number)], shape, kind, rng),
                device,
            )
            for number, (shape, kind) in enumerate(shapes)
        ]

    def __call__(self) -> None:
        """One step; the variables' new values take the place of the old ones."""
        results = self._executable.execute_sharded(self._arguments)
        arrays = [array for (array,) in results.disassemble_into_single_device_arrays()]
        for array in arrays:
            array.block_until_ready()
        for parameter, result in self._aliases:
            self._arguments[parameter] = arrays[result]


def _main(module: Any) -> Any:
    return next(f for f in module.body.operations if f.name.value == "main")


def _initial(name: str, shape: tuple[int, ...], kind: str, rng: np.random.Generator) -> np.ndarray:
    """A value that activations neither vanish nor explode with."""
    if kind.startswith("i"):
        return np.zeros(shape, f"i{int(kind[1:]) // 8}")
    kind = {"f32": "float32"}[kind]
    if "momentum" not in name and "/m/" not in name:
        if "kernel" in name:
            deviation = math.sqrt(2 / max(math.prod(shape[:-1]), 1))
            return rng.normal(0, deviation, shape).astype(kind)
        if "gamma" in name or "variance" in name:
            return np.ones(shape, kind)
    return np.zeros(shape, kind)


def _product_flops(device: Any, precision: str) -> float:
    """FLOP/s of a matrix product."""
    import jax
    import ml_dtypes

    size = _PEAK_SIZE[device.platform]
    matrix = jax.device_put(
        np.ones([size, size], ml_dtypes.bfloat16 if precision == "bfloat16" else precision), device
    )
    product = jax.jit(lambda a: a @ a)
    product(matrix).block_until_ready()
    start = time.perf_counter()
    product(matrix).block_until_ready()
    return 2 * size**3 / (time.perf_counter() - start)


def _run(paths: Sequence[pathlib.Path], repeats: int) -> None:
    import jax

    jax.config.update("jax_enable_x64", True)
    device = jax.devices()[0]
    steps = {path.stem: _Step(path, device) for path in paths}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if repeat:  # the first warms up
                seconds[name].append(time.perf_counter() - start)
    rows = []
    for name, step in steps.items():
        median = statistics.median(seconds[name])
        achieved = step.flops / median
        peak = max(_product_flops(device, step.precision) for _ in range(3))
        rows.append(
            (
                *(name, device.device_kind, step.precision, 1000 * median, _BATCH / median),
                *(step.flops / 1e12, achieved / 1e12, peak / 1e12, achieved / peak),
            )
        )
    report(__file__, _HEADER, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb")
    export = verbs.add_parser("export", help="write a step")
    export.add_argument("path", type=pathlib.Path)
    export.add_argument("--side", choices=("ours", "reference"), default="ours")
    export.add_argument("--head", choices=("hourglass52", "default"), default="hourglass52")
    export.add_argument("--size", type=int, default=1024, help="side of the images")
    export.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    run = verbs.add_parser("run", help="time steps in turn")
    run.add_argument("paths", type=pathlib.Path, nargs="+")
    run.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    if arguments.verb is None:  # among all benchmarks
        print("left out: it needs exported steps, see --help")
        return
    if arguments.verb == "run":
        _run(arguments.paths, arguments.repeats)
        return
    hourglass = arguments.head == "hourglass52"
    _export(arguments.path, arguments.side, hourglass, arguments.size, arguments.precision)


if __name__ == "__main__":
    main()
