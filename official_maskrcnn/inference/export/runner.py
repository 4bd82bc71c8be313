"""Runs an exported model for `check`, in a process that has nothing of this package.

    python -I runner.py FORMAT PATH

Each line on standard input names a .npz file of inputs. The outputs go to the file of that name
with .out.npz behind, and a line of JSON on standard output says how many seconds it took.
"""

import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]
Run = Callable[[Arrays], Arrays]


def load_saved_model(path: str) -> Run:
    """The signature serving_default of a SavedModel in a folder."""
    import tensorflow as tf

    signature = tf.saved_model.load(os.path.dirname(path)).signatures["serving_default"]

    def run(inputs: Arrays) -> Arrays:
        outputs = signature(**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    return run


def load_tflite(path: str) -> Run:
    """The signature serving_default of a TFLite file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=os.cpu_count())
    signature = interpreter.get_signature_runner("serving_default")
    return lambda inputs: signature(**inputs)


def load_onnx(path: str) -> Run:
    """An ONNX file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True))


def load_stablehlo(path: str) -> Run:
    """A portable StableHLO artifact, compiled for JAX's default device; one image fills a batch."""
    import jax
    from jax.interpreters import mlir
    from jaxlib import xla_client
    from jaxlib.mlir.dialects import stablehlo

    about = json.loads(pathlib.Path(path).with_name("export.json").read_text(encoding="utf-8"))
    described = about["files"]["stablehlo"]
    device = jax.devices()[0]
    with mlir.make_ir_context() as context:
        module = stablehlo.deserialize_portable_artifact(context, pathlib.Path(path).read_bytes())
        executable = device.client.compile_and_load(
            module, xla_client.DeviceList((device,)), xla_client.CompileOptions()
        )

    def run(inputs: Arrays) -> Arrays:
        batches = [np.resize(inputs[e["name"]], e["shape"]) for e in described["inputs"]]
        arguments = [
            jax.device_put(jax.numpy.asarray(batch, entry["dtype"]), device)
            for batch, entry in zip(batches, described["inputs"], strict=True)
        ]
        results = executable.execute_sharded(arguments).disassemble_into_single_device_arrays()
        return {
            entry["name"]: np.asarray(array)
            for entry, (array,) in zip(described["outputs"], results, strict=True)
        }

    return run


LOADERS = {
    "saved_model": load_saved_model,
    "tflite": load_tflite,
    "tflite_float16": load_tflite,
    "tflite_int8": load_tflite,
    "onnx": load_onnx,
    "stablehlo": load_stablehlo,
}


def main() -> None:
    """Serves until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    run = LOADERS[sys.argv[1]](sys.argv[2])
    for line in sys.stdin:
        path = line.strip()
        with np.load(path) as file:
            inputs = dict(file)
        start = time.perf_counter()
        outputs = run(inputs)
        seconds = time.perf_counter() - start
        np.savez(f"{path}.out.npz", allow_pickle=False, **outputs)
        strange = [name for name in sys.modules if name.startswith("official")]
        assert not strange, strange
        print(json.dumps(seconds), file=answers, flush=True)


if __name__ == "__main__":
    main()
