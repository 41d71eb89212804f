"""The loop over steps of a block of walkers, which stays in the cache, and the functions that it calls.

Arrays of a block are coordinate-major, (d, walkers), so that every function has its own vectorised walker loop and
nothing need be inlined across the seams. A landscape, a noise and an update rule hand over jitted functions with fixed
signatures (decorators below); the loop takes them as function pointers, so it compiles once for all of them, and both
it and they are cached on disk. Changing parameters never recompiles. `_ensemble` deals blocks to threads.

Diverged coordinates (beyond `_ensemble.DIVERGENCE_BOUND`, infinite) become NaN and stay so: a walker holding a NaN is
flagged, takes part in no average, and costs a look at all of its block per step. Block functions must therefore never
turn a NaN into an array index.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numba import boolean, float32, float64, int64, njit, types, uint32, uint64, void
from numba.extending import intrinsic

from entropy_sim._compiled import Absent as Absent
from entropy_sim._compiled import Compiled as Compiled
from entropy_sim._compiled import inline as inline
from entropy_sim._random import BEGIN, EPOCH, PAIR

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MATRIX, _VECTOR, _NORMALS = float64[:, ::1], float64[::1], float32[:, ::1]
_BLOCK = void(_MATRIX, _MATRIX, _VECTOR)
_NOISE = void(_MATRIX, _MATRIX, _MATRIX, _NORMALS, _MATRIX, uint64, int64, int64, _VECTOR)
_UPDATE = void(_MATRIX, _MATRIX, _MATRIX, _MATRIX, _MATRIX, _VECTOR)
_OBSERVE = void(_MATRIX, _MATRIX, _MATRIX, _MATRIX, int64, _MATRIX, _VECTOR)
_WHOLE = boolean(_MATRIX, _NORMALS, _VECTOR, _VECTOR, float64)


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


def euler_maruyama_function(function: Callable[..., bool]) -> Compiled:
    """Compile `f(theta, xi, landscape_params, params, bound)`: ``theta <- theta - h grad L + size xi`` in one go.

    theta (d, walkers), xi (d, walkers) float32, params: h, size. Returns whether coordinates may then be beyond bound
    (or NaN); the caller makes those beyond it NaN. Neither gradient nor noise need be stored.
    """
    return Compiled(function, _WHOLE)


NO_BLOCK, NO_NOISE, NO_UPDATE, NO_OBSERVER, NO_EULER_MARUYAMA = map(Absent, (_BLOCK, _NOISE, _UPDATE, _OBSERVE, _WHOLE))

_F_BLOCK, _F_NOISE, _F_UPDATE, _F_OBSERVE, _F_BEGIN, _F_PAIR, _F_WHOLE = (
    types.FunctionType(s) for s in (_BLOCK, _NOISE, _UPDATE, _OBSERVE, BEGIN, PAIR, _WHOLE)
)
_CUBE = float64[:, :, ::1]
_LARGEST = float(np.finfo(np.float64).max)


@intrinsic
def _add(context, array, index, amount):  # type: ignore[no-untyped-def]
    """array[index] before amount is added to it in the same breath. What a thread wrote before it added is seen by one
    that finds the sum."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.atomic_rmw("add", builder.gep(data, [arguments[1]]), arguments[2], "acq_rel")

    return types.int64(array, types.int64, types.int64), generate


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


project = Compiled(_onto_plane, _UPDATE, frozenset({"contract"}))


# Arithmetic, because a choice between a number and NaN is not done in vectors: times the factor, what is beyond the
# bound overflows, and 0 times infinity is NaN. Numbers within keep every bit.
@njit(nogil=True, error_model="numpy", fastmath={"contract"})
def _lose(x, bound):  # type: ignore[no-untyped-def]
    """NaN for coordinates beyond the bound."""
    factor = _LARGEST / bound
    d, walkers = x.shape
    for i in range(d):
        for w in range(walkers):
            x[i, w] += 0.0 * (x[i, w] * factor)


_ADVANCE = void(
    *(_CUBE, _CUBE, _CUBE, _CUBE, int64[::1], int64[::1], int64, int64, int64),
    *(_MATRIX, _MATRIX, _MATRIX, _MATRIX, _MATRIX, _NORMALS, uint32[:, ::1]),
    *(uint64, int64, boolean, boolean, boolean, boolean, boolean, _F_BLOCK, _F_BLOCK, _VECTOR),
    *(_F_NOISE, _F_WHOLE, _VECTOR, _F_BLOCK, _F_BEGIN, _F_PAIR, int64, _F_UPDATE, _VECTOR, _F_BLOCK),
    *(_F_UPDATE, _F_OBSERVE, _VECTOR, int64, int64, float64),
)


