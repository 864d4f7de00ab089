"""LoRA files in the loaders of other programs: how much of every family and layout each of them applies.

`python -m hero.bench.clients --comfyui DIR --forge DIR --a1111 DIR --sd-scripts DIR --out docs/results/clients`

Each folder is a checkout of that program, and may be given several times; what it imports must be installed. Its own
code reads the file and says what it adds to which weight of the original model; only the model around it is a
stand-in, with layers of the right names and shapes. A layer that is not applied counts with the whole of its update.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import multiprocessing
import re
import sys
import tempfile
import types
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import load_file

from hero.export.kohya import kohya_tensors, places
from hero.policies import family_of
from hero.policies.lora_file import LoraFile, write_lora_file, write_sorted
from hero.seeding import Stage, generator

__all__ = [
    "CLIENTS",
    "FAMILIES",
    "Case",
    "ClientResult",
    "check_loader",
    "clients_table",
    "key_tables",
    "layer_names",
    "main",
    "new_case",
]

Updates = Mapping[str, torch.Tensor]
"""Layer of the original model → what is added to its weight, (out, in, ...)."""
PlaceOf = Callable[[str], tuple[str, int | None]]
"""Layer in diffusers → layer in the original model, and its first row there if it is a part of one."""

_RANK = 2
_CROSS = {"cross_attention_dim": 16, "norm_num_groups": 4, "sample_size": 8}
FAMILIES: dict[str, tuple[str, Callable[..., Any], dict[str, Any], dict[str, Any]]] = {
    "stable-diffusion": (
        "StableDiffusionPipeline",
        diffusers.UNet2DConditionModel,
        {**_CROSS, "block_out_channels": (8, 8, 16, 16), "attention_head_dim": 2},
        {
            "num_res_blocks": [2, 2, 2, 2],
            "channel_mult": [1, 1, 2, 2],
            "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
            "transformer_depth_middle": 1,
            "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        },
    ),
    "sdxl": (
        "StableDiffusionXLPipeline",
        diffusers.UNet2DConditionModel,
        {
            **_CROSS,
            "block_out_channels": (8, 8, 16),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 3),
            "attention_head_dim": (2, 2, 2),
            "use_linear_projection": True,
        },
        {
            "num_res_blocks": [2, 2, 2],
            "channel_mult": [1, 1, 2],
            "transformer_depth": [0, 0, 2, 2, 3, 3],
            "transformer_depth_middle": 3,
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 3, 3, 3],
        },
    ),
    "sd3": (
        "StableDiffusion3Pipeline",
        diffusers.SD3Transformer2DModel,
        {
            "num_layers": 2,
            "attention_head_dim": 64,
            "num_attention_heads": 2,
            "caption_projection_dim": 128,
            "joint_attention_dim": 16,
            "pooled_projection_dim": 16,
            "dual_attention_layers": (0,),
        },
        {"depth": 2},
    ),
    "flux": (
        "FluxPipeline",
        diffusers.FluxTransformer2DModel,
        {
            "num_layers": 2,
            "num_single_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 16,
            "pooled_projection_dim": 16,
            "axes_dims_rope": (4, 6, 6),
        },
        {"depth": 2, "depth_single_blocks": 2, "hidden_size": 32},
    ),
    "qwen-image": (
        "QwenImagePipeline",
        diffusers.QwenImageTransformer2DModel,
        {"num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 16},
        {},
    ),
    "z-image": (
        "ZImagePipeline",
        diffusers.ZImageTransformer2DModel,
        {"dim": 32, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 16}
        | {"axes_dims": [4, 6, 6], "axes_lens": [640, 64, 64]},
        {"n_layers": 2, "dim": 32, "n_refiner_layers": 1},
    ),
    "flux-2-klein": (
        "Flux2KleinPipeline",
        diffusers.Flux2Transformer2DModel,
        {
            "num_layers": 2,
            "num_single_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 16,
            "axes_dims_rope": (4, 4, 4, 4),
            "guidance_embeds": False,
        },
        {"depth": 2, "depth_single_blocks": 2, "hidden_size": 32},
    ),
}
"""Name → pipeline class, denoiser class, its configuration with few narrow layers, the same in ComfyUI's words."""


