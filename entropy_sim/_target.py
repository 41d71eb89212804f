"""Full-width vectors from LLVM, asked for before numba builds its compiler.

For Intel's processors with AVX-512 LLVM prefers vectors of half that width, which suits programs that use few of them;
the loops here do little else. Nothing changes on other processors, nor where the user has chosen a processor or its
features (NUMBA_CPU_NAME, NUMBA_CPU_FEATURES) or has set ENTROPIC_WIDE_VECTORS=0. The setting is numba's own, so its
cache on disk tells the two kinds of code apart; it holds for all that this process compiles from then on, and does
nothing where something was compiled before.
"""

from __future__ import annotations

import os
from typing import Any

import numba
from llvmlite import binding as llvm
from numba.core.codegen import get_host_cpu_features

VARIABLE = "ENTROPIC_WIDE_VECTORS"


def wide_features(processor: str, features: str) -> str | None:
    """Features (LLVM's ``+avx512f,-sse4a,…``) without the preference for half width; None where there is none."""
    has_wide = {"+avx512f", "+avx512dq", "+avx512vl"} <= set(features.split(","))
    return f"{features},-prefer-256-bit" if has_wide and not processor.startswith("znver") else None


def prefer_wide_vectors() -> None:
    """Apply `wide_features` to this process, unless the user has chosen otherwise."""
    config: Any = numba.config
    if config.CPU_NAME is None and config.CPU_FEATURES is None and os.environ.get(VARIABLE, "1") != "0":
        config.CPU_FEATURES = wide_features(llvm.get_host_cpu_name(), get_host_cpu_features())
