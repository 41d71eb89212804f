"""Any classification model of torchvision, by name."""

from __future__ import annotations

import copy
import difflib
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from entropy_sim.errors import UserError
from nn_experiments.networks._attention import differentiable_attention
from nn_experiments.networks._layers import apart_from_the_global_generator
from nn_experiments.networks._scale_invariance import scale_invariant_parameters

_DEFAULT = "resnet18"

#: Inputs of the search for scale-invariant parameters; their values do not matter.
_EXAMPLES = 8


class DifferentiableHardsigmoid(nn.Module):
    """min(max(x/6 + 1/2, 0), 1), as `nn.Hardsigmoid`, which has no second derivative."""

    def forward(self, x: Tensor) -> Tensor:
        return F.hardtanh(x / 6 + 0.5, 0.0, 1.0)


class TorchvisionModule(nn.Module):
    """A torchvision model that can be differentiated twice; `input_shape` is (channels, height, width)."""

    def __init__(self, model: nn.Module, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.model, self.input_shape = model, input_shape
        for name, m in list(model.named_modules()):
            if isinstance(m, nn.Hardsigmoid):
                model.set_submodule(name, DifferentiableHardsigmoid())
            elif getattr(m, "inplace", False) is True:  # would overwrite what differentiation and vmap still need
                m.inplace = False
        self.attention = any(isinstance(m, nn.MultiheadAttention) for m in model.modules())

    def forward(self, x: Tensor) -> Tensor:
        if not self.attention:
            return self.model(x)
        with differentiable_attention():
            return self.model(x)


@dataclass(frozen=True)
class Torchvision:
    """A classification model of torchvision by name, untrained, for images of any number of channels.

    Dropout and stochastic depth are off, as everywhere here: the objective is a deterministic function. (The second
    version of Swin has no curvature where its windows reach beyond the image: the norm of a zero key has none.)
    """

    model: str = _DEFAULT
    """Its name in torchvision.models, e.g. resnet18, vgg11_bn, vit_b_16."""

    def __post_init__(self) -> None:
        if self.model == _DEFAULT:  # importing torchvision takes a second or two: not for a default nobody chose
            return
        known = _models().list_models(module=_models())
        if self.model not in known:
            close = difflib.get_close_matches(self.model.lower(), known, n=3, cutoff=0.5)
            expected = " or ".join(close) or "a classification model of torchvision"
            raise UserError(f"network.model: expected {expected}, found {self.model!r}")

    @property
    def name(self) -> str:
        """One phrase for reports and figures."""
        return f"torchvision's {self.model}"

    def build(
        self, channels: int, classes: int, generator: torch.Generator | None = None, size: tuple[int, ...] = ()
    ) -> nn.Module:
        """The module for inputs (batch, channels, *size), size = (height, width), and `classes` outputs.

        Initial values are torchvision's own for an untrained model, from a stream seeded by `generator` (default: a
        fresh one, seed 0). For other than 3 channels the first convolution is replaced by one for `channels` of them,
        its weights drawn anew: normal, of the original's variance times 3/channels. Auxiliary classifiers are left out.
        Raises UserError for images the model does not take.
        """
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        seed = int(torch.randint(2**62, (), generator=generator))
        with apart_from_the_global_generator():
            torch.default_generator.manual_seed(seed)  # the CPU's alone: `torch.manual_seed` would reseed CUDA's too
            try:
                model = _models().get_model(self.model, num_classes=classes, **self._options(size))
                if channels != 3:
                    _adapt(model, channels)
                module = TorchvisionModule(model, (channels, *size))
                _trial(module, classes)
            except (RuntimeError, ValueError, AssertionError, TypeError) as error:
                shape = "x".join(map(str, size)) or "no size"
                reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
                raise UserError(
                    f"network.model: expected one that takes {channels} channels and images of {shape}, "
                    f"found {self.model} ({reason})"
                ) from error
        return module

    def scale_invariant(self, module: nn.Module) -> list[str]:
        """Names of the parameters whose scale the output does not depend on, found numerically.

        See `scale_invariant_parameters`; `module` must come from `build`.
        """
        shape = (_EXAMPLES, *module.input_shape)  # type: ignore[misc]
        return scale_invariant_parameters(module, torch.randn(shape, generator=torch.Generator().manual_seed(0)))

    def _options(self, size: tuple[int, ...]) -> dict[str, Any]:
        options: dict[str, Any] = {"weights": None}
        if self.model in ("googlenet", "inception_v3"):
            options |= {"aux_logits": False, "init_weights": True}
        if self.model.startswith("vit_") and size:
            options["image_size"] = size[0]
        if self.model.startswith("maxvit") and size:
            options["input_size"] = size
        return options


def _models() -> Any:
    try:
        import torchvision.models
    except ImportError as error:
        raise UserError('network: expected torchvision, found none; run: pip install -e ".[nn]"') from error
    return torchvision.models


def _adapt(model: nn.Module, channels: int) -> None:
    """Replace the first convolution of 3 channels by one of `channels`."""
    name, old = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.in_channels == 3)
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    with torch.no_grad():
        new.weight.normal_(std=float(old.weight.std()) * (3 / channels) ** 0.5)
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    model.set_submodule(name, new)


def _trial(module: TorchvisionModule, classes: int) -> None:
    """One forward pass without data, which raises what the model says to images of a wrong size."""
    meta = copy.deepcopy(module).to("meta").eval()
    with torch.no_grad():
        outputs = meta(torch.empty(2, *module.input_shape, device="meta"))
    if outputs.shape != (2, classes):
        raise ValueError(f"outputs of shape {tuple(outputs.shape)}")
