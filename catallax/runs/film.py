"""A film in a page: a canvas, a slider and a few lines of script, with nothing fetched from anywhere.

The same film can be had as a GIF file, for places where no script runs.
"""

import base64
import importlib.util
import io
import json
from html import escape
from typing import Any

import numpy as np

from ..study import Film

WALL = 255
"""The level of a cell in which nothing can be."""

LEVELS = 254
"""The level of the strongest colour; 0 stands for nothing at all."""

REACH = 100
"""Arrows of length one are written as so many units."""

LEAST_ARROW = 0.06
"""Shorter arrows are not drawn."""

FILM_STYLE = """
.film {
  --film-0: #ffffff; --film-1: #3a7ca5; --film-2: #0d2637; --film-wall: #b9bec4; --film-arrow: #c8553d;
  background: var(--paper); color: var(--ink);
}
@media (prefers-color-scheme: dark) {
  .film { --film-0: #14171a; --film-1: #35799f; --film-2: #e2f4ff; --film-wall: #4a5259; --film-arrow: #ec6a41; }
}
.film .stage { max-width: 30rem; margin: 0 auto; }
.film canvas { display: block; width: 100%; height: auto; border: 1px solid var(--line); touch-action: pan-y; }
.film .ends, .film .key {
  display: grid; grid-template-columns: 1fr auto 1fr; gap: .6rem; font-size: .82rem; color: var(--soft);
}
.film .ends :last-child, .film .key :last-child { text-align: right; }
.film .controls { display: flex; flex-wrap: wrap; align-items: center; gap: .3rem .8rem; margin: .5rem 0; }
.film input[type=range] { flex: 1 1 9rem; min-width: 0; height: 2.75rem; margin: 0; accent-color: var(--film-1); }
.film button {
  min-width: 4.6rem; min-height: 2.75rem; font: inherit; color: inherit; cursor: pointer;
  background: var(--shade); border: 1px solid var(--line); border-radius: .4rem;
}
.film output { min-width: 8.5rem; font-variant-numeric: tabular-nums; }
.film label { display: inline-flex; align-items: center; gap: .4rem; min-height: 2.75rem; }
.film .scale {
  height: .7rem; border: 1px solid var(--line);
  background: linear-gradient(90deg, var(--film-0), var(--film-1), var(--film-2));
}
.film figcaption { font-size: .85rem; color: var(--soft); margin-top: .3rem; }
@media print { .film .controls { display: none; } }
"""

SCRIPT = """
(() => {
  const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  const colour = text => [1, 3, 5].map(at => parseInt(text.trim().slice(at, at + 2), 16));
  const dark = matchMedia("(prefers-color-scheme: dark)");
  function ramp(style) {
    const [low, middle, high, wall] =
      ["0", "1", "2", "wall"].map(name => colour(style.getPropertyValue("--film-" + name)));
    const table = new Uint8ClampedArray(1024);
    for (let level = 0; level < 256; level++) {
      const part = level / 127, from = part < 1 ? low : middle, to = part < 1 ? middle : high;
      const mixed = level === 255 ? wall : from.map((c, k) => c + (to[k] - c) * (part < 1 ? part : part - 1));
      table.set([...mixed, 255], 4 * level);
    }
    return table;
  }
  function start(figure) {
    const facts = JSON.parse(figure.querySelector("script").textContent);
    const frames = bytes(facts.frames), arrows = facts.arrows && new Int8Array(bytes(facts.arrows).buffer);
    const parts = ["canvas", "input[type=range]", "button", "output", "input[type=checkbox]"];
    const [canvas, slider, button, said, box] = parts.map(name => figure.querySelector(name));
    const small = document.createElement("canvas"), size = facts.rows * facts.columns;
    [small.width, small.height] = [facts.columns, facts.rows];
    let timer = 0;
    function cells(pen, levels, wide, high, table) {
      const image = new ImageData(facts.columns, facts.rows);
      levels.forEach((level, cell) => image.data.set(table.subarray(4 * level, 4 * level + 4), 4 * cell));
      small.getContext("2d").putImageData(image, 0, 0);
      pen.imageSmoothingEnabled = false;
      pen.drawImage(small, 0, 0, wide, high);
    }
    function bars(pen, levels, wide, high, style) {
      pen.fillStyle = style.getPropertyValue("--film-1");
      const each = wide / facts.columns, gap = each > 6 ? .15 * each : 0;
      levels.forEach((level, at) => {
        const tall = level / 254 * .97 * high;
        pen.fillRect(at * each + gap / 2, high - tall, each - gap, tall);
      });
    }
    function point(pen, frame, wide, high, style) {
      const [rows, columns] = facts.arrow_grid, across = wide / columns, down = high / rows;
      pen.strokeStyle = style.getPropertyValue("--film-arrow");
      pen.lineWidth = Math.max(1, Math.min(across, down) / 14);
      pen.beginPath();
      for (let cell = 0; cell < rows * columns; cell++) {
        const at = 2 * (frame * rows * columns + cell), dy = arrows[at] / 100, dx = arrows[at + 1] / 100;
        const length = Math.hypot(dx, dy);
        if (length < .06) continue;
        const x = (cell % columns + .5) * across, y = (Math.floor(cell / columns) + .5) * down;
        const ex = .4 * across * dx, ey = .4 * down * dy, tip = .5;
        pen.moveTo(x - ex, y - ey);
        pen.lineTo(x + ex, y + ey);
        for (const side of [1, -1]) {
          pen.moveTo(x + ex, y + ey);
          pen.lineTo(x + ex - tip * (ex + side * ey), y + ey - tip * (ey - side * ex));
        }
      }
      pen.stroke();
    }
    function draw() {
      const frame = +slider.value, style = getComputedStyle(figure), pen = canvas.getContext("2d");
      const wide = Math.max(1, Math.round(canvas.clientWidth * (window.devicePixelRatio || 1)));
      const high = Math.max(1, Math.round(wide * facts.aspect));
      if (canvas.width !== wide || canvas.height !== high) [canvas.width, canvas.height] = [wide, high];
      pen.clearRect(0, 0, wide, high);
      const levels = frames.subarray(frame * size, (frame + 1) * size);
      if (facts.bars) bars(pen, levels, wide, high, style);
      else cells(pen, levels, wide, high, ramp(style));
      if (arrows && box.checked) point(pen, frame, wide, high, style);
      said.value = facts.labels[frame];
      slider.setAttribute("aria-valuetext", facts.labels[frame]);
    }
    function halt() { clearInterval(timer); timer = 0; button.textContent = "Play"; }
    function step() {
      slider.value = +slider.value + 1;
      draw();
      if (+slider.value >= facts.labels.length - 1) halt();
    }
    button.addEventListener("click", () => {
      if (timer) return halt();
      if (+slider.value >= facts.labels.length - 1) slider.value = 0;
      button.textContent = "Stop";
      draw();
      timer = setInterval(step, facts.pause);
    });
    slider.addEventListener("input", () => { halt(); draw(); });
    if (box) box.addEventListener("change", draw);
    dark.addEventListener("change", draw);
    addEventListener("resize", draw);
    figure.querySelector(".stage").hidden = false;
    draw();
  }
  document.querySelectorAll("figure.film").forEach(start);
})();
"""

