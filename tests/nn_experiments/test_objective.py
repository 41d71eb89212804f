from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from entropy_sim.errors import UserError
from nn_experiments.networks.resnet import ResNet
from nn_experiments.objective import Objective, generator, wrong


def small_objective(group: int | None = 6, samples: int = 45, **options) -> Objective:
    g = torch.Generator().manual_seed(3)
    module = ResNet(width=4).build(1, 3, g).double()
    inputs = torch.randn(samples, 1, 8, 8, generator=g, dtype=torch.float64)
    targets = torch.randint(0, 3, (samples,), generator=g)
    return Objective(module, F.cross_entropy, inputs, targets, group_size=group, **options)


def group_loss(objective: Objective, theta: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """The same function written out: a fresh plain module, one group at a time, by its own statistics."""
    module = ResNet(width=4).build(1, 3).double().train()
    vector = dict(zip(objective.names, objective.unflatten(theta), strict=True))
    parts = indices.split(objective.group_size or len(indices))
    losses = [
        F.cross_entropy(torch.func.functional_call(module, vector, objective.inputs[p]), objective.targets[p])
        for p in parts
    ]
    return torch.stack(losses).mean()


@pytest.mark.parametrize("batch", [6, 12, 42])
def test_groups_equal_an_explicit_loop(batch):
    objective = small_objective()
    indices = objective.draw(batch, torch.Generator().manual_seed(1))
    theta = objective.theta().requires_grad_()
    expected = group_loss(objective, theta, indices)
    (expected_gradient,) = torch.autograd.grad(expected, theta)
    value, gradient = objective.value_and_gradient(theta.detach(), indices)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-12)


def test_normalising_the_whole_batch_is_another_function():
    objective, whole = small_objective(group=6), small_objective(group=12)
    indices = torch.arange(12)
    grouped = objective.value_and_gradient(objective.theta(), indices)[0]
    assert abs(float(grouped - whole.value_and_gradient(objective.theta(), indices)[0])) > 1e-3


@pytest.mark.parametrize("chunk", [6, 20, 500])
def test_full_batch_is_the_mean_over_the_groups_of_a_fixed_partition(chunk):
    objective = small_objective()  # 45 samples: seven groups of 6, and 3 left out
    assert objective.full_batch().tolist() == list(range(42))
    theta = objective.theta()
    values, gradients = zip(
        *(
            (float(v), g.clone())
            for v, g in (objective.value_and_gradient(theta, p) for p in torch.arange(42).split(6))
        ),
        strict=True,
    )
    value, gradient = objective.full_value_and_gradient(theta, chunk=chunk)
    assert float(value) == pytest.approx(np.mean(values), rel=1e-12)
    torch.testing.assert_close(gradient, torch.stack(gradients).mean(0), rtol=1e-9, atol=1e-13)
    assert objective.evaluate(theta).loss == pytest.approx(np.mean(values), rel=1e-12)


def test_without_batch_normalisation_every_sample_counts_once():
    g = torch.Generator().manual_seed(5)
    module = ResNet(width=4, normalization="group").build(1, 3, g).double()
    inputs, targets = torch.randn(10, 1, 8, 8, generator=g).double(), torch.randint(0, 3, (10,), generator=g)
    objective = Objective(module, F.cross_entropy, inputs, targets, group_size=4)
    assert objective.group_size is None
    assert len(objective.full_batch()) == 10
    theta = objective.theta()
    value, gradient = objective.full_value_and_gradient(theta, chunk=4)  # chunks of 4, 4 and a ragged 2
    gradient = gradient.clone()
    expected, expected_gradient = objective.value_and_gradient(theta, torch.arange(10))
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-13)


def test_gradient_by_finite_differences():
    objective = small_objective()
    theta = objective.theta()
    gradient = objective.full_value_and_gradient(theta)[1].clone()
    g = torch.Generator().manual_seed(7)
    for _ in range(4):
        direction = torch.randn(objective.dimension, generator=g, dtype=torch.float64)
        step = 1e-6 / direction.norm()
        up, down = (objective.evaluate(theta + sign * step * direction).loss for sign in (1, -1))
        assert float(gradient @ direction) == pytest.approx((up - down) / (2 * float(step)), rel=1e-4)


def test_replaced_targets():
    objective = small_objective()
    indices = torch.arange(12)
    other = (objective.targets[indices] + 1) % 3
    value = objective.value_and_gradient(objective.theta(), indices, other)[0]
    objective.targets = (objective.targets + 1) % 3
    assert float(value) == float(objective.value_and_gradient(objective.theta(), indices)[0])


