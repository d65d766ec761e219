"""`Announced`: what a run will bring, as its start or its first frame tells.

Separate from the handler, which follows runs, because engines tell in different ways:
ours puts a block into summary or frames, others leave a sequence and the size of a
picture, and of loose events nothing is known before they come. Knows no files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from opm_engine.plan import BLOCK, Stream, block_of, is_loose, stream_of

if TYPE_CHECKING:
    import useq


@dataclass(frozen=True)
class Announced:
    """What will come.

    Attributes
    ----------
    stream : Stream
    block : Mapping
        Our metadata block, plain JSON; empty under an engine that is not ours.
    sequence : useq.MDASequence or None
        Whose stream it is; None if that is not known.
    is_loose : bool
        Whether the run is made from loose events, so that nobody knows how many.
    """

    stream: Stream
    block: Mapping[str, Any]
    sequence: useq.MDASequence | None
    is_loose: bool

    @classmethod
    def by_start(
        cls, sequence: useq.MDASequence, summary: Mapping[str, Any]
    ) -> Self | None:
        """Return what a run's start tells; None if its first frame tells more.

        Raises
        ------
        ValueError
            If the sequence has a grid, or the summary no ``image_infos``.
        """
        loose = is_loose(sequence)
        if block := block_of(summary):
            stream = Stream.model_validate(block["stream"])
            return cls(stream, block, None if loose else sequence, loose)
        return None if loose else cls(planes_of(sequence, summary), {}, sequence, loose)

    @classmethod
    def by_frame(
        cls,
        event: useq.MDAEvent,
        meta: Mapping[str, Any],
        summary: Mapping[str, Any],
        *,
        is_loose: bool,
    ) -> Self:
        """Return what a frame tells of those that come with it.

        Raises
        ------
        ValueError
            If it tells nothing, or its sequence has a grid.
        """
        if block := block_of(meta):
            stream = Stream.model_validate(block["stream"])
            return cls(stream, block, event.sequence, is_loose)
        if event.sequence is None:
            msg = "a frame came, but nothing said what frames will come"
            raise ValueError(msg)
        return cls(planes_of(event.sequence, summary), {}, event.sequence, is_loose)

    @property
    def is_open_ended(self) -> bool:
        """Whether time points beyond those of the stream are taken too."""
        return self.stream.unbounded or self.is_loose

    def whole_block(self) -> dict[str, Any]:
        """Return the block, with a sequence in it that makes an equal one."""
        if self.sequence is None:
            return dict(self.block)
        text = self.sequence.model_dump_json(exclude_defaults=True, fallback=str)
        return {"sequence": json.loads(text), **self.block}


def planes_of(sequence: useq.MDASequence, summary: Mapping[str, Any]) -> Stream:
    """Describe the planes of a run under an engine that is not ours.

    Parameters
    ----------
    sequence : useq.MDASequence
        Axes that it lacks have size 1.
    summary : Mapping
        Summary metadata of pymmcore-plus, of which ``image_infos[0]`` is read.

    Raises
    ------
    ValueError
        If the sequence has a grid, or the summary no ``image_infos``.
    """
    if not summary.get("image_infos"):
        msg = f"neither extra[{BLOCK!r}] nor image_infos say what frames will come"
        raise ValueError(msg)
    image = summary["image_infos"][0]
    pixel_um = image.get("pixel_size_um") or 1.0
    return stream_of(
        sequence,
        (image["height"], image["width"]),
        image["dtype"],
        (_step_um(sequence) or 1.0, pixel_um, pixel_um),
    )


def _step_um(sequence: useq.MDASequence) -> float:
    offsets = list(sequence.z_plan or ())
    return math.fabs(offsets[1] - offsets[0]) if len(offsets) > 1 else 0.0
