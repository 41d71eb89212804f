"""JAX: one compiled scan over the steps, whose body XLA fuses with its random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.peers.problem import Advance, Problem, State, Variant

NAME, PACKAGES = "JAX", ("jax", "jaxlib")
# XLA's own preference, 256 bits, was slower.
_WIDE = {"XLA_FLAGS": "--xla_cpu_prefer_vector_width=512"}
VARIANTS = [
    Variant({"generator": generator}, processes, _WIDE)
    for generator in ("threefry2x32", "unsafe_rbg")
    for processes in ("one", "each")
]


def prepare(
    problem: Problem, walkers: int, threads: int, seed: int, *, generator: str, dtype: str = "float64", record: int = 0
) -> Advance:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", dtype == "float64")
    p, h, bump = problem, problem.step, problem.stiff - problem.soft
    root = float(np.sqrt(2 * p.temperature * h))

    def one(state: Any, key: Any) -> Any:
        y, x = state
        noise = jax.random.normal(key, (2, walkers), dtype)
        u = y - jnp.floor(y) - 0.5
        q = 1 - 4 * u * u
        force = 12 * bump * u * q * q * x * x
        new = y + h * force + root * noise[0], x - h * (p.soft + bump * q * q * q) * x + root * noise[1]
        return new

    def every(state: Any, keys: Any) -> Any:
        new, _ = jax.lax.scan(lambda s, k: (one(s, k), None), state, keys)
        return new, new

    @jax.jit(static_argnums=2)
    def run(state: Any, key: Any, steps: int) -> Any:
        key, use = jax.random.split(key)
        if record:
            keys = jax.random.split(use, (steps // record, record))
            state, recorded = jax.lax.scan(every, state, keys)
            return state, key, recorded
        keys = jax.random.split(use, steps)
        state, _ = jax.lax.scan(lambda s, k: (one(s, k), None), state, keys)
        return state, key, None

    state = jnp.asarray((np.arange(walkers) + 0.5) / walkers, dtype), jnp.zeros(walkers, dtype)
    key = jax.random.key(seed, impl=generator)

    def advance(steps: int) -> State:
        nonlocal state, key
        state, key, _ = jax.block_until_ready(run(state, key, steps))
        y, x = (np.asarray(a, dtype=np.float64) for a in state)
        return y, x

    return advance
