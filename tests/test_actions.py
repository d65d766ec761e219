"""The lab's own hardware between bursts, and handlers that steer a run."""

from __future__ import annotations

import queue

import pytest
import useq

from opm_engine import Microscope, PlanError, ThreadRelay
from sequences import scan
from test_engine import assert_dark
from twins import Broken, Collect, opened


def action(name: str = "pump", **data) -> useq.MDAEvent:
    return useq.MDAEvent(action=useq.CustomAction(name=name, data=data))


def test_actions_come_between_bursts_in_the_dark() -> None:
    with opened() as scope:
        board, done = scope.twin.board, []

        def pump(event: useq.MDAEvent) -> None:
            lit = [x.line for x in scope.microscope.lasers if board.line(x.line)]
            done.append((event.action.data["ul"], lit))

        scope.engine.register_action("pump", setup=pump, execute=pump)
        collect = Collect()
        bursts = scope.engine.bursts
        events = [*bursts(scan()), action(ul=5), *bursts(scan()), action(ul=6)]
        scope.core.mda.run(events, output=[collect])
        assert done == [(5, []), (5, []), (6, []), (6, [])]
        assert len(collect.images) == 20
        assert_dark(scope)


def test_images_of_an_action_are_handed_on() -> None:
    with opened() as scope:
        image = scope.snap(["488"])["488"]
        scope.engine.register_action(
            "look", execute=lambda event: [(image, event, {"from": "elsewhere"})]
        )
        collect = Collect()
        scope.core.mda.run([action("look")], output=[collect])
        assert collect.metas[0]["from"] == "elsewhere"


@pytest.mark.parametrize("as_iterator", [False, True], ids=["list", "iterator"])
def test_an_unknown_action_is_refused(as_iterator) -> None:
    with opened() as scope:
        collect = Collect()
        events = [*scope.engine.bursts(scan()), action("no such")]
        with pytest.raises(PlanError, match='no action "no such"; registered: none'):
            scope.core.mda.run(
                iter(events) if as_iterator else events, output=[collect]
            )
        # in a list before the first event, in an iterator when it comes
        assert len(collect.images) == (10 if as_iterator else 0)
        assert_dark(scope)


@pytest.mark.parametrize("where", ["setup", "execute"])
def test_an_action_that_fails_ends_the_run(where) -> None:
    def breaks(event: useq.MDAEvent) -> None:
        raise Broken("empty bottle")

    with opened() as scope:
        scope.engine.register_action("pump", **{where: breaks})
        with pytest.raises(Broken, match="empty bottle"):
            scope.core.mda.run([action(), *scope.engine.bursts(scan())])
        assert_dark(scope)


@pytest.mark.parametrize("steps", [{}, {"setup": 3}], ids=["nothing", "not-callable"])
def test_an_action_needs_something_to_call(steps) -> None:
    with opened() as scope, pytest.raises(TypeError, match="pump"):
        scope.engine.register_action("pump", **steps)


def test_a_handler_moves_the_next_visit_of_a_position() -> None:
    sequence = scan(
        stage_positions=[(0, 0, 0), (50, 10, 5)],
        time_plan={"interval": 0.05, "loops": 3},
    )
    with opened() as scope:
        places = []

        class Follow(Collect):
            def frameReady(self, image, event, meta):
                super().frameReady(image, event, meta)
                if event.index["z"] == 0 and event.index["c"] == 0:
                    core = scope.core
                    xy = tuple(core.getXYPosition())
                    places.append((event.index["p"], *xy, core.getPosition()))
                if event.index == {"t": 0, "p": 1, "c": 1, "z": 4}:
                    scope.engine.shift_position(1, x_um=2, z_um=-0.5)

        scope.core.mda.events.frameReady.connect((follow := Follow()).frameReady)
        scope.core.mda.run(sequence)
        assert places[:2] == [(0, 0, 0, 0), (1, 50, 10, 5)]
        assert places[2:] == [(0, 0, 0, 0), (1, 52, 10, 4.5)] * 2
        assert len(follow.images) == 60
        # it holds for this run only
        places.clear()
        scope.core.mda.run(sequence)
        assert places[1] == (1, 50, 10, 5)


