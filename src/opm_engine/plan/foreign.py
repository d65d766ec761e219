"""What metadata and a sequence say by themselves, for runs of whatever engine.

Separate from the plan, which only our engine makes: handlers also serve others, and
runs made from loose events, of which nothing is known at the start. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opm_engine.plan.settings import BLOCK
from opm_engine.plan.stream import ChannelInfo, PositionInfo, Stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    import useq


def block_of(carrier: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return our block out of a run's summary or a frame's metadata, if it is there."""
    block: dict[str, Any] | None = (carrier.get("extra") or {}).get(BLOCK)
    return block


def is_loose(sequence: useq.MDASequence) -> bool:
    """Whether a run is made from loose events: then its sequence has no axes."""
    # The runner's placeholder for loose events warns when asked for its sizes.
    plans = sequence.time_plan, sequence.stage_positions, sequence.z_plan
    return not any((*plans, sequence.channels, sequence.grid_plan))


def positions_of(sequence: useq.MDASequence) -> tuple[PositionInfo, ...]:
    """Return the stage positions; one without coordinates if there are none."""
    positions = tuple(
        PositionInfo(
            name=position.name or str(number),
            x_um=position.x,
            y_um=position.y,
            z_um=position.z,
            p=number,
        )
        for number, position in enumerate(sequence.stage_positions)
    )
    return positions or (PositionInfo(name="0"),)


def stream_of(
    sequence: useq.MDASequence,
    shape: tuple[int, int],
    dtype: str,
    scale_um: tuple[float, float, float],
) -> Stream:
    """Describe the planes of a sequence that another engine plays.

    Parameters
    ----------
    sequence : useq.MDASequence
        Axes that it lacks have size 1.
    shape : (rows, columns)
    dtype : str
    scale_um : (z, y, x)

    Raises
    ------
    ValueError
        If nothing is known of the run, or it has a grid.
    """
    if is_loose(sequence) or sequence.sizes.get("g", 0) > 1:
        msg = (
            "only a run made from a sequence without grid_plan says which channels, "
            "positions and times will come; make a grid's points stage_positions"
        )
        raise ValueError(msg)
    sizes = sequence.sizes
    interval = getattr(sequence.time_plan, "interval", None)
    channels = tuple(
        ChannelInfo(name=channel.config, exposure_ms=channel.exposure)
        for channel in sequence.channels
    )
    return Stream(
        kind="planes",
        shape=shape,
        dtype=dtype,
        scale_um=scale_um,
        n_planes=sizes.get("z") or 1,
        n_times=sizes.get("t") or 1,
        interval_s=interval.total_seconds() if interval else 0.0,
        channels=channels or (ChannelInfo(name="0"),),
        positions=positions_of(sequence),
    )
