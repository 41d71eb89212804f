"""A user's own network as an experiment: any module, loss and data, live from Python or from a file.

    experiment = ModuleExperiment(Net, F.cross_entropy, train=(inputs, targets), test=test_loader)
    experiment = FileExperiment("my_network.py:problem")        # what `--module my_network.py:problem` makes

Both go wherever an `Experiment` goes: training, paths, measurements. See docs/own_network.md.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
)

from entropy_sim.errors import UserError, require
from entropy_sim.user_file import execute, line_of, named, one_line, settle, sha256
from nn_experiments._own_checks import coarse, computed, described, kind_of, moved, moved_loss, tensors_sha256, try_out
from nn_experiments.experiment import Split
from nn_experiments.networks._attention import differentiable_attention
from nn_experiments.networks._scale_invariance import scale_invariant_parameters
from nn_experiments.objective import Loss, NormalizationMode, Objective, generator
from nn_experiments.workers import one_thread

#: Inputs and targets, as tensors with one row a sample, or anything that PyTorch loads them from.
Data = tuple[Tensor, Tensor] | Dataset[Any] | DataLoader[Any]


@dataclass(frozen=True, eq=False)
class ModuleExperiment:
    """A module, a loss and data: the experiment of a network that is not ours.

    The objective is the mean loss over the training data; data are read once, held as tensors and put into one fixed
    random order. Parameters that require no gradient stay as they are and are no part of theta; buffers never are.
    BatchNorm, if there is any, uses the statistics of groups of `group_size` samples (see `Objective`); dropout is off.

    Raises UserError if module, loss and data do not work together, if the loss is not a mean over its samples, or if a
    parameter takes no part in it.
    """

    module: nn.Module | Callable[[], nn.Module]
    """The network, or a function without arguments (such as its class) that builds it: needed to train from seeds."""
    loss: Loss
    """loss(outputs, targets), the mean over the samples it is given."""
    train: Data
    """Training data: (inputs, targets), a Dataset or a DataLoader of such pairs."""
    test: Data | None = None
    """Test data, or None."""
    group_size: int = 16
    """Samples that BatchNorm normalises together."""
    scale_invariant_parameters: tuple[str, ...] | None = None
    """Names of the parameters on whose scale the outputs do not depend, such as weights before a BatchNorm; None: found
    numerically."""
    name: str = ""
    """What reports call it (default: the class of the module)."""
    _loaded: dict[Any, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)
    _known: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        require(self.group_size >= 2, "group_size", "a number >= 2", self.group_size)
        for split, data in (("train", self.train), ("test", self.test)):
            if data is not None:
                object.__setattr__(self, split, tensors(data, split))
        module = self._build(0)
        object.__setattr__(self, "name", self.name or type(module).__name__)
        try_out(module, self.loss, self.train)  # type: ignore[arg-type]
        unknown = set(self.scale_invariant_parameters or ()) - {n for n, _ in module.named_parameters()}
        require(not unknown, "scale_invariant_parameters", "names of parameters", ", ".join(sorted(unknown)))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": {}}

    def jsonable(self) -> dict[str, Any]:
        """What a configuration can say of it: enough to tell two apart (see `computed`), not to build one again."""
        if self._known:
            return self._known
        splits = [(name, part) for name in self.splits for part in getattr(self, name)]
        with one_thread():
            module = self._build(0)
            parameters = [[n, list(p.shape)] for n, p in module.named_parameters() if p.requires_grad]
            # Those of a network that is there count for nothing: training needs a function, all else gives its own.
            initial = [] if isinstance(self.module, nn.Module) else coarse(_flat(module))
            network = described(module)
            found = computed(module, self.loss, self.train, self.group_size)  # type: ignore[arg-type]
        known = {
            "type": type(self).__name__,
            "name": self.name,
            "parameters": parameters,
            "initial": initial,
            "network_sha256": sha256(network),
            "loss": described(self.loss),
            **found,
            "data_sha256": tensors_sha256(splits),
            "group_size": self.group_size,
        }
        if not isinstance(self.module, nn.Module):  # one that is there may be changed by its owner
            self._known.update(known)
        return known

    @property
    def system(self) -> str:
        """The `system` attribute of datasets: one phrase."""
        return self.name

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits there are data for."""
        return ("train",) if self.test is None else ("train", "test")

    @property
    def only_here(self) -> bool:
        """Whether no other process can import module or loss: local ones, lambdas, those of a notebook."""
        network = type(self.module) if isinstance(self.module, nn.Module) else self.module
        interactive = not hasattr(sys.modules["__main__"], "__file__")
        return any(
            "<" in getattr(part, "__qualname__", "") or (interactive and getattr(part, "__module__", "") == "__main__")
            for part in (network, self.loss)
        )

    def objective(
        self,
        split: Split = "train",
        *,
        dtype: torch.dtype = torch.float32,
        mode: NormalizationMode = "batch",
        device: torch.device | str = "cpu",
    ) -> Objective:
        """The loss on one split as a function of flat parameters. Raises UserError if there are no test data."""
        require(split in self.splits, "test", "test data", "none")
        key = (split, dtype, str(device))
        if key not in self._loaded:
            inputs, targets = getattr(self, split)
            self._loaded[key] = (moved(inputs, device, dtype), moved(targets, device, dtype))
        module, loss = self._build(0).to(device, dtype), moved_loss(self.loss, device, dtype)
        return Objective(module, loss, *self._loaded[key], group_size=self.group_size, mode=mode)

    def initial(self, seed: int) -> Tensor:
        """Parameters (D,), float32, on the CPU, of a network built with torch, NumPy and random seeded by `seed`.

        Raises UserError if the experiment was made of a module rather than of a function that builds it.
        """
        if isinstance(self.module, nn.Module):
            raise UserError(
                "module: expected a function that builds the network, to train it from a seed, found a network "
                "(or give two checkpoints)"
            )
        return _flat(self._build(seed))

    def scale_invariant(self) -> list[str]:
        """Names of the parameters on whose scale the outputs do not depend."""
        if self.scale_invariant_parameters is None:
            inputs = self.train[0][: min(self.group_size, len(self.train[0]))]  # type: ignore[index]
            found = scale_invariant_parameters(self._build(0), inputs)
            object.__setattr__(self, "scale_invariant_parameters", tuple(found))
        return list(self.scale_invariant_parameters or ())

    def _build(self, seed: int) -> nn.Module:
        if isinstance(self.module, nn.Module):
            return _twice_differentiable(copy.deepcopy(self.module))
        with seeded(seed):
            module = self.module()
        require(isinstance(module, nn.Module), "module", "a function that builds an nn.Module", type(module).__name__)
        with suppress(RuntimeError):  # what cannot be copied, such as an old weight_norm, is hoped to be built anew
            module = copy.deepcopy(module)  # the function may give the same network, or layers, at every call
        return _twice_differentiable(module)