SECONDS = 8.0
"""How long a film plays, unless its frames are so few or so many that it would crawl or race."""


def film_figure(film: Film, title: str) -> str:
    """Return a film as a figure for a page that holds `FILM_STYLE` and, once and behind it, `SCRIPT`.

    Args:
        film: What to show. Amounts are kept in 254 steps.
        title: What it shows, for those who do not see it.

    Raises:
        ValueError: if shapes do not fit one another, an amount is negative, or `top` is not positive.
    """
    frames, arrows = _checked(film)
    count, rows, columns = frames.shape
    facts: dict[str, Any] = {
        "rows": rows,
        "columns": columns,
        "bars": film.bars,
        "aspect": 0.5 if film.bars else rows / columns,
        "pause": round(1000 * min(0.4, max(0.05, SECONDS / count))),
        "labels": list(film.labels),
        "frames": _packed(levels(film)),
    }
    if arrows is not None:
        facts["arrow_grid"] = arrows.shape[1:3]
        facts["arrows"] = _packed(np.rint(REACH * np.clip(np.nan_to_num(arrows), -1, 1)).astype(np.int8))
    box = "<label><input type=checkbox checked> arrows</label>" if arrows is not None else ""
    # "<" would end the script element if it began a tag within a label.
    text = json.dumps(facts, ensure_ascii=False).replace("<", "\\u003c")
    return (
        f'<figure class="film" aria-label="{escape(title)}">\n'
        "<noscript><p>The film needs scripts, which are switched off here.</p></noscript>\n"
        f'<div class="stage" hidden>\n<canvas role="img" aria-label="{escape(title)}"></canvas>\n{_below(film)}'
        '<div class="controls"><button type="button">Play</button>'
        f'<input type="range" min="0" max="{count - 1}" value="0" step="1" aria-label="Frame">'
        f"<output></output>{box}</div>\n{_key(film)}</div>\n"
        f'<script type="application/json">{text}</script>\n</figure>'
    )


def levels(film: Film) -> np.ndarray:
    """Return the film's amounts as bytes: 0 for nothing, 254 for `top` and more, 255 for a wall."""
    frames = np.asarray(film.frames, np.float64)
    part = np.clip(np.nan_to_num(frames) / film.top, 0.0, 1.0) ** (1.0 if film.bars else film.power)
    return np.where(np.isnan(frames), WALL, np.rint(LEVELS * part)).astype(np.uint8)


