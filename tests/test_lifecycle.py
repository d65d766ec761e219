"""A device between idle and open, and what it says about it."""

from __future__ import annotations

import threading
import time

import pytest

from opm_engine import session
from opm_engine.lifecycle import Device, DeviceStatus, wiring
from sequences import scan
from twins import Collect, microscope


@pytest.fixture
def device():
    device = Device()
    yield device
    device.close()


@pytest.fixture
def said(device):
    said = []
    device.status_changed.connect(said.append)
    return said


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_idle_until_opened(device, said) -> None:
    assert device.scope is None
    assert not device.status.success
    scope = device.open(microscope())
    assert said == [DeviceStatus(success=True)]
    collect = Collect()
    scope.core.mda.run(scan(), output=[collect])
    assert len(collect.images) == 10
    device.close()
    device.close()
    assert said[1:] == [DeviceStatus(success=False, error="closed")]


def test_a_failure_is_published_and_leaves_nothing(device, said) -> None:
    before = threads()
    with pytest.raises(ConnectionError, match="no simulated board"):
        device.open(microscope(daq__address="127.0.0.1:1"))
    assert device.scope is None
    assert [status.success for status in said] == [False]
    assert "no simulated board" in said[0].error
    end_s = time.monotonic() + 5
    while threads() - before and time.monotonic() < end_s:
        time.sleep(0.01)  # gRPC's own go a moment after their channel
    assert threads() <= before


def test_a_late_opening_is_given_up_and_closed(device, said, monkeypatch) -> None:
    opened = []
    init = session.Scope.__init__

    def slow(scope, *args, **kwargs) -> None:
        time.sleep(0.5)
        init(scope, *args, **kwargs)
        opened.append(scope)

    monkeypatch.setattr(session.Scope, "__init__", slow)
    with pytest.raises(TimeoutError, match=r"within 0.1 s"):
        device.open(microscope(), deadline_s=0.1)
    assert device.scope is None
    assert not said[0].success
    while not opened or opened[0].core.getLoadedDevices() != ("Core",):
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"camera__roi": [0, 0, 16, 100]}, "in place"),
        ({"camera__offset_counts": 90.0}, "in place"),
        ({"geometry__angle_deg": 45}, "in place"),
        ({"daq__galvo__park_v": 1.0}, "reopened"),
        ({"camera__line_time_us": 5.0}, "reopened"),
    ],
    ids=lambda value: str(value),
)
def test_a_change_reopens_only_if_it_must(device, said, change, expected) -> None:
    first = device.open(microscope())
    changed = microscope(**change)
    assert device.apply(changed) == expected
    assert (device.scope is first) is (expected == "in place")
    assert device.scope.microscope == changed == device.scope.engine.microscope
    assert said == [DeviceStatus(success=True)] * 2
    roi = tuple(changed.camera.roi)
    assert tuple(device.scope.core.getROI()) == roi
    if expected == "reopened":
        assert first.core.getLoadedDevices() == ("Core",)


def test_the_old_one_closes_before_the_new_one_opens(device, monkeypatch) -> None:
    order = []
    close, init = session.Scope.close, session.Scope.__init__

    def closing(scope) -> None:
        close(scope)
        order.append("closed")

    def opening(scope, *args, **kwargs) -> None:
        order.append("opening")
        init(scope, *args, **kwargs)

    monkeypatch.setattr(session.Scope, "close", closing)
    monkeypatch.setattr(session.Scope, "__init__", opening)
    device.open(microscope())
    device.apply(microscope(daq__galvo__park_v=1.0))
    assert order == ["opening", "closed", "opening"]


def test_nothing_changes_during_a_run(device) -> None:
    scope = device.open(microscope())
    refused = []

    def change(*_) -> None:
        if not refused:
            with pytest.raises(RuntimeError, match="in progress") as caught:
                thread_errors(lambda: device.apply(microscope()))
            refused.append(caught)

    scope.core.mda.events.frameReady.connect(change)
    scope.core.mda.run(scan())
    assert refused


def thread_errors(call) -> None:
    """Call in another thread; raise here what it raises there."""
    errors = []

    def work() -> None:
        try:
            call()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def test_apply_needs_an_open_one(device) -> None:
    with pytest.raises(RuntimeError, match="no microscope is open"):
        device.apply(microscope())


def test_wiring_names_fields_that_exist(demo) -> None:
    assert wiring(demo)["lasers"][0]["line"] == "port0/line0"
