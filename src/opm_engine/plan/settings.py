"""`ScanSettings`: what a user may choose in ``sequence.metadata["opm_engine"]``.

Separate from the plan because these are wishes; the plan is what they lead to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

if TYPE_CHECKING:
    import useq

BLOCK = "opm_engine"
"""Key of our metadata: in a sequence's metadata, in ``summary["extra"]``, in the
``extra`` of frame metadata and in the attributes of every image group."""


class PlanError(ValueError):
    """A sequence that this microscope cannot play; the message says what would work."""


class ScanSettings(BaseModel):
    """Choices of one scan; all optional.

    Attributes
    ----------
    mode : {"galvo", "stage", "projection", "single", "off"}, optional
        How planes are reached. Without it: ``galvo`` if there is a z plan, else
        ``single``. ``off`` hands the sequence to the stock engine.
    motion : {"stepped", "ramp"}
        Whether the galvo rests while a plane is exposed or moves at constant speed.
    bidirectional : bool
        Volumes of odd t are scanned backwards, so that gapless ones need no flyback;
        their raw planes are stored in the order in which they came.
    offset_um : float
        Scan offset of the plane of mode ``single``, of the centre of mode
        ``projection``, and at which the galvo rests in mode ``stage``.
    range_um : float, optional
        Scan range that one frame of mode ``projection`` covers.
    blanking : bool
        Light only while all rows of the camera expose.
    pulse_ms : dict
        Laser name to length of its pulse within the window in which all rows expose;
        so interleaved channels share one exposure and differ in dose.
    laser_power : dict
        Laser name to percent, for lasers with a ``power_property`` or
        ``power_output``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    mode: Literal["galvo", "stage", "projection", "single", "off"] | None = None
    motion: Literal["stepped", "ramp"] = "stepped"
    bidirectional: bool = False
    offset_um: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    range_um: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    blanking: bool = True
    pulse_ms: dict[str, Annotated[float, Field(gt=0)]] = {}
    laser_power: dict[str, Annotated[float, Field(ge=0, le=100)]] = {}

    @classmethod
    def of(cls, sequence: useq.MDASequence) -> ScanSettings:
        """Read the settings of a sequence.

        Raises
        ------
        PlanError
            If a key is unknown or a value impossible; names it.
        """
        wishes = sequence.metadata.get(BLOCK, {})
        try:
            settings = cls.model_validate(wishes)
        except ValidationError as error:
            raise PlanError(_explain(error)) from error
        if settings.mode is None:
            mode: Literal["galvo", "single"] = "galvo" if sequence.z_plan else "single"
            settings = settings.model_copy(update={"mode": mode})
        return settings


def _explain(error: ValidationError) -> str:
    known = ", ".join(ScanSettings.model_fields)
    lines = []
    for detail in error.errors():
        where = ".".join([f'metadata["{BLOCK}"]', *map(str, detail["loc"])])
        unknown = detail["type"] == "extra_forbidden"
        lines.append(
            f"{where}: " + (f"unknown; one of {known}" if unknown else detail["msg"])
        )
    return "; ".join(lines)
