"""`Microscope`: the typed description of one oblique plane microscope.

Separate from everything that acts on it: it names devices, lines, volts and angles,
and refuses what cannot be. Knows no sequence and touches no hardware. Units are in
the names; unknown keys are errors. One module per table of the TOML.
"""

from opm_engine.config.board import Daq, Galvo, ProjectionGalvo, Recorded
from opm_engine.config.camera import Camera, ExposureOut
from opm_engine.config.errors import ConfigError
from opm_engine.config.geometry import Geometry
from opm_engine.config.lasers import Laser, PowerOutput
from opm_engine.config.microscope import Microscope, template
from opm_engine.config.simulation import Simulation
from opm_engine.config.stages import RemoteFocus, ScanProperties, ScanStage

__all__ = [
    "Camera",
    "ConfigError",
    "Daq",
    "ExposureOut",
    "Galvo",
    "Geometry",
    "Laser",
    "Microscope",
    "PowerOutput",
    "ProjectionGalvo",
    "Recorded",
    "RemoteFocus",
    "ScanProperties",
    "ScanStage",
    "Simulation",
    "template",
]
