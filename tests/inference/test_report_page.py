"""The page of a report in a real browser: it draws, filters, sorts, and complains of nothing."""

import copy
import json
import pathlib
from typing import Any

import pytest

from official_maskrcnn.inference.report import page
from official_maskrcnn.inference.report.sources import Source
from official_maskrcnn.inference.report.write import write_report
from tests.browser import Browser
from tests.inference.report_scene import DETECTIONS, NASTY, content_of, results, write_scene

pytestmark = pytest.mark.slow

_TRAINING = {
    "train": {
        "steps": [1, 2, 3],
        "series": {"total_loss": [3.0, None, 1.0], "mask_loss": [1, 1, 1]},
    },
    "eval": {"steps": [3], "series": {"mask/AP": [0.5]}},
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, pathlib.Path]:
    """Reports of all kinds, by name."""
    folder = tmp_path_factory.mktemp("pages")
    annotation_file, image_dir = write_scene(folder)
    empty = folder / "empty.json"
    content = json.loads(pathlib.Path(annotation_file).read_text()) | {"annotations": []}
    empty.write_text(json.dumps(content))

    def write(name: str, *lists: Any, annotations: str = annotation_file) -> pathlib.Path:
        sources = []
        for number, entries in enumerate(lists):
            path = folder / f"{name}_{number}.json"
            path.write_text(json.dumps(entries))
            sources.append(Source(results=str(path)))
        output = folder / f"{name}.html"
        write_report(sources, str(output), annotations, image_dir, score=0.5)
        return output

    better = [*DETECTIONS[:1], [(1, [20, 30, 60, 58], 0.9)], *DETECTIONS[2:]]
    written = {
        "one": write("one", results()),
        "two": write("two", results(), results(better)),
        "nothing found": write("nothing", []),
        "no objects": write("no_objects", results(), annotations=str(empty)),
        "boxes": write("boxes", results(masks=False)),
        "boxes of two": write("boxes_of_two", results(), results(masks=False)),
    }
    many = _with_many_images(content_of(written["one"]))
    many["models"][0]["training"] = _TRAINING
    written["many images"] = folder / "many.html"
    written["many images"].write_text(page.render("Many", many), encoding="utf-8")
    return written


def _with_many_images(content: dict[str, Any], times: int = 30) -> dict[str, Any]:
    content = copy.deepcopy(content)
    for columns in (
        content["images"],
        *(k["images"] for k in content["models"][0]["kinds"].values()),
    ):
        for name, values in columns.items():
            columns[name] = values * times
    return content


@pytest.mark.parametrize(
    "name",
    ["one", "two", "nothing found", "no objects", "boxes", "boxes of two", "many images"],
)
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_it_draws_without_a_word_and_fits_the_screen(browser: Browser, pages, name, width, dark):
    browser.emulate(width, 800, dark)
    browser.open(pages[name])
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert len(browser.find("section h2")) == 10
    assert bool(browser.find("#averages td")) == (name != "no objects")
    assert bool(browser.find(".note")) == (name in ("no objects", "nothing found"))
    for selector in ("#matrix th", "#calibration-chart svg", "#image-table tr"):
        assert browser.find(selector), selector
    if len(browser.find(".filters .segments button")) == 2:
        browser.click('[data-key="kind-box"]')
        assert browser.one('[data-key="kind-box"]').get_attribute("aria-pressed") == "true"
    for error in range(6):
        browser.click(f'[data-key="error-{error}"]')
    browser.run("setState({class: 1, error: null})")
    browser.run("setState({class: null, score: 0.0})")
    assert browser.console() == []
    loaded = browser.run("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []
    background = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 24, 29)" if dark else "rgb(255, 255, 255)")


@pytest.fixture
def one(browser: Browser, pages) -> Browser:
    browser.emulate(1280, 900)
    browser.open(pages["one"])
    return browser


def _shown(browser: Browser) -> list[str]:
    """Names of the images in the table, in its order."""
    return [row.text for row in browser.find("#image-table tbody th")]


