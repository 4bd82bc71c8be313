"""The notebooks run from their first cell to their last, on small data."""

import pathlib
import re

import nbformat
import pytest
from nbclient import NotebookClient

from official_maskrcnn.data.synthetic import make_synthetic
from tests.inference.small_model import make_model_dir

_NOTEBOOKS = pathlib.Path(__file__).resolve().parent.parent / "notebooks"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Values for the parameters that the notebooks' first cells set."""
    folder = tmp_path_factory.mktemp("notebooks")
    make_synthetic(folder, 6, seed=3, image_size=(96, 128))
    return {
        "IMAGES": str(folder / "images"),
        "ANNOTATIONS": str(folder / "instances.json"),
        "MODEL": str(make_model_dir(folder / "model")),
        "PHOTOGRAPH": str(next((folder / "images").iterdir())),
    }


def _run(name: str, parameters: dict[str, str], folder: pathlib.Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(_NOTEBOOKS / name, as_version=4)
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
    for parameter, value in parameters.items():
        cell.source = re.sub(rf"(?m)^({parameter} = ).*$", rf"\g<1>{value!r}", cell.source)
    resources = {"metadata": {"path": str(folder)}}
    return NotebookClient(notebook, timeout=600, resources=resources).execute()


def _pictures(notebook: nbformat.NotebookNode) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return sum(
        bool({"image/png", "image/jpeg"} & output.get("data", {}).keys()) for output in outputs
    )


@pytest.mark.parametrize(
    ("name", "pictures"),
    [("inspect_data.ipynb", 4), ("visualize_model.ipynb", 5), ("deployment.ipynb", 1)],
)
def test_a_notebook_runs_and_draws(
    name: str,
    pictures: int,
    small: dict[str, str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("HOME", str(tmp_path))  # where records are cached
    monkeypatch.setenv("PYTHONPATH", str(_NOTEBOOKS.parent))
    assert _pictures(_run(name, small, tmp_path)) == pictures


def test_notebooks_are_kept_without_outputs():
    for path in _NOTEBOOKS.glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        assert notebook.cells[0].source.startswith("# "), path
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert all(not cell.outputs and cell.execution_count is None for cell in code), path
