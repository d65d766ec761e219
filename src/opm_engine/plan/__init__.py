"""From a sequence and a microscope to a frozen plan that everything downstream reads.

``settings`` (what a user may choose) -> ``resolve`` (the one pure step) -> ``model``
(the plan and its bursts, made of ``parts``). ``paths`` gives the galvos' volts of a
burst. ``stream`` says what a handler receives, ``events`` gives useq's events of a
burst without iterating the whole sequence.
"""

from opm_engine.plan.cutting import Part, iterate, keeps_open, z_offset_um
from opm_engine.plan.describe import describe
from opm_engine.plan.events import BurstEvents
from opm_engine.plan.field_of_view import set_field_of_view, with_field_of_view
from opm_engine.plan.foreign import block_of, is_loose, positions_of, stream_of
from opm_engine.plan.forms import wants_of
from opm_engine.plan.irregular import is_irregular
from opm_engine.plan.model import ScanPlan
from opm_engine.plan.notes import Flag, Inputs
from opm_engine.plan.parts import Burst, CameraTiming, PlannedChannel, StageScan
from opm_engine.plan.paths import galvo_paths, period_runs
from opm_engine.plan.resolve import plan_regular, plan_scan
from opm_engine.plan.settings import BLOCK, PlanError, ScanSettings
from opm_engine.plan.stage import refuse_travel
from opm_engine.plan.stream import ChannelInfo, Place, PositionInfo, Stream

__all__ = [
    "BLOCK",
    "Burst",
    "BurstEvents",
    "CameraTiming",
    "ChannelInfo",
    "Flag",
    "Inputs",
    "Part",
    "Place",
    "PlanError",
    "PlannedChannel",
    "PositionInfo",
    "ScanPlan",
    "ScanSettings",
    "StageScan",
    "Stream",
    "block_of",
    "describe",
    "galvo_paths",
    "is_irregular",
    "is_loose",
    "iterate",
    "keeps_open",
    "period_runs",
    "plan_regular",
    "plan_scan",
    "positions_of",
    "refuse_travel",
    "set_field_of_view",
    "stream_of",
    "wants_of",
    "with_field_of_view",
    "z_offset_um",
]
