"""Text files, local and at URLs."""

import codecs
import os

import pytest

from official_maskrcnn import files
from official_maskrcnn.errors import UserError


def test_a_byte_order_mark_is_no_content(tmp_path):
    (tmp_path / "a.json").write_bytes(codecs.BOM_UTF8 + b"[1]")
    assert files.read_json(tmp_path / "a.json") == files.read_json(f"file://{tmp_path}/a.json")
    assert files.read_json(tmp_path / "a.json") == [1]


@pytest.mark.parametrize("scheme", ["", "file://", "unknown://"])
def test_what_cannot_be_written_is_readable(tmp_path, scheme):
    (tmp_path / "file").touch()
    path = f"{scheme}{tmp_path}/file/a.json"
    with pytest.raises(UserError, match=f"cannot write {path}: "):
        files.write_json(path, [1])
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_what_goes_wrong_on_the_way_is_not_taken_for_the_disk(tmp_path, scheme):
    with pytest.raises(ZeroDivisionError):
        files.write_json_list(f"{scheme}{tmp_path}/a.json", ({"id": 1 // i} for i in (1, 0)))
    assert not (tmp_path / "a.json").exists()
