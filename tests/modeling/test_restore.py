"""Restoring parts of models from checkpoints."""

import logging
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from official_maskrcnn.errors import UserError
from official_maskrcnn.model_garden import light_imports
from official_maskrcnn.modeling import restore

with light_imports():
    from official.vision.modeling.backbones import resnet


def _dense(units: int = 4, layers: int = 2) -> tf_keras.Model:
    return tf_keras.Sequential(
        [tf_keras.Input([3]), *(tf_keras.layers.Dense(units) for _ in range(layers))]
    )


def _write(path: pathlib.Path, **items: tf_keras.Model | tf.train.Checkpoint) -> str:
    return tf.train.Checkpoint(**items).write(str(path / "ckpt-7"))


def _assert_equal(model: tf_keras.Model, other: tf_keras.Model) -> None:
    assert len(model.weights) == len(other.weights) > 0
    for a, b in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def _resnet18() -> tf_keras.Model:
    return resnet.ResNet(18, tf_keras.layers.InputSpec(shape=[None, 64, 64, 3]))


def test_official_resnet18_backbone_is_restored_whole(tmp_path: pathlib.Path) -> None:
    source, target = _resnet18(), _resnet18()
    for variable in source.variables:
        variable.assign(tf.random.uniform(variable.shape))
    step = tf.Variable(5)
    path = tf.train.Checkpoint(backbone=source, step=step).save(str(tmp_path / "ckpt"))

    report = restore.restore_modules(path, {"backbone": target})

    _assert_equal(target, source)
    assert len(report.restored["backbone"]) == len(source.variables) == 105
    assert report.missing == {"backbone": []} and report.unused == []
    assert "backbone: 105 of 105 variables restored" in str(report)


def test_parts_below_model_and_beside_it_in_one_file(tmp_path: pathlib.Path) -> None:
    backbone, decoder = _dense(), _dense(5)
    nested = tf.train.Checkpoint(backbone=backbone, head=_dense(6))
    path = _write(tmp_path, model=nested, decoder=decoder)
    own_backbone, own_decoder = _dense(), _dense(5)

    restore.restore_modules(path, {"backbone": own_backbone, "decoder": own_decoder})

    _assert_equal(own_backbone, backbone)
    _assert_equal(own_decoder, decoder)


def test_a_root_of_its_own_wins_over_one_below_model(tmp_path: pathlib.Path) -> None:
    top, nested, target = _dense(), _dense(), _dense()
    path = _write(tmp_path, backbone=top, model=tf.train.Checkpoint(backbone=nested))
    restore.restore_modules(path, {"backbone": target})
    _assert_equal(target, top)


def test_a_folder_means_its_latest_checkpoint(tmp_path: pathlib.Path) -> None:
    model, target = _dense(), _dense()
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(model=model), str(tmp_path), 2)
    manager.save()
    model.weights[0].assign_add(tf.ones_like(model.weights[0]))
    manager.save()
    report = restore.restore_modules(str(tmp_path), {"model": target})
    _assert_equal(target, model)
    assert report.checkpoint.endswith("ckpt-2")


def test_variables_without_counterpart_stay_and_are_reported(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = _dense(layers=2), _dense(layers=3)
    path = _write(tmp_path, backbone=source)
    before = [weight.numpy() for weight in target.weights]
    with caplog.at_level(logging.INFO):
        report = restore.restore_modules(path, {"backbone": target})

    for i in range(4):
        np.testing.assert_array_equal(target.weights[i], source.weights[i])
    for i in (4, 5):
        np.testing.assert_array_equal(target.weights[i], before[i])
    assert [str(variable) for variable in report.missing["backbone"]] == [
        "backbone/layer_with_weights-2/kernel [4, 4]",
        "backbone/layer_with_weights-2/bias [4]",
    ]
    assert "4 of 6 variables restored" in caplog.text

    fewer = restore.restore_modules(path, {"backbone": _dense(layers=1)})
    assert [variable.shape for variable in fewer.unused] == [(4, 4), (4,)]
    assert "2 variables of the checkpoint are not used" in str(fewer)


def test_another_shape_is_refused_and_nothing_changes(tmp_path: pathlib.Path) -> None:
    path = _write(tmp_path, backbone=_dense(4), decoder=_dense(4))
    backbone, decoder = _dense(4), _dense(5)
    before = [weight.numpy() for weight in backbone.weights]
    with pytest.raises(UserError) as error:
        restore.restore_modules(path, {"backbone": backbone, "decoder": decoder})
    assert "decoder/layer_with_weights-0/kernel has shape [3, 5], but [3, 4]" in str(error.value)
    assert "nothing of" not in str(error.value)
    for weight, value in zip(backbone.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_a_module_that_is_not_there_is_refused(tmp_path: pathlib.Path) -> None:
    path = _write(tmp_path, backbone=_dense(), head=_dense())
    with pytest.raises(UserError, match=r"nothing of decoder is in.*backbone, head"):
        restore.restore_modules(path, {"backbone": _dense(), "decoder": _dense()})


def test_missing_damaged_and_foreign_files(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="there is no checkpoint"):
        restore.restore_modules(str(tmp_path / "ckpt-1"), {"model": _dense()})
    with pytest.raises(UserError, match="has no checkpoint"):
        restore.restore_modules(str(tmp_path), {"model": _dense()})
    (tmp_path / "bad.index").write_bytes(b"no checkpoint at all")
    with pytest.raises(UserError, match="cannot read the checkpoint"):
        restore.restore_modules(str(tmp_path / "bad"), {"model": _dense()})
    name_based = str(tmp_path / "old")
    tf.raw_ops.SaveV2(
        prefix=name_based, tensor_names=["w"], shape_and_slices=[""], tensors=[tf.zeros(2)]
    )
    with pytest.raises(UserError, match="not an object-based checkpoint"):
        restore.restore_modules(name_based + ".index", {"model": _dense()})


def test_weights_of_all_replicas_are_restored(tmp_path: pathlib.Path) -> None:
    source = _dense()
    path = _write(tmp_path, model=source)
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        target = _dense()
        report = restore.restore_modules(path, {"model": target})
    assert len(report.restored["model"]) == 4
    _assert_equal(target, source)
