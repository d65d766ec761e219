"""Deskew: kernels (arrays in, arrays out), and the handler that runs them.

``sampling`` and ``taps`` (geometry of the interpolation), ``kernels`` (compiled loops),
``planes`` and ``window`` (memory) -> ``streaming`` (one volume, plane by plane) ->
``deskew`` (a whole stack) and ``scan``, ``volume``, ``outputs``, ``handler`` (a run).
"""

from opm_engine.processing.correction import Correction
from opm_engine.processing.deskew import deskew
from opm_engine.processing.handler import Deskew
from opm_engine.processing.projections import (
    MaxProjections,
    Projections,
    max_projections,
)
from opm_engine.processing.streaming import Deskewer
from opm_engine.processing.window import Slab

__all__ = [
    "Correction",
    "Deskew",
    "Deskewer",
    "MaxProjections",
    "Projections",
    "Slab",
    "deskew",
    "max_projections",
]
