"""Contact sheets of evaluated runs: base beside tuned images from the same noises, for documents.

`python -m hero.bench.pictures RUN [RUN ...] --out FILE.png`
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from hero.errors import RunError

__all__ = ["before_after"]

_ROWS = (
    ("base", "base model"),
    ("tuned_fresh", "tuned, fresh noise"),
    ("tuned_refined", "tuned, refined noise"),
)
_TILE, _GAP, _LABEL = 96, 4, 22
_GOOD, _BAD, _PAPER, _INK = (38, 160, 96), (196, 70, 62), (255, 255, 255), (40, 40, 46)


def before_after(runs: Sequence[Path], columns: int = 12) -> Image.Image:
    """Rows of the first `columns` held-out noises: base, tuned from fresh noise, tuned from refined noise.

    A green line under an image means that the judge calls it a success, a red one that it does not.

    Raises:
        RunError: a run has no evaluation; `hero evaluate RUN` makes one.
    """
    blocks = [_block(Path(run), columns) for run in runs]
    width = max(block.width for block in blocks)
    sheet = Image.new("RGB", (width, sum(block.height for block in blocks)), _PAPER)
    top = 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    return sheet


def _block(run: Path, columns: int) -> Image.Image:
    path = run / "evaluation" / "result.json"
    if not path.is_file():
        raise RunError(f"{run} has no evaluation; run `hero evaluate {run}` first")
    result = json.loads(path.read_text(encoding="utf-8"))
    rows = [(name, title) for name, title in _ROWS if (run / "evaluation" / name).is_dir()]
    block = Image.new("RGB", (columns * (_TILE + _GAP) + _GAP, len(rows) * (_TILE + _LABEL + 2 * _GAP) + _GAP), _PAPER)
    draw = ImageDraw.Draw(block)
    font = ImageFont.load_default(size=14)
    for row, (name, title) in enumerate(rows):
        top = _GAP + row * (_TILE + _LABEL + 2 * _GAP)
        success = result["success"][name]
        share = "" if success is None else f" · success {success:.2f} of {result['images']} images"
        draw.text((_GAP, top + 2), f"{result['task']} · {title}{share}", fill=_INK, font=font)
        verdicts = result["details"]["verdicts"].get(name)
        for column in range(columns):
            with Image.open(run / "evaluation" / name / f"{column:04d}.png") as image:
                tile = image.convert("RGB").resize((_TILE, _TILE), Image.Resampling.LANCZOS)
            left, upper = _GAP + column * (_TILE + _GAP), top + _LABEL
            block.paste(tile, (left, upper))
            if verdicts is not None:
                colour = _GOOD if verdicts[column] else _BAD
                draw.rectangle([left, upper + _TILE, left + _TILE - 1, upper + _TILE + 2], fill=colour)
    return block


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--columns", type=int, default=12)
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    before_after(arguments.runs, arguments.columns).save(arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
