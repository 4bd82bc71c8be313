"""The service's page in a browser, as a user sees and uses it."""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
import pytest

from tests.browser import Browser, open_browser
from tests.inference.served_predictor import wait_until
from tests.inference.service_process import ServiceProcess, fake_service

pytestmark = pytest.mark.slow
_GREY = (90, 90, 90)
_SIZE = (1200, 900)  # of the photograph; its canvas has as many pixels


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    with fake_service() as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def photograph(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("page") / "photograph.png"
    PIL.Image.new("RGB", _SIZE, _GREY).save(path)
    return path


@pytest.fixture
def page(browser: Browser, service: ServiceProcess) -> Iterator[Browser]:
    browser.emulate(1280, 860)
    browser.open(service.url)
    wait_until(lambda: "2 classes" in browser.one("#facts").text)
    yield browser
    # What the browser says of the way in which these tests read its pixels is left out.
    assert [line for line in browser.console() if "getImageData" not in line] == []


def _look(page: Browser, photograph: pathlib.Path, words: str = "objects in") -> None:
    page.one("#file").send_keys(str(photograph))
    wait_until(lambda: words in page.one("#status").text)


def _pixel(page: Browser, x: float, y: float) -> tuple[int, ...]:
    """Of the canvas, at fractions of its width and height."""
    code = (
        "const c = document.getElementById('canvas');"
        "const [x, y] = [arguments[0] * c.width, arguments[1] * c.height];"
        "return [...c.getContext('2d').getImageData(x, y, 1, 1).data].slice(0, 3)"
    )
    return tuple(page.run(code, x, y))


def _drag(page: Browser, start: tuple[float, float], end: tuple[float, float]) -> None:
    """With the mouse, from and to fractions of the canvas."""
    from selenium.webdriver.common.action_chains import ActionChains

    page.run("document.getElementById('canvas').scrollIntoView({block: 'nearest'})")
    canvas = page.one("#canvas")
    width, height = canvas.size["width"], canvas.size["height"]
    x0, y0 = (start[0] - 0.5) * width, (start[1] - 0.5) * height
    steps = [(end[0] - start[0]) * width / 2, (end[1] - start[1]) * height / 2]
    chain = ActionChains(page.driver).move_to_element_with_offset(canvas, x0, y0).click_and_hold()
    for _ in range(2):
        chain.move_by_offset(*steps)
    chain.release().perform()


def _objects(page: Browser) -> list[str]:
    return [item.text for item in page.find("#objects li button:first-of-type")]


def _slide(page: Browser, keys: str) -> None:
    page.one("#threshold").send_keys(keys)


def test_the_threshold_and_the_classes_decide_what_is_shown(page, photograph):
    from selenium.webdriver.common.keys import Keys

    _look(page, photograph)
    assert _objects(page) == ["date 0.80"]  # the fig has 0.3
    assert page.one("#count").text == "1 of 2"
    # The first object is in the right half; its mask leaves out the uppermost eighth of its box.
    inside, above, outside = (0.75, 0.6), (0.75, 0.26), (0.25, 0.6)
    assert _pixel(page, *inside) != _GREY
    assert _pixel(page, *above) == _pixel(page, *outside) == _GREY
    _slide(page, Keys.HOME)
    assert _objects(page) == ["date 0.80", "fig 0.30"]
    assert _pixel(page, *outside) != _GREY
    page.click("#classes li:nth-child(1) input")
    assert _objects(page) == ["fig 0.30"]
    page.click("#classes li:nth-child(2) input")
    assert _objects(page) == [] and _pixel(page, *inside) == _GREY
    page.click("#classes li:nth-child(1) input")
    assert _objects(page) == ["date 0.80"]
    page.click("#masks")
    assert _pixel(page, *inside) == _GREY
    _slide(page, Keys.END)
    assert _objects(page) == []


def test_a_mask_has_the_place_that_it_has_in_the_image(page, photograph):
    """Row by row, against the mask as the service gives it to others."""
    _look(page, photograph)
    page.click("#boxes")
    page.click("#labels")
    code = (
        "const c = document.getElementById('canvas');"
        "return [c.width, c.height, [...c.getContext('2d').getImageData(0, 0, c.width, c.height)"
        ".data].filter((_, i) => i % 4 === 0)]"
    )
    width, height, reds = page.run(code)
    assert (width, height) == _SIZE
    found = np.reshape(reds, [height, width]) != _GREY[0]
    expected = np.zeros([height, width], bool)
    # Box: rows 225 to 674, columns 600 to 1199; see ServedPredictor for its mask.
    top = 225 + int(np.ceil((0.5 + (0.5 - 0.125) / (0.9 - 0.125)) * 450 / 8 - 0.5))
    expected[top:675, 600:] = True
    np.testing.assert_array_equal(found, expected)


def test_a_box_that_is_drawn_gets_its_mask(page, photograph):
    _look(page, photograph)
    inside = (0.2, 0.3)
    assert _pixel(page, *inside) == _GREY
    _drag(page, (0.1, 0.1), (0.4, 0.4))
    wait_until(lambda: "drawn in white" in page.one("#status").text)
    assert _objects(page) == ["date, your box", "date 0.80"]
    assert min(_pixel(page, *inside)) > _GREY[0]  # lighter: white lies over it
    assert _pixel(page, 0.45, 0.3) == _GREY
    page.click("#objects button[aria-label^=Remove]")
    assert _objects(page) == ["date 0.80"] and _pixel(page, *inside) == _GREY


def _touch(page: Browser, *points: tuple[float, float]) -> None:
    """A finger put down at the first point of the canvas, moved over the others, and lifted."""
    canvas = page.run("return document.getElementById('canvas').getBoundingClientRect()")
    for i, (x, y) in enumerate(points):
        place = {"x": canvas["x"] + x * canvas["width"], "y": canvas["y"] + y * canvas["height"]}
        kind = "touchMove" if i else "touchStart"
        page.driver.execute_cdp_cmd(
            "Input.dispatchTouchEvent", {"type": kind, "touchPoints": [place]}
        )
    page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_a_finger_draws_once_the_button_is_pressed(page, photograph):
    page.emulate(360, 740)
    _look(page, photograph)
    page.run("window.scrollTo(0, 0)")
    _touch(page, (0.1, 0.1), (0.3, 0.2), (0.4, 0.4))
    assert len(_objects(page)) == 1
    page.click("#draw")
    page.run("window.scrollTo(0, 0)")
    _touch(page, (0.1, 0.1), (0.3, 0.2), (0.4, 0.4))
    wait_until(lambda: "drawn in white" in page.one("#status").text)
    assert len(_objects(page)) == 2 and min(_pixel(page, 0.2, 0.3)) > _GREY[0]


def test_all_can_be_done_by_keyboard(page, photograph):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    _look(page, photograph)
    reached = []
    for _ in range(12):
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
        reached.append(page.run("return document.activeElement.id"))
    assert {"canvas", "another", "threshold", "masks", "draw"} <= set(reached)
    page.one("#draw").send_keys(Keys.ENTER)
    assert page.run("return document.activeElement.id") == "canvas"
    keys = ActionChains(page.driver)
    for key in [Keys.ARROW_LEFT] * 10 + [Keys.ARROW_UP] * 3:
        keys.send_keys(key)
    keys.key_down(Keys.SHIFT).send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN).key_up(Keys.SHIFT)
    keys.send_keys(Keys.ENTER).perform()
    wait_until(lambda: "drawn in white" in page.one("#status").text)
    assert _objects(page)[0] == "date, your box"
    assert page.one("#draw").get_attribute("aria-pressed") == "false"
    page.one("#draw").send_keys(Keys.ENTER)
    ActionChains(page.driver).send_keys(Keys.ESCAPE).perform()
    assert page.one("#draw").get_attribute("aria-pressed") == "false"
    assert len(_objects(page)) == 2


