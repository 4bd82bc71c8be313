"""The command line: `python3 -m official_maskrcnn VERB`."""

import os

# TensorFlow would load Keras 3 beside tf_keras: a second and 90 MB, of which nothing is used.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
