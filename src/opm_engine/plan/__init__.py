"""From a sequence and a microscope to a frozen plan that everything downstream reads.

``settings`` (what a user may choose) -> ``resolve`` (the one pure step) -> ``model``
(the plan and its bursts). ``stream`` says what a handler receives, ``events`` gives
useq's events of a burst without iterating the whole sequence.
"""

from opm_engine.plan.describe import describe
from opm_engine.plan.events import BurstEvents
from opm_engine.plan.foreign import block_of, is_loose, positions_of, stream_of
from opm_engine.plan.model import Burst, CameraTiming, PlannedChannel, ScanPlan
from opm_engine.plan.notes import Flag, Inputs
from opm_engine.plan.resolve import plan_scan
from opm_engine.plan.settings import BLOCK, PlanError, ScanSettings
from opm_engine.plan.stream import ChannelInfo, Place, PositionInfo, Stream

__all__ = [
    "BLOCK",
    "Burst",
    "BurstEvents",
    "CameraTiming",
    "ChannelInfo",
    "Flag",
    "Inputs",
    "Place",
    "PlanError",
    "PlannedChannel",
    "PositionInfo",
    "ScanPlan",
    "ScanSettings",
    "Stream",
    "block_of",
    "describe",
    "is_loose",
    "plan_scan",
    "positions_of",
    "stream_of",
]
