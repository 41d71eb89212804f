"""Runs made from known formulas, valid against the schema, with or without statistical errors."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import xarray as xr

from entropy_sim import schema
from entropy_sim.run_files import provenance


def root(source: str, system: str, config: object, **extra: object) -> dict:
    return provenance(source=source, system=system, config=config, noise="made up", seed=1, threads=1, **extra)


@dataclass(frozen=True)
class MadeUpNetwork:
    """A network whose transverse stiffnesses and noise are known functions of s, so that every force is known.

    k_i(s) = stiffness_i · g(s), g = 1 + rise · sin²(πs); C = c H. `force_factor` scales the true force (1: theory is
    right); `force_noise` is the standard error of one replica's window. Restrict with `groups`.
    """

    modes: tuple[float, ...] = (12.0, 8.0, 5.0, 3.0, 2.0)
    bulk: float = 60.0
    rise: float = 5.0
    noise_ratio: float = 0.003
    length: float = 20.0
    learning_rate: float = 0.01
    momentum: float = 0.0
    force_factor: float = 1.0
    force_noise: float = 2e-7
    profile_noise: float = 0.01
    control_force: float = 3e-7
    line_barrier: float = 1.3
    replicas: int = 2
    seed: int = 0
    groups: tuple[str, ...] = ("path", "profile", "mean_force", "relaxation")

    def g(self, s):
        return 1 + self.rise * np.sin(np.pi * np.asarray(s)) ** 2

    def slope(self, s):
        """d/dy of g."""
        return self.rise * np.pi * np.sin(2 * np.pi * np.asarray(s)) / self.length

    @property
    def trace(self):
        return sum(self.modes) + self.bulk

    def force(self, s):
        """The curvature-proportional mean force, −(eta c / 4(1−beta)) dTr H/dy."""
        rate = self.learning_rate * self.noise_ratio / (4 * (1 - self.momentum))
        return -rate * self.trace * self.slope(s)

    def profile(self, points: int = 13) -> xr.Dataset:
        random = np.random.default_rng([self.seed, 0])
        s = np.linspace(0, 1, points)

        def noisy(value):
            error = self.profile_noise * np.abs(value) + 1e-12
            return value + error * random.standard_normal(np.shape(value)), error

        g, dims = self.g(s), ("path_kind", "s")
        line = 0.002 + self.line_barrier * np.sin(np.pi * s) ** 2
        trace, trace_error = noisy(np.stack([g, g + 3]) * self.trace)
        slope, slope_error = noisy(np.stack([self.slope(s), self.slope(s)]) * self.trace)
        noise, noise_error = noisy(np.stack([g, g]) * self.trace * self.noise_ratio)
        modes = g[:, None] * np.array(self.modes)
        modes = np.stack([modes, modes])
        return schema.make(
            "profile",
            {
                "path_kind": (("path_kind",), np.array(["neb", "line"])),
                "s": (("s",), s),
                "eigenvalue_index": (("eigenvalue_index",), np.arange(len(self.modes))),
                "loss": (dims, np.stack([np.full(points, 0.002), line])),
                "train_error": (dims, np.stack([np.zeros(points), 0.4 * np.sin(np.pi * s) ** 2])),
                "test_error": (dims, np.stack([np.full(points, 0.02), 0.02 + 0.5 * np.sin(np.pi * s) ** 2])),
                "hessian_trace": (dims, trace),
                "hessian_trace_stderr": (dims, trace_error),
                "hessian_trace_transverse": (dims, trace),
                "hessian_trace_transverse_stderr": (dims, trace_error),
                "hessian_trace_slope": (dims, slope),
                "hessian_trace_slope_stderr": (dims, slope_error),
                "hessian_max_eigenvalue": (dims, modes[..., 0]),
                "hessian_min_eigenvalue": (dims, np.full((2, points), -0.3)),
                "hessian_eigenvalue": ((*dims, "eigenvalue_index"), modes),
                "noise_trace": (dims, noise),
                "noise_trace_stderr": (dims, noise_error),
                "noise_trace_transverse": (dims, noise),
                "noise_trace_transverse_stderr": (dims, noise_error),
                "noise_eigenvalue": ((*dims, "eigenvalue_index"), modes * self.noise_ratio),
                "parameter_norm": (dims, np.full((2, points), 21.0)),
            },
            {"batch_size": 16, "group_size": 16, "normalization_mode": "batch"},
        )

    def mean_force(self) -> xr.Dataset:
        random = np.random.default_rng([self.seed, 1])
        s = np.linspace(0.08, 0.92, 9)
        shape = (len(s), self.replicas, 3)
        true = self.force_factor * self.force(s) + self.control_force
        force = true[:, None, None] + self.force_noise * random.standard_normal(shape)
        dims = ("s", "replica", "time_window")
        return schema.make(
            "mean_force",
            {
                "s": (("s",), s),
                "replica": (("replica",), np.arange(self.replicas)),
                "time_window": (("time_window",), np.array([15.0, 25.0, 35.0])),
                "mean_force": (dims, force),
                "mean_force_stderr": (dims, np.full(shape, self.force_noise)),
                "mean_force_control": (
                    ("s", "control_replica", "time_window"),
                    np.full((len(s), 1, 3), self.control_force),
                ),
                "diverged": (("s", "replica"), np.zeros(shape[:2], dtype=np.int8)),
            },
            {
                "learning_rate": self.learning_rate,
                "momentum": self.momentum,
                "batch_size": 16,
                "group_size": 16,
                "arc_length": self.length,
                "control": "full batch of 1424 samples, gradient flow in time steps of 2.5",
            },
        )

    def relaxation(self) -> xr.Dataset:
        random = np.random.default_rng([self.seed, 2])
        starts, time = np.array([0.15, 0.3, 0.5, 0.7, 0.85]), np.linspace(0, 160, 33)
        drift = np.sign(starts - 0.5)[:, None, None] * np.minimum(starts, 1 - starts)[:, None, None]
        drift = drift * (1 - np.exp(-time / 100))
        walk = np.cumsum(0.002 * random.standard_normal((5, self.replicas, 33)), axis=-1)
        noisy = starts[:, None, None] + drift + walk - walk[..., :1]
        control = np.full_like(noisy, np.nan)
        control[[1, 3], 0] = starts[[1, 3], None]
        diverged = np.zeros((2, 5, self.replicas))
        diverged[1] = np.nan
        diverged[1, [1, 3], 0] = 0
        dims = ("control", "start", "replica", "time")
        return schema.make(
            "relaxation",
            {
                "control": (("control",), np.array([0, 1])),
                "start": (("start",), starts),
                "replica": (("replica",), np.arange(self.replicas)),
                "time": (("time",), time),
                "position": (dims, np.stack([noisy, control])),
                "diverged": (dims[:-1], diverged),
            },
            {"learning_rate": self.learning_rate, "batch_size": 16, "group_size": 16, "arc_length": self.length},
        )

    def path(self) -> xr.Dataset:
        s = np.linspace(0, 1, 13)
        return schema.make(
            "path",
            {
                "s": (("s",), s),
                "arc_length": (("s",), s * self.length),
                "loss_between": (("s",), np.append(np.full(12, 0.0025), np.nan)),
            },
            {"method": "AutoNEB", "converged": 1},
        )

    def tree(self) -> xr.DataTree:
        tree = xr.DataTree.from_dict({name: getattr(self, name)() for name in self.groups})
        tree.attrs = root(
            "nn_experiments",
            "ResNet-8 (8 channels) on digits, cross entropy loss",
            dataclasses.asdict(self),
            normalization_mode="batch",
        )
        schema.validate(tree)
        return tree


@pytest.fixture
def network() -> type[MadeUpNetwork]:
    return MadeUpNetwork


@dataclass(frozen=True)
class MadeUpChannel:
    """A simulated channel, U = height · sin²(πs), k_i = stiffness_i (1 + rise · sin²(πs)), with thermal noise and
    Euler–Maruyama steps, or C = c H and SGD. Its force and density are drawn around the exact ones, `force_factor`
    times the entropic part."""

    stiffness: tuple[float, ...] = (1.0, 3.0)
    rise: float = 4.0
    height: float = 0.02
    length: float = 2.0
    temperature: float = 0.1
    step: float = 0.02
    scale: float | None = None  # c of C = c H; None: thermal noise
    momentum: float = 0.0
    force_factor: float = 1.0
    error: float = 1e-3
    points: int = 201
    seed: int = 0
    groups: tuple[str, ...] = ("profile", "mean_force", "stationary", "relaxation")

    def g(self, s):
        return 1 + self.rise * np.sin(np.pi * np.asarray(s)) ** 2

    def curvature(self, s):
        return self.g(s)[:, None] * np.array(self.stiffness)

    def curvature_slope(self, s):
        g = self.rise * np.pi * np.sin(2 * np.pi * np.asarray(s)) / self.length
        return g[:, None] * np.array(self.stiffness)

    def variance(self, k):
        if self.scale is None:
            return self.temperature / (k * (1 - self.step * k / 2))
        b = self.momentum
        return self.step * self.scale * (1 + b) / ((1 - b) * (2 * (1 + b) - self.step * k))

    def force(self, s):
        energetic = -self.height * np.pi * np.sin(2 * np.pi * np.asarray(s)) / self.length
        spread = self.variance(self.curvature(s))
        return energetic - self.force_factor * 0.5 * (self.curvature_slope(s) * spread).sum(-1)

    def profile(self) -> xr.Dataset:
        s = np.linspace(0, 1, self.points)
        k, dims = self.curvature(s), ("path_kind", "s")
        return schema.make(
            "profile",
            {
                "path_kind": (("path_kind",), np.array(["path"])),
                "s": (("s",), s),
                "eigenvalue_index": (("eigenvalue_index",), np.arange(len(self.stiffness))),
                "loss": (dims, self.height * np.sin(np.pi * s[None]) ** 2),
                "hessian_trace": (dims, k.sum(-1)[None]),
                "hessian_eigenvalue": ((*dims, "eigenvalue_index"), k[None]),
                "log_determinant": (dims, np.log(k).sum(-1)[None]),
            },
            {"arc_length": self.length},
        )

    def mean_force(self) -> xr.Dataset:
        random = np.random.default_rng([self.seed, 1])
        s = np.linspace(0.1, 0.9, 9)
        force = self.force(s)[:, None, None] + self.error * random.standard_normal((9, 4, 2))
        return schema.make(
            "mean_force",
            {
                "s": (("s",), s),
                "replica": (("replica",), np.arange(4)),
                "time_window": (("time_window",), np.array([1.0, 2.0])),
                "mean_force": (("s", "replica", "time_window"), force),
                "mean_force_stderr": (("s",), np.full(9, self.error / np.sqrt(8))),
            },
            {"arc_length": self.length},
        )

    def stationary(self) -> xr.Dataset:
        """p ∝ exp(−U/T) Π k_i^(−1/2) (thermal noise), each bin with 1 % error."""
        random = np.random.default_rng([self.seed, 2])
        bins, fine = 20, 200
        s = (np.arange(bins * fine) + 0.5) / (bins * fine)
        energy = self.height * np.sin(np.pi * s) ** 2 / self.temperature
        density = np.exp(-energy - 0.5 * self.force_factor * np.log(self.curvature(s)).sum(-1))
        density = density.reshape(bins, fine).mean(1)
        density /= density.mean()
        stderr = 0.01 * density
        density = density + stderr * random.standard_normal(bins)
        return schema.make(
            "stationary",
            {
                "s": (("s",), (np.arange(bins) + 0.5) / bins),
                "density": (("s",), density),
                "density_stderr": (("s",), stderr),
                "free_energy": (("s",), -self.temperature * np.log(density)),
                "free_energy_stderr": (("s",), self.temperature * stderr / density),
            },
            {"arc_length": self.length},
        )

    def relaxation(self) -> xr.Dataset:
        random = np.random.default_rng([self.seed, 3])
        starts, time = np.array([0.2, 0.4, 0.6, 0.8]), np.linspace(0, 3, 16)
        drift = np.sign(starts - 0.5)[:, None, None] * 0.1 * (1 - np.exp(-time))
        noisy = starts[:, None, None] + drift + 0.05 * np.sqrt(time) * random.standard_normal((4, 200, 1)) * 0.3
        dims = ("start", "replica", "time")
        return schema.make(
            "relaxation",
            {
                "start": (("start",), starts),
                "replica": (("replica",), np.arange(200)),
                "time": (("time",), time),
                "position": (dims, noisy),
                "diverged": (dims[:-1], np.zeros((4, 200))),
            },
            {"arc_length": self.length},
        )

    def tree(self) -> xr.DataTree:
        tree = xr.DataTree.from_dict({name: getattr(self, name)() for name in self.groups})
        if self.scale is None:
            noise = {"type": "Thermal", "temperature": self.temperature}
            dynamics = {"type": "Overdamped", "step": self.step, "scheme": "euler_maruyama"}
        else:
            noise = {"type": "CurvatureCovariance", "scale": self.scale, "exponent": 1.0, "along_path": 0.1}
            dynamics = {"type": "SGD", "learning_rate": self.step, "momentum": self.momentum}
        config = {"landscape": {"type": "Channel"}, "noise": noise, "dynamics": dynamics}
        tree.attrs = root("entropy_sim", "entropic channel", config)
        schema.validate(tree)
        return tree


@pytest.fixture
def channel() -> type[MadeUpChannel]:
    return MadeUpChannel
