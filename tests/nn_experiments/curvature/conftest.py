from __future__ import annotations

import pytest

from tests.nn_experiments.curvature.cases import Case, mlp_objective, resnet_objective


@pytest.fixture(scope="module")
def mlp() -> Case:
    return Case(mlp_objective())


@pytest.fixture(scope="module")
def resnet() -> Case:
    return Case(resnet_objective())


@pytest.fixture(scope="module", params=["mlp", "resnet"])
def case(request: pytest.FixtureRequest) -> Case:
    return request.getfixturevalue(request.param)
