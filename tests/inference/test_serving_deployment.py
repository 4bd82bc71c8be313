"""What `serve` is told: a deployment file, a scoring script, a token, and wrong arguments."""

import json
import pathlib
import socket
import subprocess
import sys
import textwrap

import pytest
from fastapi.testclient import TestClient

from official_maskrcnn.cli.main import command_parser, main
from official_maskrcnn.cli.serve import _options
from official_maskrcnn.errors import UserError
from official_maskrcnn.inference.serving.app import create_script_app
from official_maskrcnn.inference.serving.deployment import read_deployment
from official_maskrcnn.inference.serving.metrics import Metrics
from official_maskrcnn.inference.serving.options import ServiceOptions
from official_maskrcnn.inference.serving.scoring_script import ScoringScript
from tests.inference.served_predictor import encode

_SAMPLE = {
    "ENV_CONFIG_FILE": "dev_config.json",
    "EXPERIMENT": "training",
    "RUN_ID": "training_1",
    "TF_VERSION": 2,
    "REG_MODEL": True,
    "IMAGE_TYPE": "pothole_mask",
    "ACI_PARAMS": {"USE_ACI": True, "ACI_AUTH": True},
    "AKS_PARAMS": {"USE_AKS": False, "VM_TYPE": "Standard_NC6", "COMPUTE_TARGET_NAME": ""},
}


def _write(folder: pathlib.Path, content: object) -> str:
    path = folder / "deploy_config.json"
    path.write_text(json.dumps(content))
    return str(path)


def _serve_options(*arguments: str) -> ServiceOptions:
    return _options(command_parser().parse(["serve", "--model", "runs/nuts", *arguments]))


def test_a_deployment_file_names_the_model_and_asks_for_a_token(tmp_path, monkeypatch):
    path = _write(tmp_path, _SAMPLE)
    with pytest.raises(UserError, match="OFFICIAL_MASKRCNN_TOKEN"):
        _serve_options("--deployment", path)
    monkeypatch.setenv("OFFICIAL_MASKRCNN_TOKEN", "s3cret")
    options = _serve_options("--deployment", path)
    assert (options.name, options.token, options.mask_form) == ("pothole_mask", "s3cret", "crop")
    assert _serve_options("--deployment", path, "--name", "mine").name == "mine"


def test_masks_come_if_the_image_type_says_so(tmp_path):
    no_auth = {"USE_ACI": True, "ACI_AUTH": False}
    path = _write(tmp_path, {**_SAMPLE, "IMAGE_TYPE": "pothole", "ACI_PARAMS": no_auth})
    options = _serve_options("--deployment", path)
    assert (options.mask_form, options.token) == ("none", None)


def test_the_older_form_of_the_file_is_read(tmp_path):
    older = {
        "ENV_CONFIG_FILE": "dev_config.json",
        "TF_VERSION": 2,
        "USE_ACI": True,
        "IMAGE_TYPE": "usecase_mask",
        "COMPUTE_TARGET_NAME": "",
        "REG_MODEL": False,
    }
    assert read_deployment(_write(tmp_path, older)).needs_token
    aks = {**_SAMPLE, "ACI_PARAMS": {"USE_ACI": False}, "AKS_PARAMS": {"USE_AKS": True}}
    assert read_deployment(_write(tmp_path, aks)).needs_token
    local = {"IMAGE_TYPE": "nuts"}
    assert not read_deployment(_write(tmp_path, local)).needs_token


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"TF_VERSION": 1}, "TF_VERSION is 1; models here are of 2"),
        ({"TF_VERSION": "2"}, "TF_VERSION: input should be a valid integer, got '2'"),
        ({"IMAGE_TYP": "x"}, "IMAGE_TYP is not known; did you mean IMAGE_TYPE?"),
        ({"ACI_PARAMS": {"ACI_AUT": True}}, "ACI_PARAMS.ACI_AUT is not known; did you mean ACI_AU"),
        ({"ACI_PARAMS": "yes"}, "ACI_PARAMS: input should be"),
        ({"AKS_PARAMS": {"USE_AKS": True}}, "USE_ACI and USE_AKS are both true"),
        ({"TOKEN": "s3cret"}, "TOKEN is not known"),
    ],
)
def test_faults_of_a_deployment_file_are_named(tmp_path, change, words):
    with pytest.raises(UserError) as caught:
        read_deployment(_write(tmp_path, {**_SAMPLE, **change}))
    assert words in str(caught.value)


def test_all_faults_of_a_deployment_file_come_at_once(tmp_path):
    with pytest.raises(UserError, match=r"(?s)IMAGE_TYPE is missing.*REG_MODEL: "):
        read_deployment(_write(tmp_path, {"REG_MODEL": 3}))
    with pytest.raises(UserError, match="the file: "):
        read_deployment(_write(tmp_path, []))


