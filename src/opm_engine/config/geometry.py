"""`Geometry`: how the oblique planes lie in the sample."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from opm_engine.config.fields import NOT_A_FLAG, Flag, Positive, Table


class Geometry(Table):
    """How the oblique planes lie in the sample.

    Attributes
    ----------
    angle_deg : float
        Angle between light sheet and coverslip (Micro-Manager quotes the angle to the
        optical axis: 60 there is 30 here).
    pixel_size_um : float
        Camera pixel in sample space.
    scan_sign : {1, -1}
        1 if a larger scan offset moves the plane along +Y, else -1.
    flip_rows, flip_columns : bool
        Whether camera rows (columns) run against +Z (+X).
    """

    angle_deg: Annotated[float, Field(gt=0, lt=90, strict=True)]
    pixel_size_um: Positive
    scan_sign: Annotated[Literal[1, -1], NOT_A_FLAG] = 1
    flip_rows: Flag = False
    flip_columns: Flag = False