def _checked(film: Film) -> tuple[np.ndarray, np.ndarray | None]:
    frames = np.asarray(film.frames, np.float64)
    arrows = None if film.arrows is None else np.asarray(film.arrows, np.float64)
    if frames.ndim != 3 or not frames.size:
        raise ValueError(f"a film's frames have the shape (frames, rows, columns), not {frames.shape}")
    if len(film.labels) != len(frames):
        raise ValueError(f"a film has {len(frames)} frames, but {len(film.labels)} labels")
    if np.any(frames < 0) or np.any(np.isinf(frames)):
        raise ValueError("a film's amounts are neither negative nor infinite")
    if not (film.top > 0 and np.isfinite(film.top)):
        raise ValueError(f"a film's top is {film.top}, but must be positive")
    if film.bars and frames.shape[1] != 1:
        raise ValueError(f"a film of bars has one row, not {frames.shape[1]}")
    if arrows is not None and (arrows.ndim != 4 or arrows.shape[::3] != (len(frames), 2)):
        raise ValueError(f"a film's arrows have the shape (frames, rows, columns, 2), not {arrows.shape}")
    return frames, arrows


def _packed(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _below(film: Film) -> str:
    """Name the first, the middle and the last bar."""
    if not film.bars or not film.names:
        return ""
    chosen = sorted({0, len(film.names) // 2, len(film.names) - 1})
    return f'<div class="ends">{"".join(f"<span>{escape(film.names[k])}</span>" for k in chosen)}</div>\n'


def _key(film: Film) -> str:
    """Say what the colours or the heights mean."""
    if film.bars:
        return f"<figcaption>Height: {escape(film.unit)}; a bar of full height is {film.top:.3g}.</figcaption>\n"
    middle = film.top * 0.5 ** (1 / film.power)
    return (
        '<div class="scale"></div>\n'
        f'<div class="key"><span>0</span><span>{middle:.2g}</span><span>{film.top:.2g} and more</span></div>\n'
        f"<figcaption>Colour: {escape(film.unit)}.</figcaption>\n"
    )


GIF_SIDE = 416
"""How many pixels the longer side of a GIF has, about."""

RAMP = ((255, 255, 255), (58, 124, 165), (13, 38, 55))
"""The colours of a GIF: of nothing, of half the way, of `top`; those of the page in its light dress."""

GREY, ORANGE = (185, 190, 196), (200, 85, 61)
"""A GIF's walls and arrows."""


def film_gif(film: Film) -> bytes | None:
    """Return a film as the bytes of a GIF that repeats; None if Pillow is not there.

    Raises:
        ValueError: as `film_figure`.
    """
    _, arrows = _checked(film)
    if importlib.util.find_spec("PIL") is None:
        return None
    from PIL import Image

    shown = levels(film)
    cells = np.stack([_bars(frame[0]) for frame in shown]) if film.bars else shown
    scale = max(1, round(GIF_SIDE / max(cells.shape[1:])))
    images = []
    for number, frame in enumerate(cells):
        image = Image.fromarray(np.kron(frame, np.ones((scale, scale), np.uint8)), "P")
        image.putpalette(_palette())
        if arrows is not None:
            image = image.convert("RGB")
            _draw_arrows(image, arrows[number])
        images.append(image)
    stream = io.BytesIO()
    pause = round(1000 * min(0.4, max(0.05, SECONDS / len(images))))
    images[0].save(stream, "GIF", save_all=True, append_images=images[1:], duration=pause, loop=0)
    return stream.getvalue()


def _palette() -> list[int]:
    """Return 256 colours, one after another: the ramp, and last the walls'."""
    part = np.arange(LEVELS + 1) / LEVELS
    ramp = np.column_stack([np.interp(part, [0, 0.5, 1], channel) for channel in np.transpose(RAMP)])
    return np.rint(np.vstack([ramp, GREY])).astype(int).ravel().tolist()


def _bars(row: np.ndarray) -> np.ndarray:
    """Turn one row of levels into a picture of bars, half as high as it is wide."""
    wide = max(1, GIF_SIDE // row.size)
    heights = np.repeat(row.astype(float), wide) / LEVELS
    rows = max(2, wide * row.size // 2)
    return np.where(np.arange(rows, 0, -1)[:, None] <= 0.97 * rows * heights, LEVELS // 2, 0).astype(np.uint8)


def _draw_arrows(image: Any, arrows: np.ndarray) -> None:
    """Draw the arrows of one frame, each in the middle of its block."""
    from PIL import ImageDraw

    pen = ImageDraw.Draw(image)
    rows, columns = arrows.shape[:2]
    down, across = image.height / rows, image.width / columns
    for (row, column), length in np.ndenumerate(np.hypot(arrows[..., 0], arrows[..., 1])):
        if not length >= LEAST_ARROW:
            continue
        x, y = (column + 0.5) * across, (row + 0.5) * down
        ey, ex = 0.4 * down * arrows[row, column, 0], 0.4 * across * arrows[row, column, 1]
        pen.line([(x - ex, y - ey), (x + ex, y + ey)], ORANGE, 2)
        for side in (1, -1):
            tip = (x + ex - 0.5 * (ex + side * ey), y + ey - 0.5 * (ey - side * ex))
            pen.line([(x + ex, y + ey), tip], ORANGE, 2)