def test_a_click_chooses_what_is_under_it(page, photograph):
    _look(page, photograph)
    chosen = "#objects button[aria-pressed=true]"
    assert page.find(chosen) == []
    _drag(page, (0.75, 0.6), (0.75, 0.6))
    assert page.one(chosen).text == "date 0.80"
    page.click(chosen)
    assert page.find(chosen) == []


def test_a_photograph_can_be_dropped(page, photograph):
    where: dict[str, Any] = {"x": 300, "y": 300}
    data = {"items": [], "files": [str(photograph)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        page.driver.execute_cdp_cmd(
            "Input.dispatchDragEvent", {"type": kind, **where, "data": data}
        )
    wait_until(lambda: "objects in" in page.one("#status").text)
    assert _objects(page) == ["date 0.80"]


def test_another_photograph_replaces_the_first(page, photograph, tmp_path):
    other = tmp_path / "other.jpg"
    PIL.Image.new("RGB", (300, 600), (200, 30, 30)).save(other)
    _look(page, photograph)
    page.run("document.getElementById('status').textContent = ''")
    _look(page, other)
    ratio = page.run("const c = document.getElementById('canvas'); return c.height / c.width")
    assert ratio == pytest.approx(2, abs=0.01)
    assert len(_objects(page)) == 1


def test_of_two_photographs_the_last_is_shown_and_no_other(browser, photograph, tmp_path):
    large = tmp_path / "large.png"
    PIL.Image.new("RGB", (1300, 1300), _GREY).save(large)
    with fake_service(max_pixels=1200 * 1300) as service:
        browser.emulate(1280, 860)
        browser.open(service.url)
        _look(browser, photograph)
        _look(browser, large, "more than 1560000 pixels")  # the service refuses it
        assert _objects(browser) == [] and browser.find("#classes li") == []
        assert browser.one("#count").text == "0 of 0"
        assert not browser.one("#threshold").is_enabled()
        assert browser.one("#another").is_displayed() and browser.one("#another").is_enabled()
        # Two that are dropped at once, of which the first takes longer to be read.
        browser.run("""
            const read = createImageBitmap;
            createImageBitmap = async (file) => {
              if (file.name === "slow") await new Promise((done) => setTimeout(done, 700));
              return read(file);
            };
            const drop = async (name, width, height) => {
              const canvas = new OffscreenCanvas(width, height);
              canvas.getContext("2d").fillRect(0, 0, width, height);
              const dataTransfer = new DataTransfer();
              dataTransfer.items.add(new File([await canvas.convertToBlob()], name));
              dispatchEvent(new DragEvent("drop", { dataTransfer, cancelable: true }));
            };
            drop("slow", 100, 200).then(() => drop("quick", 200, 100));
            setTimeout(() => document.body.classList.add("waited"), 2000);
        """)
        wait_until(lambda: browser.find("body.waited"))
        ratio = "const c = document.getElementById('canvas'); return c.height / c.width"
        assert browser.run(ratio) == pytest.approx(0.5, abs=0.01)
        assert _objects(browser) == ["date 0.80"]
        assert browser.one("#count").text == "1 of 2"
        assert all("413" in line for line in browser.console())


def test_what_is_no_image_is_said(page, tmp_path):
    text = tmp_path / "text.png"
    text.write_text("no image")
    _look(page, text, "no image that the browser can show")
    assert "fault" in page.one("#status").get_attribute("class")


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_s_width_is_enough(page, photograph, dark):
    page.emulate(360, 740, dark)
    page.open(page.driver.current_url)
    _look(page, photograph)
    assert page.run("return document.documentElement.scrollWidth") <= 360
    canvas = page.one("#canvas").rect
    assert canvas["x"] >= 0 and canvas["x"] + canvas["width"] <= 360
    ground = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 200) == dark


def test_nothing_comes_from_elsewhere(page, service, photograph):
    _look(page, photograph)
    names = page.run("return performance.getEntriesByType('resource').map(e => e.name)")
    assert names and all(name.startswith((service.url, "data:")) for name in names)


def test_a_token_is_asked_for(browser, photograph):
    with fake_service(token="s3cret") as service:
        browser.emulate(1280, 860)
        browser.open(service.url)
        wait_until(lambda: browser.one("#token-form").is_displayed())
        browser.one("#token").send_keys("wrong")
        browser.click("#token-form button")
        wait_until(lambda: "a token is needed" in browser.one("#status").text)
        browser.one("#token").clear()
        browser.one("#token").send_keys("s3cret")
        browser.click("#token-form button")
        wait_until(lambda: not browser.one("#token-form").is_displayed())
        _look(browser, photograph)
        assert _objects(browser) == ["date 0.80"]
        assert all("401" in line for line in browser.console())


def test_a_class_is_asked_for_where_boxes_need_one(browser, photograph):
    with fake_service(class_agnostic=False) as service:
        browser.emulate(1280, 860)
        browser.open(service.url)
        _look(browser, photograph)
        assert browser.one("#class-choice").is_displayed()
        browser.one("#box-class").send_keys("fig")
        _drag(browser, (0.1, 0.1), (0.4, 0.4))
        wait_until(lambda: "drawn in white" in browser.one("#status").text)
        assert browser.console() == []
    with fake_service(include_mask=False) as service:
        browser.open(service.url)
        _look(browser, photograph)
        assert not browser.one("#drawing").is_displayed()
        assert _objects(browser) == ["date 0.80"]
