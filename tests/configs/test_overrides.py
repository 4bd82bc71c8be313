"""How YAML files and override strings are taken apart."""

import pathlib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from official_maskrcnn.configs.overrides import Source, read_file, read_override


def _pairs(source: Source) -> dict[str, str]:
    assert source.faults == []
    return {s.path: yaml.serialize(s.node).strip().removesuffix("\n...") for s in source.settings}


def _plain(source: Source) -> dict[str, str]:
    assert source.faults == []
    return {setting.path: setting.node.value for setting in source.settings}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1", {"a": "1"}),
        ("a.b=1, c = x ", {"a.b": "1", "c": "x"}),
        ("a=/x/train*,/y/train*,b=2", {"a": "/x/train*,/y/train*", "b": "2"}),
        ("a=gs://bucket/p-*-of-*,b=1e-4", {"a": "gs://bucket/p-*-of-*", "b": "1e-4"}),
        ("a='x, y=2',b=3", {"a": "x, y=2", "b": "3"}),
        ('a="x, \\"y=2",b=3', {"a": 'x, "y=2', "b": "3"}),
        ("a='it''s, so',b=3", {"a": "it's, so", "b": "3"}),
        ("a=x=y", {"a": "x=y"}),
        ("a=/d/{x,y}/*,b=1", {"a": "/d/{x,y}/*", "b": "1"}),
        ("a=/d/it's,b=1", {"a": "/d/it's", "b": "1"}),
        ("a=1,\n  b=2,\n", {"a": "1", "b": "2"}),
        ("a=", {"a": ""}),
        ("a={b: 1, c: {d: 2}}", {"a.b": "1", "a.c.d": "2"}),
        ('{"a": {"b": 1}}', {"a.b": "1"}),
        ("a:\n  b: 1\n", {"a.b": "1"}),
        ("", {}),
    ],
)
def test_override_strings(text: str, expected: dict[str, str]):
    assert _plain(read_override(text)) == expected


def test_lists_keep_their_commas():
    pairs = _pairs(read_override("a=[1, 2],b=[[x, 'y,z'], 3],c=[4]"))
    assert pairs == {"a": "[1, 2]", "b": "[[x, 'y,z'], 3]", "c": "[4]"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=[1, 2", "'[' is never closed in 'a=[1, 2'"),
        ("a=1,a=2", "given twice, first in --params_override"),
        ("a={b: 1, b: 2}", "given twice"),
        ("nonsense", "expected name=value, a map of fields, or a YAML file"),
        ("[1, 2]", "expected name=value, a map of fields, or a YAML file"),
        ("/no/such.yaml", "no such file"),
        ("a=[*x]", "a value that starts with * must be in quotes"),
        ("a=[!x y]", "a value that starts with ! must be in quotes"),
        ("a: !!python/object/apply:os.getcwd []", "a value that starts with ! must be in quotes"),
        ("a='x", "not valid YAML"),
        ("a=['x' y]", "not valid YAML"),
        ("{[1]: 2}", "the name of a field must be a plain word"),
        ("a=" + "[" * 1000 + "]" * 1000, "nested too deeply"),
    ],
)
def test_faulty_override_strings(text: str, message: str):
    (fault,) = read_override(text).faults
    assert message in str(fault)


def _write(folder: pathlib.Path, text: str | bytes) -> str:
    path = folder / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_settings_of_a_file_know_their_lines(tmp_path: pathlib.Path):
    path = _write(tmp_path, "# comment\na:\n  b: 1\n  c:\n    d: [1, 2]\n")
    assert {s.path: s.origin for s in read_file(path).settings} == {
        "a.b": f"{path}:3",
        "a.c.d": f"{path}:5",
    }
    assert _pairs(read_override(path)) == _pairs(read_file(path))


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("a:\n  b: 1\n  b: 2\n", ":3", "given twice, first in {path}:2"),
        ("a:\n\tb: 1\n", ":2", "a tab in the indentation; YAML accepts only spaces"),
        ("a: 1\nb: [1\n", ":3", "not valid YAML"),
        ("a: 1\n---\nb: 2\n", ":2", "a second document starts here"),
        ("- 1\n", "", "a list given; expected a map of fields"),
        ("a: *b\n", ":1", "must be in quotes"),
        ("a: \x00\n", "", "special characters"),
        (b"a: \xff\n", "", "UTF-8"),
    ],
)
def test_faulty_files(tmp_path: pathlib.Path, text: str, place: str, message: str):
    path = _write(tmp_path, text)
    (fault,) = read_file(path).faults
    assert fault.origin == path + place
    assert message.format(path=path) in fault.message


def test_a_folder_is_not_a_file(tmp_path: pathlib.Path):
    (fault,) = read_file(str(tmp_path)).faults
    assert "cannot be read" in str(fault)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_an_empty_file_sets_nothing_and_says_so(tmp_path, caplog, text: str):
    path = _write(tmp_path, text)
    source = read_file(path)
    assert (source.settings, source.faults) == ([], [])
    assert f"{path} is empty" in caplog.text


_WORDS = st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True)
_PATHS = st.lists(_WORDS, min_size=1, max_size=3).map(".".join)
_TEXTS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=12)


@given(st.dictionaries(_PATHS, _TEXTS, min_size=1, max_size=5))
def test_quoted_texts_come_through_whatever_they_hold(values: dict[str, str]):
    quoted = {path: "'" + text.replace("'", "''") + "'" for path, text in values.items()}
    source = read_override(",".join(f"{path}={text}" for path, text in quoted.items()))
    assert _plain(source) == values
