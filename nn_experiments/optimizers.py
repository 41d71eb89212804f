"""Update rules of training: SGD and Adam(W) on the flat parameters, Muon, SOAP and K-FAC on the layers' matrices.

A configuration starts an `Update`, which moves theta (D,) in place by the gradient it is given. What others have
written (torch.optim, pytorch_optimizer, curvlinops) acts on parameters that are views of theta, so that theta follows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from entropy_sim.errors import UserError, require
from nn_experiments.experiment import squared
from nn_experiments.objective import Loss, Objective, generator

#: Inputs and targets of the present minibatch, for updates that look at more than its gradient.
Batch = Callable[[], tuple[Tensor, Tensor]]


class Update(Protocol):
    """A running optimizer: theta is moved in place, the gradient may be overwritten.

    `state` holds numbers, tensors, and lists and dicts of them; `load` takes a copy of it back.
    """

    def step(self, theta: Tensor, gradient: Tensor, rate: float, batch: Batch) -> None: ...

    def state(self) -> Any: ...

    def load(self, state: Any) -> None: ...


@dataclass(frozen=True)
class Start:
    """What an optimizer is started with: `theta` (D,) and `gradient` (D,) are the tensors all its steps will be on.

    loss: the experiment's own, without label smoothing. learning_rate: the highest of the schedule.
    """

    objective: Objective
    theta: Tensor
    gradient: Tensor
    loss: Loss
    learning_rate: float
    momentum: float
    weight_decay: float
    seed: int


@dataclass(frozen=True)
class SGD:
    """v ← β v − lr (g + λ θ), θ ← θ + v (heavy ball, β = `momentum` of the training); Nesterov: θ ← θ + β v − lr g."""

    usual_learning_rate: ClassVar[float] = 0.1

    nesterov: bool = False
    """Nesterov's momentum in place of the heavy ball (Sutskever et al. 2013)."""

    def start(self, at: Start) -> Update:
        return _HeavyBall(self, at)


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015), its weight decay in the gradient, or decoupled: AdamW (Loshchilov & Hutter 2019).

    Its learning rates are about 1e-3; `momentum` of the training is not used.
    """

    usual_learning_rate: ClassVar[float] = 1e-3

    beta1: float = 0.9
    """Decay of the average of the gradient."""
    beta2: float = 0.999
    """Decay of the average of its square."""
    epsilon: float = 1e-8
    """Added to the root of the latter."""
    decoupled: bool = False
    """AdamW: θ ← θ − lr λ θ beside the step, in place of λ θ in the gradient."""

    def __post_init__(self) -> None:
        _check_betas("adam", self.beta1, self.beta2)
        require(self.epsilon > 0, "training.optimizer.epsilon", "a positive number", self.epsilon)

    def start(self, at: Start) -> Update:
        # Elementwise, so the flat vector serves as its one parameter.
        kind = torch.optim.AdamW if self.decoupled else torch.optim.Adam
        betas = (self.beta1, self.beta2)
        parameter = _parameter(at.theta, at.gradient)
        return _Library([kind([parameter], lr=1.0, betas=betas, eps=self.epsilon, weight_decay=at.weight_decay)])


@dataclass(frozen=True)
class Muon:
    """Muon (Jordan et al. 2024): momentum, orthogonalised, on hidden weight matrices; AdamW on everything else.

    A convolution is the matrix (outputs, inputs · height · width). The first and the last weight (input and output),
    biases and normalisations are AdamW's, at `adam_learning_rate` under the same schedule. Both decouple their weight
    decay. Learning rates are about 0.02.
    """

    usual_learning_rate: ClassVar[float] = 0.02

    momentum: float = 0.95
    """Nesterov momentum."""
    adam_learning_rate: float = 3e-3
    """Learning rate of everything that is not a hidden matrix."""

    def __post_init__(self) -> None:
        require(0 <= self.momentum < 1, "training.optimizer.momentum", "a number in 0…1, below 1", self.momentum)
        require(self.adam_learning_rate > 0, "training.optimizer.adam_learning_rate", "> 0", self.adam_learning_rate)

    def start(self, at: Start) -> Update:
        # A token or a position that every image gets has a first dimension of one: no matrix.
        matrices = [i for i, shape in enumerate(at.objective.shapes) if len(shape) >= 2 and shape[0] > 1]
        hidden = set(matrices[1:-1])
        views = _views(at)
        decay = at.weight_decay
        rest = [_parameter(*v) for i, v in enumerate(views) if i not in hidden]
        optimizers: list[Any] = [torch.optim.AdamW(rest, lr=1.0, betas=(0.9, 0.95), eps=1e-10, weight_decay=decay)]
        relative = [self.adam_learning_rate / at.learning_rate]
        if hidden:
            inner = [_parameter(*(x.view(len(x), -1) for x in views[i])) for i in sorted(hidden)]
            optimizers.append(torch.optim.Muon(inner, lr=1.0, momentum=self.momentum, weight_decay=decay))
            relative.append(1.0)
        return _Library(optimizers, relative)


@dataclass(frozen=True)
class SOAP:
    """SOAP (Vyas et al. 2024): Adam in the eigenbasis of Shampoo's preconditioner; decoupled weight decay.

    Of the package pytorch_optimizer. Its first step only initialises the preconditioner. Learning rates are about 3e-3.
    """

    usual_learning_rate: ClassVar[float] = 3e-3

    beta1: float = 0.95
    """Decay of the average of the gradient."""
    beta2: float = 0.95
    """Decay of the averages of its square and of Shampoo's factors."""
    precondition_every: int = 10
    """Steps between updates of the eigenbasis."""

    def __post_init__(self) -> None:
        _check_betas("soap", self.beta1, self.beta2)
        require(self.precondition_every >= 1, "training.optimizer.precondition_every", ">= 1", self.precondition_every)

    def start(self, at: Start) -> Update:
        try:
            from pytorch_optimizer import SOAP as Library
        except ImportError as error:
            raise _missing("SOAP", "pytorch_optimizer") from error
        parameters = [_parameter(*v) for v in _views(at)]
        betas, decay = (self.beta1, self.beta2), at.weight_decay
        every = self.precondition_every
        return _Library([Library(parameters, lr=1.0, betas=betas, weight_decay=decay, precondition_frequency=every)])


