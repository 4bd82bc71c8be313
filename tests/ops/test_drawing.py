"""Pictures: what is drawn lies where the boxes and masks are."""

import itertools

import cv2
import numpy as np
import pytest

from official_maskrcnn.ops import drawing


def test_distinct_colors():
    colors = drawing.distinct_colors(12).astype(int)
    assert colors.shape == (12, 3)
    for first, second in itertools.combinations(colors, 2):
        assert np.abs(first - second).max() > 20
    np.testing.assert_array_equal(drawing.distinct_colors(5), colors[:5])
    assert drawing.distinct_colors(0).shape == (0, 3)


def test_mask_tints_its_pixels_and_no_others():
    image = np.full([60, 80, 3], 100, np.uint8)
    mask = np.zeros([60, 80], bool)
    mask[10:30, 20:50] = True
    drawn = drawing.draw_instances(image, np.array([[10, 20, 30, 50]]), [mask])
    assert (image == 100).all()  # the input is left as it is
    changed = (drawn != 100).any(axis=-1)
    assert changed[mask].all()
    # The contour is smoothed, so it may touch the next pixel.
    beyond = np.ones_like(mask)
    beyond[9:31, 19:51] = False
    assert not changed[beyond].any()


def test_box_without_mask_and_no_instances():
    image = np.zeros([40, 40, 3], np.uint8)
    drawn = drawing.draw_instances(image, np.array([[5.0, 6, 20, 30]]), [None])
    rows, columns = np.nonzero(drawn.any(axis=-1))
    assert (rows.min(), columns.min(), rows.max(), columns.max()) == (5, 6, 19, 29)
    assert not drawn[10, 10].any()
    np.testing.assert_array_equal(drawing.draw_instances(image, np.zeros([0, 4])), image)


def test_labels_stay_inside_and_do_not_cover_each_other():
    image = np.zeros([100, 200, 3], np.uint8)
    boxes = np.array([[52, 152, 60, 160], [50.0, 150, 99, 260], [-5.0, 0, 40, 40]])

    def change(labels):
        drawn = drawing.draw_instances(image, boxes, labels=labels)
        return (drawn != drawing.draw_instances(image, boxes)).any(axis=-1)

    rows, columns = np.nonzero(change(["", "hippopotamus 0.98", ""]))
    assert rows.min() > 25 and rows.max() < 50  # above its box
    assert columns.min() < 150 and columns.max() >= 198  # moved left to fit
    assert np.nonzero(change(["", "", "cow"]))[0].max() < 30  # no room above the image
    # The small one's would lie over the large one's.
    np.testing.assert_array_equal(
        change(["ant", "hippopotamus 0.98", ""]), change(["", "hippopotamus 0.98", ""])
    )


def test_paste_mask_inverts_an_exact_crop():
    rng = np.random.default_rng(0)
    truth = np.zeros([50, 70], bool)
    truth[12:40, 8:64] = rng.uniform(size=[28, 56]) < 0.5
    crop = truth[12:40, 8:64].repeat(4, 0).repeat(2, 1)  # 112 x 112
    box = np.array([12.0, 8, 40, 64])
    np.testing.assert_array_equal(drawing.paste_mask(crop, box, 50, 70), truth)


def test_paste_mask_over_the_edge_and_of_no_size():
    pasted = drawing.paste_mask(np.ones([28, 28]), np.array([-10.0, -10, 5, 5]), 20, 20)
    expected = np.zeros([20, 20], bool)
    expected[:5, :5] = True
    np.testing.assert_array_equal(pasted, expected)
    assert not drawing.paste_mask(np.ones([28, 28]), np.array([3.0, 3, 3, 3]), 20, 20).any()
    assert not drawing.paste_mask(np.ones([28, 28]), np.array([30.0, 30, 40, 40]), 20, 20).any()


def test_contact_sheet_places_every_image():
    images = [np.full([30 + i, 60, 3], 50 * (i + 1), np.uint8) for i in range(4)]
    sheet = drawing.contact_sheet(images, columns=3, captions=["a", "b", "c", "d" * 99])
    for i, image in enumerate(images):
        assert np.sum((sheet == 50 * (i + 1)).all(axis=-1)) >= image.shape[0] * image.shape[1]
    assert drawing.contact_sheet(images[:1], columns=3).shape[1] < 60 + 30  # no empty columns


def test_fit_keeps_the_aspect_ratio():
    image, scale = drawing.fit(np.zeros([200, 100, 3], np.uint8), 50)
    assert image.shape == (50, 25, 3) and scale == 0.25


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_write_image(tmp_path, suffix):
    image = np.zeros([16, 16, 3], np.uint8)
    image[..., 0] = 250  # red
    path = tmp_path / f"sheet-\udce9.{suffix}"  # as Python has a name that is no UTF-8
    drawing.write_image(str(path), image)
    red = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)[..., 2]
    assert abs(red.astype(int) - 250).max() < 4
    with pytest.raises(OSError, match="sheet"):
        drawing.write_image(str(tmp_path / "missing" / f"sheet.{suffix}"), image)
    with pytest.raises(ValueError, match="unknown"):
        drawing.write_image(str(tmp_path / "sheet.unknown"), image)
