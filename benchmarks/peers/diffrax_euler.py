"""diffrax: its Euler solver, constant steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.peers.problem import Advance, Problem, State, Variant

NAME, PACKAGES = "diffrax", ("diffrax", "jax")
# vmapped: one solve per walker, as its documentation does it; otherwise all walkers are one big equation.
VARIANTS = [Variant({"vmapped": False}), Variant({"vmapped": False}, "each"), Variant({"vmapped": True})]


def prepare(problem: Problem, walkers: int, threads: int, seed: int, *, vmapped: bool) -> Advance:
    import diffrax
    import jax
    import jax.numpy as jnp
    import lineax

    jax.config.update("jax_enable_x64", True)
    p, bump = problem, problem.stiff - problem.soft
    root = float(np.sqrt(2 * p.temperature))
    shape = () if vmapped else (walkers,)
    leaf = jax.ShapeDtypeStruct(shape, jnp.float64)

    def drift(t: Any, state: Any, args: Any) -> Any:
        y, x = state
        u = y - jnp.floor(y) - 0.5
        q = 1 - 4 * u * u
        return 12 * bump * u * q * q * x * x, -(p.soft + bump * q * q * q) * x

    def diffusion(t: Any, state: Any, args: Any) -> Any:
        return lineax.DiagonalLinearOperator((jnp.full(shape, root),) * 2)

    def solve(state: Any, key: Any, steps: Any) -> Any:
        # The path that costs least: no tree, which is what constant steps without a gradient allow.
        path = diffrax.UnsafeBrownianPath((leaf, leaf), key)
        solution = diffrax.diffeqsolve(
            diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, path)),
            diffrax.Euler(),
            0.0,
            steps * p.step,
            p.step,
            state,
            saveat=diffrax.SaveAt(t1=True),
            adjoint=diffrax.ForwardMode(),
            max_steps=None,
            throw=False,
        )
        return tuple(a[0] for a in solution.ys)

    run = jax.jit(jax.vmap(solve, in_axes=(0, 0, None)) if vmapped else solve)
    state = jnp.asarray((np.arange(walkers) + 0.5) / walkers), jnp.zeros(walkers)
    key = jax.random.key(seed)

    def advance(steps: int) -> State:
        nonlocal state, key
        key, use = jax.random.split(key)
        state = jax.block_until_ready(run(state, jax.random.split(use, walkers) if vmapped else use, steps))
        y, x = (np.asarray(a) for a in state)
        return y, x

    return advance
