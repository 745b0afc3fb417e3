"""Pictures put into a page: inline, without ids that clash and without anything that would be fetched."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable

SMALLEST_WIDTH = 300
"""Below this width, in CSS pixels, a picture scrolls in its own box instead of shrinking further."""

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"

DROPPED = frozenset({"metadata", "script", "foreignObject", "iframe", "audio", "video", "set", "handler"})
"""Elements that no picture of ours needs, and that could do something."""

UNITS = {"": 1.0, "px": 1.0, "pt": 4 / 3, "in": 96.0, "cm": 96 / 2.54, "mm": 96 / 25.4}
"""CSS pixels to a unit of length."""


def inline_svg(text: str, number: int, title: str) -> str:
    """Prepare an SVG image for a page that may hold others.

    Removes metadata, scripts and references to other places, makes its ids unique, lets it shrink.

    Args:
        text: The image.
        number: Its number on the page.
        title: What it shows, for those who do not see it.

    Raises:
        ValueError: if the text is not well-formed SVG.
    """
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        raise ValueError(f"the figure {title!r} is not well-formed SVG: {error}") from None
    if _local(root.tag) != "svg":
        raise ValueError(f"the figure {title!r} is not SVG: its root is {root.tag}")
    _drop(root)
    ids = {element.get("id", "") for element in root.iter()} - {""}
    prefix = f"figure{number}-"

    def rename(name: str) -> str:
        return prefix + name if name in ids else name

    for element in root.iter():
        _clean(element, rename)
    _fit(root, title)
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    return ET.tostring(root, encoding="unicode").strip()


def _local(name: object) -> str:
    """Return a tag's or an attribute's name without its namespace."""
    return str(name).rpartition("}")[2]


def _drop(element: ET.Element) -> None:
    for child in list(element):
        if _local(child.tag) in DROPPED:
            element.remove(child)
        else:
            _drop(child)


def _clean(element: ET.Element, rename: Callable[[str], str]) -> None:
    """Rename ids and references in one element, and cut what leads elsewhere."""
    for name, value in list(element.attrib.items()):
        local = _local(name)
        if local.lower().startswith("on"):
            del element.attrib[name]
        elif local == "id":
            element.set(name, rename(value))
        elif local in ("href", "src"):
            if value.startswith("#"):
                element.set(name, "#" + rename(value[1:]))
            elif not value.startswith("data:image/"):
                del element.attrib[name]
        elif local in ("aria-labelledby", "aria-describedby"):
            element.set(name, " ".join(map(rename, value.split())))
        else:
            element.set(name, _urls(value, rename))
    if _local(element.tag) == "style" and element.text:
        sheet = _urls(re.sub(r"@import[^;]*;", "", element.text), rename)
        element.text = re.sub(r"#([\w-]+)", lambda match: "#" + rename(match[1]), sheet)


def _urls(value: str, rename: Callable[[str], str]) -> str:
    """Rename what `url(#id)` refers to; any other `url(...)` but an image's own bytes becomes none."""

    def replace(match: re.Match) -> str:
        target = match[1].strip().strip("\"'")
        if target.startswith("#"):
            return f"url(#{rename(target[1:])})"
        return match[0] if target.startswith("data:image/") else "none"

    return re.sub(r"url\(([^)]*)\)", replace, value)


def _fit(root: ET.Element, title: str) -> None:
    """Give the image a viewBox and a name, and the page the say over its size."""
    width, height = (_pixels(root.attrib.pop(side, "")) for side in ("width", "height"))
    box = root.get("viewBox", "").replace(",", " ").split()
    if len(box) == 4:
        width = width or float(box[2])
    elif width and height:
        root.set("viewBox", f"0 0 {width:g} {height:g}")
    width = width or 640.0
    own = root.get("style", "").strip().rstrip(";")
    size = f"width:{width:g}px;min-width:{min(width, SMALLEST_WIDTH):g}px"
    root.set("style", f"{own};{size}" if own else size)
    root.set("role", "img")
    root.set("aria-label", title)


def _pixels(length: str) -> float:
    """Turn an SVG length into CSS pixels; 0 if it is relative or absent."""
    match = re.fullmatch(r"\s*([\d.]+)\s*(px|pt|in|cm|mm|)\s*", length)
    return float(match[1]) * UNITS[match[2]] if match else 0.0
