"""The page: figures as JSON within a template of HTML, style and script."""

import html
import importlib.resources
import json
import re
from typing import Any

_FOLDER = importlib.resources.files(__package__)
_SCRIPTS = ("elements.js", "charts.js", "figures.js", "images.js", "report.js")


def render(title: str, content: dict[str, Any]) -> str:
    """A page that needs no other file and no network.

    Args:
      title: of the page.
      content: what the script draws; texts in it may be anything.
    """
    text = json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    parts = {
        "title": html.escape(title),
        "style": _read("report.css"),
        "script": "\n".join(map(_read, _SCRIPTS)),
        # No text can end the element that it stands in, or open a comment.
        "content": text.replace("<", "\\u003c"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _read("report.html"))


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
