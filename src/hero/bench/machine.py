"""What every committed result records about itself: when, by which version, on which machine."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

from hero import __version__

__all__ = ["about_this"]

_CPU_INFO = Path("/proc/cpuinfo")


def about_this() -> dict[str, str]:
    """`date` (UTC), `hero` (version) and `machine` (system, architecture, CPU cores, AVX-512 where it has it)."""
    wide = _CPU_INFO.is_file() and "avx512f" in _CPU_INFO.read_text(encoding="utf-8", errors="replace")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "hero": __version__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"
        + (" with AVX-512" if wide else ""),
    }
