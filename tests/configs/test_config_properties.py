"""Whatever a user writes is taken and survives saving, or is refused: nothing else ever happens."""

import pathlib
import re
import tempfile
import types
import typing
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import official_maskrcnn.tasks  # noqa: F401 - enters the rules that need the model's code
from official_maskrcnn.configs import fields, loading
from official_maskrcnn.configs.experiment import ExperimentConfig
from official_maskrcnn.configs.experiments import EXPERIMENTS
from official_maskrcnn.configs.overrides import read_override
from official_maskrcnn.errors import UserError
from official_maskrcnn.model_garden import light_imports

with light_imports():
    from official.modeling import hyperparams

_PATHS = fields.all_paths(ExperimentConfig)


def _examples(count: int) -> settings:
    """The same examples in every run, however long they take."""
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def _fields_of(config_class: type) -> dict[str, tuple[type[hyperparams.Config], str, Any]]:
    """Path of every plain field below: the class that has it, its name there, its annotation."""
    found = {}
    for name, annotation in fields.annotations(config_class).items():
        child = fields.config_class_of(annotation)
        if child:
            found |= {f"{name}.{path}": entry for path, entry in _fields_of(child).items()}
        else:
            found[name] = config_class, name, annotation
    return found


_FIELDS = _fields_of(ExperimentConfig)

_WORDS = (
    *("null", "None", "~", "true", "False", "yes", "flase", "nan", ".inf", "-inf", "NaN"),
    *("0", "-1", "+7", "-0", "010", "0x10", "1_000", "1e4", "1e-4", ".5", "5.", "1e308", "1e999"),
    *("9" * 18, "9" * 30, "1.0e+22", "٣", "1:30", "2024-01-01", "=", "==1", "<<", "?", "-", "- 1"),
    *("/a/x*,/b/y*", "gs://b/x-*-of-*", "/d/{x,y}/*", "*.tfrecord", "~/x", "C:\\x", "it's"),
    *("[", "]", "{", "}", "[[", "'", '"', "''", '""', "[]", "{}", "[,]", "{a}", "[1,", "a,b=c"),
    *("!!int 5", "!x", "&a 1", "*a", "&a [*a]", "| x", "> x", "%x", "@x", "`x`", "# x", "x #y"),
    *("float32", "bfloat16", "sgd", "resnet", "spinenet", "cosine", "default", "hourglass52"),
    *(
        "\t",
        "a\tb",
        "a\x85b",
        "a\u2028b",
        "\ufeff",
        "\x00",
        "\x1b[0m",
        "\udcff",
        "é",
        "日本　語",
        "🥜",
    ),
)
_NUMBERS = st.integers().map(str) | st.integers(-2, 300).map(str) | st.floats().map(repr)
_TEXTS = st.text(max_size=15) | st.text("[]{}'\",:=*&!#|>-\\%@ \t\nab1", max_size=15)
_QUOTED = _TEXTS.map(lambda text: "'" + text.replace("'", "''") + "'") | _TEXTS.map(
    lambda text: yaml.dump(text, default_style='"', width=1000).strip()
)
_SCALARS = st.sampled_from(_WORDS) | _NUMBERS | _QUOTED | _TEXTS
_NESTED = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(st.sampled_from(("type", "a", "1", "<<")) | inner, inner, max_size=2).map(
            lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items.items()) + "}"
        )
    ),
    max_leaves=6,
)


