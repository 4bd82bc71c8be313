"""The measurements of `check` as tables, for people and for programs."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import rich.table

from official_maskrcnn.files import write_text
from official_maskrcnn.inference.export.check import Checked

HEADER = (
    *("format", "MB", "ms", "ratio", "box AP", "Δ box", "mask AP", "Δ mask"),
    *("unmatched", "boxes", "scores", "masks"),
)
_COSTS = 8  # columns of the first table on the terminal


def rows(checked: Sequence[Checked]) -> list[list[str]]:
    """A row for each format, with the cells of `HEADER`; the checkpoint comes first.

    ms is the time of an image, ratio that time over the checkpoint's, Δ the AP less the
    checkpoint's; the last four are `Differences`.
    """
    reference = checked[0]
    table = []
    for entry in checked:
        row = [
            entry.name,
            "" if entry.megabytes is None else f"{entry.megabytes:.1f}",
            f"{entry.milliseconds:.0f}",
            f"{entry.milliseconds / reference.milliseconds:.2f}",
        ]
        for kind in ("box/AP", "mask/AP"):
            if kind in reference.metrics:
                value, expected = entry.metrics[kind], reference.metrics[kind]
                row += [f"{value:.3f}", f"{value - expected:+.3f}"]
            else:
                row += ["", ""]
        found = dataclasses.astuple(entry.differences)
        row += [str(found[0]), *(f"{value:.1g}" for value in found[1:])]
        table.append(row)
    return table


def terminal_tables(checked: Sequence[Checked]) -> list[rich.table.Table]:
    """Two that fit beside each other or one below the other."""
    found = rows(checked)
    costs = rich.table.Table(title="Beside the checkpoint")
    costs.caption = "ms an image; ratio: of the times; Δ: of AP from the checkpoint's"
    differences = rich.table.Table(title="Largest differences of detections")
    differences.caption = "boxes: relative to the image's longer side"
    for table, columns in ((costs, range(_COSTS)), (differences, (0, *range(_COSTS, len(HEADER))))):
        for column in columns:
            table.add_column(HEADER[column], justify="right" if column else "left", no_wrap=True)
        for row in found:
            table.add_row(*(row[column] for column in columns))
    return [costs, differences]


def write(folder: str, checked: Sequence[Checked]) -> None:
    """Writes check.json, with all metrics, and check.md to the folder of an export."""
    entries = [dataclasses.asdict(entry) for entry in checked]
    path = pathlib.Path(folder)
    write_text(path / "check.json", json.dumps(entries, indent=1) + "\n")
    lines = [HEADER, ["---"] * len(HEADER), *rows(checked)]
    write_text(path / "check.md", "".join(f"| {' | '.join(line)} |\n" for line in lines))
