"""Every update rule against torch's own on the module's parameters, or against what it is by definition."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from entropy_sim.errors import UserError
from nn_experiments.experiment import Experiment, squared
from nn_experiments.networks.resnet import ResNet
from nn_experiments.objective import Objective, generator
from nn_experiments.optimizers import KFAC, SGD, SOAP, Adam, Muon, Start
from nn_experiments.train import Training, _Session

DOUBLE = torch.float64
SMALL = Experiment(network=ResNet(8, 4))


@dataclass(frozen=True)
class Layers:
    """Two linear layers (or one) on Gaussian data; squared or cross-entropy loss."""

    samples: int = 24
    deep: bool = True
    loss: Any = F.cross_entropy
    group_size: int | None = None
    system: str = "layers"

    def objective(self, split: str = "train", **_: Any) -> Objective:
        g = generator(5)
        inputs = torch.randn(self.samples, 3, generator=g, dtype=DOUBLE) * torch.tensor([1.0, 2.0, 0.5], dtype=DOUBLE)
        if self.loss is squared:
            targets = inputs @ torch.randn(3, 4, generator=g, dtype=DOUBLE)
            targets = 1.0 + targets + 0.1 * torch.randn(self.samples, 4, generator=g, dtype=DOUBLE)
        else:
            targets = torch.randint(0, 4, (self.samples,), generator=g)
        module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)) if self.deep else nn.Linear(3, 4)
        return Objective(module.double(), self.loss, inputs, targets)

    def initial(self, seed: int) -> Tensor:
        return 0.3 * torch.randn(self.objective().dimension, generator=generator(seed), dtype=DOUBLE)


def by_hand(
    experiment: Any, training: Training, seed: int, make: Callable[[Objective], list[tuple[Any, float]]]
) -> Tensor:
    """Two epochs of torch-like optimizers, (optimizer, highest learning rate), on the module's own parameters."""
    objective = experiment.objective()
    objective.load(experiment.initial(seed))
    optimizers, order = make(objective), generator(seed, 1)
    steps = objective.size // training.batch_size
    for epoch in range(2):
        shuffled = torch.randperm(objective.size, generator=order)
        for i in range(steps):
            for p in objective.parameters:
                p.grad = None
            batch = shuffled[i * training.batch_size : (i + 1) * training.batch_size]
            objective.loss_at(batch).backward()
            for optimizer, rate in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate * training.rate((epoch + i / steps) / 2) / training.learning_rate
                optimizer.step()
    return torch.cat([p.detach().reshape(-1) for p in objective.parameters])


def test_nesterov_is_torchs() -> None:
    training = Training(
        epochs=2, batch_size=8, learning_rate=0.3, momentum=0.8, schedule="constant", optimizer=SGD(nesterov=True)
    )
    found = training.run(Layers(), 3, progress=False).theta

    def make(objective: Objective, **other: Any) -> list[tuple[Any, float]]:
        options = {"lr": 0.3, "momentum": 0.8, "nesterov": True, "weight_decay": 1e-3} | other
        return [(torch.optim.SGD(objective.parameters, **options), 0.3)]

    torch.testing.assert_close(found, by_hand(Layers(), training, 3, make), rtol=1e-10, atol=1e-12)
    heavy_ball = by_hand(Layers(), training, 3, lambda o: make(o, nesterov=False))
    assert (found - heavy_ball).norm() > 1e-2


@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_on_the_flat_vector_is_torchs_on_the_parameters(decoupled: bool) -> None:
    optimizer = Adam(beta1=0.8, beta2=0.9, epsilon=1e-6, decoupled=decoupled)
    training = Training(epochs=2, batch_size=8, learning_rate=0.05, weight_decay=0.1, optimizer=optimizer)
    found = training.run(Layers(), 3, progress=False).theta

    def make(objective: Objective, decoupled: bool = decoupled) -> list[tuple[Any, float]]:
        kind = torch.optim.AdamW if decoupled else torch.optim.Adam
        return [(kind(objective.parameters, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1), 0.05)]

    torch.testing.assert_close(found, by_hand(Layers(), training, 3, make), rtol=1e-9, atol=1e-12)
    assert (found - by_hand(Layers(), training, 3, lambda o: make(o, not decoupled))).norm() > 1e-3


