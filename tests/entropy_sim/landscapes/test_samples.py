"""Samples: generated ones are what they say, given ones are kept as numbers."""

import numpy as np
import pytest

from entropy_sim.dynamics import SGD
from entropy_sim.errors import UserError
from entropy_sim.landscapes import GeneratedSamples, SampleFile, Samples, TwoLayerLinear
from entropy_sim.measurements import MeanForce
from entropy_sim.noise import Minibatch
from entropy_sim.run_files import from_jsonable, to_jsonable


def test_generated_samples_are_what_they_say():
    x, y = GeneratedSamples(size=50, slope=-1.5, residual=0.4, seed=3).numbers()
    r = y + 1.5 * x
    np.testing.assert_allclose([(x * x).mean(), (r * r).mean(), (x * r).mean()], [1.0, 0.16, 0.0], atol=1e-14)
    other = GeneratedSamples(size=50, slope=-1.5, residual=0.4, seed=4).numbers()[0]
    assert abs(np.corrcoef(x, other)[0, 1]) < 0.5


def test_a_file_of_samples_is_kept_as_numbers(tmp_path):
    file = tmp_path / "samples.csv"
    file.write_text("# input, target\n1.0, 2.0\n-0.5, -1.5\n", encoding="utf-8")
    data = SampleFile(str(file))
    assert data.inputs == (1.0, -0.5)
    assert data.targets == (2.0, -1.5)
    measurement = MeanForce(TwoLayerLinear(data), Minibatch(1), SGD(0.05))
    file.unlink()
    assert from_jsonable(MeanForce, to_jsonable(measurement)) == measurement


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Samples((), ()), r"landscape\.data\.inputs: expected at least one"),
        (lambda: Samples((1.0,), ()), r"landscape\.data\.targets: expected one for each of 1 inputs, found 0"),
        (lambda: Samples((1.0,), (np.nan,)), r"landscape\.data\.targets: expected finite numbers"),
        (lambda: SampleFile("no such file"), r"landscape\.data\.file: expected a readable file of numbers"),
        (lambda: GeneratedSamples(size=2), r"landscape\.data\.size: expected at least 3, found 2"),
        (lambda: GeneratedSamples(residual=-1.0), r"landscape\.data\.residual: expected a number >= 0"),
        (lambda: GeneratedSamples(slope=np.inf), r"landscape\.data\.slope: expected a finite number"),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_file_with_other_columns_is_refused(tmp_path):
    (tmp_path / "bad.txt").write_text("1 2 3\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"landscape\.data\.file: expected two columns, input and target, found '3 col"):
        SampleFile(str(tmp_path / "bad.txt"))
