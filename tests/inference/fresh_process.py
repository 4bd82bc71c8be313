"""A process that has TensorFlow and nothing of this package."""

import pathlib
import subprocess
import sys
from collections.abc import Mapping

import numpy as np


def run_fresh(code: str, folder: pathlib.Path, inputs: Mapping[str, np.ndarray]) -> dict:
    """Runs Python code that fills a dict `outputs` with arrays, given a dict `inputs`; gives it.

    Args:
      code: may not import this package.
      folder: where the process runs.
      inputs: arrays.
    """
    np.savez(folder / "inputs.npz", allow_pickle=False, **inputs)
    lines = [
        "import sys",
        "import numpy as np",
        "inputs, outputs = dict(np.load('inputs.npz')), {}",
        code,
        "assert not [name for name in sys.modules if name.startswith('official')]",
        "np.savez('outputs.npz', **{name: np.asarray(value) for name, value in outputs.items()})",
    ]
    done = subprocess.run(
        [sys.executable, "-I", "-c", "\n".join(lines)],
        cwd=folder,
        env={"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    with np.load(folder / "outputs.npz") as file:
        return dict(file)
