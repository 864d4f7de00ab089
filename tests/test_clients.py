"""Exported files against the loaders of other programs: their key maps as they were run, kept as data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hero.bench.clients import FAMILIES, Applied, Case, check_loader, clients_table, layer_names, new_case
from hero.export.readers import READERS

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "clients"
KEYS = json.loads((RESULTS / "keys.json").read_text(encoding="utf-8"))
TABLES = [(table["clients"], table["family"], table["layout"], table["keys"]) for table in KEYS]
ROWS = {(r["client"], r["family"], r["layout"]): r for r in json.loads((RESULTS / "results.json").read_text())}
case_of = cache(new_case)


def by_table(keys: Mapping[str, str], tensors: Mapping[str, torch.Tensor], like: Mapping[str, torch.Tensor]) -> Applied:
    """What a loader with the key map `keys` makes of a file: up·down·alpha/rank in the rows that the map names."""
    updates, used = {layer: torch.zeros_like(update) for layer, update in like.items()}, 0
    for name in layer_names(tensors):
        mine = {key.removeprefix(name): value for key, value in tensors.items() if key.startswith(name)}
        mine = {key: value for key, value in mine.items() if key[0] in "._" and key.count(".") <= 3}
        if name not in keys:
            continue
        used += len(mine)
        (up,) = (v for k, v in mine.items() if k.endswith((".lora_B.weight", "lora.up.weight", ".lora_up.weight")))
        (down,) = (v for k, v in mine.items() if k.endswith((".lora_A.weight", "lora.down.weight", "lora_down.weight")))
        update = (up.flatten(1) @ down.flatten(1)).view(len(up), *down.shape[1:])
        update = update * float(mine[".alpha"]) / len(down) if ".alpha" in mine else update
        layer, _, rows = keys[name].partition(" ")
        first, last = map(int, rows.split(":")) if rows else (0, len(update))
        updates[layer][first:last] += update
    return Applied(used, updates, like, keys)


@pytest.mark.parametrize(
    ("clients", "family", "layout", "keys"), TABLES, ids=["-".join((t[1], t[2], *t[0])) for t in TABLES]
)
def test_a_loaders_key_map_finds_every_layer_as_when_it_was_run(
    clients: list[str], family: str, layout: str, keys: Mapping[str, str]
) -> None:
    """And its arithmetic, up·down·alpha/rank, then gives the trained LoRA's updates of the original model."""

    def load(case: Case, file: Path) -> Applied:
        # Elsewhere the model of Stable Diffusion is the original, named as XL's is; in sd-scripts as diffusers'.
        original = case.family == "stable-diffusion" and not clients[0].startswith("sd-scripts")
        place = case.place("StableDiffusionXLPipeline" if original else None)
        return by_table(keys, load_file(file), case.wanted(place))

    found = check_loader(clients[0], load, case_of(family), layout)
    assert found.difference is not None
    assert found.difference < 1e-4
    for row in (ROWS[client, family, layout] for client in clients):
        assert found.used == found.tensors == row["used"] == row["tensors"]
        assert row["difference"] < 1e-4


def test_programs_that_are_named_have_applied_the_whole_file() -> None:
    """A card names a program with a version from which on it holds; older runs may have applied less."""
    whole = {
        (client.split()[0], FAMILIES[family][0], layout)
        for (client, family, layout), row in ROWS.items()
        if row["used"] == row["tensors"]
    }
    for pipeline, layouts in READERS.items():
        for layout, programs in layouts.items():
            for program in programs:
                name = program.split()[0]
                if name != "diffusers":  # run by test_lora_file and test_snippets
                    assert (name, pipeline, layout) in whole


def test_the_documented_table_is_the_one_that_cards_print() -> None:
    page = (RESULTS.parents[1] / "export.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| ")]
    told = {row[0].strip(): tuple(cell.strip() for cell in row[1:]) for row in rows}
    titles = {
        "Stable Diffusion 1.x, 2.x": "StableDiffusionPipeline",
        "Stable Diffusion XL": "StableDiffusionXLPipeline",
        "Stable Diffusion 3, 3.5": "StableDiffusion3Pipeline",
        "FLUX.1": "FluxPipeline",
        "Qwen-Image": "QwenImagePipeline",
        "Z-Image": "ZImagePipeline",
        "FLUX.2 klein": "Flux2KleinPipeline",
    }
    assert set(titles.values()) == set(READERS)
    for title, pipeline in titles.items():
        assert told[title] == tuple(", ".join(READERS[pipeline][layout]) for layout in ("diffusers", "kohya"))


def test_the_table_of_results_is_in_the_docs() -> None:
    page = (RESULTS.parents[1] / "export.md").read_text(encoding="utf-8")
    assert (RESULTS / "results.md").read_text(encoding="utf-8") in page


def test_a_loader_that_skips_a_layer_or_halves_it_is_seen(tmp_path: Path) -> None:
    case = case_of("qwen-image")
    wanted = case.wanted(case.place())

    def skips(case: Case, file: Path) -> Applied:
        first = min(wanted)
        return Applied(3, {k: v for k, v in wanted.items() if k != first}, wanted, {})

    def halves(case: Case, file: Path) -> Applied:
        return Applied(3, {k: v / 2 for k, v in wanted.items()}, wanted, {})

    def refuses(case: Case, file: Path) -> Applied:
        raise ValueError("no such model\nsecond line")

    results = [check_loader("x", load, case, "kohya") for load in (skips, halves, refuses)]
    assert all(r.difference is not None and r.difference > 0.1 for r in results[:2])
    assert (results[2].used, results[2].refused) == (0, "ValueError: no such model")
    assert "ValueError: no such model" in clients_table(results)
