"""Tables in the documentation that are made of the benchmarks' CSV files."""

import csv
import pathlib
from collections.abc import Mapping, Sequence

_FOLDER = pathlib.Path(__file__).resolve().parent.parent
_DOCS = _FOLDER.parent / "docs"

_STEPS = {  # case in training_step.csv: text
    "hourglass52 on ground-truth boxes": "training step, hourglass52 on ground-truth boxes, "
    "512 x 512, batch 2 (`training_step.py`)",
    "default head on proposals": "training step, default head on proposals, 512 x 512, batch 2",
}
_FIRST = "hourglass52, first step"


def read_csv(name: str) -> list[dict[str, str]]:
    """Rows of benchmarks/NAME.csv; none if it is not there."""
    path = _FOLDER / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def replace_tables(page: pathlib.Path, tables: Mapping[str, str]) -> None:
    """Puts each table between its marks, <!-- NAME --> and <!-- end of NAME -->."""
    text = page.read_text(encoding="utf-8")
    for name, lines in tables.items():
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        assert begin and end, name
        text = f"{before}{begin}\n{lines}\n\n{end}{after}"
    page.write_text(text, encoding="utf-8")


def update() -> None:
    """Makes the tables of the documentation anew."""
    for page, tables in tables_by_page().items():
        replace_tables(page, tables)


def tables_by_page() -> dict[pathlib.Path, dict[str, str]]:
    """The tables of each page by name, as the CSV files have them now."""
    return {
        _DOCS / "performance.md": {
            "reference": _reference(),
            "torchvision": _torchvision(),
            "growth": _copy("growth"),
        },
        _DOCS / "reliability.md": {"scaling": _copy("scaling")},
        _DOCS / "export.md": {"formats": _copy("export")},
        _DOCS / "serving.md": {"load": _copy("serving")},
    }


Ratios = dict[str, str]  # by precision


def _ratio(number: str | float) -> str:
    return f"{float(number):.2g}" if float(number) < 10 else f"{float(number):.0f}"


def _ratios(rows: Sequence[Mapping[str, str]], case: str, what: str) -> Ratios:
    column = next(name for name in rows[0] if name.endswith("/ ours"))
    chosen = (row for row in rows if row["case"] == case and row["what"] == what)
    return {row["ours in"]: _ratio(row[column]) for row in chosen}


def _table_of_ratios(title: str, rows: Sequence[tuple[str, Ratios, Ratios]]) -> str:
    """Of time and memory, a column for each precision."""
    precisions = list(dict.fromkeys(p for _, *ratios in rows for each in ratios for p in each))
    lines = [
        [text, *(each.get(precision, "") for each in ratios for precision in precisions)]
        for text, *ratios in rows
    ]
    columns = [f"{what}, {p}" for what in ("time", "memory") for p in precisions]
    return table([title, *columns], lines)


def _reference() -> str:
    steps = read_csv("training_step")
    rows: list[tuple[str, Ratios, Ratios]] = [
        (text, _ratios(steps, case, "seconds"), _ratios(steps, case, "peak_mb"))
        for case, text in _STEPS.items()
    ]
    text = "start of the process to the end of the first step, hourglass52, 256 x 256"
    rows.append((text, _ratios(steps, _FIRST, "first_seconds"), {}))

    reference, *sides = read_csv("inference")
    times, sizes = {}, {}
    for side in sides:
        name = side["side"].removeprefix("ours, ")
        if "," not in name:  # another numerics
            times[name] = _ratio(side["reference / this"])
            sizes[name] = _ratio(float(reference["peak MB"]) / float(side["peak MB"]))
    text = "inference, 800 x 1088, hourglass52, 15 detections, to masks as RLE (`inference.py`)"
    rows.append((text, times, sizes))

    evaluation = read_csv("evaluation")
    for masks, images in dict.fromkeys((row["masks"], row["images"]) for row in evaluation):
        found = {
            row["what"]: {"float32": _ratio(row["reference / ours"])}
            for row in evaluation
            if row["masks"] == masks and row["reference / ours"]
        }
        text = f"evaluation of {images} images, masks of {masks} (`evaluation.py`)"
        rows.append((text, found["seconds"], found["memory growth, MB"]))

    for script, row, column, text in (
        ("input_pipeline", 0, "ours / this", "records to batches, 1024 x 1024, one core"),
        ("conversion", 0, "ours / reference", "COCO JSON to records"),
    ):
        ratio = _ratio(read_csv(script)[row][column])
        rows.append((f"{text} (`{script}.py`)", {"float32": ratio}, {}))
    return _table_of_ratios("reference / ours", rows)


def _torchvision() -> str:
    rows = read_csv("torchvision_peer")
    lines = [
        (case, _ratios(rows, case, "seconds"), _ratios(rows, case, "peak_mb"))
        for case in dict.fromkeys(row["case"] for row in rows)
    ]
    return _table_of_ratios("torchvision / ours (`torchvision_peer.py`)", lines)


def _copy(name: str) -> str:
    rows = read_csv(name)
    return table(list(rows[0]), [list(row.values()) for row in rows]) if rows else "Not run yet."
