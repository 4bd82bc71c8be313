import json
import pathlib
import re
import subprocess
import sys

import cv2
import pytest

from official_maskrcnn.cli import data
from official_maskrcnn.cli.arguments import VerbParser
from official_maskrcnn.cli.main import main
from official_maskrcnn.errors import UserError

_SYNTHETIC = ["data", "synthetic", "--output", "x", "--images", "1"]
_VERBS = ("synthetic", "convert", "stats", "check", "browse")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Six images with their annotations, made by the command itself."""
    folder = tmp_path_factory.mktemp("shapes")
    assert main(["data", "synthetic", *f"--output {folder} --images 6 --size 64 80".split()]) == 0
    return folder


@pytest.fixture
def coco(shapes: pathlib.Path) -> list[str]:
    return ["--images", str(shapes / "images"), "--annotations", str(shapes / "instances.json")]


def _help(*verbs: str, capsys: pytest.CaptureFixture) -> str:
    with pytest.raises(SystemExit) as leaving:
        main([*verbs, "--help"])
    assert leaving.value.code == 0
    return capsys.readouterr().out


def test_convert_stats_and_check(shapes, coco, tmp_path, capsys):
    prefix = str(tmp_path / "records" / "train")
    assert main(["data", "convert", "coco", *coco, "--output", prefix, "--shards", "2"]) == 0
    assert sorted(path.name for path in (tmp_path / "records").iterdir()) == [
        "train-00000-of-00002.tfrecord",
        "train-00001-of-00002.tfrecord",
        "train.json",
    ]
    capsys.readouterr()
    numbers = []
    for source in (str(shapes / "instances.json"), f"{prefix}*"):
        assert main(["data", "stats", source, "--json"]) == 0
        numbers.append(json.loads(capsys.readouterr().out))
    annotations = json.loads((shapes / "instances.json").read_text())["annotations"]
    assert numbers[0]["images"] == numbers[1]["images"] == 6
    assert numbers[0]["instances"] == numbers[1]["instances"] == len(annotations)
    assert numbers[0]["mask_sizes"] == numbers[1]["mask_sizes"]
    assert main(["data", "check", f"{prefix}*", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {}


def test_tables_for_people(shapes, capsys):
    assert main(["data", "stats", str(shapes / "instances.json")]) == 0
    assert re.search(r"images +│ 6 ", capsys.readouterr().out)


def test_check_shows_faults_with_their_ids(shapes, tmp_path, capsys):
    contents = json.loads((shapes / "instances.json").read_text())
    contents["annotations"][1]["category_id"] = 4
    faulty = tmp_path / "faulty.json"
    faulty.write_text(json.dumps(contents))
    fault_id = contents["annotations"][1]["id"]
    assert main(["data", "check", str(faulty)]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "unknown_category" in line]
    assert str(fault_id) in row
    assert main(["data", "check", str(faulty), "--json", "--images", str(shapes / "images")]) == 0
    faults = json.loads(capsys.readouterr().out)
    assert faults["unknown_category"]["annotation left out"] == [fault_id]


def test_browse_draws_a_sheet(coco, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert main(["data", "browse", *coco, "--output", str(sheet), "--limit", "3"]) == 0
    assert "3 images" in capsys.readouterr().out
    assert cv2.imread(str(sheet)).std() > 10


def test_browse_draws_what_the_model_sees(shapes, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    overrides = (
        f"task.validation_data.image_dir={shapes / 'images'},"
        f"task.validation_data.annotation_file={shapes / 'instances.json'},"
        f"task.validation_data.cache_dir={tmp_path / 'cache'},"
        "task.validation_data.global_batch_size=4,task.model.input_size=[128,192,3]"
    )
    experiment = ["--experiment", "deep_mask_head_rcnn_resnetfpn_coco", "--split", "validation"]
    arguments = [*experiment, "--params_override", overrides, "--output", str(sheet)]
    assert main(["data", "browse", *arguments]) == 0
    assert "6 images" in capsys.readouterr().out
    assert cv2.imread(str(sheet)).std() > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("dta", "unknown verb 'dta'; did you mean data?"),
        ("data stast x.json", "unknown verb 'stast'; did you mean stats?"),
        ("data zzzzz", "known: synthetic, convert, stats, check, browse"),
        ("data", "VERB"),
        ("data synthetic --images 3", "--output"),
        ("data synthetic --images none --output x", "'none' is not a positive integer"),
        ("data synthetic --images 1 --output x --size 8 8", "at least 64"),
        ("data convert voc --images a --annotations b --output c", "unknown converter 'voc'"),
        ("data convert coco --images a --annotations b --output c --shards 0", "--shards"),
        ("data stats nothing.json", "nothing.json cannot be read"),
        ("data stats a.json b.json", "one COCO annotation file"),
        ("data stats nothing-*", "nothing-*"),
        ("data check records* --images a", "leave the folder of images out"),
        ("data browse --output x.jpg", "either --images and --annotations, or --experiment"),
        ("data browse --output x.jpg --images a --experiment b", "either --images"),
        ("data browse --output x.jpg --images a", "--annotations is missing"),
        ("data browse --output x.jpg --experiment b --split test", "--split"),
        ("data browse --output x.jpg --experiment b", "unknown experiment 'b'"),
    ],
)
def test_a_mistake_is_named_and_exits_with_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert "Traceback" not in captured.err and captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_exits_with_130(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("official_maskrcnn.data.synthetic.make_synthetic", interrupt)
    assert main(_SYNTHETIC) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_our_own_faults_keep_their_traceback(monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("official_maskrcnn.data.synthetic.make_synthetic", fail)
    with pytest.raises(ZeroDivisionError):
        main(_SYNTHETIC)


def test_help_lists_the_verbs(capsys):
    page = _help("data", capsys=capsys)
    assert all(re.search(rf"^ +{verb}\s+\w", page, re.MULTILINE) for verb in _VERBS)


def test_verbs_can_nest_and_suggest():
    parser = VerbParser("prog", "Does things.")
    data.add_verbs(parser)
    with pytest.raises(UserError, match="did you mean synthetic"):
        parser.parse_args(["data", "syntetic"])
    arguments = parser.parse_args(["data", "check", "a", "b", "--workers", "3"])
    assert (arguments.source, arguments.images, arguments.workers) == (["a", "b"], None, 3)


def test_light_verbs_do_not_load_tensorflow(shapes, tmp_path):
    annotations = shapes / "instances.json"
    code = f"""
import os, sys
from official_maskrcnn.cli.main import main
for arguments in (
    "data synthetic --images 1 --output {tmp_path}",
    "data stats {annotations}",
    "data check {annotations}",
    "data check --help",
):
    try:
        assert main(arguments.split()) == 0
    except SystemExit as leaving:
        assert not leaving.code
    assert "tensorflow" not in sys.modules, arguments
assert os.environ["TF_CPP_MIN_LOG_LEVEL"]
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_module_runs():
    command = [sys.executable, "-m", "official_maskrcnn", "data", "stats"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the following arguments are required: SOURCE")
