"""The ensemble loop: many independent walkers, advanced in blocks that stay in the first-level cache.

Arrays of a block are coordinate-major, (d, walkers), so that every function has its own vectorised walker loop and
nothing need be inlined across the seams. A landscape, a noise and an update rule hand over jitted functions with fixed
signatures (decorators below); the loop takes them as function pointers, so it compiles once for all of them, and both
it and they are cached on disk. Changing parameters never recompiles. Threads take whole blocks without Python's lock.

Diverged coordinates (beyond `DIVERGENCE_BOUND`, infinite) become NaN and stay so: a walker holding a NaN is flagged,
takes part in no average, and costs nothing. Block functions must therefore never turn a NaN into an array index.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import boolean, float32, float64, int64, types, uint64, void
from tqdm import tqdm

from entropy_sim._compiled import Compiled as Compiled
from entropy_sim._compiled import inline as inline
from entropy_sim._random import FILL, fill_normals

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from entropy_sim.checkpoint import Checkpoint
    from entropy_sim.dynamics.base import Dynamics
    from entropy_sim.landscapes.base import Landscape
    from entropy_sim.noise.base import Noise

#: Largest size of a coordinate that still counts as converged, in the landscape's own units.
DIVERGENCE_BOUND = 1e8
#: Bytes that a block may take: half the second-level cache of most processors.
_CACHE = 2**18
_SECONDS_PER_PIECE, _SECONDS_BETWEEN_SAVES = 0.2, 60.0

_MATRIX, _VECTOR, _NORMALS = float64[:, ::1], float64[::1], float32[:, ::1]
_BLOCK = void(_MATRIX, _MATRIX, _VECTOR)
_NOISE = void(_MATRIX, _MATRIX, _MATRIX, _NORMALS, _MATRIX, uint64, int64, int64, _VECTOR)
_UPDATE = void(_MATRIX, _MATRIX, _MATRIX, _MATRIX, _MATRIX, _VECTOR)
_OBSERVE = void(_MATRIX, _MATRIX, _MATRIX, _MATRIX, int64, _MATRIX, _VECTOR)


def block_function(function: Callable[..., None]) -> Compiled:
    """Compile `f(theta, out, params)`: gradient, stiffness, noise variance, locate.

    theta, out: (d, walkers) and (rows, walkers), C-contiguous float64; params: (n,).
    """
    return Compiled(function, _BLOCK)


def noise_function(function: Callable[..., None]) -> Compiled:
    """Compile `f(theta, gradient, field, xi, noise, seed, first_walker, step, params)`, which fills noise (d, walkers).

    field: what the noise's `field_function` left for this theta. xi (normals, walkers), float32: fresh standard
    normals. gradient may be changed: a drift of the noise's own is subtracted from it. Draws beyond the normals come
    from `_random.philox` with the counter (first_walker + w, 2^31 + j, step, 0), which no normal uses.
    """
    return Compiled(function, _NOISE)


def update_function(function: Callable[..., None]) -> Compiled:
    """Compile `f(theta, gradient, noise, field, memory, params)`, one step of a dynamics on a block.

    field: what the dynamics' `field_function` left for this theta (no rows, where it has none).
    """
    return Compiled(function, _UPDATE)


def observe_function(function: Callable[..., None]) -> Compiled:
    """Compile `f(theta, gradient, located, frame, index, out, params)`, an observer's accumulation on a block.

    located may be overwritten."""
    return Compiled(function, _OBSERVE)


@observe_function
def no_observer(theta, gradient, located, frame, index, out, params):  # type: ignore[no-untyped-def]
    """Observes nothing."""


@update_function
def _no_update(theta, gradient, noise, field, memory, params):  # type: ignore[no-untyped-def]
    """Updates nothing, where there is nothing left to update or to project."""


_F_BLOCK, _F_NOISE, _F_UPDATE, _F_OBSERVE, _F_FILL = (
    types.FunctionType(s) for s in (_BLOCK, _NOISE, _UPDATE, _OBSERVE, FILL)
)
_CUBE = float64[:, :, ::1]


# Not reassociated: on a coordinate axis theta must land on the anchor to the last bit.
def _onto_plane(theta, scratch, frame, field, memory, params):  # type: ignore[no-untyped-def]
    """Back onto the hyperplane through the anchor normal to the tangent: theta -= t (t.(theta - anchor))."""
    d, walkers = theta.shape
    for w in range(walkers):
        scratch[0, w] = 0.0
    for i in range(d):
        for w in range(walkers):
            scratch[0, w] += frame[i, w] * (theta[i, w] - frame[d + i, w])
    for i in range(d):
        for w in range(walkers):
            theta[i, w] = frame[d + i, w] + ((theta[i, w] - frame[d + i, w]) - frame[i, w] * scratch[0, w])


_project = Compiled(_onto_plane, _UPDATE, frozenset({"contract"}))


_ADVANCE = void(
    *(_CUBE, _CUBE, _CUBE, _CUBE, int64[::1], int64, int64, int64),
    *(_MATRIX, _MATRIX, _MATRIX, _MATRIX, _MATRIX, _NORMALS),
    *(uint64, int64, boolean, boolean, boolean, _F_BLOCK, _F_BLOCK, _VECTOR),
    *(_F_NOISE, _VECTOR, _F_BLOCK, _F_FILL, int64, _F_UPDATE, _VECTOR, _F_BLOCK),
    *(_F_UPDATE, _F_OBSERVE, _VECTOR, int64, int64, float64),
)


def _advance(  # type: ignore[no-untyped-def]
    theta,  # (blocks, d, walkers), changed in place, as are memory, out and done
    memory,  # (blocks, rows, walkers): what the dynamics carries from step to step
    frame,  # (blocks, 3 d, walkers): tangent, anchor, path curvature of each walker; or no rows
    out,  # (blocks, rows, columns): what the observer accumulates
    done,  # (blocks,): steps each block has taken
    first_block,
    last_block,
    target,  # step to which the blocks are taken
    gradient,  # (d, walkers), as is noise: workspace, as is all down to xi
    noise,
    noise_field,  # (rows, walkers), as is update_field; no rows where it is not needed
    update_field,
    located,  # (2, walkers)
    xi,  # (normals of a batch, walkers): Philox gives four at a time, so one, two or four steps share a batch
    seed,
    first_walker,
    noisy,
    constrained,
    locates,  # whether the observer wants to know where the walkers are
    gradient_function,
    locate_function,
    landscape_params,
    noise_function,
    noise_params,
    noise_field_function,
    fill,  # `_random.fill_normals`, compiled apart
    normals,  # standard normals per walker and step
    update,
    update_params,
    update_field_function,
    project,
    observe,
    observe_params,
    observe_from,
    observe_every,  # 0: observe nothing
    bound,
):
    d, walkers = theta.shape[1:]
    per_batch = max(xi.shape[0] // max(normals, 1), 1)
    for b in range(first_block, last_block):
        x, carried, held, seen = theta[b], memory[b], frame[b], out[b]
        walker = first_walker + b * walkers
        batch = -1
        for step in range(done[b], target):
            gradient_function(x, gradient, landscape_params)
            if observe_every > 0 and step >= observe_from and (step - observe_from) % observe_every == 0:
                if locates:
                    locate_function(x, located, landscape_params)
                observe(x, gradient, located, held, (step - observe_from) // observe_every, seen, observe_params)
            if noisy:
                if normals > 0 and step // per_batch != batch:
                    batch = step // per_batch
                    fill(xi, seed, walker, batch)
                if noise_field.shape[0] > 0:
                    noise_field_function(x, noise_field, landscape_params)
                r = step % per_batch * normals
                noise_function(x, gradient, noise_field, xi[r : r + normals], noise, seed, walker, step, noise_params)
            if update_field.shape[0] > 0:
                update_field_function(x, update_field, landscape_params)
            update(x, gradient, noise, update_field, carried, update_params)
            if constrained:
                project(x, gradient, held, update_field, carried, update_params)
            left = 0.0  # coordinates that have just left the bound: to look for them is cheaper than to write them all
            for i in range(d):
                for w in range(walkers):
                    left += 1.0 if abs(x[i, w]) > bound else 0.0
            if left > 0.0:
                for i in range(d):
                    for w in range(walkers):
                        x[i, w] = x[i, w] if abs(x[i, w]) <= bound else np.nan
        done[b] = max(done[b], target)


_advance_compiled = Compiled(_advance, _ADVANCE)


class Ensemble:
    """Independent walkers on a landscape, with a noise and a dynamics: the one simulator behind every measurement.

    start: (n, d). frame: (n, 3, d), tangent, anchor and path curvature of each walker, which then stays on the
    hyperplane through its anchor normal to its tangent. observer: a compiled `observe_function` with its parameters,
    called at steps `observe_from + j * observe_every` with index j, before the step is taken; `out_shape` is the shape
    of its accumulator per block, where -1 stands for the walkers of the block. noisy=False leaves the noise out.
    Numbers do not depend on threads, block, or how a run is divided into calls of `advance`.
    """

    def __init__(
        self,
        landscape: Landscape,
        noise: Noise,
        dynamics: Dynamics,
        start: NDArray[np.float64],
        *,
        seed: int = 0,
        threads: int | None = None,
        noisy: bool = True,
        frame: NDArray[np.float64] | None = None,
        observer: Compiled = no_observer,
        observer_params: NDArray[np.float64] | None = None,
        out_shape: tuple[int, int] = (0, 0),
        observe_from: int = 0,
        observe_every: int = 0,
        locate: bool = False,
        first_walker: int = 0,
        block: int | None = None,
        checkpoint: Checkpoint | None = None,
        name: str = "ensemble",
    ) -> None:
        n, d = start.shape
        dynamics.check(landscape, noise)
        self._checkpoint, self._name = checkpoint, name
        self._pool: ThreadPoolExecutor | None = None
        self._saved = time.monotonic()
        self.threads = threads or default_threads()
        noise_field, update_field = noise.field_function(landscape), dynamics.field_function(landscape)
        normals = noise.normals(landscape) if noisy else 0
        whole = dynamics.whole_step(landscape, noise) if noisy else None
        self._rows = (
            *(
                d,
                0 if whole else d,
                noise.field_rows(landscape) if noise_field and noisy else 0,
                d if update_field else 0,
                2,
            ),
            normals * (4 // math.gcd(normals, 4)),
        )
        rows = d + dynamics.memory_rows(d) + sum(self._rows[:-1]) + self._rows[-1] // 2  # normals are singles
        self._width = block_width(n, rows, self.threads, block)
        self.walkers, self.dimension, self.step = n, d, 0
        self._theta = self._to_blocks(start)
        blocks = len(self._theta)
        self._memory = _aligned(blocks, dynamics.memory_rows(d), self._width)
        flat = np.zeros((n, 0)) if frame is None else frame.reshape(n, 3 * d)
        self._frame = self._to_blocks(flat)
        self._out_per_walker = out_shape[1] == -1
        self._out = np.zeros((blocks, *(self._width if s == -1 else s for s in out_shape)))
        self._done = np.zeros(blocks, dtype=np.int64)
        empty = np.zeros(0)
        noise_step = whole or (
            noise.function_for(landscape),
            noise.params(landscape, dynamics.time_step) if noisy else empty,
        )
        never = landscape.gradient  # stands for functions that are not called: nothing more to compile
        self._arguments = (
            np.uint64(seed),
            first_walker,
            noisy,
            frame is not None,
            locate,
            landscape.gradient.pointer,
            (landscape.locate if locate else never).pointer,
            landscape.params(),
            noise_step[0].pointer,
            noise_step[1],
            (noise_field or never).pointer,
            fill_normals.pointer,
            normals,
            (dynamics.function if whole is None else _no_update).pointer,
            dynamics.params(),
            (update_field or never).pointer,
            (_no_update if frame is None else _project).pointer,
            observer.pointer,
            empty if observer_params is None else observer_params,
            observe_from,
            observe_every,
            DIVERGENCE_BOUND,
        )
        if checkpoint is not None and (state := checkpoint.load(name)) is not None:
            self.restore(state)

    def _to_blocks(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        n, rows = values.shape
        blocks = -(-n // self._width)
        # Walkers that only fill up the last block are born diverged: nothing ever counts them.
        padded = np.concatenate([values, np.full((blocks * self._width - n, rows), np.nan)])
        out = _aligned(blocks, rows, self._width)
        out[:] = padded.reshape(blocks, self._width, rows).transpose(0, 2, 1)
        return out

    def _from_blocks(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        # Contiguous: the order in which numpy adds must not depend on the blocks. A copy, also where a view would do.
        return np.array(
            values.transpose(0, 2, 1).reshape(len(values) * self._width, values.shape[1])[: self.walkers], order="C"
        )

    @property
    def theta(self) -> NDArray[np.float64]:
        """Present coordinates, (n, d); NaN where diverged."""
        return self._from_blocks(self._theta)

    @property
    def diverged(self) -> NDArray[np.bool_]:
        """Which walkers have left the bound, (n,)."""
        return np.isnan(self._theta).any(axis=1).reshape(-1)[: self.walkers]

    @property
    def per_walker(self) -> NDArray[np.float64]:
        """The accumulator of an observer with columns = walkers, as (n, rows)."""
        return self._from_blocks(self._out)

    @property
    def per_block(self) -> NDArray[np.float64]:
        """The accumulators of all blocks, (blocks, rows, columns)."""
        return self._out

    def state(self) -> dict[str, NDArray[Any]]:
        """What is needed to go on later, in any number of threads: `restore` takes it back."""
        out = self.per_walker if self._out_per_walker else self._out.sum(axis=0)  # counts: exact in any order
        memory = self._from_blocks(self._memory)
        return {"theta": self.theta, "memory": memory, "out": out, "step": np.array(self.step)}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go back to a `state()` of an ensemble of the same configuration."""
        self._theta[:] = self._to_blocks(state["theta"])
        self._memory[:] = self._to_blocks(state["memory"])
        self._out[:] = 0.0
        if self._out_per_walker:
            self._out[:] = self._to_blocks(state["out"])
        else:
            self._out[0] = state["out"]
        self.step = int(state["step"])
        self._done[:] = self.step

    def advance(self, steps: int, progress: bool = False, description: str = "") -> None:
        """Take `steps` steps (see `advance_to`)."""
        self.advance_to(self.step + steps, progress, description)

    def advance_to(
        self,
        step: int,
        progress: bool = False,
        description: str = "",
        extra: Callable[[], Mapping[str, NDArray[Any]]] = dict,
        finished: Callable[[], bool] = lambda: False,
    ) -> None:
        """Go on to this step, in pieces of a fraction of a second, between which Ctrl-C and the progress bar work.

        With a checkpoint, the state (and the arrays of `extra`) is saved every minute and on Ctrl-C. `finished` is
        asked between pieces and ends the run early; what it reads must not change any more once it is true.
        """
        blocks = len(self._theta)
        cost = 1.3e-9 * self._width * self.dimension * -(-blocks // self.threads)  # seconds per step, roughly
        piece = max(1, int(_SECONDS_PER_PIECE / cost))
        ranges = shares(blocks, self.threads)
        bar = tqdm(
            total=step, initial=self.step, desc=description, unit="step", disable=None if progress else True, delay=1.0
        )
        alone = self.threads == 1 or blocks == 1
        if not alone and self._pool is None:  # kept: starting threads for every record of a relaxation would dominate
            self._pool = ThreadPoolExecutor(self.threads)
        with bar:
            while self.step < step and not finished():
                target = min(self.step + piece, step)
                try:
                    if alone or self._pool is None:
                        self._piece(0, blocks, target)
                    else:
                        for future in [self._pool.submit(self._piece, *r, target) for r in ranges]:
                            future.result()
                except KeyboardInterrupt:
                    if self._pool is not None:
                        self._pool.shutdown(cancel_futures=True)
                        self._pool = None
                    self._piece(0, blocks, target)  # blocks that are there already take no step
                    self.step = target
                    self._save(extra)
                    raise
                bar.update(target - self.step)
                self.step = target
                if time.monotonic() - self._saved > _SECONDS_BETWEEN_SAVES:
                    self._save(extra)
                    self._saved = time.monotonic()

    def _save(self, extra: Callable[[], Mapping[str, NDArray[Any]]]) -> None:
        if self._checkpoint is not None:
            self._checkpoint.save(self._name, {**self.state(), **extra()})

    def _piece(self, first_block: int, last_block: int, target: int) -> None:
        arrays = (self._theta, self._memory, self._frame, self._out, self._done)
        *rows, normals = self._rows
        workspace = *(_aligned(n, self._width) for n in rows), _aligned(normals, self._width, dtype=np.float32)
        _advance_compiled(*arrays, first_block, last_block, target, *workspace, *self._arguments)


def block_width(walkers: int, rows: int, threads: int, most: int | None = None) -> int:
    """Walkers of a block that is (rows, walkers) in size: as many as fit half a usual second-level cache, at most 512
    or `most`; in small ensembles fewer, so that all threads have the same number of blocks. A multiple of 32: then no
    loop has a remainder, and the arithmetic is the same for every walker in every block."""
    widest = max(32, min(most or 512, max(64, _CACHE // (8 * rows))) // 32 * 32)
    blocks = -(-walkers // (widest * threads)) * threads
    return min(widest, -(-walkers // (32 * blocks)) * 32)


def shares(blocks: int, threads: int) -> list[tuple[int, int]]:
    """Ranges of blocks that threads take one after the other, each a part of what is left: few calls, and an end that
    they reach together although one is slower."""
    ranges, first = [], 0
    while first < blocks:
        last = first + max(1, (blocks - first) // (2 * threads))
        ranges.append((first, last))
        first = last
    return ranges


def _aligned(*shape: int, dtype: type = np.float64) -> NDArray[Any]:
    """Zeros that begin at a multiple of 64 bytes: no vector, however wide, straddles two lines of the cache."""
    size, line = math.prod(shape), 64 // np.dtype(dtype).itemsize
    raw: NDArray[Any] = np.zeros(size + line, dtype=dtype)
    first = -(raw.ctypes.data // raw.itemsize) % line
    return raw[first : first + size].reshape(shape)


def default_threads() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def evaluate(
    function: Compiled, theta: NDArray[np.float64], params: NDArray[np.float64], rows: int | None = None
) -> NDArray[np.float64]:
    """Values of a block function at points theta (..., d), as (..., rows); rows defaults to d."""
    points = np.asarray(theta, dtype=np.float64)
    block = np.ascontiguousarray(points.reshape(-1, points.shape[-1]).T)
    out = np.zeros((rows or block.shape[0], block.shape[1]))
    function(block, out, params)
    return out.T.reshape(*points.shape[:-1], out.shape[0])
