"""The points of a path in one pass give the loop's numbers, in memory of a few times the points."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from entropy_sim.errors import UserError
from nn_experiments.experiment import Experiment
from nn_experiments.networks.mlp import MLP
from nn_experiments.networks.resnet import ResNet
from nn_experiments.networks.vgg import VGG
from nn_experiments.networks.vision_transformer import VisionTransformer
from nn_experiments.networks.wide_resnet import WideResNet
from nn_experiments.objective import Objective, generator
from nn_experiments.paths import _vectorised
from nn_experiments.paths.band import Band
from nn_experiments.paths.base import PathFinder
from nn_experiments.paths.curves import BezierCurve
from nn_experiments.paths.linear import linear
from nn_experiments.paths.resume import Resume


class Small:
    """An experiment of a few samples, whole groups of 16 and a rest, in float64."""

    def __init__(self, network, dtype=torch.float64, samples=100, **options):
        self.experiment, self.dtype, self.samples = Experiment(network=network, **options), dtype, samples

    def objective(self, split="train", **options):
        made = self.experiment.objective(split, dtype=self.dtype, **options)
        made.inputs, made.targets = made.inputs[: self.samples], made.targets[: self.samples]
        return made

    def initial(self, seed):
        return self.experiment.initial(seed)

    def points(self, count):
        return linear(torch.stack([self.initial(0), self.initial(1)]).to(self.dtype), count)


@pytest.fixture
def passes(monkeypatch):
    """The number of points in each pass over several of them."""
    counts, original = [], _vectorised.vmap

    def counting(function):
        return lambda points: counts.append(len(points)) or original(function)(points)

    monkeypatch.setattr(_vectorised, "vmap", counting)
    return counts


@pytest.mark.parametrize(
    "network",
    [
        ResNet(width=4),
        ResNet(width=4, normalization="group"),
        WideResNet(depth=10, width=2, widen_factor=2),
        VGG(depth=11, width=2),
        VisionTransformer(width=8, depth=1, heads=2, normalization="batch"),
        MLP(),
    ],
    ids=lambda network: network.name,
)
@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
def test_vectorised_is_the_loop(network, loss, passes):
    """Groups of 16 in a batch of 48: BatchNorm must take each point's statistics from each group alone."""
    experiment = Small(network, loss=loss)
    points = experiment.points(3)
    with Band(experiment, 48, 0, vectorised=False) as loop, Band(experiment, 48, 0, vectorised=True) as together:
        values, gradients = loop.value_and_gradient(points)
        found = together.value_and_gradient(points)
        assert torch.allclose(found[0], values, rtol=1e-12, atol=0)
        assert torch.allclose(found[1], gradients, rtol=1e-9, atol=1e-12 * float(gradients.abs().max()))
        assert torch.equal(loop.generator.get_state(), together.generator.get_state())
    assert passes == [3]


def test_full_batch_vectorised_is_the_loop(passes):
    """In more than one chunk, of unequal sizes."""
    experiment = Small(MLP(widths=(8, 8), normalization="batch"), samples=700)
    points = experiment.points(3)
    with Band(experiment, 48, 0, vectorised=False) as loop, Band(experiment, 48, 0, vectorised=True) as together:
        values, gradients = loop.full(points)
        found = together.full(points)
        assert torch.allclose(found[0], values, rtol=1e-12)
        assert torch.allclose(found[1], gradients, rtol=1e-9, atol=1e-12)
        assert torch.allclose(together.evaluate(points), loop.evaluate(points), rtol=1e-12)
        assert torch.allclose(loop.evaluate(points), values, rtol=1e-12)
    assert passes == [3, 3, 3, 3]


def test_threads_change_nothing_and_the_device_decides():
    experiment = Experiment(network=MLP())
    points = linear(torch.stack([experiment.initial(0), experiment.initial(1)]), 5)
    with Band(experiment, 32, 3, 1) as one, Band(experiment, 32, 3, 3, device="cpu") as three:
        assert one._vectorised is None
        assert three._vectorised is None
        for _ in range(2):
            a, b = one.value_and_gradient(points), three.value_and_gradient(points)
            assert torch.equal(a[0], b[0])
            assert torch.equal(a[1], b[1])


