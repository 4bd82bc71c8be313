"""The light writer against TensorFlow's reader, and shards that are whole or not there."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from official_maskrcnn.data import tfrecord
from official_maskrcnn.errors import UserError


def _names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


_VALUES = (
    st.binary(max_size=300)
    | st.lists(st.binary(max_size=200), max_size=4)
    | st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5).map(lambda v: np.array(v, np.int64))
    | st.lists(st.floats(width=32), max_size=5).map(lambda v: np.array(v, np.float32))
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), _VALUES))
def test_example_is_read_by_tensorflow(features):
    example = tf.train.Example.FromString(tfrecord.encode_example(features))
    assert set(example.features.feature) == set(features)
    for key, values in features.items():
        feature = example.features.feature[key]
        if not isinstance(values, np.ndarray):
            expected = [values] if isinstance(values, bytes) else values
            assert list(feature.bytes_list.value) == expected
        elif values.dtype == np.int64:
            assert list(feature.int64_list.value) == values.tolist()
        else:
            np.testing.assert_array_equal(np.float32(feature.float_list.value), values)
        kinds = {np.dtype(np.int64): "int64_list", np.dtype(np.float32): "float_list"}
        assert feature.WhichOneof("kind") == kinds.get(getattr(values, "dtype", None), "bytes_list")


def test_equal_features_give_equal_bytes():
    features = {"b": np.array([1, 2]), "a": b"x", "c": np.array([0.5])}
    backwards = dict(reversed(features.items()))
    assert tfrecord.encode_example(features) == tfrecord.encode_example(backwards)


def test_frames_equal_tensorflows(tmp_path):
    records = [b"", b"x", bytes(range(256)) * 500]
    with tf.io.TFRecordWriter(str(tmp_path / "expected")) as writer:
        for record in records:
            writer.write(record)
    assert b"".join(map(tfrecord.frame, records)) == (tmp_path / "expected").read_bytes()


def test_shards_in_any_order(tmp_path):
    with tfrecord.ShardWriter(str(tmp_path / "new" / "train"), 3) as writer:
        for shard, record in [(0, b"a"), (2, b"b"), (0, b"c")]:
            writer.write(shard, record)
    expected = [f"train-0000{i}-of-00003.tfrecord" for i in range(3)]
    assert _names(tmp_path / "new") == writer.names == expected
    contents = [
        list(tf.data.TFRecordDataset(str(tmp_path / "new" / name)).as_numpy_iterator())
        for name in expected
    ]
    assert contents == [[b"a", b"c"], [], [b"b"]]


def test_nothing_is_there_before_the_end_nor_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), tfrecord.ShardWriter(str(tmp_path / "train"), 2) as w:
        w.write(0, b"a")
        assert not [name for name in _names(tmp_path) if not name.startswith(".")]
        raise KeyboardInterrupt
    assert _names(tmp_path) == []


def test_old_shards_go_when_the_new_are_whole(tmp_path):
    for name in ("trainer-00000-of-00001.tfrecord", "train.txt"):
        (tmp_path / name).touch()  # of somebody else
    with tfrecord.ShardWriter(str(tmp_path / "train"), 3) as writer:
        writer.write(0, b"a")
    before = _names(tmp_path)
    with pytest.raises(ZeroDivisionError), tfrecord.ShardWriter(str(tmp_path / "train"), 1):
        raise ZeroDivisionError
    assert _names(tmp_path) == before
    with tfrecord.ShardWriter(str(tmp_path / "train"), 1) as writer:
        writer.write(0, b"b")
    new = ["train-00000-of-00001.tfrecord", "train.txt", "trainer-00000-of-00001.tfrecord"]
    assert _names(tmp_path) == new


@pytest.mark.parametrize(
    ("prefix", "shards", "message"),
    [
        ("gs://bucket/train", 1, "written locally"),
        ("records/", 1, "no prefix"),
        ("", 1, "no prefix"),
        ("train", 0, "number of shards"),
    ],
)
def test_unusable_output(prefix, shards, message):
    with pytest.raises(UserError, match=message):
        tfrecord.ShardWriter(prefix, shards)


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    writer = tfrecord.ShardWriter(str(tmp_path / "file" / "train"), 1)
    with pytest.raises(UserError, match="cannot write to"), writer:
        pass
