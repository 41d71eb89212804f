"""Many independent walkers, dealt to threads in blocks: the one simulator behind every measurement."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from entropy_sim import _kernels
from entropy_sim._kernels import Absent, Compiled
from entropy_sim._random import EPOCH, begin_streams, next_pair

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from entropy_sim.checkpoint import Checkpoint
    from entropy_sim.dynamics.base import Dynamics
    from entropy_sim.landscapes.base import Landscape
    from entropy_sim.noise.base import Noise

#: Largest size of a coordinate that still counts as converged, in the landscape's own units or, where the path goes
#: further out than that, times its largest coordinate.
DIVERGENCE_BOUND = 1e8
#: Bytes that a block may take, the fewest walkers that are worth the while, and the most: of blocks of few rows, which
#: fit the first-level cache anyhow, and of others.
_CACHE, _NARROWEST, _WIDEST, _FEW_ROWS, _WIDEST_OF_MANY_ROWS = 2**21, 128, 1024, 8, 800
#: What a step of a block costs beside its walkers' steps, to begin each row's loop, in steps of a walker.
_BEGINNING = 32
#: Rows a multiple of 2 KB apart may get into each other's way in the first-level cache, depending on where memory
#: happens to lie: on some processors up to four times slower. A few rows do not.
_CLASHING = 256
_SECONDS_PER_PIECE, _SECONDS_BETWEEN_SAVES = 0.2, 60.0
#: Pieces end at multiples of this many steps, so that hardly a stream of random numbers is gone through twice.
_ROUND = 2 * EPOCH
_STEPS_PER_PART, _MOST_PARTS = 256, 16


class Ensemble:
    """Independent walkers on a landscape, with a noise and a dynamics: the one simulator behind every measurement.

    start: (n, d). frame: (n, 3, d), tangent, anchor and path curvature of each walker, which then stays on the
    hyperplane through its anchor normal to its tangent. observer: a compiled `observe_function` with its parameters,
    called at steps `observe_from + j * observe_every` with index j, before the step is taken; `out_shape` is the shape
    of its accumulator per block, where -1 stands for the walkers of the block; locate and watch: whether it reads
    positions and gradients, which are stale otherwise. noisy=False leaves the noise out. first_walker: the number of
    the first walker among those that share a seed.
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
        observer: Compiled | Absent = _kernels.NO_OBSERVER,
        observer_params: NDArray[np.float64] | None = None,
        out_shape: tuple[int, int] = (0, 0),
        observe_from: int = 0,
        observe_every: int = 0,
        locate: bool = False,
        watch: bool = True,
        first_walker: int = 0,
        block: int | None = None,
        checkpoint: Checkpoint | None = None,
        name: str = "ensemble",
    ) -> None:
        n, d = start.shape
        dynamics.check(landscape, noise, held=frame is not None)
        self._checkpoint, self._name = checkpoint, name
        self._pool: ThreadPoolExecutor | None = None
        self._saved = time.monotonic()
        self.threads = threads or default_threads()
        noise_field, update_field = noise.field_function(landscape), dynamics.field_function(landscape)
        normals = noise.normals(landscape) if noisy else 0
        whole = dynamics.whole_step(landscape, noise) if noisy else None
        fused = landscape.euler_maruyama if whole and frame is None else None
        self._rows = (
            *(
                0 if fused and not watch else d,
                0 if whole else d,
                noise.field_rows(landscape) if noise_field and noisy else 0,
                dynamics.field_rows(landscape) if update_field else 0,
                2,
            ),
            normals * (2 // math.gcd(normals, 2)),
        )
        random = self._rows[-1] // 2 + (2 if normals else 0)  # normals and their streams have 32 bits
        rows = d + dynamics.memory_rows(d) + sum(self._rows[:-1]) + random
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
        # What is not called is not compiled.
        gradient = landscape.gradient if fused is None or watch else _kernels.NO_BLOCK
        update, update_params = (dynamics.function, dynamics.params()) if whole is None else (_kernels.NO_UPDATE, empty)
        self._arguments = (
            np.uint64(seed),
            first_walker,
            noisy,
            frame is not None,
            locate,
            watch,
            fused is not None,
            gradient.pointer,
            (landscape.locate if locate else _kernels.NO_BLOCK).pointer,
            landscape.params(),
            (_kernels.NO_NOISE if fused or not noisy else noise_step[0]).pointer,
            (fused or _kernels.NO_EULER_MARUYAMA).pointer,
            noise_step[1],
            (noise_field or _kernels.NO_BLOCK).pointer,
            begin_streams.pointer,
            next_pair.pointer,
            normals,
            update.pointer,
            update_params,
            (update_field or _kernels.NO_BLOCK).pointer,
            (_kernels.NO_UPDATE if frame is None else _kernels.project).pointer,
            observer.pointer,
            empty if observer_params is None else observer_params,
            observe_from,
            observe_every,
            DIVERGENCE_BOUND * max(1.0, float(np.abs(landscape.path(np.linspace(0.0, 1.0, 65))).max())),
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
        cost = 1e-9 * self._width * self.dimension * -(-blocks // self.threads)  # seconds per step, roughly
        piece = max(1, int(_SECONDS_PER_PIECE / cost))
        bar = tqdm(
            total=step, initial=self.step, desc=description, unit="step", disable=None if progress else True, delay=1.0
        )
        if self._pool is None and self.threads > 1 and blocks > 1:
            # Kept: starting threads for every record of a relaxation would dominate.
            self._pool = ThreadPoolExecutor(min(self.threads, blocks))
        with bar:
            while self.step < step and not finished():
                target = min((self.step + piece) // _ROUND * _ROUND if piece > _ROUND else self.step + piece, step)
                try:
                    self._piece(target)
                except KeyboardInterrupt:
                    if self._pool is not None:
                        self._pool.shutdown()
                        self._pool = None
                    self._piece(target)  # blocks that are there already take no step
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

    def _piece(self, target: int) -> None:
        """Take all blocks to step `target`: each thread the next one that nobody has taken, until there are none.

        Their ways are parted, so that no thread waits at the end for another to take a whole block all the way."""
        queue = np.zeros(1, dtype=np.int64)
        if self._pool is None:
            self._work(queue, target)
            return
        threads = min(self.threads, len(self._theta))
        for future in [self._pool.submit(self._work, queue, target) for _ in range(threads)]:
            future.result()

    def _work(self, queue: NDArray[np.int64], target: int) -> None:
        arrays = (self._theta, self._memory, self._frame, self._out, self._done)
        *rows, normals = self._rows
        workspace = [
            *(_aligned(n, self._width) for n in rows),
            _aligned(normals, self._width, dtype=np.float32),
            _aligned(4, self._width, dtype=np.uint32),
        ]
        parts = min(_MOST_PARTS, max(1, (target - self.step) // _STEPS_PER_PART)) if self._pool is not None else 1
        _kernels.advance(*arrays, queue, self.step, target, parts, *workspace, *self._arguments)


def block_width(walkers: int, rows: int, threads: int, most: int | None = None) -> int:
    """Walkers of a block that is (rows, walkers) in size: of all widths that fit `_CACHE` within limits, of `most` at
    most, the one with which the threads are done first. The last block is filled up, and so costs what the others do;
    a multiple of 32: then no loop has a remainder, and the arithmetic is the same for every walker in every block."""
    widest = _WIDEST if rows <= _FEW_ROWS else min(_WIDEST_OF_MANY_ROWS, max(_NARROWEST, _CACHE // (8 * rows)))
    widths = range(max(32, min(most or widest, widest) // 32 * 32), 0, -32)

    def cost(width: int) -> int:
        blocks = -(-walkers // width)
        return -(-blocks // threads) * (width + _BEGINNING)

    return min((w for w in widths if rows <= _FEW_ROWS or w % _CLASHING), key=cost)


def _aligned(*shape: int, dtype: type = np.float64) -> NDArray[Any]:
    """Zeros that begin at a multiple of 64 bytes: no vector, however wide, straddles two lines of the cache."""
    size, line = math.prod(shape), 64 // np.dtype(dtype).itemsize
    raw: NDArray[Any] = np.zeros(size + line, dtype=dtype)
    first = -(raw.ctypes.data // raw.itemsize) % line
    return raw[first : first + size].reshape(shape)


def default_threads() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
