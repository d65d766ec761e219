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
    blanking : bool
        Light only while all rows of the camera expose.
    laser_power : dict
        Laser name to percent, for lasers with a ``power_property``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    mode: Literal["galvo", "stage", "projection", "single", "off"] | None = None
    blanking: bool = True
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