def test_soap_follows_the_library() -> None:
    library = pytest.importorskip("pytorch_optimizer")
    training = Training(epochs=2, batch_size=256, learning_rate=3e-3, optimizer=SOAP(precondition_every=2))
    found = training.run(SMALL, 3, progress=False).theta

    def make(objective: Objective) -> list[tuple[Any, float]]:
        options = {"betas": (0.95, 0.95), "weight_decay": 1e-3, "precondition_frequency": 2}
        return [(library.SOAP(objective.parameters, lr=1.0, **options), 3e-3)]

    expected = by_hand(SMALL, training, 3, make)
    assert (expected - SMALL.initial(3)).norm() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_muon_moves_hidden_matrices_by_orthogonal_steps() -> None:
    """One step: hidden convolutions by lr √max(1, out/in) U Vᵀ (singular values 0.5…1.5 of Newton–Schulz), the rest by
    Adam's first step, lr_adam · sign g."""
    training = Training(batch_size=256, learning_rate=0.1, weight_decay=0.0, schedule="constant", optimizer=Muon())
    objective = SMALL.objective()
    names, before = objective.names, objective.unflatten(SMALL.initial(0))
    state = training.until(SMALL, 0, 1)
    moved = {n: a - b for n, a, b in zip(names, objective.unflatten(state.content["theta"]), before, strict=True)}
    hidden = [n for n, d in moved.items() if d.dim() == 4 and n != "stem.weight"]
    assert len(hidden) == 6
    for name, delta in moved.items():
        if name in hidden:
            matrix = delta.flatten(1) / 0.1 / max(1, len(delta) / delta[0].numel()) ** 0.5
            values = torch.linalg.svdvals(matrix)
            assert values.min() > 0.4
            assert values.max() < 1.3
        else:
            torch.testing.assert_close(delta[delta != 0].abs(), torch.full_like(delta[delta != 0], 3e-3))