def test_buffers_are_not_parameters():
    objective = small_objective(mode="evaluation")
    module = objective.module
    assert any(name.endswith("running_mean") for name, _ in module.named_buffers())
    assert objective.dimension == sum(p.numel() for p in module.parameters())
    assert not any("running" in name or "num_batches" in name for name in objective.names)
    before = {name: b.clone() for name, b in module.named_buffers()}
    objective.full_value_and_gradient(objective.theta())
    for name, buffer in module.named_buffers():
        torch.testing.assert_close(buffer, before[name], rtol=0, atol=0)


def test_theta_blocks_and_views():
    objective = small_objective()
    vector = torch.arange(objective.dimension, dtype=torch.float64)
    objective.load(vector)
    torch.testing.assert_close(objective.theta(), vector)
    blocks = objective.blocks()
    for name, p in objective.module.named_parameters():
        torch.testing.assert_close(p.detach().reshape(-1), vector[blocks[name]])
    copy = objective.theta()
    copy += 1
    torch.testing.assert_close(objective.theta(), vector)


def test_batches_are_fresh_and_without_replacement():
    objective = small_objective(samples=24)
    g = generator(0)
    draws = [objective.draw(12, g) for _ in range(2000)]
    assert all(len(set(d.tolist())) == 12 for d in draws)
    # Independent batches of half the data overlap in 12 · 12/24 = 6 samples, with the hypergeometric variance
    # 12 · ½ · ½ · 12/23; reshuffling by epochs would give 0 and 6 in turn.
    overlaps = np.array([len(set(a.tolist()) & set(b.tolist())) for a, b in zip(draws[::2], draws[1::2], strict=True)])
    error = np.sqrt(12 * 0.25 * 12 / 23 / len(overlaps))
    assert abs(overlaps.mean() - 6) < 4 * error
    assert abs(0 - 6) > 5 * error
    counts = np.bincount(torch.cat(draws).numpy(), minlength=24)
    assert abs(counts - 1000).max() < 4.5 * np.sqrt(2000 * 0.25)


def test_dropout_is_off():
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 2))
    objective = Objective(module, F.cross_entropy, torch.randn(8, 4), torch.zeros(8, dtype=torch.long))
    theta = objective.theta()
    assert objective.evaluate(theta) == objective.evaluate(theta)


def test_evaluation_counts_errors():
    module = nn.Linear(2, 2, bias=False)
    inputs, targets = torch.eye(2).repeat(3, 1), torch.tensor([0, 1, 0, 1, 1, 0])
    objective = Objective(module, F.cross_entropy, inputs, targets)
    assert objective.evaluate(torch.tensor([5.0, 0, 0, 5.0])).error == pytest.approx(2 / 6)


def test_the_classes_lie_on_the_second_axis():
    random = torch.Generator().manual_seed(2)
    for places in ((5,), (3,), (2, 4), (3, 3)):  # as many places as classes, too
        outputs, targets = torch.randn(6, 3, *places, generator=random), torch.randint(0, 3, (6, *places))
        expected = np.mean(np.argmax(outputs.numpy(), 1) != targets.numpy())
        assert wrong(outputs, targets) == pytest.approx(float(expected))


@pytest.mark.parametrize(
    ("outputs", "targets"), [((6,), (6,)), ((6, 1), (6,)), ((6, 5, 3), (6, 5)), ((6, 3), (6, 3)), ((6, 3), (6, 1))]
)
def test_an_error_that_is_not_known_is_nan(outputs, targets):
    assert math.isnan(wrong(torch.randn(outputs), torch.zeros(targets, dtype=torch.long)))


def test_outputs_without_classes_have_a_loss_and_no_error():
    def loss(outputs, targets):
        return F.binary_cross_entropy_with_logits(outputs[:, 0], targets.to(outputs))

    objective = Objective(nn.Linear(3, 1), loss, torch.randn(8, 3), torch.arange(8) % 2)
    found = objective.evaluate(objective.theta())
    assert math.isfinite(found.loss)
    assert math.isnan(found.error)


class Limited(nn.Module):
    """Has room for so many samples."""

    def __init__(self, inner: nn.Module, room: int) -> None:
        super().__init__()
        self.inner, self.room, self.tried = inner, room, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.tried.append(len(x))
        found = self.inner(x)  # what is left behind by a pass that fails must not count
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return found