def test_all_points_share_a_minibatch_that_follows_the_seed():
    experiment = Experiment(network=MLP())
    same = experiment.initial(0).expand(3, -1).clone()
    with Band(experiment, 32, 3) as band:
        first, second = band.value_and_gradient(same)[0], band.value_and_gradient(same)[0]
        # On some processors the points of one batched product differ in the last digit.
        torch.testing.assert_close(first, first[:1].expand(3), rtol=1e-6, atol=0.0)
        assert abs(first[0] / second[0] - 1) > 1e-4
        band.reseed(3)
        assert torch.equal(band.value_and_gradient(same)[0], first)
        band.reseed(4)
        assert not torch.equal(band.value_and_gradient(same)[0], first)


def test_chunks_give_the_same_and_memory_that_runs_out_halves_them(monkeypatch):
    experiment = Small(ResNet(width=2))
    points = experiment.points(7)
    objective = experiment.objective()
    batch = torch.arange(32)
    whole = _vectorised.Vectorised(objective).value_and_gradient(points, batch)
    asked, original = [], _vectorised.vmap

    def small(function):
        def mapped(chosen):
            asked.append(len(chosen))
            if len(chosen) > 2:
                raise torch.OutOfMemoryError("no memory")
            return original(function)(chosen)

        return mapped

    monkeypatch.setattr(_vectorised, "vmap", small)
    limited = _vectorised.Vectorised(objective)
    parts = limited.value_and_gradient(points, batch)
    assert asked == [7, 4, 2, 2, 2, 1]
    assert torch.allclose(parts[0], whole[0], rtol=1e-12)
    assert torch.allclose(parts[1], whole[1], rtol=1e-9, atol=1e-12)
    asked.clear()
    limited.evaluate(points[:2])
    assert set(asked) == {2}

    def none(function):
        def mapped(chosen):
            raise torch.OutOfMemoryError("no memory")

        return mapped

    monkeypatch.setattr(_vectorised, "vmap", none)
    message = "memory: .* found too little for a single point and 16 samples; lower group_size or the size"
    with pytest.raises(UserError, match=message):
        limited.value_and_gradient(points, batch)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory"), RuntimeError("CUDA error: out of memory")])
def test_samples_of_one_point_that_do_not_fit_are_halved(error, monkeypatch):
    """Chunks of 512 and the rest: of large images not even those of one point fit."""
    experiment = Small(MLP(widths=(8, 8), normalization="batch"), samples=700)
    points = experiment.points(3)
    whole = _vectorised.Vectorised(experiment.objective())
    limited = _vectorised.Vectorised(experiment.objective())
    expected = [whole.full(points), whole.value_and_gradient(points, torch.arange(96)), (whole.evaluate(points),)]
    fitting, call = [], _vectorised.functional_call

    def small(module, parameters, inputs):
        if len(inputs[0]) > 40:
            raise error
        fitting.append(len(inputs[0]))
        return call(module, parameters, inputs)

    monkeypatch.setattr(_vectorised, "functional_call", small)
    found = [limited.full(points), limited.value_and_gradient(points, torch.arange(96)), (limited.evaluate(points),)]
    for parts, wholes in zip(found, expected, strict=True):
        for part, all_of in zip(parts, wholes, strict=True):
            assert torch.allclose(part, all_of, rtol=1e-9, atol=1e-12)
    assert set(fitting) == {32, 16}  # 688 = 21 · 32 + 16


class Cube(torch.autograd.Function):
    """x³ in the old style, which torch.func refuses."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        return 3 * ctx.saved_tensors[0] ** 2 * gradient


class Own(nn.Module):
    """A user's network with a layer of any kind."""

    def __init__(self, layer):
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(3, 5), layer, nn.Linear(5, 2)

    def forward(self, x):
        return self.last(self.layer(self.first(x)))


class OwnExperiment:
    group_size = None

    def __init__(self, layer):
        self.layer = layer

    def objective(self, split="train", **_):
        inputs = torch.randn(24, 3, generator=generator(1))
        return Objective(Own(self.layer), F.cross_entropy, inputs, (inputs[:, 0] > 0).long())


def branching(x):
    return x.tanh() if x.mean().item() > 0 else x.relu()