def test_muon_leaves_what_is_no_matrix_to_adam() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.first = nn.Parameter(torch.ones(1, 1, 3)), nn.Linear(3, 3)
            self.hidden, self.last = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.hidden(self.first(x + self.token[0])))

    objective = Objective(Tokens(), F.cross_entropy, torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
    theta = objective.theta()
    update: Any = Muon().start(Start(objective, theta, objective.gradient_buffer, F.cross_entropy, 0.1, 0.9, 0.0, 0))
    adam, muon = update._optimizers
    shapes = [list(p.shape) for group in muon.param_groups for p in group["params"]]
    assert shapes == [[3, 3]]
    assert sum(p.numel() for group in adam.param_groups for p in group["params"]) == objective.dimension - 9


def kfac_session(experiment: Layers, **options: Any) -> _Session:
    optimizer = KFAC(**({"momentum": 0.0, "damping": 1e-8, "update_every": 1} | options))
    training = Training(
        batch_size=experiment.samples, learning_rate=1.0, weight_decay=0.0, schedule="constant", optimizer=optimizer
    )
    return _Session(training, experiment, 0)


def test_kfac_step_on_least_squares_is_newtons() -> None:
    """F = A ⊗ 1 for our squared loss, B estimated from N drawn labels to a relative √(2/N) = 3 %.

    Rejected at 5 σ: the 2/4 of torch's mean over outputs (twice Newton's step), plain gradient descent.
    """
    pytest.importorskip("curvlinops")
    experiment = Layers(samples=2000, deep=False, loss=squared)
    objective = experiment.objective()
    x = torch.cat([objective.inputs, torch.ones(2000, 1, dtype=DOUBLE)], 1)
    solution = torch.linalg.lstsq(x, objective.targets).solution
    expected = torch.cat([solution[:3].T.reshape(-1), solution[3]]) - experiment.initial(0)
    session = kfac_session(experiment)
    session.advance(1)
    step = session.theta - experiment.initial(0)
    scale = float(step @ expected / expected.square().sum())
    stderr = (2 / 2000) ** 0.5
    assert abs(scale - 1) < 3 * stderr
    assert float((step - scale * expected).norm() / expected.norm()) < 5 * stderr
    assert min(abs(2 - scale), abs(0.5 - scale)) > 5 * stderr


def test_kfac_preconditions_softmax_regression_by_its_fisher() -> None:
    """One linear layer: A is exact, B tends to E[diag p − p pᵀ]; F⁻¹ g of the explicit Kronecker product, damped.

    Drawn labels make B uncertain by about 1/√N = 1.6 %; the bound is 5 of them, gradient descent and a Fisher of the
    wrong scale are far beyond.
    """
    pytest.importorskip("curvlinops")
    experiment = Layers(samples=4000, deep=False)
    objective = experiment.objective()
    theta, damping = experiment.initial(0), 0.05
    gradient = objective.full_value_and_gradient(theta)[1].clone()
    x = torch.cat([objective.inputs, torch.ones(4000, 1, dtype=DOUBLE)], 1)
    with torch.no_grad():
        p = objective.forward(objective.inputs).softmax(1)
    a, b = x.T @ x / 4000, torch.diag(p.mean(0)) - p.T @ p / 4000
    ratio = ((a.trace() / 4) / (b.trace() / 4)).sqrt()
    eye = torch.eye(4, dtype=DOUBLE)
    g = torch.cat([gradient[:12].view(4, 3), gradient[12:, None]], 1)

    def predicted(damping: float, b: Tensor = b) -> Tensor:
        left, right = b + damping**0.5 / ratio * eye, a + damping**0.5 * ratio * eye
        return -torch.linalg.inv(left) @ g @ torch.linalg.inv(right)

    expected = predicted(damping)
    session = kfac_session(experiment, damping=damping)
    session.advance(1)
    step = session.theta - theta
    step = torch.cat([step[:12].view(4, 3), step[12:, None]], 1)
    bound = 5 / 4000**0.5
    assert float((step - expected).norm() / expected.norm()) < bound
    wrong = {"gradient": -g, "undamped": predicted(0.0), "twice B": predicted(damping, 2 * b)}
    for name, other in wrong.items():
        assert float((step - other).norm() / expected.norm()) > 2 * bound, name


def test_kfac_averages_its_factors_and_leaves_other_parameters_alone() -> None:
    pytest.importorskip("curvlinops")
    training = Training(batch_size=256, optimizer=KFAC(decay=0.7, update_every=2, momentum=0.0), weight_decay=0.0)
    session = _Session(training, SMALL, 0)
    found = []
    for _ in range(4):
        session.advance(session.iteration + 1)
        found.append(session.update.state()["factors"]["input_covariances"]["network.stem"])
    assert torch.equal(found[0], found[1])
    order = torch.randperm(session.objective.size, generator=generator(0, 1))
    images = [F.unfold(session.objective.inputs[order[i * 256 : (i + 1) * 256]], 3, padding=1) for i in (0, 2)]
    a, b = (torch.einsum("bip,bjp->ij", u, u) / (len(u) * u.shape[-1]) for u in images)
    torch.testing.assert_close(found[0], a, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[2], 0.7 * a + 0.3 * b, rtol=1e-4, atol=1e-5)
    # BatchNorm's parameters move by the plain gradient.
    objective, start = SMALL.objective(), SMALL.initial(0)
    gradient = objective.value_and_gradient(start, order[:256])[1]
    norm = objective.blocks()["stem_norm.weight" if "stem_norm.weight" in objective.names else "norm.weight"]
    one = training.until(SMALL, 0, 1).content["theta"]
    torch.testing.assert_close((one - start)[norm], -0.3 * gradient[norm])


def test_kfac_wants_a_loss_it_knows() -> None:
    pytest.importorskip("curvlinops")
    with pytest.raises(UserError, match="K-FAC expects the loss cross_entropy or squared, found another"):
        kfac_session(Layers(loss=lambda f, y: F.cross_entropy(f, y)))


def test_what_kfac_s_library_warns_of_is_not_shown() -> None:
    pytest.importorskip("curvlinops")
    start = "from nn_experiments.optimizers import KFAC\ntry: KFAC().start(None)\nexcept AttributeError: print('began')"
    done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("began\n", "")


@pytest.mark.parametrize(("optimizer", "module"), [(SOAP(), "pytorch_optimizer"), (KFAC(), "curvlinops")])
def test_a_missing_library_is_told_in_a_line(optimizer: Any, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r'found none; run: pip install -e ".\[nn,optimizers\]"'):
        Training(optimizer=optimizer).run(Experiment(), 0, progress=False)


@pytest.mark.parametrize(
    ("optimizer", "options", "message"),
    [
        (Adam(), {"beta2": 1.0}, r"optimizer.beta2: expected a number in 0…1, below 1 \(adam\), found 1"),
        (Adam(), {"epsilon": 0.0}, "optimizer.epsilon"),
        (SOAP(), {"beta1": -0.1}, "optimizer.beta1"),
        (SOAP(), {"precondition_every": 0}, "optimizer.precondition_every"),
        (Muon(), {"momentum": 1.0}, "optimizer.momentum"),
        (Muon(), {"adam_learning_rate": 0.0}, "optimizer.adam_learning_rate"),
        (KFAC(), {"damping": 0.0}, "optimizer.damping"),
        (KFAC(), {"decay": 1.0}, "optimizer.decay"),
        (KFAC(), {"update_every": 0}, "optimizer.update_every"),
    ],
)
def test_bad_options(optimizer: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(optimizer, **options)
