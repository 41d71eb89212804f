from __future__ import annotations

import numpy as np

from entropy_sim.run_files import config_json, from_jsonable, to_jsonable
from nn_experiments.measurements.ladder import Ladder
from nn_experiments.presets import ladder, paper
from nn_experiments.run import NetworkRun


def test_the_ladder_spans_the_approach_to_zero_noise() -> None:
    """At least three learning rates and strengths, two positions on either side of the middle, three decades of the
    noise, every rung stable (η λ_max < 2 at λ_max of about 20)."""
    found = ladder().mean_force
    assert isinstance(found, Ladder)
    assert min(len(found.learning_rates), len(found.strengths)) >= 3
    s = np.array(found.positions)
    assert min(np.sum(s < 0.5), np.sum(s > 0.5)) >= 2
    noise = np.outer(found.learning_rates, np.square(found.strengths))
    assert noise.max() / noise.min() > 100
    assert max(found.learning_rates) * 20 < 1


def test_repetitions_differ_in_every_seed() -> None:
    one, other = ladder(), ladder((2, 3))
    assert set(one.seeds).isdisjoint(other.seeds)
    assert one.path.seed != other.path.seed
    assert one.mean_force.seed != other.mean_force.seed
    assert one.experiment == other.experiment


def test_the_preset_is_a_configuration_that_json_gives_back() -> None:
    found = from_jsonable(NetworkRun, to_jsonable(ladder()))
    assert config_json(found) == config_json(ladder())
    assert found == ladder()


def test_the_papers_barriers_are_between_networks_trained_as_its_pair() -> None:
    """Three or more numbers k of shared iterations after the first, in whole epochs of 50000 images, k = 0 the pair."""
    run = paper()
    assert (run.barrier.training, run.barrier.path) == (run.training, run.path)
    assert run.barrier.mean_force.noise == run.mean_force.noise
    steps = 50000 // run.training.batch_size
    shared = np.array(run.barrier.values)
    assert (shared[0], len(shared)) == (0, 4)
    assert np.all(shared % steps == 0)
    assert shared.max() < run.training.epochs * steps
    assert from_jsonable(NetworkRun, to_jsonable(run)).barrier == run.barrier