def test_a_token_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text("from-file\n")
    monkeypatch.setenv("OFFICIAL_MASKRCNN_TOKEN", "from-environment")
    assert _serve_options().token == "from-environment"
    assert _serve_options("--token_file", str(file)).token == "from-file"
    file.write_text("\n")
    with pytest.raises(UserError, match="is empty"):
        _serve_options("--token_file", str(file))
    with pytest.raises(UserError, match="cannot be read"):
        _serve_options("--token_file", str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "nowhere"], "nowhere is no model"),
        (["--model", "x", "--name", "a/b"], "cannot stand in an address"),
        (["--model", "x", "--time_limit", "0"], "--time_limit must be positive"),
        (["--model", "x", "--port", "70000"], "--port a port"),
        (["--model", "x", "--max_batch", "0"], "not a positive integer"),
        (["--model", "x", "--scoring_script", "none.py"], "none.py is no scoring script"),
    ],
)
def test_wrong_arguments_are_refused_in_words(arguments, words, capsys, monkeypatch):
    monkeypatch.delenv("AZUREML_MODEL_DIR", raising=False)
    assert main(["serve", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_an_address_that_is_taken_is_said_before_the_model_is_loaded(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert main(["serve", "--model", str(tmp_path), "--port", port]) == 2
    assert f"--port {port} cannot be used: Address already in use" in capsys.readouterr().err
    assert main(["serve", "--model", str(tmp_path), "--host", "no.such.host.invalid"]) == 2
    assert "--host no.such.host.invalid" in capsys.readouterr().err


def test_without_the_extra_it_is_named():
    code = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from official_maskrcnn.cli.main import main\n"
        "sys.exit(main(['serve', '--model', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'official-maskrcnn[serve]'" in done.stderr
    assert "Traceback" not in done.stderr


def _script_client(folder: pathlib.Path, code: str, monkeypatch) -> TestClient:
    path = folder / "score.py"
    path.write_text(textwrap.dedent(code))
    monkeypatch.setenv("AZUREML_MODEL_DIR", "")
    options = ServiceOptions("mine", max_batch=1)
    script = ScoringScript(str(path), str(folder), options, Metrics())
    return TestClient(create_script_app(script), raise_server_exceptions=False)


def test_a_scoring_script_gets_text(tmp_path, monkeypatch):
    code = """
        import json, os
        def init():
            global folder
            folder = os.environ["AZUREML_MODEL_DIR"]
        def run(raw_data):
            if raw_data == "boom":
                raise KeyError("boom")
            return {"folder": folder, "given": json.loads(raw_data)}
        """
    with _script_client(tmp_path, code, monkeypatch) as client:
        answer = client.post("/score", content=b'{"a": 1}')
        assert answer.json() == {"folder": str(tmp_path), "given": {"a": 1}}
        answer = client.post("/score", content=encode(4, 4))
        assert answer.status_code == 400 and "@rawhttp" in answer.json()["error"]
        assert client.post("/score", content=b"boom").status_code == 500
        assert client.get("/score").status_code == 405
        assert client.get("/healthz").status_code == 200
        assert client.get("/").status_code == 404


def test_a_scoring_script_gets_raw_requests_if_it_says_so(tmp_path, monkeypatch):
    # What the packages of Azure do: the decorator leaves a note in its module.
    (tmp_path / "azureml" / "contrib" / "services").mkdir(parents=True)
    (tmp_path / "azureml" / "contrib" / "services" / "aml_request.py").write_text(
        "_rawHttpRequested = False\n"
        "def rawhttp(function):\n    global _rawHttpRequested\n    _rawHttpRequested = True\n"
        "    return function\n"
    )
    code = """
        from azureml.contrib.services.aml_request import rawhttp
        class Answer:
            status_code, headers = 202, {"X-Script": "yes", "Content-Type": "text/plain"}
            def __init__(self, data): self.data = data
            def get_data(self): return self.data
        def init(): pass
        @rawhttp
        def run(request):
            body = request.get_data(False)
            return Answer(f"{request.method} {len(body)} {request.args.get('prob')}".encode())
        """
    for name in list(sys.modules):
        if name.split(".")[0] == "azureml":
            monkeypatch.delitem(sys.modules, name)
    with _script_client(tmp_path, code, monkeypatch) as client:
        answer = client.post("/score?prob=0.5", content=b"\xff\xd8")
    assert (answer.status_code, answer.text) == (202, "POST 2 0.5")
    assert answer.headers["X-Script"] == "yes"
    for name in list(sys.modules):
        if name.split(".")[0] == "azureml":
            monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize(
    ("code", "words"),
    [("def init(): pass", "no run()"), ("x = 1", "no init()"), ("import no_such_thing", "install")],
)
def test_what_is_no_scoring_script_is_refused(code, words, tmp_path, monkeypatch):
    with pytest.raises(UserError) as caught:
        _script_client(tmp_path, code, monkeypatch)
    assert words in str(caught.value)
