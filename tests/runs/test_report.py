"""The report: one page that needs nothing but itself, whatever is in it."""

import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from catallax.certificate import Certificate
from catallax.runs.report import ROWS, format_column, render, small, verdict
from catallax.runs.svg import inline_svg
from catallax.study import Outcome, Section

EVIL = '<script>alert("1")</script>&amp;\'"'
VOID = {"meta", "link", "br", "hr", "img", "input"}
SVG = """<?xml version="1.0"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" 
 width="460pt" height="300pt" viewBox="0 0 460 300" onload="alert(1)">
<metadata><a href="https://example.org/"/></metadata><script>fetch("https://example.org")</script>
<style>@import url(https://example.org/a.css); #dot {fill: red} .a {fill: url(https://example.org/b)}</style>
<defs><path id="dot" d="M 0 0"/><clipPath id="p1"><rect/></clipPath></defs>
<use xlink:href="#dot" clip-path="url(#p1)"/><use href='#dot'/>
<a href="https://example.org/"><text>#dot id="x"</text></a>
<image href="data:image/png;base64,AAAA"/><image xlink:href="https://example.org/i.png"/>
</svg>"""


class Page(HTMLParser):
    """Collects what a page holds, and fails if its tags do not match."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.ids, self.loads, self.tags, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.see(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.see(tag, attrs)

    def see(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"{tag} has {name}"
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.loads.append(value)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def outcome(**changes) -> Outcome:
    sections = [
        Section("Prices", "First.\n\nSecond & last.", {"good": ["a", EVIL], "price": [1.5, 2.25]}, SVG, "A note."),
        Section(EVIL, EVIL, {EVIL: [EVIL]}, SVG, EVIL, {EVIL: EVIL}),
        Section("Terms", terms={"regret": "What a buyer could gain."}),
    ]
    fields = {
        "title": "Market",
        "status": "settled",
        "certificates": [
            Certificate("gap", 1.25e-7, 1e-6, "Near the optimum."),
            Certificate(EVIL, math.nan, 1.0, EVIL),
        ],
        "summary": ["dearest: " + EVIL],
        "sections": sections,
        "attribution": "Data: https://example.org/data, CC BY 4.0.",
    }
    return Outcome(**{**fields, **changes})


def test_tags_match_and_ids_are_unique():
    page = Page(render(outcome(), config={"study": EVIL, "options": {"a": EVIL}, "versions": {"jax": "1"}}))
    assert len(page.ids) == len(set(page.ids)) == 4
    assert set(page.tags) >= {"h1", "table", "figure", "svg", "dl", "footer", "details"}


def test_nothing_is_fetched():
    text = render(outcome())
    page = Page(text)
    assert set(page.tags) & {"script", "link", "iframe", "object", "base", "metadata"} == set()
    assert all(load.startswith(("#", "data:image/")) for load in page.loads)
    assert "data:image/png;base64,AAAA" in page.loads
    assert not re.search(r"url\(\s*[\"']?(?!#|[\"']?#)", text)
    assert "@import" not in text
    left = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert re.findall(r"https?://\S+", left) == ["https://example.org/data,"], "only the attribution names a place"


def test_names_are_text_wherever_they_stand():
    page = Page(render(outcome(title=EVIL, status=EVIL, attribution=EVIL), config={"study": EVIL}, directory=EVIL))
    assert "script" not in page.tags
    assert "".join(page.words).count("<script>alert") == 17


def test_the_page_fits_a_phone_and_both_schemes():
    text = render(outcome())
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert '<meta name="color-scheme" content="light dark">' in text
    assert "@media (prefers-color-scheme: dark)" in text
    assert text.count('<div class="scroll') == text.count("<table")


def luminance(colour: str) -> float:
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1])
def test_words_stand_out_from_what_is_behind_them(scheme):
    text = render(outcome())
    block = re.findall(r":root \{(.*?)\}", text, re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([\w-]+): #(\w+)", block))
    pairs = [(ink, "paper") for ink in ("ink", "soft", "good", "bad")]
    pairs += [("good", "good-shade"), ("bad", "bad-shade"), ("soft", "shade"), ("ink", "good-shade")]
    for ink, ground in pairs:
        low, high = sorted((luminance(colours[ink]), luminance(colours[ground])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground)


def test_certificates_are_said_in_words():
    text = render(outcome())
    assert '<td class="number">1.2e−7</td><td class="number">1e−6</td><td class="good">✓ holds</td>' in text
    assert '<td class="number">not a number</td>' in text
    assert "✗ does not hold" in text
    assert '<p class="banner bad"><strong>settled</strong><span>1 of 2 certificates does not hold</span>' in text
    good = [Certificate("gap", 0.0, 1e-6)]
    assert '<p class="banner good">' in render(outcome(certificates=good))
    assert '<p class="banner plain">' in render(outcome(certificates=[]))
    assert (verdict(good), verdict(good * 3)) == ("the certificate holds", "all 3 certificates hold")
    bad = [Certificate("gap", 1.0, 1e-6)]
    assert (verdict(bad), verdict(bad * 2)) == (
        "the certificate does not hold",
        "2 of 2 certificates do not hold",
    )


def test_a_long_table_says_where_the_rest_is():
    table = {"n": list(range(1234))}
    text = render(outcome(sections=[Section("Long", table=table, file="answer/prices.csv")]))
    assert text.count("<tr><td") == ROWS
    assert f"The first {ROWS} of 1,234 rows; all of them are in answer/prices.csv." in text
    short = render(outcome(sections=[Section("Short", table={"n": list(range(ROWS))})]))
    assert "rows; all of them" not in short


def test_columns_of_numbers_line_up():
    assert format_column([1.5, 22.25, -3.0]) == ["1.500", "22.250", "−3.000"]
    assert format_column([0.001234, 0.0005]) == ["0.001234", "0.000500"]
    assert format_column([1e-9, 1.0]) == ["1e−09", "1"]
    assert format_column([1234567.5, 1.0]) == ["1,234,568", "1"]
    assert format_column([0.0, math.nan, math.inf, -math.inf, None]) == ["0", "–", "∞", "−∞", ""]
    assert format_column([1234, -1, True, "x"]) == ["1,234", "−1", "yes", "x"]
    text = render(outcome(sections=[Section("S", table={"p": np.array([1.0, 2.0]), "q": ["1", "2"]})]))
    assert '<th class="number">p</th><th>q</th>' in text


@pytest.mark.parametrize(
    ("value", "text"), [(1.25e-7, "1.2e−7"), (1e-6, "1e−6"), (0.0, "0"), (-3e10, "−3e10"), (math.inf, "∞")]
)
def test_small_numbers(value, text):
    assert small(value) == text


def test_ids_are_renamed_with_every_reference_to_them():
    svg = inline_svg(SVG, 3, "Title")
    assert svg.startswith("<svg")
    assert svg.count("figure3-dot") == 4, "the id, two uses and a rule of the style sheet"
    assert 'clip-path="url(#figure3-p1)"' in svg
    assert '>#dot id="x"<' in svg, "text that only looks like an id stays"


def test_pictures_shrink_to_the_page():
    svg = inline_svg(SVG, 1, EVIL)
    head = svg[: svg.index(">")]
    assert "width=" not in head.replace("min-width", "")
    assert 'style="width:613.333px;min-width:300px"' in head
    assert 'viewBox="0 0 100 50"' in inline_svg('<svg width="100" height="50"></svg>', 1, "t")
    assert 'style="width:100px;min-width:100px"' in inline_svg('<svg width="100" height="50"/>', 1, "t")


@pytest.mark.parametrize("text", ["<svg><g></svg>", "<html></html>", "", "no picture"])
def test_what_is_no_picture_is_refused(text):
    with pytest.raises(ValueError, match="figure 'T' is not"):
        inline_svg(text, 1, "T")


def test_a_matplotlib_figure_is_inlined_offline():
    figure = pytest.importorskip("matplotlib.figure").Figure(figsize=(4, 3))
    axes = figure.subplots()
    axes.plot([1, 2], [3, 4], label=EVIL)
    axes.legend()
    from catallax.runs.tables import svg_of

    text = render(outcome(sections=[Section("One", figure=svg_of(figure)), Section("Two", figure=svg_of(figure))]))
    page = Page(text)
    assert len(page.ids) == len(set(page.ids)) > 20
    assert {load[1:] for load in page.loads} <= set(page.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(page.ids)
    assert "script" not in page.tags
