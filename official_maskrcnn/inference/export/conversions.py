"""A model for other runtimes: TFLite, ONNX and StableHLO.

They take operations that XLA compiles, so the model is built with `static_shapes`. TFLite and ONNX
take an image of any size, and their mask head runs on as many boxes as there are.
"""

import pathlib
import tempfile
import zipfile
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from official_maskrcnn.data.parser import preprocess_image
from official_maskrcnn.errors import UserError
from official_maskrcnn.inference.graphs import save_module, without_remarks
from official_maskrcnn.modeling.mask_rcnn import MaskRCNN
from official_maskrcnn.tasks import stablehlo

ONNX_PACKAGES = ("onnx", "onnxruntime", "tf2onnx")
STABLEHLO_PACKAGES = ("jax", "jaxlib")
_OPSET = 17  # of ONNX


class PortableGraph(tf.Module):
    """Detection in one image, uint8 [1, h, w, 3], in operations that TFLite and ONNX have too."""

    def __init__(self, model: MaskRCNN):
        """Takes a model with static shapes that computes in float32."""
        super().__init__(name="portable")
        self.weights = model.variables
        height, width = model.config.input_size[:2]

        def detect(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            pixels = tf.cast(inputs[0], tf.float32)  # TFLite resizes no uint8 into float32
            image, info = preprocess_image(pixels, (height, width))
            model.pack_detections = True
            try:
                return model(image[None], info[None], training=False)
            finally:
                model.pack_detections = False

        spec = tf.TensorSpec([1, None, None, 3], tf.uint8, name="inputs")
        self.detect = tf.function(detect, autograph=False, input_signature=[spec])


def to_tflite(graph: PortableGraph, quantization: str | None, about: str) -> bytes:
    """A TFLite file of built-in operations alone, with the signature serving_default.

    Args:
      graph: of the model.
      quantization: None; "float16" for weights in float16; "int8" for weights in int8, computed
        with in float32 or, where the kernel can, in int8 (dynamic range).
      about: JSON, which the file carries as TFLite's associated files are carried: unzip finds it.

    Raises:
      UserError: the model has an operation that TFLite has not; the message names it.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_module(graph, folder, graph.detect)
        with without_remarks():
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if quantization is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantization == "float16":
            converter.target_spec.supported_types = [tf.float16]
        try:
            with without_remarks():
                content = converter.convert()
        except Exception as error:  # ConverterError, whose class has no public name
            raise UserError(f"TFLite cannot have this model: {_first_lines(error)}") from error
        path = pathlib.Path(folder, "model.tflite")
        path.write_bytes(content)
        with zipfile.ZipFile(path, "a") as file:
            file.writestr("export.json", about)
        return path.read_bytes()


def to_onnx(graph: PortableGraph, about: str) -> bytes:
    """An ONNX file; the JSON `about` is its metadata "export.json"."""
    import tf2onnx

    model, _ = tf2onnx.convert.from_function(
        graph.detect, input_signature=graph.detect.input_signature, opset=_OPSET
    )
    (pixels,) = model.graph.input
    for axis, name in ((1, "height"), (2, "width")):
        pixels.type.tensor_type.shape.dim[axis].dim_param = name
    model.metadata_props.add(key="export.json", value=about)
    return model.SerializeToString()


def to_stablehlo(model: MaskRCNN, batch_size: int, dtype: tf.DType) -> tuple[bytes, dict[str, Any]]:
    """A portable StableHLO artifact with the weights inside.

    Args:
      model: with static shapes.
      batch_size: b.
      dtype: of the images, which is that of the model's layers.

    Returns:
      The artifact, and the names, types and shapes of the inputs and outputs of its main function.
    """
    height, width = model.config.input_size[:2]
    specs = [
        tf.TensorSpec([batch_size, height, width, 3], dtype, name="images"),
        tf.TensorSpec([batch_size, 4, 2], tf.float32, name="image_info"),
    ]

    def detect(images: tf.Tensor, image_info: tf.Tensor) -> dict[str, tf.Tensor]:
        return model(images, image_info, training=False)

    traced = tf.function(detect, autograph=False, input_signature=specs).get_concrete_function()
    frozen = convert_variables_to_constants_v2(traced, lower_control_flow=False)
    function = tf.function(frozen, jit_compile=True, autograph=False)
    lowered = function.get_concrete_function(*specs)
    outputs = traced.structured_outputs
    shapes = {
        "inputs": [_describe(spec.name, spec) for spec in specs],
        "outputs": [_describe(name, outputs[name]) for name in sorted(outputs)],
    }
    return stablehlo.serialize(stablehlo.lower(lowered)), shapes


def _describe(name: str, tensor: tf.TensorSpec | tf.Tensor) -> dict[str, Any]:
    return {"name": name, "dtype": tensor.dtype.name, "shape": tensor.shape.as_list()}


def _first_lines(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if "ops:" in line or "error:" in line]
    return "\n".join(lines[-3:]) or str(error)[:500]
