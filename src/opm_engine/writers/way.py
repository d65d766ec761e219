"""`Way`: how stores are written, checked before anything is.

Separate from what is written, which each run says anew. Knows no run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from opm_engine.buffers import refuse_beyond_memory
from opm_engine.writers import room
from opm_engine.writers.pyramid import levels_share
from opm_engine.writers.shards.sink import Codec
from opm_engine.writers.shards.sinks import BUDGET_BYTES, Backend

if TYPE_CHECKING:
    from opm_engine.writers.announced import Announced

Pyramid = Literal["off", "live", "close"]


@dataclass(frozen=True)
class Way:
    """How stores are written; see `OMEZarrWriter`.

    Raises
    ------
    ValueError
        If there is no such codec, pyramid or backend, or a number of bytes is not
        positive.
    """

    codec: Codec = "lz4"
    shard_bytes: int | None = None
    pyramid: Pyramid = "off"
    backend: Backend = "auto"
    budget_bytes: int = BUDGET_BYTES
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name, known in _KNOWN.items():
            value = getattr(self, name)
            if value not in known:
                msg = f"{name} must be one of {', '.join(known)}, not {value!r}"
                raise ValueError(msg)
        for name in ("shard_bytes", "budget_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                msg = f"{name} must be 1 or more, not {value!r}"
                raise ValueError(msg)

    @property
    def is_compressed(self) -> bool:
        """Whether less than all bytes of the pixels reach the disk."""
        return self.codec != "none"

    def refuse_too_large(self, path: Path, announced: Announced | None) -> None:
        """Check that a store may fit on the disk, and what waits for it in memory.

        Raises
        ------
        MemoryError
            If the budget cannot be had.
        OSError
            If the disk is too small for what is announced.
        """
        refuse_beyond_memory(self.budget_bytes, f"{path} (budget_bytes)")
        if announced is not None:
            levels = 0.0 if self.pyramid == "off" else levels_share(announced.stream)
            least = room.least_bytes(
                announced.stream,
                compressed=self.is_compressed,
                angle_deg=announced.block.get("angle_deg"),
                levels=levels,
            )
            room.refuse_too_small(
                {path: least}, compressed=self.is_compressed, levels=levels > 0
            )


_KNOWN: Mapping[str, tuple[str, ...]] = {
    "codec": get_args(Codec),
    "pyramid": get_args(Pyramid),
    "backend": get_args(Backend),
}