def _count(browser: Browser) -> str:
    return browser.one("#image-count").text


def test_figures_are_on_the_page(one):
    tiles = [tile.text.split("\n") for tile in one.find(".tile")]
    assert [tile[0] for tile in tiles] == ["Mask AP", "Mask AP50", "Box AP", "Box AP50"]
    cat = one.find("#class-table tbody tr")[1].text
    # Objects, AP, AP50, AP75 (34 / 101), precision, recall; the class error costs 33 / 101.
    assert cat.startswith("cat 3 0.337 0.337 0.337 0.333 0.333 Class")
    assert cat.endswith("0.327")
    cells = [row.text for row in one.find("#matrix tbody tr")]
    assert cells == ["cat 1 1 1", f"{NASTY} 1 1", "cow 1", "no object 2"]


def test_a_class_narrows_all_down(one):
    one.click('#class-table [data-key="class-2"]')
    assert _shown(one) == ["2.png"]
    assert _count(one).startswith("1 image of 5 with class cow; 1 of them")
    one.run("setState({error: 2})")
    assert _count(one).startswith("0 images of 5 with an error of both, class cow;")
    one.run("setState({error: null})")
    assert one.one("#recall-chart h3").text == "Precision by recall, cow"
    assert one.one("#calibration-chart h3").text == "How often a score is right, cow"
    errors = [row.text.split()[-2:] for row in one.find("#error-table tbody tr")]
    assert errors[4] == ["0", "1"]  # one on nothing, below the score
    assert one.one("#class-filter").get_attribute("value") == "2"
    # The focus stays, and the same key takes the filter away.
    assert one.run("return document.activeElement.dataset.key") == "class-2"
    one.driver.switch_to.active_element.send_keys("\ue007")
    assert len(_shown(one)) == 5


def test_an_error_and_a_cell_filter_the_images(one):
    one.click('[data-key="error-1"]')
    assert _shown(one) == ["2.png"]
    one.click('[data-key="clear"]')
    one.click('[data-key="cell-0-1"]')
    assert _shown(one) == ["1.png"]
    assert f"with cat detected as {NASTY}" in _count(one)
    one.click('[data-key="cell-3-0"]')  # on no object
    assert sorted(_shown(one)) == ["2.png", "4.png"]
    one.click('[data-key="clear"]')
    assert len(_shown(one)) == 5


def _shapes(browser: Browser, image: int) -> dict[str, int]:
    """Outlines in the pictures of an image, by kind."""
    kinds = browser.run(
        "return [...document.querySelectorAll(arguments[0])].map((shape) => shape.classList[0])",
        f"[data-key='card-{image}'] svg > :not(text)",
    )
    return {kind: kinds.count(kind) for kind in kinds}


def test_pictures_are_coloured_by_what_is_right(one):
    assert _shapes(one, 0) == {"correct": 4}  # two objects, two detections
    assert _shapes(one, 1) == {"missing": 1, "wrong": 1}
    assert _shapes(one, 2) == {"missing": 1, "correct": 2, "wrong": 1}
    assert _shapes(one, 3) == {"missing": 1}
    one.run("setState({score: 0.9})")
    assert _shapes(one, 0) == {"correct": 2, "missing": 1}
    assert _shapes(one, 1) == {"missing": 1}
    slider = one.one("#score")
    assert slider.get_attribute("value") == "0.9"
    slider.send_keys("\ue011")  # Home: 0
    assert _shapes(one, 2) == {"missing": 1, "correct": 2, "wrong": 2}
    one.click('[data-key="reset-score"]')
    one.click('[data-key="shown-wrong"]')
    assert _shapes(one, 2) == {"missing": 1, "correct": 2}
    one.click('[data-key="kind-box"]')
    assert one.run("return document.querySelectorAll('.frame rect').length") > 0
    assert one.run("return document.querySelectorAll('.frame path').length") == 0


