"""useq's events of one burst, made when they are asked for.

In volumes that are scanned backwards the index z counts planes as they come, so that
whoever stores frames in the order of their arrival is right, while ``z_pos`` is where
the plane truly lies.

Separate because it mirrors ``useq.MDASequence``'s own iteration, which costs seconds
for a long time-lapse; equality with it is tested. Knows no hardware.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import useq
from useq._mda_event import Channel as EventChannel
from useq._mda_event import ReadOnlyDict

from opm_engine.plan.axes import plan_sizes
from opm_engine.plan.parts import AXES

if TYPE_CHECKING:
    from opm_engine.plan.model import ScanPlan
    from opm_engine.plan.parts import Axis, Burst


class BurstEvents(Sequence[useq.MDAEvent]):
    """Lazily indexed events of one burst, one for each lit exposure.

    With several cameras the engine adds ``"cam"`` to the index of each one's frame, as
    the stock engine does.

    Parameters
    ----------
    sequence : useq.MDASequence
        Regular, as ``plan_scan`` accepts it.
    plan : ScanPlan
        Of this sequence.
    burst : Burst
        One of the plan's bursts.
    """

    def __init__(
        self, sequence: useq.MDASequence, plan: ScanPlan, burst: Burst
    ) -> None:
        self._sequence = sequence
        self._plan = plan
        self._burst = burst
        self._z_um = [float(z) for z in sequence.z_plan or ()]
        self._positions = list(sequence.stage_positions)
        sizes = plan_sizes(sequence)
        self._axes = tuple(axis for axis in AXES if sizes[axis])
        self._channels = [
            EventChannel(config=channel.config, group=channel.group)
            for channel in sequence.channels
        ]
        self._blank = useq.MDAEvent.model_construct(sequence=sequence)

    def __len__(self) -> int:
        return self._burst.n_events

    @overload
    def __getitem__(self, item: int) -> useq.MDAEvent: ...
    @overload
    def __getitem__(self, item: slice) -> tuple[useq.MDAEvent, ...]: ...
    def __getitem__(
        self, item: int | slice
    ) -> useq.MDAEvent | tuple[useq.MDAEvent, ...]:
        if isinstance(item, slice):
            return tuple(self[number] for number in range(*item.indices(len(self))))
        number = range(len(self))[item]
        index = self._plan.index_of(self._burst, number)
        channel = self._sequence.channels[index["c"]]
        position = self._positions[index["p"]] if self._positions else None
        fields: dict[str, Any] = {
            "index": ReadOnlyDict({axis: index[axis] for axis in self._axes}),
            "channel": self._channels[index["c"]],
            "exposure": channel.exposure,
            "x_pos": position.x if position else None,
            "y_pos": position.y if position else None,
            "z_pos": self._z_pos_um(
                self._plan.plane_of(index["t"], index["z"]), channel, position
            ),
            "metadata": {},
        }
        if position and position.name:
            fields["pos_name"] = position.name
        if self._sequence.time_plan:
            fields["min_start_time"] = index["t"] * self._plan.interval_s
            fields["reset_event_timer"] = self._resets_timer(number, index)
        # pydantic takes ten times as long to look all defaults up for each event.
        return self._blank.model_copy(update=fields)

    def _z_pos_um(
        self, plane: int, channel: useq.Channel, position: useq.Position | None
    ) -> float | None:
        focus_um = position.z if position else None
        if self._z_um:
            return self._z_um[plane] + channel.z_offset + (focus_um or 0.0)
        return focus_um

    def _resets_timer(self, number: int, index: Mapping[Axis, int]) -> bool:
        """Whether time starts anew: useq does it when t returns to 0."""
        inner = self._plan.axes[self._plan.axes.index("t") :]
        if any(index[axis] for axis in inner):
            return False
        very_first = self._burst.first_event == 0 and number == 0
        return very_first or self._plan.n_times > 1
