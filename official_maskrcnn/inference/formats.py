"""What a model can be exported as; imports nothing, so that the command line starts fast."""

ABOUT = "export.json"  # what an export says of itself

# The file of each format; a SavedModel is the folder itself.
FORMATS = {
    "saved_model": "saved_model.pb",
    "tflite": "model.tflite",
    "tflite_float16": "model_float16.tflite",
    "tflite_int8": "model_int8.tflite",
    "onnx": "model.onnx",
    "stablehlo": "model.stablehlo",
}