@dataclass(frozen=True)
class Case:
    """A random LoRA of one family, on every kind of layer that can be trained.

    Attributes:
        family: a key of `FAMILIES`.
        pipeline: its pipeline class.
        content: the LoRA.
        denoiser: the denoiser's configuration.
    """

    family: str
    pipeline: str
    content: LoraFile
    denoiser: Mapping[str, Any]

    def write(self, layout: str, file: Path) -> None:
        """Writes it in `layout`, `diffusers` or `kohya`."""
        if layout == "diffusers":
            write_lora_file(self.content, file)
        else:
            tensors = kohya_tensors(self.content.lora, self.content.rank, self.pipeline, self.denoiser)
            write_sorted(tensors, file, {})

    def update(self, layer: str) -> torch.Tensor:
        """B·A of a layer in diffusers, (out, in, ...)."""
        down, up = (self.content.lora[f"{layer}.lora_{side}.weight"] for side in "AB")
        return (up.flatten(1) @ down.flatten(1)).view(len(up), *down.shape[1:])

    @property
    def layers(self) -> list[str]:
        return sorted({key.rsplit(".lora_", 1)[0] for key in self.content.lora})

    def place(self, names: str | None = None) -> PlaceOf:
        """Where layers lie in the original model, by kohya's names of the pipeline `names` (default: its own)."""
        at = places(self.content.lora, names or self.pipeline, self.denoiser)

        def place(layer: str) -> tuple[str, int | None]:
            shares, part = at[layer].shares, at[layer].part
            unit = len(self.update(layer)) // shares[part]
            return at[layer].name, unit * sum(shares[:part]) if len(shares) > 1 else None

        return place

    def wanted(self, place: PlaceOf) -> Updates:
        """The updates of the original model's layers."""
        found: dict[str, list[tuple[int, torch.Tensor]]] = {}
        for layer in self.layers:
            name, row = place(layer)
            found.setdefault(name, []).append((row or 0, self.update(layer)))
        whole = {}
        for name, parts in found.items():
            rows = max(row + len(update) for row, update in parts)
            whole[name] = parts[0][1].new_zeros(rows, *parts[0][1].shape[1:])
            for row, update in parts:
                whole[name][row : row + len(update)] = update
        return whole


def new_case(family: str) -> Case:
    """The case of a key of `FAMILIES`; the denoiser has no memory."""
    pipeline, kind, config, _ = FAMILIES[family]
    with torch.device("meta"):
        denoiser = kind(**config)
    endings = [ending for kinds in family_of(pipeline).layers.values() for ending in kinds]
    source, lora = generator(0, Stage.BENCH_CLIENTS), {}
    for name, module in sorted(denoiser.named_modules()):
        if any(name.endswith(f".{ending}") for ending in endings) and hasattr(module, "weight"):
            out, into, *kernel = module.weight.shape
            lora[f"{name}.lora_A.weight"] = torch.randn(_RANK, into, *kernel, generator=source)
            lora[f"{name}.lora_B.weight"] = torch.randn(out, _RANK, *([1] * len(kernel)), generator=source)
    component = "unet" if kind is diffusers.UNet2DConditionModel else "transformer"
    return Case(family, pipeline, LoraFile(component, lora, {"r": _RANK}), denoiser.config)


# ---------------------------------------------------------------------------------------------- clients


@dataclass(frozen=True)
class Applied:
    """What a loader made of a file.

    Attributes:
        used: how many of the file's tensors it used.
        updates: what it adds to the original model's layers.
        wanted: what it should add.
        keys: the file's name of each layer that the loader knows → the original model's layer, `first:last` rows of it
            where it is a part.
    """

    used: int
    updates: Updates
    wanted: Updates
    keys: Mapping[str, str]


