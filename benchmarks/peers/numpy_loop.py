"""NumPy: in place, nothing allocated, chunks of walkers that stay in the cache."""

from __future__ import annotations

import numpy as np

from benchmarks.peers.problem import Advance, Problem, State, Variant

NAME, PACKAGES = "NumPy", ("numpy",)
# SFC64 is its fastest generator; ufuncs on arrays this small gain nothing from threads, so: processes.
VARIANTS = [Variant({"chunk": chunk}, processes="each") for chunk in (4096, 16384)]


def prepare(
    problem: Problem, walkers: int, threads: int, seed: int, *, chunk: int, dtype: str = "float64", record: int = 0
) -> Advance:
    p, kind = problem, np.dtype(dtype).type
    h, bump = p.step, p.stiff - p.soft
    keep, shrink, pull = kind(1 - h * p.soft), kind(-h * bump), kind(12 * bump * h)
    half, minus_four, one, root = kind(0.5), kind(-4.0), kind(1.0), kind(np.sqrt(2 * p.temperature * h))
    rng = np.random.Generator(np.random.SFC64(seed))
    ys, xs = ((np.arange(walkers) + 0.5) / walkers).astype(kind), np.zeros(walkers, kind)
    chunk = min(chunk, walkers)
    spare = [np.empty(chunk, kind) for _ in range(3)]
    noises = np.empty((2, chunk), kind)

    def advance(steps: int) -> State:
        recorded = np.empty((steps // record if record else 0, 2, walkers), kind)
        for start in range(0, walkers, chunk):
            y, x = ys[start : start + chunk], xs[start : start + chunk]
            u, q, k = (a[: y.size] for a in spare)
            noise = noises if y.size == chunk else np.empty((2, y.size), kind)
            for step in range(steps):
                rng.standard_normal(out=noise, dtype=kind)
                np.multiply(noise, root, out=noise)
                np.floor(y, out=u)
                np.subtract(y, u, out=u)
                np.subtract(u, half, out=u)
                np.multiply(u, u, out=q)
                np.multiply(q, minus_four, out=q)
                np.add(q, one, out=q)
                np.multiply(q, q, out=k)
                np.multiply(u, k, out=u)
                np.multiply(k, q, out=k)
                np.multiply(k, shrink, out=k)
                np.add(k, keep, out=k)
                np.multiply(x, x, out=q)
                np.multiply(q, u, out=q)
                np.multiply(q, pull, out=q)
                np.add(y, q, out=y)
                np.add(y, noise[0], out=y)
                np.multiply(x, k, out=x)
                np.add(x, noise[1], out=x)
                if record and step % record == 0 and step // record < len(recorded):
                    recorded[step // record, 0, start : start + chunk] = y
                    recorded[step // record, 1, start : start + chunk] = x
        return ys.astype(np.float64), xs.astype(np.float64)

    return advance