@dataclass(frozen=True)
class KFAC:
    """K-FAC: v ← β v − lr F⁻¹ g, θ ← θ − lr λ θ + v, F the layers' Fisher matrices as Kronecker products A ⊗ B.

    A, B: moving averages of the Fisher's factors with labels drawn from the network (Martens & Grosse 2015; Grosse &
    Martens 2016 for convolutions), computed by curvlinops from the present minibatch, damped as in section 6.3 of the
    former. What is not a weight or bias of a linear or (ungrouped) convolutional layer moves by F = 1.
    Learning rates are about 0.03.
    """

    usual_learning_rate: ClassVar[float] = 0.03

    momentum: float = 0.9
    """Heavy-ball momentum β of the preconditioned gradient."""
    damping: float = 0.03
    """Damping added to F, loss / parameter²."""
    decay: float = 0.95
    """Decay of the averages of A and B, per update."""
    update_every: int = 10
    """Steps between updates of A, B and their inverses."""

    def __post_init__(self) -> None:
        require(0 <= self.momentum < 1, "training.optimizer.momentum", "a number in 0…1, below 1", self.momentum)
        require(self.damping > 0, "training.optimizer.damping", "a positive number", self.damping)
        require(0 <= self.decay < 1, "training.optimizer.decay", "a number in 0…1, below 1", self.decay)
        require(self.update_every >= 1, "training.optimizer.update_every", "a number >= 1", self.update_every)

    def start(self, at: Start) -> Update:
        try:
            with warnings.catch_warnings():
                # linear_operator, which it imports, compiles with torch.jit, which torch is to drop: no user's concern.
                warnings.simplefilter("ignore", FutureWarning)
                import curvlinops  # noqa: F401
        except ImportError as error:
            raise _missing("K-FAC", "curvlinops-for-pytorch") from error
        return _KroneckerFactored(self, at)


AnyOptimizer = SGD | Adam | Muon | SOAP | KFAC


def _check_betas(name: str, *betas: float) -> None:
    for i, beta in enumerate(betas, 1):
        require(0 <= beta < 1, f"training.optimizer.beta{i}", f"a number in 0…1, below 1 ({name})", beta)


def _missing(what: str, package: str) -> UserError:
    return UserError(
        f'training.optimizer: {what} expects {package}, found none; run: pip install -e ".[nn,optimizers]"'
    )


def _parameter(theta: Tensor, gradient: Tensor) -> nn.Parameter:
    """A parameter that shares its memory with `theta`, and its gradient with `gradient`."""
    parameter = nn.Parameter(theta)
    parameter.grad = gradient
    return parameter


def _views(at: Start) -> list[tuple[Tensor, Tensor]]:
    return list(zip(at.objective.unflatten(at.theta), at.objective.unflatten(at.gradient), strict=True))


class _HeavyBall:
    def __init__(self, config: SGD, at: Start) -> None:
        self._nesterov, self._momentum, self._decay = config.nesterov, at.momentum, at.weight_decay
        self._velocity = torch.zeros_like(at.theta)

    def step(self, theta: Tensor, gradient: Tensor, rate: float, batch: Batch) -> None:
        velocity = self._velocity
        gradient.add_(theta, alpha=self._decay)
        velocity.mul_(self._momentum).sub_(gradient, alpha=rate)
        if self._nesterov:
            theta.add_(velocity, alpha=self._momentum).sub_(gradient, alpha=rate)
        else:
            theta.add_(velocity)

    def state(self) -> Any:
        return {"velocity": self._velocity}

    def load(self, state: Any) -> None:
        self._velocity.copy_(state["velocity"])


