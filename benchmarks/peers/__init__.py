"""One file per peer: the same walkers on the same channel, in the fastest way the peer has.

Modules import the peer inside `prepare`, so that a missing one can still be named.
A peer module has `NAME`, `PACKAGES` (their versions are printed), `VARIANTS` (ways to do it; a short qualifying heat
keeps the fastest for the race) and

    prepare(problem, walkers, threads, seed, **options) -> advance(steps) -> (y, x), or None

`advance` takes the steps and only then returns, goes on from where it was, and compiles nothing after its first call.
"""
