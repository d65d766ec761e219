"""O3 found again after it was displaced; what happens when it cannot be."""

from __future__ import annotations

import pytest
import useq

from opm_engine.autofocus import AutofocusError
from sequences import scan
from test_engine import assert_dark
from twins import Collect, opened

FOCUS = {
    "stage": "O3",
    "limits_um": [-30.0, 30.0],
    "laser": "488",
    "depth_of_field_um": 1.0,
    "search_um": 10.0,
}


def autofocus(**data) -> useq.MDAEvent:
    return useq.MDAEvent(action=useq.CustomAction(name="o3_autofocus", data=data))


def focused(**changes):
    roi = {"camera__roi": [0, 0, 128, 208]}
    return opened(remote_focus={**FOCUS, **changes}, simulation__noise=True, **roi)


@pytest.mark.parametrize(
    "displaced_um",
    [
        pytest.param(-6.3, marks=pytest.mark.slow),
        pytest.param(0.0, marks=pytest.mark.slow),
        4.2,
    ],
    ids=str,
)
def test_a_displaced_focus_is_found(displaced_um) -> None:
    with focused() as scope:
        scope.core.simulated_o3.focus_um = displaced_um
        collect = Collect()
        events = [autofocus(), *scope.engine.bursts(scan())]
        scope.core.mda.run(events, output=[collect])
        assert abs(scope.core.getPosition("O3") - displaced_um) < 1.0
        assert len(collect.images) == 10
        assert_dark(scope)


@pytest.mark.parametrize(
    ("displaced_um", "limits_um"),
    [
        pytest.param(25.0, [-30.0, 30.0], marks=pytest.mark.slow),
        (6.0, [-4.0, 4.0]),
    ],
    ids=["out-of-reach", "out-of-limits"],
)
def test_a_failed_search_restores_the_start(displaced_um, limits_um) -> None:
    with focused(limits_um=limits_um) as scope:
        scope.core.simulated_o3.focus_um = displaced_um
        scope.core.setPosition("O3", 1.5)
        with pytest.raises(AutofocusError, match="no focus of O3"):
            scope.core.mda.run([autofocus()])
        assert scope.core.getPosition("O3") == 1.5
        assert_dark(scope)
        collect = Collect()
        events = [autofocus(required=False), *scope.engine.bursts(scan())]
        scope.core.mda.run(events, output=[collect])
        assert scope.core.getPosition("O3") == 1.5
        assert len(collect.images) == 10


def test_o3_never_leaves_its_limits() -> None:
    with focused(limits_um=[-2.0, 2.0]) as scope:
        moves = []
        stage = scope.core.simulated_o3
        set_position = stage.set_position_um
        stage.set_position_um = lambda val: (moves.append(val), set_position(val))
        scope.core.mda.run([autofocus(required=False)])
        assert moves
        assert all(-2.0 <= move <= 2.0 for move in moves)


def test_without_the_table_the_action_is_unknown() -> None:
    with opened() as scope, pytest.raises(ValueError, match="o3_autofocus"):
        scope.core.mda.run([autofocus()])
