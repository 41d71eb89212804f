"""The network runs behind `entropic reproduce --preset NAME`, as configurations."""

from __future__ import annotations

from dataclasses import replace

from nn_experiments.datasets import CIFAR10, Digits
from nn_experiments.experiment import Experiment
from nn_experiments.measurements.barrier import Barrier
from nn_experiments.measurements.ladder import Ladder
from nn_experiments.measurements.mean_force import MeanForce
from nn_experiments.measurements.profile import Profile
from nn_experiments.measurements.relaxation import Relaxation
from nn_experiments.networks.resnet import ResNet
from nn_experiments.noise import Minibatch
from nn_experiments.paths.autoneb import AutoNEB
from nn_experiments.run import NetworkRun
from nn_experiments.train import Training


def quick() -> NetworkRun:
    """Two ResNet-8 on scikit-learn's digits under minibatch noise: minutes on two cores."""
    return NetworkRun()


def paper() -> NetworkRun:
    """Two ResNet-20 on CIFAR-10 (downloaded if it is not there), as in the paper: for a GPU.

    Trained without augmentation, so that what is trained, joined and measured is one function. Measured under the noise
    of batches of 64 at η = 0.1: twice the η/B that the training begins with, without its momentum.

    What the paper also has are further commands on its run: both barriers against 0, 1, 5 and 15 shared epochs (stage
    barrier), other seeds, another network.
    """
    noise = Minibatch(batch_size=64)
    training = Training(
        epochs=60,
        batch_size=128,
        learning_rate=0.1,
        weight_decay=5e-4,
        precision="bfloat16",
        channels_last=True,
    )
    path = AutoNEB(cycles=((0.05, 400), (0.05, 400), (0.02, 300), (0.01, 200)), batch_size=512)
    force = MeanForce(learning_rate=0.1, noise=noise, burn_in=5.0, duration=20.0, control_step=5.0)
    return NetworkRun(
        experiment=Experiment(data=CIFAR10(download=True), network=ResNet(depth=20, width=16)),
        training=training,
        path=path,
        profile=Profile(
            eigenvalue_samples=2048, noise=noise, alignment=True, fisher=True, normalized=True, weight_decay=5e-4
        ),
        mean_force=force,
        relaxation=Relaxation(learning_rate=0.1, noise=noise, duration=60.0, projection="plane", loss_samples=2048),
        barrier=Barrier(
            values=(0.0, 390.0, 1950.0, 5850.0),
            training=training,
            path=path,
            mean_force=replace(force, positions=tuple(i / 8 for i in range(9))),
        ),
    )


def ladder(seeds: tuple[int, int] = (0, 1)) -> NetworkRun:
    """Digits under controlled label noise: the precise test of theory (stages train, path, mean-force).

    179 images, so that all outputs fit their targets exactly and linear response needs no probes; the rest are for the
    test. GELU, since ReLU's Hessian jumps and has no slope at small steps; GroupNorm, under which a full batch is the
    same function as its minibatches. η σ²/N from 6e-7 to 1.4e-4 in 12 rungs. `seeds`: of the two minima and the path,
    for repetitions.
    """
    return NetworkRun(
        experiment=Experiment(
            data=Digits(test_fraction=0.9),
            network=ResNet(normalization="group", activation="gelu"),
            loss="squared",
        ),
        seeds=seeds,
        training=Training(epochs=600, batch_size=64, learning_rate=0.05, weight_decay=1e-4),
        path=AutoNEB(
            cycles=((0.02, 100), (0.02, 100), (0.02, 100), (0.01, 100), (0.005, 60)), batch_size=128, seed=seeds[0]
        ),
        mean_force=Ladder(
            positions=(0.2, 0.35, 0.65, 0.8),
            replicas=6,
            learning_rates=(0.01, 0.02, 0.04),
            strengths=(0.1, 0.2, 0.4, 0.8),
            seed=seeds[0],
        ),
    )
