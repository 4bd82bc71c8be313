"""The measurements of `export_check` as a table, for people and for programs."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import rich.table

from official_maskrcnn.inference.export_check import Checked

HEADER = (
    *("format", "MB", "ms an image", "x checkpoint", "box AP", "difference"),
    *("mask AP", "difference", "unmatched", "of boxes", "of scores", "of masks"),
)


def rows(checked: Sequence[Checked]) -> list[list[str]]:
    """A row for each format, with the cells of `HEADER`; the checkpoint comes first.

    Differences of AP are those from the checkpoint's; the last four columns are `Differences`.
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
                row += [f"{value:.4f}", f"{value - expected:+.4f}"]
            else:
                row += ["", ""]
        found = dataclasses.astuple(entry.differences)
        row += [str(found[0]), *(f"{value:.1e}" for value in found[1:])]
        table.append(row)
    return table


def terminal_table(checked: Sequence[Checked]) -> rich.table.Table:
    """For the terminal."""
    table = rich.table.Table(title="The formats beside the checkpoint")
    for name in HEADER:
        table.add_column(name, justify="left" if name == "format" else "right")
    for row in rows(checked):
        table.add_row(*row)
    table.caption = (
        "difference: of AP from the checkpoint's; unmatched: detections that only one of both has; "
        "of boxes (relative to the image's longer side), scores and masks: the largest difference"
    )
    return table


def write(folder: str, checked: Sequence[Checked]) -> None:
    """Writes check.json, with all metrics, and check.md to the folder of an export."""
    entries = [dataclasses.asdict(entry) for entry in checked]
    path = pathlib.Path(folder)
    (path / "check.json").write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    lines = [HEADER, ["---"] * len(HEADER), *rows(checked)]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    (path / "check.md").write_text(text, encoding="utf-8")