def _advance(  # type: ignore[no-untyped-def]
    theta,  # (blocks, d, walkers), changed in place, as are memory, out and done
    memory,  # (blocks, rows, walkers): what the dynamics carries from step to step
    frame,  # (blocks, 3 d, walkers): tangent, anchor, path curvature of each walker; or no rows
    out,  # (blocks, rows, columns): what the observer accumulates
    done,  # (blocks,): steps each block has taken
    queue,  # (1,): the next part of a block's way to be taken, by any thread
    begin,  # step from which the blocks are taken to target, in so many parts
    target,
    parts,
    gradient,  # (d, walkers), as is noise: workspace, as is all down to streams
    noise,
    noise_field,  # (rows, walkers), as is update_field; no rows where it is not needed
    update_field,
    located,  # (2, walkers)
    xi,  # (normals of a batch, walkers): they come in pairs, so one step or two share a batch
    streams,  # (4, walkers), of random words
    seed,
    first_walker,
    noisy,
    constrained,
    locates,  # whether the observer wants to know where the walkers are
    watches,  # whether it reads the gradient
    fused,  # whether `whole_step` is all of a step
    gradient_function,
    locate_function,
    landscape_params,
    noise_function,
    whole_step,
    noise_params,
    noise_field_function,
    begin_streams,  # of `_random`, as is next_pair: compiled apart
    next_pair,
    normals,  # standard normals per walker and step
    update,
    update_params,  # none, where the noise is all of the step
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
    pairs = xi.shape[0] // 2
    per_epoch = max(EPOCH // max(pairs, 1), 1)
    stretch = per_batch * per_epoch  # steps of an epoch: parts begin with one where they can, and go through none twice
    while True:
        item: int = _add(queue, 0, 1)  # type: ignore[call-arg]  # numba gives the first argument
        part, b = item // theta.shape[0], item % theta.shape[0]
        if part >= parts:
            return
        start, stop = begin, target
        if part > 0:
            start = max(begin, (begin + (target - begin) * part // parts) // stretch * stretch)
        if part + 1 < parts:
            stop = max(begin, (begin + (target - begin) * (part + 1) // parts) // stretch * stretch)
        while _add(done, b, 0) < start:  # another thread is still at the part before
            pass
        x, carried, held, seen = theta[b], memory[b], frame[b], out[b]
        walker = first_walker + b * walkers
        batch = -1
        for step in range(max(done[b], start), stop):
            observed = observe_every > 0 and step >= observe_from and (step - observe_from) % observe_every == 0
            if not fused or (observed and watches):
                gradient_function(x, gradient, landscape_params)
            if observed:
                if locates:
                    locate_function(x, located, landscape_params)
                observe(x, gradient, located, held, (step - observe_from) // observe_every, seen, observe_params)
            r = step % per_batch * normals
            if noisy and normals > 0 and step // per_batch != batch:
                before = batch
                batch = step // per_batch
                batches = 1
                if before < 0 or batch % per_epoch == 0:
                    begin_streams(streams, seed, walker, batch // per_epoch)
                    batches = batch % per_epoch + 1
                for _ in range(batches):
                    for pair in range(pairs):
                        next_pair(xi, 2 * pair, streams)
            # Whether coordinates may have left the bound, by the sum of all sizes: cheaper than to look at each.
            left = False
            if fused:
                left = whole_step(x, xi[r : r + normals], landscape_params, noise_params, bound)
            else:
                if noisy:
                    if noise_field.shape[0] > 0:
                        noise_field_function(x, noise_field, landscape_params)
                    fresh = xi[r : r + normals]
                    noise_function(x, gradient, noise_field, fresh, noise, seed, walker, step, noise_params)
                if update_field.shape[0] > 0:
                    update_field_function(x, update_field, landscape_params)
                if update_params.shape[0] > 0:
                    update(x, gradient, noise, update_field, carried, update_params)
                if constrained:
                    project(x, gradient, held, update_field, carried, update_params)
                total = 0.0
                for i in range(d):
                    for w in range(walkers):
                        total += abs(x[i, w])
                left = not total <= bound
            if left:
                _lose(x, bound)
        _add(done, b, max(stop - done[b], 0))


advance = Compiled(_advance, _ADVANCE)


def evaluate(
    function: Compiled, theta: NDArray[np.float64], params: NDArray[np.float64], rows: int | None = None
) -> NDArray[np.float64]:
    """Values of a block function at points theta (..., d), as (..., rows); rows defaults to d."""
    points = np.asarray(theta, dtype=np.float64)
    block = np.ascontiguousarray(points.reshape(-1, points.shape[-1]).T)
    out = np.zeros((rows or block.shape[0], block.shape[1]))
    function(block, out, params)
    return out.T.reshape(*points.shape[:-1], out.shape[0])