Loader = Callable[[Case, Path], Applied]


class _AnyClass(types.ModuleType):
    """A module that has a class of every name, for loaders that ask of which class a model is."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {})
        setattr(self, name, made)
        return made


_COMFYUI_CLASSES = {
    "sd3": "SD3",
    "flux": "Flux",
    "qwen-image": "QwenImage",
    "z-image": "Lumina2",
    "flux-2-klein": "Flux",
}


_COMFYUI_MODELS = {
    "stable-diffusion": "SD15",
    "sdxl": "SDXL",
    "sd3": "SD3",
    "flux": "Flux",
    "qwen-image": "QwenImage",
    "z-image": "ZImage",
    "flux-2-klein": "Flux2",
}
_FORGE_ENGINES = {"stable-diffusion": "sd15", "sdxl": "sdxl", "sd3": "sd35", "flux": "flux"}
_NO_MODEL = "the program has no such model"


class NoSuchModelError(Exception):
    """The program cannot run the model, so that what its loader would make of the file says nothing."""


def _to_original(utils: Any, case: Case) -> PlaceOf:
    """ComfyUI's own map from diffusers' layers to those of the original model, or ours where it has none."""
    family, words = case.family, FAMILIES[case.family][3]
    makers = {"sd3": "mmdit_to_diffusers", "flux": "flux_to_diffusers", "z-image": "z_image_to_diffusers"}
    makers |= {"flux-2-klein": "flux_to_diffusers"}
    own: dict[str, Any] = {}
    if family in ("stable-diffusion", "sdxl"):
        own = utils.unet_to_diffusers(words)
    elif family in makers and hasattr(utils, makers[family]):
        own = getattr(utils, makers[family])(words)
    fallback = case.place()

    def place(layer: str) -> tuple[str, int | None]:
        to = own.get(f"{layer}.weight")
        if to is None:
            return fallback(layer)
        name, part = (to, None) if isinstance(to, str) else (to[0], to[1])
        return name.removesuffix(".weight"), None if part is None else part[1]

    return place


_SUFFIX = re.compile(r"([._]lora)?\.(lora_)?(up|down|A|B)\.weight|\.alpha")


def layer_names(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """The names of layers in a file, as loaders look them up."""
    return sorted({_SUFFIX.sub("", key) for key in tensors})


def _keys(tensors: Mapping[str, torch.Tensor], key_map: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name in layer_names(tensors):
        if name in key_map:
            to = key_map[name]
            layer, rows = (to, "") if isinstance(to, str) else (to[0], f" {to[1][1]}:{to[1][1] + to[1][2]}")
            found[name] = layer.removeprefix("diffusion_model.").removesuffix(".weight") + rows
    return found


def _patched(patches: Mapping[Any, Any], wanted: Updates, add: Callable[..., torch.Tensor]) -> Updates:
    """The updates of a patch dictionary: key, or (key, rows), → patch."""
    updates: dict[str, torch.Tensor] = {}
    for key, patch in patches.items():
        name, rows, function = (key, None, None) if isinstance(key, str) else (*key, None)[:3]
        layer = name.removeprefix("diffusion_model.").removesuffix(".weight")
        weight = updates.get(layer, torch.zeros_like(wanted[layer]))
        updates[layer] = add([(1.0, patch, 1.0, rows, function)], weight.clone(), name)
    return updates


def _comfyui(folder: Path) -> tuple[str, Loader]:
    sys.path.insert(0, str(folder))
    importlib.import_module("comfy.cli_args").args.cpu = True
    bases = sys.modules["comfy.model_base"] = _AnyClass("comfy.model_base")
    lora, utils = (importlib.import_module(f"comfy.{name}") for name in ("lora", "utils"))
    importlib.import_module("comfy").model_base = bases  # type: ignore[attr-defined]
    version = (folder / "comfyui_version.py").read_text(encoding="utf-8").split('"')[-2]

    supported = (folder / "comfy" / "supported_models.py").read_text(encoding="utf-8")

    def load(case: Case, file: Path) -> Applied:
        if f"class {_COMFYUI_MODELS[case.family]}(" not in supported:
            raise NoSuchModelError(_NO_MODEL)
        wanted = case.wanted(_to_original(utils, case))
        kind = getattr(bases, _COMFYUI_CLASSES.get(case.family, "BaseModel"))
        model = kind()
        weights = {f"diffusion_model.{layer}.weight": update for layer, update in wanted.items()}
        model.state_dict = lambda: weights
        model.model_config = types.SimpleNamespace(unet_config=FAMILIES[case.family][3])
        tensors = load_file(file)
        key_map = lora.model_lora_keys_unet(model, {})
        patches = lora.load_lora(tensors, key_map, log_missing=False)
        used = {key for patch in patches.values() for key in patch.loaded_keys}
        used |= {key for key in tensors if key.endswith(".alpha") and key.replace(".alpha", ".lora_up.weight") in used}
        updates = _patched(patches, wanted, lora.calculate_weight)
        return Applied(len(used), updates, wanted, _keys(tensors, key_map))

    return f"ComfyUI {version}", load


def _forge(folder: Path) -> tuple[str, Loader]:
    sys.path.insert(0, str(folder))
    sys.argv = sys.argv[:1]
    importlib.import_module("backend.args").args.always_cpu = True
    lora = importlib.import_module("backend.patcher.lora")
    utils = importlib.import_module("packages_3rdparty.comfyui_lora_collection.utils")

    def load(case: Case, file: Path) -> Applied:
        if not (folder / "backend" / "diffusion_engine" / f"{_FORGE_ENGINES.get(case.family)}.py").is_file():
            raise NoSuchModelError(_NO_MODEL)
        wanted = case.wanted(_to_original(utils, case))
        weights = {f"diffusion_model.{layer}.weight": update for layer, update in wanted.items()}
        model = types.SimpleNamespace(
            state_dict=lambda: weights,
            config=types.SimpleNamespace(huggingface_repo=case.family),
            diffusion_model=types.SimpleNamespace(config=FAMILIES[case.family][3]),
        )
        tensors = load_file(file)
        key_map = lora.model_lora_keys_unet(model, {})
        patches, left = lora.load_lora(tensors, key_map)
        updates = _patched(patches, wanted, lora.merge_lora_to_weight)
        return Applied(len(tensors) - len(left), updates, wanted, _keys(tensors, key_map))

    return "Forge", load


def _a1111(folder: Path) -> tuple[str, Loader]:
    sys.path.insert(0, str(folder / "extensions-builtin" / "Lora"))
    for name in ("gradio", "modules", *(f"modules.{part}" for part in _A1111_MODULES)):
        sys.modules[name] = _AnyClass(name)
    modules: Any = sys.modules["modules"]
    for name in _A1111_MODULES:
        parent, _, last = f"modules.{name}".rpartition(".")
        setattr(sys.modules[parent], last, sys.modules[f"modules.{name}"])
    modules.sd_models.read_state_dict = load_file
    modules.devices.cpu, modules.devices.dtype = torch.device("cpu"), torch.float32
    with tempfile.TemporaryDirectory() as empty:  # it lists its LoRAs when it is imported
        modules.shared.cmd_opts = types.SimpleNamespace(lora_dir=empty, lyco_dir_backcompat=empty)
        modules.shared.walk_files = lambda *_, **__: []
        networks: Any = importlib.import_module("networks")
    changes = folder / "CHANGELOG.md"
    version = changes.read_text(encoding="utf-8").split()[1] if changes.is_file() else "of unknown version"

    def load(case: Case, file: Path) -> Applied:
        # Its Stable Diffusion has the original's names, as XL's are in kohya's layout.
        names = {"stable-diffusion": "StableDiffusionXLPipeline", "sdxl": case.pipeline}
        if case.family == "sd3":
            raise NoSuchModelError("not tried: its model cannot be stood in for")
        if case.family not in names:
            raise NoSuchModelError(_NO_MODEL)
        wanted = case.wanted(case.place(names[case.family]))
        layers = {f"diffusion_model_{layer.replace('.', '_')}": layer for layer in wanted}
        modules.shared.sd_model = types.SimpleNamespace(
            network_layer_mapping={name: _layer_of(wanted[layer]) for name, layer in layers.items()},
            is_sdxl=case.family == "sdxl",
        )
        disk = types.SimpleNamespace(filename=str(file), name="lora")
        network = networks.load_network("lora", disk)
        found = {layers[key]: module for key, module in network.modules.items()}
        updates = {layer: module.calc_updown(wanted[layer])[0].detach() for layer, module in found.items()}
        keys = {module.network_key.partition(".")[0]: layer for layer, module in found.items()}
        return Applied(3 * len(updates), updates, wanted, keys)  # down, up and alpha of each

    return f"A1111 {version}", load


_A1111_MODULES = (
    *("shared", "devices", "sd_models", "errors", "scripts", "sd_hijack", "cache", "hashes", "patches"),
    *("textual_inversion", "textual_inversion.textual_inversion", "models", "models.sd3", "models.sd3.mmdit"),
)
"""What its loader imports, apart from its own folder; only the attributes that are set above are used."""


def _layer_of(update: torch.Tensor) -> torch.nn.Module:
    """A layer whose weight has the shape of `update`."""
    out, into, *kernel = update.shape
    if kernel:
        return torch.nn.Conv2d(into, out, (kernel[0], kernel[1]), padding=kernel[0] // 2, bias=False)
    return torch.nn.Linear(into, out, bias=False)


_SD_SCRIPTS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "stable-diffusion": ("lora", "original_unet", "UNet2DConditionModel", {"sample_size": 8}),
    "sdxl": ("lora", "sdxl_original_unet", "SdxlUNet2DConditionModel", {}),
    "sd3": ("lora_sd3", "sd3_models", "MMDiT", {"depth": 2, "x_block_self_attn_layers": [0]}),
    "flux": ("lora_flux", "flux_models", "Flux", {}),
}
"""Family → module of networks, module of library, its model there, the model's settings."""