@dataclass(frozen=True)
class FileExperiment:
    """A network, loss and data from your own Python file (see docs/own_network.md).

    `module` names a function without arguments that gives `(module, loss, train)` or `(module, loss, train, test)`, or
    a `ModuleExperiment`. It runs with all random numbers seeded, in every process anew. The text of the file is part of
    the configuration, so a run can be repeated when the file is gone; what it reads or imports is not.
    """

    module: str
    """FILE.py:FUNCTION."""
    sha256: str = ""
    """SHA-256 of the file, filled in from it; a file that has changed since is refused (empty: take it as it is)."""
    text: str = ""
    """Text of the file, filled in from it; what is run if the file is gone."""

    def __post_init__(self) -> None:
        file, function = named(self.module, "")
        require(bool(function), "module", "FILE.py:FUNCTION", self.module)
        digest, text = settle("module", file, self.sha256, self.text)
        object.__setattr__(self, "sha256", digest)
        object.__setattr__(self, "text", text)

    @property
    def system(self) -> str:
        """The `system` attribute of datasets: one phrase."""
        return f"{self._made().name} of {Path(named(self.module, '')[0]).name}"

    @property
    def group_size(self) -> int:
        """Samples that BatchNorm normalises together."""
        return self._made().group_size

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits there are data for."""
        return self._made().splits

    def objective(
        self,
        split: Split = "train",
        *,
        dtype: torch.dtype = torch.float32,
        mode: NormalizationMode = "batch",
        device: torch.device | str = "cpu",
    ) -> Objective:
        """The loss on one split as a function of flat parameters. Raises UserError if there are no test data."""
        return self._made().objective(split, dtype=dtype, mode=mode, device=device)

    def initial(self, seed: int) -> Tensor:
        """Parameters (D,), float32, on the CPU, of the network that the function builds under this seed."""
        made = self._made()
        if isinstance(made.module, nn.Module):  # built by the function itself
            found = _parts(self.module, self.text, seed)[0]
            network: Any = found.module if isinstance(found, ModuleExperiment) else found
            return _flat(network)
        return made.initial(seed)

    def scale_invariant(self) -> list[str]:
        """Names of the parameters on whose scale the outputs do not depend."""
        return self._made().scale_invariant()

    def _made(self) -> ModuleExperiment:
        return _made(self.module, self.text)


@lru_cache(maxsize=2)
def _made(module: str, text: str) -> ModuleExperiment:
    found = _parts(module, text, 0)
    return found[0] if isinstance(found[0], ModuleExperiment) else ModuleExperiment(*found)


def _parts(module: str, text: str, seed: int) -> tuple[Any, ...]:
    """What the function returns, as arguments of `ModuleExperiment`, or one of them."""
    file, function = named(module, "")
    here = str(Path(file).resolve().parent)
    sys.path.insert(0, here)  # as when the file is run: it may import its neighbours
    try:
        with seeded(seed):
            defined = execute("module", file, text)
            if not callable(defined.get(function)):
                names = [
                    n
                    for n, v in defined.items()
                    if callable(v) and getattr(v, "__module__", "") == "entropic_user_file"
                ]
                raise UserError(f"module: expected a function {function} in {file}, found {', '.join(names) or 'none'}")
            try:
                found = defined[function]()
            except UserError:
                raise
            except Exception as error:
                where = line_of(error, file)
                raise one_line(
                    "module", f"expected {function} of {file} to work, found {type(error).__name__}{where}: {error}"
                ) from error
    finally:
        sys.path.remove(here)
    if isinstance(found, ModuleExperiment):
        return (found,)
    if not (isinstance(found, tuple) and len(found) in (3, 4)):
        kind = f"{len(found)} of them" if isinstance(found, tuple) else type(found).__name__
        raise UserError(
            f"module: expected (module, loss, train) or (module, loss, train, test) from {function}, found {kind}"
        )
    return found


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generators of torch, NumPy and random seeded inside and as they were afterwards."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002  users' code may draw from it
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)


def tensors(data: Data, option: str) -> tuple[Tensor, Tensor]:
    """All of the data as (inputs (N, …), targets (N, …)) on the CPU, in one fixed random order.

    The same at every reading: a DataLoader's shuffling is left aside, and what else is random is seeded.
    Raises UserError, naming the option, for what is not made of pairs of tensors with one row a sample.
    """
    expected = "(inputs, targets), a Dataset or a DataLoader"
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        inputs, targets = data
    elif isinstance(data, (DataLoader, Dataset)):
        with seeded(0):  # random transformations, samplers of one's own
            batches = list(_in_order(data) if isinstance(data, DataLoader) else DataLoader(data, batch_size=256))
        pairs = all(
            isinstance(b, (tuple, list)) and len(b) == 2 and all(isinstance(p, Tensor) for p in b) for b in batches
        )
        require(bool(batches) and pairs, option, f"{expected} of pairs of tensors", kind_of(batches[:1]))
        try:
            inputs, targets = (torch.cat([batch[i] for batch in batches]) for i in (0, 1))
        except RuntimeError as error:
            raise one_line(option, f"expected batches of samples of one shape, found that {error}") from error
    else:
        raise UserError(f"{option}: expected {expected}, found {kind_of(data)}")
    require(len(inputs) > 0, option, "at least one sample", 0)
    require(len(inputs) == len(targets), option, f"{len(inputs)} targets, one for each input", len(targets))
    order = torch.randperm(len(inputs), generator=generator(0))
    return inputs.detach().cpu()[order], targets.detach().cpu()[order]


def _in_order(loader: DataLoader[Any]) -> DataLoader[Any]:
    """The loader without its shuffling: every sample once, in the order of the dataset, always the same.

    One that does not simply shuffle (weights, batches of its own, a stream) stays as it is.
    """
    batches = loader.batch_sampler
    sampler = batches.sampler if isinstance(batches, BatchSampler) else loader.sampler
    if isinstance(loader.dataset, IterableDataset) or type(batches) not in (BatchSampler, type(None)):
        return loader
    if type(sampler) is SubsetRandomSampler:
        order = sorted(sampler.indices)
    elif type(sampler) is SequentialSampler or (type(sampler) is RandomSampler and _draws_each_once(sampler)):
        order = list(range(len(sampler.data_source)))
    else:
        return loader
    return DataLoader(
        loader.dataset,
        batch_size=batches.batch_size if isinstance(batches, BatchSampler) else None,
        sampler=order,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        worker_init_fn=loader.worker_init_fn,
    )


def _draws_each_once(sampler: RandomSampler) -> bool:
    return not sampler.replacement and sampler.num_samples == len(sampler.data_source)


def _flat(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().float().reshape(-1) for p in module.parameters() if p.requires_grad])


def _twice_differentiable(module: nn.Module) -> nn.Module:
    """`module`, whose forward pass, if there is attention in it, takes the kernels that have a second derivative."""
    if any(isinstance(m, nn.MultiheadAttention) for m in module.modules()):
        forward = module.forward

        def differentiable(*arguments: Any, **options: Any) -> Any:
            with differentiable_attention():
                return forward(*arguments, **options)

        module.forward = differentiable
    return module
