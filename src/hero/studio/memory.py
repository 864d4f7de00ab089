"""`python -m hero.studio.memory`: how much memory a configuration needs, as JSON; it loads the model, and so torch.

The configuration comes as TOML on stdin. Nothing is fetched: a model on the hub counts only if it is here already.
"""

from __future__ import annotations

import json
import os
import sys
import tomllib
from typing import Any

from hero.config import Config, validate
from hero.errors import HeroError

__all__ = ["main", "memory_of"]

_SHARE = 0.9
"""Largest share of a device's memory that a run may be estimated to need."""


def memory_of(config: Config) -> dict[str, Any]:
    """`words`, `needed` and `available` (bytes), `device`, `fits`, and `options`, the settings that would make it fit
    (null: none would).

    Raises:
        ModelError: the model cannot be loaded.
    """
    from hero.policies import load_policy, resolve_device
    from hero.policies.footprint import device_memory, estimate, measure_costs, options_that_fit

    device = resolve_device(config.model.device)
    costs = measure_costs(load_policy(config), config)
    footprint, available = estimate(costs, config), device_memory(device)
    limit = int(_SHARE * available)
    fits = footprint.peak <= limit
    return {
        "words": footprint.describe(),
        "needed": footprint.peak,
        "available": available,
        "device": device.type,
        "fits": fits,
        "options": {} if fits else options_that_fit(costs, config, limit),
    }


def main() -> int:
    """Reads stdin; prints the object, or {"error": why there is none}."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    config = validate(tomllib.loads(sys.stdin.read()))
    from hero.console import quiet_libraries

    quiet_libraries()
    try:
        print(json.dumps(memory_of(config)))
    except HeroError as error:
        print(json.dumps({"error": str(error)}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