def _sd_scripts(folder: Path) -> tuple[str, Loader]:
    sys.path.insert(0, str(folder))
    for name in ("cv2", "torchvision"):  # it imports them for pictures
        sys.modules[name] = _AnyClass(name)
    logging.disable(logging.WARNING)
    found = re.search(r"Version (\d+\.\d+\.\d+)", (folder / "README.md").read_text(encoding="utf-8"))
    version = found.group(1) if found else "of unknown version"

    def load(case: Case, file: Path) -> Applied:
        if case.family not in _SD_SCRIPTS:
            raise NoSuchModelError(_NO_MODEL)
        network, library, kind, settings = _SD_SCRIPTS[case.family]
        networks, models = importlib.import_module(f"networks.{network}"), importlib.import_module(f"library.{library}")
        wanted = case.wanted(case.place())
        if case.family == "flux":
            settings = {"params": next(iter(models.configs.values())).params}
        with torch.device("meta"):  # its own model, as large as it is: names and classes alone count
            model = getattr(models, kind)(**settings)
        layers = dict(model.named_modules())
        for name, update in wanted.items():
            parent, _, last = name.rpartition(".")
            narrow: Any = _layer_of(update)
            torch.nn.init.zeros_(narrow.weight)
            if name not in layers:
                raise LookupError(f"the model has no layer {name}")
            setattr(layers[parent], last, narrow)
        made, tensors = networks.create_network_from_weights(1.0, str(file), None, [], model, for_inference=True)
        names = {lora.lora_name for lora in made.unet_loras}
        made.merge_to([], model, tensors, torch.float32, "cpu")
        layers = dict(model.named_modules())
        updates = {name: layers[name].get_parameter("weight").detach() for name in wanted}
        keys = {f"lora_unet_{name.replace('.', '_')}": name for name in wanted}
        used = sum(key.partition(".")[0] in names for key in tensors)
        return Applied(used, updates, wanted, {key: name for key, name in keys.items() if key in names})

    return f"sd-scripts {version}", load