@pytest.mark.parametrize("layer", [branching, Cube.apply], ids=["branch", "function"])
@pytest.mark.parametrize("first", ["value_and_gradient", "full", "evaluate"])
def test_a_network_that_cannot_be_mapped_over_is_taken_point_by_point(layer, first):
    experiment, lines = OwnExperiment(layer), []
    points = torch.randn(3, 32, generator=generator(2))
    with (
        Band(experiment, 8, 0, vectorised=False, report=lines.append) as loop,
        Band(experiment, 8, 0, vectorised=True, report=lines.append) as together,
    ):
        for name in (first, "value_and_gradient", "full", "evaluate"):
            found, expected = getattr(together, name)(points), getattr(loop, name)(points)
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert len(lines) == 1
    assert lines[0].startswith("path: points go one by one, slower: torch.vmap cannot map over the network (")


def test_a_network_s_own_fault_is_told_as_it_is():
    def broken(x):
        return x + torch.ones(7)

    with (
        Band(OwnExperiment(broken), 8, 0, vectorised=True) as band,
        pytest.raises(RuntimeError, match="size of tensor"),
    ):
        band.full(torch.zeros(2, 32))


@pytest.mark.parametrize("vectorised", [False, True])
def test_gradients_of_a_path_have_full_precision(vectorised, reduced_precision):
    seen = set()

    def looking(x):
        seen.add((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
        return x

    with Band(OwnExperiment(looking), 8, 0, vectorised=vectorised) as band:
        for call in (band.value_and_gradient, band.full, band.evaluate):
            call(torch.zeros(2, 32))
    assert seen == {(False, False)}
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("vectorised", [False, True])
def test_batches_larger_than_the_data_are_refused(vectorised):
    with Band(OwnExperiment(nn.Identity()), 25, 0, vectorised=vectorised) as band:
        band.evaluate(torch.zeros(2, 32))
        with pytest.raises(UserError, match="path.batch_size: expected at most 24 samples, found 25"):
            band.value_and_gradient(torch.zeros(2, 32))


class Allocations(torch.utils._python_dispatch.TorchDispatchMode):
    """Most bytes alive at once in tensors made inside, of 1 kB or more, in this thread: those of the loop hold one
    parameter vector each, which their objective allocated before."""

    def __init__(self, *outside):
        super().__init__()
        self.alive, self.now, self.peak = {x.untyped_storage()._cdata: 0 for x in outside}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage):
        size = storage.nbytes()
        if size < 1000 or storage._cdata in self.alive:
            return
        self.alive[storage._cdata] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, storage._cdata)

    def _gone(self, key):
        self.now -= self.alive.pop(key, 0)


def peak_of(function, *outside):
    with Allocations(*outside) as seen:
        function()
    return seen.peak


@pytest.mark.parametrize("count", [5, 10])
def test_memory_is_that_of_a_few_copies_of_the_points(count):
    """A network of many parameters and few activations: bytes in units of the points' own."""
    experiment = Small(MLP(widths=(400,)), torch.float32)
    points = experiment.points(count)
    copies = points.numel() * points.element_size()
    config: PathFinder = BezierCurve(points=count, steps=3, records=1, samples_between=1)
    with Band(experiment, 16, 0, 1) as loop:
        assert (
            1 <= peak_of(lambda: loop.value_and_gradient(points), points) / copies < 1.5
        )  # the gradients, and one more
        ends = points[[0, -1]]
        assert peak_of(lambda: config.run(loop.value_and_gradient, ends, full=loop.full)) / copies < 8
    with Band(experiment, 16, 0, vectorised=True) as together:
        assert 1 <= peak_of(lambda: together.value_and_gradient(points), points) / copies < 4
    single = _vectorised.Vectorised(experiment.objective(), chunk=1)
    batch = torch.arange(16)
    assert 1 <= peak_of(lambda: single.value_and_gradient(points, batch), points) / copies < 1 + 3 / count


def test_resuming_takes_the_band_s_stream(tmp_path):
    experiment = Experiment(network=MLP(widths=(8,)))
    ends = torch.stack([experiment.initial(0), experiment.initial(1)])
    finder = BezierCurve(steps=12, records=2, points=5, samples_between=1)

    def search(calls=None, resume=True):
        with Band(experiment, 32, 0) as band:
            done = []

            def counted(points):
                done.append(1)
                if calls is not None and len(done) > calls:
                    raise KeyboardInterrupt
                return band.value_and_gradient(points)

            state = Resume(tmp_path / "state.safetensors", band.generator, 0.0) if resume else None
            return finder.run(counted, ends, evaluate=band.evaluate, full=band.full, resume=state)

    whole = search(resume=False)
    with pytest.raises(KeyboardInterrupt):
        search(7)
    again = search()
    assert torch.equal(again.points, whole.points)
    assert again.history == whole.history
