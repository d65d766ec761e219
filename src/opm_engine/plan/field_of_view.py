"""Field of view of one scan, which spaces the tiles of a grid.

Separate because useq wants it inside the sequence, where the stock engine puts the
camera's own field. Along the scan a deskewed volume is longer than that: as long as
the scan and the tilted rows together.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import useq

    from opm_engine.config import Microscope


def with_field_of_view(
    sequence: useq.MDASequence, microscope: Microscope
) -> useq.MDASequence:
    """Return a copy of a sequence whose grids know the field of view."""
    copy = sequence.model_copy(deep=True)
    set_field_of_view(copy, microscope)
    return copy


def set_field_of_view(sequence: useq.MDASequence, microscope: Microscope) -> None:
    """Set width and height of all grids of a sequence, as the stock engine does.

    The width is along the stage's x, the height along its y.
    """
    _set(sequence.grid_plan, sequence.z_plan, microscope)
    for position in sequence.stage_positions:
        if position.sequence is not None:
            z_plan = position.sequence.z_plan or sequence.z_plan
            _set(position.sequence.grid_plan, z_plan, microscope)


def _set(grid: object, z_plan: object, microscope: Microscope) -> None:
    if grid is None:
        return
    width_um, height_um = field_of_view_um(z_plan, microscope)
    grid.fov_width, grid.fov_height = width_um, height_um  # type: ignore[attr-defined]


def field_of_view_um(z_plan: object, microscope: Microscope) -> tuple[float, float]:
    """Extent (x, y) in µm of what one scan sees, along the axes of the stage.

    The scan runs along y, unless the scanning stage's axis is x.
    """
    geometry, (_, _, n_columns, n_rows) = microscope.geometry, microscope.camera.roi
    offsets_um = [float(z) for z in z_plan or ()]  # type: ignore[attr-defined]
    scan_um = max(offsets_um) - min(offsets_um) if offsets_um else 0.0
    rows_um = n_rows * geometry.pixel_size_um
    tilt = math.cos(math.radians(geometry.angle_deg))
    across_um = n_columns * geometry.pixel_size_um
    along_um = scan_um + rows_um * tilt
    stage = microscope.scan_stage
    along_x = stage is not None and stage.axis == "x"
    return (along_um, across_um) if along_x else (across_um, along_um)