CLIENTS: dict[str, Callable[[Path], tuple[str, Loader]]] = {
    "comfyui": _comfyui,
    "forge": _forge,
    "a1111": _a1111,
    "sd-scripts": _sd_scripts,
}
"""Option → from a checkout to the program's name with its version, and its loader."""


# ---------------------------------------------------------------------------------------------- results


@dataclass(frozen=True)
class ClientResult:
    """One file in one loader.

    Attributes:
        used, tensors: how many of the file's tensors it used, of how many.
        difference: the greatest deviation of an update from the trained LoRA's; one that it left out counts whole.
        refused: the error's first line, where it refused the file.
        keys: see `Applied`.
    """

    client: str
    family: str
    layout: str
    used: int
    tensors: int
    difference: float | None
    refused: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)


def _check(option: str, folder: Path) -> list[ClientResult]:
    name, load = CLIENTS[option](folder)
    cases = [new_case(family) for family in FAMILIES]
    return [check_loader(name, load, case, layout) for case in cases for layout in ("diffusers", "kohya")]


def check_loader(client: str, load: Loader, case: Case, layout: str) -> ClientResult:
    """What `load` makes of `case` in `layout`."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "lora.safetensors"
        case.write(layout, file)
        count = len(load_file(file))
        try:
            found = load(case, file)
        except NoSuchModelError as error:
            return ClientResult(client, case.family, layout, 0, count, None, str(error))
        except Exception as error:  # each program raises its own
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            return ClientResult(client, case.family, layout, 0, count, None, reason)
    apart = max(
        float((update - found.updates.get(layer, torch.zeros_like(update))).abs().max())
        for layer, update in found.wanted.items()
    )
    return ClientResult(client, case.family, layout, found.used, count, apart, keys=found.keys)


def key_tables(results: list[ClientResult]) -> list[dict[str, Any]]:
    """`family`, `layout`, `keys` and the `clients` that share them, of each file that a loader used the whole of."""
    tables: list[dict[str, Any]] = []
    for r in results:
        if r.difference is None or r.used < r.tensors:
            continue
        same = [t for t in tables if (t["family"], t["layout"], t["keys"]) == (r.family, r.layout, r.keys)]
        if same:
            same[0]["clients"].append(r.client)
        else:
            tables.append({"family": r.family, "layout": r.layout, "clients": [r.client], "keys": r.keys})
    return tables


def clients_table(results: list[ClientResult]) -> str:
    """One row per client, family and layout."""
    lines = ["| client | family | layout | tensors used | greatest difference |", "|---|---|---|---|---|"]
    for r in results:
        apart = r.refused if r.difference is None else f"{r.difference:.1e}"
        lines.append(f"| {r.client} | `{r.family}` | `{r.layout}` | {r.used} of {r.tensors} | {apart} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command line of this module: prints the table, and with --out writes it, results.json and keys.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in CLIENTS:
        parser.add_argument(f"--{option}", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    results: list[ClientResult] = []
    for option in CLIENTS:
        for folder in getattr(arguments, option.replace("-", "_")):
            # A process each: programs, and versions of one, have modules of the same names.
            with multiprocessing.get_context("fork").Pool(1) as pool:
                results += pool.apply(_check, (option, folder.resolve()))
            print(f"{folder}: {results[-1].client}", flush=True)
    print(clients_table(results), end="")
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        rows = [{key: value for key, value in asdict(r).items() if key != "keys"} for r in results]
        (arguments.out / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
        (arguments.out / "results.md").write_text(clients_table(results))
        (arguments.out / "keys.json").write_text(
            json.dumps(key_tables(results), indent=0, separators=(",", ":")) + "\n"
        )


if __name__ == "__main__":
    main()