def _fitting(annotation: Any) -> st.SearchStrategy[str]:
    """Values as the field takes them, but for rules and ranges."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return st.one_of(*map(_fitting, typing.get_args(annotation)))
    elements = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple and Ellipsis not in elements:
        items: st.SearchStrategy[Any] = st.tuples(*map(_fitting, elements))
    elif elements:
        items = st.lists(_fitting(elements[0]), max_size=4)
    else:
        return {
            bool: st.sampled_from(("true", "false")),
            int: st.integers(0, 300).map(str),
            float: st.floats(0, 2).map(repr),
            str: st.sampled_from(("a", "gs://b/x*", "'1e-4'", "'null'", "'a, b=c'")) | _QUOTED,
            type(None): st.just("null"),
        }[annotation]
    return items.map(lambda texts: f"[{', '.join(texts)}]")


_VALUES = {path: _fitting(entry[2]) | _NESTED for path, entry in _FIELDS.items()}


@st.composite
def _typos(draw: st.DrawFn) -> str:
    """A path with one letter too many, too few, or another."""
    path = draw(st.sampled_from(_PATHS))
    at = draw(st.integers(0, len(path) - 1))
    letter = draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz_"))
    return draw(
        st.sampled_from((path[:at] + path[at + 1 :], path[:at] + letter + path[at:]))
        | st.just(path[:at] + letter + path[at + 1 :])
    )


@st.composite
def _pairs(draw: st.DrawFn) -> tuple[str, str]:
    """A path and a value: mostly of a field, and half of these values of its type."""
    path = draw(st.sampled_from(tuple(_FIELDS)))
    value = draw(_VALUES[path])
    if draw(st.integers(0, 9)) == 0:
        path = draw(_typos() | st.sampled_from(_PATHS) | st.text(max_size=10))
    return path, value


def _as_override(pairs: list[tuple[str, str]]) -> str:
    return ",".join(f"{path}={value}" for path, value in pairs)


def _as_yaml(pairs: list[tuple[str, str]]) -> str:
    """Nested as people write it; a path that is given twice stays so."""
    lines: list[str] = []
    opened: list[str] = []
    for path, value in sorted(pairs):
        *parents, name = path.split(".")
        common = 0
        while common < min(len(parents), len(opened)) and parents[common] == opened[common]:
            common += 1
        for depth in range(common, len(parents)):
            lines.append(f"{'  ' * depth}{parents[depth]}:")
        lines.append(f"{'  ' * len(parents)}{name}: {value}")
        opened = parents
    return "\n".join(lines)


def _check_load(name: str, texts: list[str], config: str | None) -> None:
    """An experiment is loaded and comes back the same from its saved form, or is refused."""
    with tempfile.TemporaryDirectory() as folder:
        config_files = []
        if config is not None:
            path = pathlib.Path(folder, "mine.yaml")
            path.write_bytes(config.encode(errors="surrogateescape"))
            config_files = [str(path)]
        try:
            experiment = loading.load(name, config_files, texts).config
        except UserError as error:
            assert re.match(r"\d+ faults? in the configuration", str(error))
            return
        saved = pathlib.Path(folder, "params.yaml")
        loading.save_params(experiment, str(saved))
        again = loading.load(name, [str(saved)]).config
    assert again.as_dict() == experiment.as_dict()
    assert [type(value) for _, value in fields.leaves(again)] == [
        type(value) for _, value in fields.leaves(experiment)
    ]


_LOADS = given(
    st.sampled_from(EXPERIMENTS.names()),
    st.lists(st.lists(_pairs(), max_size=3).map(_as_override), max_size=2),
    st.none() | st.lists(_pairs(), max_size=3).map(_as_yaml),
)
_GARBAGE = given(_TEXTS | st.text("trainer:=[]{}'\"\n\t -,1&*!#", max_size=40), st.booleans())


@_examples(150)
@_LOADS
def test_a_configuration_is_refused_or_survives_saving(
    name: str, texts: list[str], config: str | None
):
    _check_load(name, texts, config)


@pytest.mark.slow
@_examples(3000)
@_LOADS
def test_many_configurations_are_refused_or_survive_saving(
    name: str, texts: list[str], config: str | None
):
    _check_load(name, texts, config)


@_examples(150)
@_GARBAGE
def test_garbage_is_no_exception_of_another_kind(text: str, is_file: bool):
    _check_load(EXPERIMENTS.names()[0], [] if is_file else [text], text if is_file else None)


@st.composite
def _field_values(draw: st.DrawFn) -> tuple[str, str]:
    path = draw(st.sampled_from(tuple(_FIELDS)))
    return path, draw(_VALUES[path])


def _check_field(path: str, value: str) -> None:
    """A field takes a value, which survives saving, or says why not and what would be taken."""
    config_class, name, _ = _FIELDS[path]
    source = read_override(f"{name}={value}")
    config = config_class()
    for setting in source.settings:
        try:
            fields.assign(config, setting.path, setting.node)
        except fields.Refused as refusal:
            _check_suggestion(config_class, setting.path, str(refusal))
    again = config_class()
    saved = read_override(loading.to_yaml(config))
    assert saved.faults == []
    for setting in saved.settings:
        fields.assign(again, setting.path, setting.node)
    assert again.as_dict() == config.as_dict()


def _check_suggestion(config_class: type[hyperparams.Config], path: str, message: str) -> None:
    if "given; accepts" not in message:
        return
    found = re.search(r"(?:; did you mean (.*)\?|, such as (.*))$", message, re.DOTALL)
    if found:
        (setting,) = read_override(f"{path}={found[1] or found[2]}").settings
        fields.assign(config_class(), path, setting.node)


@_examples(2000)
@given(_field_values())
def test_a_field_takes_a_value_or_says_what_it_takes(pair: tuple[str, str]):
    _check_field(*pair)


@pytest.mark.slow
@_examples(20_000)
@given(_field_values())
def test_a_field_takes_any_value_or_says_what_it_takes(pair: tuple[str, str]):
    _check_field(*pair)


@_examples(300)
@given(_typos())
def test_a_misspelt_path_gets_the_nearest(path: str):
    if path in _PATHS:
        return
    setting = next(iter(read_override(f"{path}=1").settings), None)
    if setting is None:  # no name at all, such as one that starts with a dot
        assert read_override(f"{path}=1").faults
        return
    with pytest.raises(fields.Refused) as refusal:
        fields.assign(EXPERIMENTS.get(EXPERIMENTS.names()[0])(), path, setting.node)
    assert path.startswith(refusal.value.path)
    assert len(str(refusal.value)) > 20


_TAGS = st.sampled_from(
    (
        *("!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir", "!!python/none"),
        *("!!python/object:os.mkdir", "!!python/name:os.mkdir", "!!python/module:os", "!!binary"),
        *("!!str", "!!int", "!<tag:yaml.org,2002:python/object/apply:os.mkdir>", "!x", "!", "*a"),
    )
)


@_examples(100)
@given(st.sampled_from(_PATHS), _TAGS, st.integers(0, 4), st.booleans())
def test_yaml_makes_nothing_but_plain_values(path: str, tag: str, place: int, is_file: bool):
    with tempfile.TemporaryDirectory() as folder:
        witness = pathlib.Path(folder, "witness")
        tagged = f'{tag} ["{witness}"]' if tag != "*a" else tag
        parents, _, name = path.rpartition(".")
        text = (
            f"{path}: {tagged}",
            f"{path}: [1, {tagged}]",
            f"{path}: {{a: {tagged}}}",
            f"{tagged}: {path}",
            f"{parents or 'trainer'}: &a {{{name}: 1, <<: {tagged}}}",
        )[place]
        config_file = pathlib.Path(folder, "mine.yaml")
        config_file.write_text(text)
        with pytest.raises(UserError, match=r"tags are not used|aliases are not used|not valid"):
            if is_file:
                loading.load(EXPERIMENTS.names()[0], [str(config_file)])
            else:
                loading.load(EXPERIMENTS.names()[0], (), text)
        assert not witness.exists()