def test_sorting(one):
    assert _shown(one) == ["1.png", "3.png", "4.png", "2.png", "0.png"]  # the worst first
    assert one.find("#image-table th")[5].get_attribute("aria-sort") == "ascending"
    by_name = [f"{number}.png" for number in range(5)]
    one.click('[data-key="All images-0"]')
    assert _shown(one) == by_name
    assert one.find("#image-table th")[0].get_attribute("aria-sort") == "ascending"
    one.click('[data-key="All images-0"]')
    assert _shown(one) == by_name[::-1]
    one.click('[data-key="direction"]')
    assert _shown(one) == by_name
    cards = [card.text.split("\n")[2] for card in one.find(".card")]
    assert cards == by_name
    one.click('[data-key="Classes-1"]')  # by the number of objects, the most first
    assert [row.text for row in one.find("#class-table tbody th")] == ["cat", NASTY, "cow"]


def test_the_enlarged_picture_and_its_keys(one):
    one.click('[data-key="card-1"]')
    dialog = one.one("dialog[open]")
    assert "1.png" in dialog.text
    labels = [text.text for text in one.find("dialog text")]
    assert labels == ["cat, missed", f"{NASTY} 0.85, class"]
    dialog.send_keys("\ue014")  # to the right
    assert "3.png" in one.one("dialog[open]").text
    one.run("openDialog(0)")
    assert [text.text for text in one.find("dialog text")] == [""] * 4  # all is right
    one.click('dialog [data-key="labels"]')
    assert one.find("dialog text")[0].text == "cat, found"
    assert one.find("dialog text")[2].text == "cat 0.90, IoU 1.00"
    one.one("dialog[open]").send_keys("\ue00c")  # escape
    assert one.find("dialog[open]") == []
    assert one.console() == []


def test_lines_can_be_hidden_and_read(one):
    lines = len(one.find("#recall-chart path.line"))
    one.click("#recall-chart .legend button")
    assert len(one.find("#recall-chart path.line")) == lines - 1
    assert one.one("#recall-chart .legend button").get_attribute("aria-pressed") == "false"
    one.run(
        "const svg = document.querySelector('#threshold-chart svg');"
        "const box = svg.getBoundingClientRect();"
        "svg.dispatchEvent(new PointerEvent('pointermove', {clientX: box.left + box.width / 2}))"
    )
    readings = [reading.text for reading in one.find("#threshold-chart .reading")]
    assert all(0 <= float(reading) <= 1 for reading in readings)
    assert len(readings) == 3


def test_two_models(browser: Browser, pages):
    browser.emulate(1280, 900)
    browser.open(pages["two"])
    assert "→" in browser.one(".tile .value").text
    assert browser.one(".tile .change").text.startswith("+")
    assert _shown(browser)[0] == "1.png"  # differs most
    assert len(browser.find('[data-key="card-1"] figure')) == 3
    # The object is missed by one of them.
    assert _shapes(browser, 1) == {"missing": 1, "wrong": 1, "correct": 1}
    title = browser.run("return document.querySelector(\"[data-key='card-1'] title\").textContent")
    assert title == "cat, missed by A"
    browser.click('[data-key="confusion-1"]')
    browser.click('[data-key="cell-0-0"]')
    assert sorted(_shown(browser)) == ["0.png", "1.png"]
    browser.click('[data-key="confusion-0"]')
    browser.click('[data-key="cell-0-0"]')
    assert _shown(browser) == ["0.png"]
    assert browser.console() == []


def test_many_images_come_a_part_at_a_time(browser: Browser, pages):
    browser.emulate(1280, 900)
    browser.open(pages["many images"])
    assert len(_shown(browser)) == 100
    browser.click('[data-key="more"]')
    assert len(_shown(browser)) == 150
    assert browser.find('[data-key="more"]') == []
    titles = [heading.text for heading in browser.find("#training-charts h3")]
    assert titles == ["Average precision on the validation data", "Losses"]
    assert len(browser.find("#training-charts circle")) == 1  # a single evaluation


def test_paper(browser: Browser, pages):
    browser.emulate(1280, 900)
    browser.open(pages["one"])
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not browser.one("#toolbar").is_displayed()
    assert browser.one("#gallery").is_displayed()
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
