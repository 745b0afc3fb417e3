"""An outcome as one page of HTML that needs nothing but itself."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..certificate import Certificate
from ..study import Outcome, Section
from .film import FILM_STYLE, SCRIPT, film_figure
from .style import STYLE
from .svg import inline_svg
from .tables import as_lists

ROWS = 200
"""How many rows of a table are shown."""

TALL = 25
"""With more rows than this a table scrolls in its box."""


def render(
    outcome: Outcome,
    *,
    config: Mapping[str, Any] | None = None,
    result: Mapping[str, Any] | None = None,
    directory: str = "",
) -> str:
    """Return the page.

    Args:
        outcome: What the study handed back.
        config: The run's config.toml, for the last section.
        result: When the run ended, and how long it took.
        directory: The run directory's name.

    Raises:
        ValueError: if a figure is not SVG, a table's columns are not equally long, or a film's parts do not fit.
    """
    films = any(section.film is not None for section in outcome.sections)
    body = [_head(outcome), _certificates(outcome.certificates)]
    body += [_section(section, number) for number, section in enumerate(outcome.sections, 1)]
    body.append(_about(config or {}, result or {}, directory))
    if outcome.attribution:
        body.append(f'<footer class="quiet">{_paragraphs(outcome.attribution)}</footer>')
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(outcome.title)}</title>\n<style>{STYLE}{FILM_STYLE if films else ''}</style>\n"
        "</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n"
        + (f"<script>{SCRIPT}</script>\n" if films else "")
        + "</body>\n</html>\n"
    )


def verdict(certificates: Sequence[Certificate]) -> str:
    """Say in a few words how many certificates hold."""
    held, count = sum(one.holds for one in certificates), len(certificates)
    if not count:
        return "no certificates"
    if held == count:
        return "the certificate holds" if count == 1 else f"all {count} certificates hold"
    if count == 1:
        return "the certificate does not hold"
    return f"{count - held} of {count} certificates {'does' if count - held == 1 else 'do'} not hold"


def _head(outcome: Outcome) -> str:
    held = [one.holds for one in outcome.certificates]
    kind = "plain" if not held else "good" if all(held) else "bad"
    summary = "".join(f"<li>{escape(line)}</li>" for line in outcome.summary)
    return (
        f"<header>\n<h1>{escape(outcome.title)}</h1>\n"
        f'<p class="banner {kind}"><strong>{escape(outcome.status)}</strong>'
        f"<span>{escape(verdict(outcome.certificates))}</span></p>\n"
        + (f'<ul class="summary">{summary}</ul>\n' if summary else "")
        + "</header>"
    )


def _certificates(certificates: Sequence[Certificate]) -> str:
    if not certificates:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(one.name)}</th>'
        f'<td class="number">{small(one.value)}</td><td class="number">{small(one.tolerance)}</td>'
        + ('<td class="good">✓ holds</td>' if one.holds else '<td class="bad">✗ does not hold</td>')
        + "</tr>\n"
        + (f'<tr class="meaning"><td colspan="4">{escape(one.meaning)}</td></tr>\n' if one.meaning else "")
        for one in certificates
    )
    number = '<th class="number">'
    heads = f"<tr><th>Certificate</th>{number}Value</th>{number}Tolerance</th><th>Verdict</th></tr>"
    return (
        "<section>\n<h2>Certificates</h2>\n"
        '<p class="quiet">Computed in double precision from the problem and the answer alone.</p>\n'
        + _box("Certificates", f'<table class="claims"><thead>{heads}</thead>\n<tbody>{rows}</tbody></table>')
        + "\n</section>"
    )


def _section(section: Section, number: int) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>", _paragraphs(section.text)]
    if section.film is not None:
        parts.append(film_figure(section.film, section.title))
    if section.figure is not None:
        picture = inline_svg(section.figure, number, section.title)
        parts.append(f'<figure tabindex="0">{picture}</figure>')
    if section.table is not None:
        parts.append(_table(section, as_lists(section.title, section.table)))
    if section.note:
        parts.append(f'<div class="quiet">{_paragraphs(section.note)}</div>')
    if section.terms:
        entries = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in section.terms.items())
        parts.append(f"<dl>{entries}</dl>")
    return "<section>\n" + "\n".join(part for part in parts if part) + "\n</section>"


def _table(section: Section, columns: Mapping[str, list]) -> str:
    total = max((len(column) for column in columns.values()), default=0)
    numeric = {title: _numeric(column) for title, column in columns.items()}
    heads = "".join(
        f'<th class="number">{escape(title)}</th>' if numeric[title] else f"<th>{escape(title)}</th>"
        for title in columns
    )
    shown = [format_column(column[:ROWS]) for column in columns.values()]
    cells = [[_cell(text, numeric[title]) for text in column] for title, column in zip(columns, shown, strict=True)]
    rows = "\n".join(f"<tr>{''.join(row)}</tr>" for row in zip(*cells, strict=True))
    table = f"<table><thead><tr>{heads}</tr></thead>\n<tbody>{rows}</tbody></table>"
    note = ""
    if total > ROWS:
        where = section.file or "the folder answer"
        note = f'<p class="quiet">The first {ROWS} of {total:,} rows; all of them are in {escape(where)}.</p>'
    return _box(section.title, table, tall=total > TALL) + note


def _cell(text: str, numeric: bool) -> str:
    return f'<td class="number">{text}</td>' if numeric else f"<td>{escape(text)}</td>"


def _box(label: str, table: str, tall: bool = False) -> str:
    """Put a table into a box of its own, in which it may be wider and longer than the page."""
    kind = "scroll tall" if tall else "scroll"
    return f'<div class="{kind}" tabindex="0" role="region" aria-label="{escape(label)}">{table}</div>'


def _paragraphs(text: str) -> str:
    return "\n".join(f"<p>{escape(part.strip())}</p>" for part in text.split("\n\n") if part.strip())


def _about(config: Mapping[str, Any], result: Mapping[str, Any], directory: str) -> str:
    if not config:
        return ""
    facts = {"Run": directory, "Study": config.get("study"), "Finished": result.get("finished")}
    if "seconds" in result:
        facts["Took"] = f"{result['seconds']:.1f} s"
    facts |= {"Seed": config.get("seed"), "Devices": config.get("devices")}
    facts |= {f"Option {name}": value for name, value in config.get("options", {}).items()}
    facts |= {f"Input {name}": value for name, value in config.get("input", {}).items()}
    facts["Versions"] = ", ".join(f"{name} {number}" for name, number in config.get("versions", {}).items())
    entries = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>"
        for name, value in facts.items()
        if value not in (None, "")
    )
    details = f'<details><summary>About this run</summary><dl class="facts">{entries}</dl></details>'
    return f"<section>\n{details}\n</section>"


def small(value: float) -> str:
    """Write an error or a tolerance: two digits and a power of ten."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}".replace("-", "−")


def _numeric(column: Sequence) -> bool:
    """Whether a column holds numbers, gaps aside."""
    values = [value for value in column if value is not None]
    return bool(values) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def format_column(column: Sequence) -> list[str]:
    """Write a column for reading: numbers with one number of decimals, so that they line up."""
    finite = [abs(v) for v in column if isinstance(v, float) and math.isfinite(v) and v != 0]
    largest = max(finite, default=1.0)
    decimals = min(6, max(0, 4 - math.floor(math.log10(largest))))
    if all(value.is_integer() for value in finite):
        decimals = 0
    plain = 1e-3 <= largest < 1e9 and min(finite, default=1.0) >= 0.5 * 10.0**-decimals
    return [_format(value, decimals if plain else None) for value in column]


def _format(value: Any, decimals: int | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "−∞"
    text = f"{value:,.{decimals}f}" if decimals is not None else f"{value:.4g}"
    return text.replace("-", "−")
