"""The network runs behind `entropic reproduce --preset NAME`, as configurations."""

from __future__ import annotations

from nn_experiments.datasets import Digits
from nn_experiments.experiment import Experiment
from nn_experiments.measurements.ladder import Ladder
from nn_experiments.networks.resnet import ResNet
from nn_experiments.paths.autoneb import AutoNEB
from nn_experiments.run import NetworkRun
from nn_experiments.train import Training


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
