"""The floor: the two normals of a walker-step from Intel MKL's vectorised inverse-CDF method, and nothing else."""

from __future__ import annotations

from benchmarks.peers.problem import Advance, Problem, Variant

NAME, PACKAGES = "mkl_random (floor)", ("mkl_random", "mkl")
# Of the generators with a period beyond 2^50 these were the fastest; each process has its own state.
VARIANTS = [
    Variant({"brng": brng, "size": size}, processes="each")
    for brng, size in (("SFMT19937", 8192), ("SFMT19937", 32768), ("MCG59", 32768), ("ARS5", 32768))
]


def prepare(problem: Problem, walkers: int, threads: int, seed: int, *, brng: str, size: int) -> Advance:
    import mkl_random

    state = mkl_random.RandomState(seed, brng=brng)

    def advance(steps: int) -> None:
        for _ in range(round(2 * walkers * steps / size)):
            state.standard_normal(size, method="ICDF")

    return advance
