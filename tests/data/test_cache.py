"""Records that are made once: reused, renewed, and safe with several processes."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from official_maskrcnn.data import cache
from official_maskrcnn.errors import UserError
from tests.data.coco_files import annotation, write_coco, write_image, write_many

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def _times(files: list[str]) -> list[int]:
    return [os.stat(file).st_mtime_ns for file in files]


def test_second_time_reuses_the_first(tmp_path):
    image_dir, path = write_many(tmp_path, 3)
    files = cache.ensure_records(image_dir, path, str(tmp_path / "cache"))
    assert [pathlib.Path(file).name for file in files] == ["records-00000-of-00001.tfrecord"]
    times = _times(files)
    assert cache.ensure_records(image_dir, path, str(tmp_path / "cache")) == files
    assert _times(files) == times


def test_default_is_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    image_dir, path = write_many(tmp_path, 1)
    for cache_dir in (None, ""):
        file = pathlib.Path(cache.ensure_records(image_dir, path, cache_dir)[0])
        assert file.parents[1] == tmp_path / ".cache" / "official_maskrcnn" / "records"


def test_shards_grow_with_the_images(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_IMAGES_PER_SHARD", 2)
    image_dir, path = write_many(tmp_path, 5)
    files = cache.ensure_records(image_dir, path, str(tmp_path / "cache"))
    assert len(files) == 3 and files == sorted(files)


def _change_image(folder: pathlib.Path) -> None:
    write_image(folder / "images" / "1.jpg", seed=99)


def _touch_image(folder: pathlib.Path) -> None:
    os.utime(folder / "images" / "1.jpg", ns=(1, 1))


def _change_annotation(folder: pathlib.Path) -> None:
    path = folder / "instances.json"
    path.write_text(path.read_text().replace("320.0", "321.0"))


def _remove_shard(folder: pathlib.Path) -> None:
    next((folder / "cache").glob("*/*.tfrecord")).unlink()


def _cut_shard(folder: pathlib.Path) -> None:
    os.truncate(next((folder / "cache").glob("*/*.tfrecord")), 100)


def _remove_summary(folder: pathlib.Path) -> None:
    next((folder / "cache").glob("*/records.json")).unlink()


@pytest.mark.parametrize(
    ("change", "is_other_folder"),
    [
        (_change_image, True),
        (_touch_image, True),
        (_change_annotation, True),
        (_remove_shard, False),
        (_cut_shard, False),
        (_remove_summary, False),
    ],
)
def test_changes_make_new_records(tmp_path, change, is_other_folder):
    image_dir, path = write_many(tmp_path, 2)
    arguments = image_dir, path, str(tmp_path / "cache")
    first = cache.ensure_records(*arguments)
    size = os.path.getsize(first[0])
    change(tmp_path)
    second = cache.ensure_records(*arguments)
    assert (second != first) == is_other_folder
    assert is_other_folder or os.path.getsize(second[0]) == size
    times = _times(second)
    assert cache.ensure_records(*arguments) == second and _times(second) == times


def test_images_that_are_not_listed_do_not_matter(tmp_path):
    image_dir, path = write_many(tmp_path, 2)
    first = cache.ensure_records(image_dir, path, str(tmp_path / "cache"))
    write_image(tmp_path / "images" / "other.jpg")
    assert cache.ensure_records(image_dir, path, str(tmp_path / "cache")) == first


def test_records_of_earlier_contents_are_named(tmp_path, caplog):
    image_dir, path = write_many(tmp_path, 2)
    cache_dir = str(tmp_path / "cache")
    other = write_coco(tmp_path / "other", [annotation(7)])
    cache.ensure_records(*other, cache_dir)
    first = pathlib.Path(cache.ensure_records(image_dir, path, cache_dir)[0]).parent
    assert "earlier contents" not in caplog.text
    _change_annotation(tmp_path)
    second = pathlib.Path(cache.ensure_records(image_dir, path, cache_dir)[0]).parent
    (line,) = [record.getMessage() for record in caplog.records if "earlier" in record.getMessage()]
    assert line.endswith(f"take 0.0 GB; delete those that no run reads: {first}")
    assert first.exists() and second != first


def test_faults_are_logged_and_kept(tmp_path, caplog):
    image_dir, path = write_coco(tmp_path, [annotation(1), annotation(2, segmentation=[])])
    files = cache.ensure_records(image_dir, path, str(tmp_path / "cache"))
    assert "1 empty_segmentation (mask dropped)" in caplog.text
    summary = json.loads(pathlib.Path(files[0]).with_name("records.json").read_text())
    assert summary["faults"]["empty_segmentation"]["mask dropped"] == [2]


_SCRIPT = """
import sys
from official_maskrcnn.data import cache, images
read = images.read_image
def slow_read(path):
    print("reads", flush=True)
    return read(path)
images.read_image = slow_read
print(*cache.ensure_records(*sys.argv[1:]))
"""


def test_of_several_processes_one_converts(tmp_path):
    image_dir, path = write_many(tmp_path, 4)
    command = [sys.executable, "-c", _SCRIPT, image_dir, path, str(tmp_path / "cache")]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_ROOT) for _ in range(3)
    ]
    outputs = [process.communicate(timeout=60)[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(output.count("reads") for output in outputs) == [0, 0, 4]
    assert len({output[-1] for output in outputs}) == 1


def test_leftovers_of_a_killed_process_are_no_obstacle(tmp_path):
    image_dir, path = write_many(tmp_path, 2)
    arguments = image_dir, path, str(tmp_path / "cache")
    folder = pathlib.Path(cache.ensure_records(*arguments)[0]).parent
    folder.rename(folder.with_name(f"{folder.name}.incomplete"))
    files = cache.ensure_records(*arguments)
    assert [pathlib.Path(file).parent for file in files] == [folder]
    assert [p.name for p in folder.parent.iterdir() if not p.name.startswith(".")] == [folder.name]


def test_errors_say_what_to_do(tmp_path):
    image_dir, path = write_many(tmp_path, 1)
    with pytest.raises(UserError, match="none does not exist"):
        cache.ensure_records(str(tmp_path / "none"), path, str(tmp_path / "cache"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="set cache_dir to another folder"):
        cache.ensure_records(image_dir, path, str(tmp_path / "file" / "cache"))