class _Library:
    """Optimizers with torch's interface, each at the learning rate of the training times its own `relative` one."""

    def __init__(self, optimizers: Sequence[Any], relative: Sequence[float] = (1.0,)) -> None:
        self._optimizers, self._relative = optimizers, relative

    def step(self, theta: Tensor, gradient: Tensor, rate: float, batch: Batch) -> None:
        for optimizer, relative in zip(self._optimizers, self._relative, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = relative * rate
            optimizer.step()

    def state(self) -> Any:
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load(self, state: Any) -> None:
        for optimizer, one in zip(self._optimizers, state, strict=True):
            optimizer.load_state_dict(one)


class _KroneckerFactored:
    """K-FAC by curvlinops: `_factors` are the averages of A ("input_covariances") and B of each layer."""

    def __init__(self, config: KFAC, at: Start) -> None:
        self._config, self._objective, self._seed, self._decay = config, at.objective, at.seed, at.weight_decay
        if at.loss not in (F.cross_entropy, squared):
            raise UserError("training.optimizer: K-FAC expects the loss cross_entropy or squared, found another")
        self._squared = at.loss is squared
        self._velocity = torch.zeros_like(at.theta)
        self._steps = 0
        self._factors: dict[str, dict[str, Tensor]] = {kind: {} for kind in _FACTORS}
        self._inverse: Any = None
        self._network = _Forward(at.objective)
        layers = [m for m in at.objective.module.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        own = {p.data_ptr() for m in layers if getattr(m, "groups", 1) == 1 for p in m.parameters(recurse=False)}
        self._covered = [i for i, p in enumerate(at.objective.parameters) if p.data_ptr() in own]

    def step(self, theta: Tensor, gradient: Tensor, rate: float, batch: Batch) -> None:
        if self._steps % self._config.update_every == 0:
            self._update(*batch())
        pieces = self._objective.unflatten(gradient)
        preconditioned = self._inverse @ [pieces[i] for i in self._covered]
        for i, piece in zip(self._covered, preconditioned, strict=True):
            pieces[i].copy_(piece)
        self._velocity.mul_(self._config.momentum).sub_(gradient, alpha=rate)
        theta.mul_(1 - rate * self._decay).add_(self._velocity)
        self._steps += 1

    def _update(self, inputs: Tensor, targets: Tensor) -> None:
        """Average in the factors of this batch, and invert the averages."""
        if self._squared and not targets.is_floating_point():
            with torch.no_grad():
                outputs = self._network(inputs).shape[-1]
            targets = F.one_hot(targets, outputs).to(inputs.dtype)
        operator = self._operator(inputs, targets)
        operator.compute_kronecker_factors()
        fresh = operator.state_dict()
        if self._squared:
            # The curvature of torch's mean squared error is 2/outputs, ours 1; only B knows of the loss.
            for covariance in fresh["gradient_covariances"].values():
                covariance.mul_(targets.shape[-1] / 2)
        for kind in _FACTORS:
            for layer, covariance in fresh[kind].items():
                if layer in self._factors[kind]:
                    covariance.lerp_(self._factors[kind][layer], self._config.decay)
        self._invert(operator, {kind: fresh[kind] for kind in _FACTORS})

    def _operator(self, inputs: Tensor, targets: Tensor) -> Any:
        from curvlinops import KFACLinearOperator

        return KFACLinearOperator(
            self._network,
            nn.MSELoss() if self._squared else nn.CrossEntropyLoss(),
            [self._objective.parameters[i] for i in self._covered],
            [(inputs, targets)],
            check_deterministic=False,
            seed=generator(self._seed, 3, self._steps).initial_seed() % 2**31,
            num_per_example_loss_terms=1,
            separate_weight_and_bias=False,
            num_data=len(inputs),
        )

    def _invert(self, operator: Any, factors: dict[str, dict[str, Tensor]]) -> None:
        from curvlinops import KFACInverseLinearOperator

        self._factors = factors
        for kind in _FACTORS:
            operator.state_dict()[kind].update(factors[kind])
        self._inverse = KFACInverseLinearOperator(operator, self._config.damping, use_heuristic_damping=True)

    def state(self) -> Any:
        return {"velocity": self._velocity, "steps": self._steps, "factors": self._factors}

    def load(self, state: Any) -> None:
        self._velocity.copy_(state["velocity"])
        self._steps = state["steps"]
        if self._steps:
            # Of the data, the inverse of given factors needs nothing.
            operator = self._operator(self._objective.inputs[:1], self._objective.targets[:1])
            device = self._velocity.device
            self._invert(operator, {k: {m: f.to(device) for m, f in state["factors"][k].items()} for k in _FACTORS})


_FACTORS = ("input_covariances", "gradient_covariances")


class _Forward(nn.Module):
    """An objective's network with its normalisation in groups, as a module."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.network = objective.module
        self._forward = objective.forward

    def forward(self, inputs: Tensor) -> Tensor:
        return self._forward(inputs)