def test_a_handler_queues_bursts() -> None:
    events: queue.Queue[useq.MDAEvent | None] = queue.Queue()
    with opened() as scope:

        class Decide(Collect):
            def frameReady(self, image, event, meta):
                super().frameReady(image, event, meta)
                if len(self.images) == 10:
                    for burst in scope.engine.bursts(
                        scan(z_plan={"range": 1, "step": 0.25})
                    ):
                        events.put(burst)
                if len(self.images) == 20:
                    events.put(None)

        decide = Decide()
        for burst in scope.engine.bursts(scan()):
            events.put(burst)
        with ThreadRelay(decide).connected(scope.core.mda):
            scope.core.mda.run(iter(events.get, None))
        assert len(decide.images) == 20
        assert all(meta["hardware_triggered"] for meta in decide.metas)
        assert_dark(scope)


@pytest.mark.parametrize("what", [True, 3, "done"], ids=repr)
def test_a_status_that_an_action_returns_is_no_image(what) -> None:
    with opened() as scope:
        scope.engine.register_action("pump", execute=lambda event: what)
        collect = Collect()
        events = [action(), *scope.engine.bursts(scan())]
        scope.core.mda.run(events, output=[collect])
        assert len(collect.images) == 10


def test_an_array_that_an_action_returns_is_refused_by_its_name() -> None:
    with opened() as scope:
        image = scope.snap("488")["488"]
        scope.engine.register_action("look", execute=lambda event: image)
        with pytest.raises(TypeError, match='action "look" returned ndarray'):
            scope.core.mda.run([action("look")])


def test_what_would_be_dark_or_is_no_event_is_refused() -> None:
    with opened() as scope:
        plain = useq.MDAEvent(channel="488", exposure=5)
        with pytest.raises(PlanError, match="must be run as bursts"):
            scope.core.mda.run([plain])
        with pytest.raises(PlanError, match="not MDASequence"):
            scope.core.mda.run([scan()])


def test_a_run_within_a_run_is_refused_and_harms_nobody() -> None:
    refused = []

    def snap(*_) -> None:
        with pytest.raises(RuntimeError, match="in progress"):
            scope.snap(["488"])
        with pytest.raises(RuntimeError, match="in progress"):
            scope.core.mda.run(scan())
        refused.append(True)

    with opened() as scope:
        scope.engine.register_action("look", execute=snap)
        collect = Collect()
        events = [action("look"), *scope.engine.bursts(scan())]
        scope.core.mda.events.frameReady.connect(snap)
        scope.core.mda.run(events, output=[collect])
        assert len(refused) == 11
        assert len(collect.images) == 10
        assert collect.finished == 1
        assert_dark(scope)


def test_power_of_one_burst_is_not_the_next_ones() -> None:
    powered = Microscope.demo().model_dump(mode="json", exclude_none=True)
    lasers = [
        {**laser, "power_property": ["Lasers", f"Power-{laser['name']}"]}
        for laser in powered["lasers"]
    ]
    with opened(lasers=lasers) as scope:
        read = []
        scope.core.mda.events.frameReady.connect(
            lambda *_: read.append(scope.core.getProperty("Lasers", "Power-488"))
        )
        dim = scan(metadata={"opm_engine": {"laser_power": {"488": 10}}})
        bursts = scope.engine.bursts
        scope.core.mda.run([*bursts(dim), *bursts(scan())])
        assert [float(power) for power in read] == [10.0] * 10 + [100.0] * 10


@pytest.mark.parametrize(
    ("p", "shift"), [(0, float("nan")), (-1, 1.0), (0, float("inf"))], ids=str
)
def test_a_shift_that_cannot_be(p, shift) -> None:
    with opened() as scope, pytest.raises(ValueError, match=r"position|finite"):
        scope.engine.shift_position(p, y_um=shift)


def test_frames_tell_where_the_stage_was() -> None:
    with opened() as scope:
        collect = Collect()
        scope.core.mda.run(scan(stage_positions=[(5, 6, 7)]), output=[collect])
        assert collect.metas[0]["position"] == {"x": 5.0, "y": 6.0, "z": 7.0}
