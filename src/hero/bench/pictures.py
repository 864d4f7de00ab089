"""Contact sheets of evaluated runs: base beside tuned images from the same noises, for documents.

`python -m hero.bench.pictures RUN [RUN ...] --out FILE.png`; `--set base --set tuned_fresh --tile 64` makes it shorter.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from hero.errors import RunError
from hero.run.finished import FinishedRun

__all__ = ["before_after"]

_ROWS = (
    ("base", "base model"),
    ("tuned_fresh", "tuned, fresh noise"),
    ("tuned_refined", "tuned, refined noise"),
)
_GAP, _LABEL = 4, 22
_GOOD, _BAD, _PAPER, _INK = (38, 160, 96), (196, 70, 62), (255, 255, 255), (40, 40, 46)


def before_after(runs: Sequence[Path], columns: int = 12, *, sets: Sequence[str] = (), tile: int = 96) -> Image.Image:
    """Rows of the first `columns` held-out noises: base, tuned from fresh noise, tuned from refined noise.

    `sets` names the rows to draw (default: all), `tile` is the side of an image in pixels.

    A green line under an image means that the judge calls it a success, a red one that it does not.

    Raises:
        RunError: a run has no evaluation; `hero evaluate RUN` makes one.
    """
    chosen = [row for row in _ROWS if not sets or row[0] in sets]
    blocks = [_block(Path(run), columns, chosen, tile) for run in runs]
    width = max(block.width for block in blocks)
    sheet = Image.new("RGB", (width, sum(block.height for block in blocks)), _PAPER)
    top = 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    return sheet


def _block(run: Path, columns: int, wanted: Sequence[tuple[str, str]], tile: int) -> Image.Image:
    finished = FinishedRun(run)
    result = finished.evaluation
    if result is None:
        raise RunError(f"{run} has no evaluation; run `hero evaluate {run}` first")
    rows = [(name, title) for name, title in wanted if finished.evaluated(name)]
    block = Image.new("RGB", (columns * (tile + _GAP) + _GAP, len(rows) * (tile + _LABEL + 2 * _GAP) + _GAP), _PAPER)
    draw = ImageDraw.Draw(block)
    font = ImageFont.load_default(size=14)
    for row, (name, title) in enumerate(rows):
        top = _GAP + row * (tile + _LABEL + 2 * _GAP)
        success = result["success"][name]
        share = "" if success is None else f" · success {success:.2f} of {result['images']} images"
        draw.text((_GAP, top + 2), f"{result['task']} · {title}{share}", fill=_INK, font=font)
        verdicts = result["details"]["verdicts"].get(name)
        for column in range(columns):
            with Image.open(finished.evaluated(name)[column]) as image:
                picture = image.convert("RGB").resize((tile, tile), Image.Resampling.LANCZOS)
            left, upper = _GAP + column * (tile + _GAP), top + _LABEL
            block.paste(picture, (left, upper))
            if verdicts is not None:
                colour = _GOOD if verdicts[column] else _BAD
                draw.rectangle([left, upper + tile, left + tile - 1, upper + tile + 2], fill=colour)
    return block


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--columns", type=int, default=12)
    names = [name for name, _ in _ROWS]
    parser.add_argument("--set", action="append", choices=names, help="a row (default: all); repeatable")
    parser.add_argument("--tile", type=int, default=96, help="side of an image in pixels")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    sheet = before_after(arguments.runs, arguments.columns, sets=arguments.set or (), tile=arguments.tile)
    sheet.save(arguments.out, optimize=True)
    print(arguments.out)


if __name__ == "__main__":
    main()
