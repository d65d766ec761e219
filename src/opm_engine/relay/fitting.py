"""Whether what comes is what was announced, and what a handler takes.

Separate because it is pure: a `Stream` on one side, data or a handler's ``takes`` on
the other. Knows no branch and no stage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from opm_engine.plan import Stream, block_of

RANKS = {"planes": 2, "volumes": 3}


def announced(carrier: Any) -> Stream | None:
    """Return what a run's summary, or a frame's metadata, say will come.

    Raises
    ------
    ValueError
        If it is no description of a stream, or one without extent or units.
    """
    if not isinstance(carrier, Mapping) or (block := block_of(carrier)) is None:
        return None
    if (described := block.get("stream")) is None:
        return None
    stream = Stream.model_validate(described)
    if len(stream.shape) != RANKS[stream.kind] or min(stream.shape) < 1:
        msg = f"{stream.kind} cannot have the shape {stream.shape}"
        raise ValueError(msg)
    if not all(math.isfinite(um) and um > 0 for um in stream.scale_um):
        msg = f"scale_um must be three lengths in µm, not {stream.scale_um}"
        raise ValueError(msg)
    try:
        np.dtype(stream.dtype)
    except TypeError as error:
        msg = f"there is no dtype {stream.dtype!r}"
        raise ValueError(msg) from error
    return stream


def is_offered_in_parts(stream: Stream | None) -> bool:
    """Whether slabs and projections come, so that volumes are for others only."""
    return stream is not None and stream.slab_rows is not None


def misfit(stream: Stream | None, data: Any, first_row: int | None = None) -> str:
    """Return what is wrong with a frame, or with a slab that begins at a row.

    Parameters
    ----------
    stream : Stream, optional
        What was announced; without it everything fits.
    data : ndarray
    first_row : int, optional
        Of a slab.

    Returns
    -------
    str
        Empty if it fits.
    """
    if stream is None or not isinstance(data, np.ndarray):
        return ""
    shape = stream.shape
    if first_row is not None:
        rows = stream.slab_rows or shape[1]
        if first_row % rows or not 0 <= first_row < shape[1]:
            return f"a slab begins at row {first_row}, not at a multiple of {rows}"
        shape = shape[0], min(rows, shape[1] - first_row), shape[2]
    if data.shape == shape and data.dtype == stream.dtype:
        return ""
    return (
        f"{stream.dtype} {shape} was announced, "
        f"but {data.dtype} {tuple(data.shape)} came"
    )


def refuse_unknown(handler: object) -> None:
    """Check that a handler's ``takes`` speaks of a stream.

    Raises
    ------
    ValueError
        Names the field that streams do not have.
    """
    unknown = set(_takes(handler)) - set(Stream.model_fields)
    if unknown:
        msg = (
            f"takes of {handler!r} must name fields of a stream, "
            f"not {', '.join(sorted(unknown))}"
        )
        raise ValueError(msg)


def refuse_untaken(handler: object, stream: Stream) -> None:
    """Check that a handler takes a stream.

    Raises
    ------
    ValueError
        Names the field.
    """
    for name, allowed in _takes(handler).items():
        choices = allowed if isinstance(allowed, tuple | list | set) else (allowed,)
        value = getattr(stream, name)
        if value not in choices:
            works = " or ".join(map(str, choices))
            msg = (
                f"{type(handler).__name__} takes a stream whose {name} is {works}, "
                f"but {value} was announced"
            )
            raise ValueError(msg)


def _takes(handler: object) -> Mapping[str, Any]:
    takes = getattr(handler, "takes", None)
    return takes if isinstance(takes, Mapping) else {}
