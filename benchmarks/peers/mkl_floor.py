"""The floor: the two normals of a walker-step from Intel MKL's vectorised inverse-CDF method, and nothing else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from benchmarks.peers.problem import Variant

NAME, PACKAGES = "mkl_random (floor)", ("mkl_random", "mkl")
# Of the generators with a period beyond 2^50 these were the fastest; each process or thread has its own state.
VARIANTS = [
    Variant({"brng": brng, "size": size}, processes=processes)
    for brng in ("SFMT19937", "MCG59", "ARS5")
    for size in (8192, 32768)
    for processes in ("each", "one")
]


def prepare(problem, walkers, threads, seed, *, brng, size):
    import mkl_random

    states = [mkl_random.RandomState(seed + 1000 * i, brng=brng) for i in range(threads)]
    pool = ThreadPoolExecutor(threads)

    def draw(state, numbers):
        for _ in range(round(numbers / size)):
            state.standard_normal(size, method="ICDF")

    def advance(steps):
        numbers = 2 * walkers * steps
        if threads == 1:
            draw(states[0], numbers)
        else:
            list(pool.map(draw, states, [numbers / threads] * threads))

    return advance