def limited_objective(room: int, group: int | None = 6, **options) -> Objective:
    g = torch.Generator().manual_seed(3)
    norm = "group" if group is None else "batch"
    module = Limited(ResNet(width=4, normalization=norm).build(1, 3, g).double(), room)
    inputs = torch.randn(600, 1, 4, 4, generator=g, dtype=torch.float64)
    targets = torch.randint(0, 3, (600,), generator=g)
    return Objective(module, F.cross_entropy, inputs, targets, group_size=group, **options)


@pytest.mark.parametrize("group", [6, None])
def test_what_does_not_fit_into_memory_is_done_in_smaller_chunks(group):
    roomy, tight = limited_objective(10**6, group), limited_objective(70, group)
    theta = roomy.theta()
    value, gradient = tight.full_value_and_gradient(theta)
    expected, expected_gradient = roomy.full_value_and_gradient(theta)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-13)
    assert tight.evaluate(theta) == pytest.approx(roomy.evaluate(theta), rel=1e-12)
    tried = tight.module.tried
    assert [t for t in tried if t > 70] == sorted({t for t in tried if t > 70}, reverse=True)  # each once, remembered
    assert all(t % (group or 1) == 0 for t in tried)


def test_copied_statistics_count_what_fits_only():
    theta = limited_objective(10**6).theta()
    found = []
    for room in (10**6, 70):
        evaluation = limited_objective(10**6, mode="evaluation")
        evaluation.copy_statistics(limited_objective(room), theta)
        found.append(torch.cat([b.double().flatten() for b in evaluation.module.buffers()]))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-13)


def test_less_than_a_group_is_not_tried():
    objective = limited_objective(5)
    with pytest.raises(torch.OutOfMemoryError):
        objective.full_value_and_gradient(objective.theta())
    assert objective.module.tried[-1] == 6


def test_copied_statistics_reproduce_the_batch_mode_function_of_one_group():
    batch = small_objective(group=42)  # one group: its statistics are the full batch's
    evaluation = small_objective(mode="evaluation")
    evaluation.inputs, evaluation.targets = evaluation.inputs[:42], evaluation.targets[:42]
    theta = batch.theta() * 1.1
    assert abs(evaluation.evaluate(theta).loss - batch.evaluate(theta).loss) > 1e-3
    evaluation.copy_statistics(batch, theta)
    assert evaluation.evaluate(theta).loss == pytest.approx(batch.evaluate(theta).loss, rel=1e-10)


def test_copied_statistics_of_many_groups():
    batch, evaluation = small_objective(), small_objective(mode="evaluation")
    evaluation.copy_statistics(batch, batch.theta())
    stem = batch.module.stem(batch.inputs[:42]).detach()
    layer = evaluation.module.stem_norm
    torch.testing.assert_close(layer.running_mean, stem.mean((0, 2, 3)))
    torch.testing.assert_close(layer.running_var, stem.var((0, 2, 3), correction=0))


@pytest.mark.parametrize(
    ("group", "batch", "message"),
    [(6, 7, "batch_size: expected a multiple of the group size 6, found 7"), (6, 0, "found 0")],
)
def test_ragged_batches_are_refused(group, batch, message):
    objective = small_objective(group)
    with pytest.raises(UserError, match=message):
        objective.value_and_gradient(objective.theta(), torch.arange(batch))


def test_bad_input():
    with pytest.raises(UserError, match=r"group_size: expected 2…45, found 46"):
        small_objective(46)
    with pytest.raises(UserError, match="normalization_mode: expected batch or evaluation"):
        small_objective(mode="train")
    with pytest.raises(UserError, match="data: expected 2 targets"):
        Objective(nn.Linear(2, 2), F.cross_entropy, torch.zeros(2, 2), torch.zeros(3))


def test_batch_norm_over_something_else_than_samples_is_refused():
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(x.reshape(-1, 4)).reshape(len(x), -1)

    objective = Objective(Rows(), F.cross_entropy, torch.randn(8, 8), torch.zeros(8, dtype=torch.long), group_size=2)
    with pytest.raises(UserError, match="BatchNorm over whole samples"):
        objective.evaluate(objective.theta())


def test_generators_of_different_keys_differ():
    first = [torch.rand(4, generator=generator(*key)).tolist() for key in [(0,), (1,), (0, 0), (0, 1), (1, 0)]]
    assert len({tuple(f) for f in first}) == 5
    assert torch.rand(4, generator=generator(0, 1)).tolist() == first[3]
