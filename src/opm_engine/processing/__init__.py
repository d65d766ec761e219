"""Deskew: kernels (arrays in, arrays out), and the handler that runs them.

``taps`` (geometry of the interpolation) -> ``kernels`` (compiled loops) ->
``streaming`` (one volume, plane by plane) -> ``deskew`` (a whole stack) and
``scan``, ``handler``, ``outputs`` (a run).
"""

from opm_engine.processing.deskew import deskew
from opm_engine.processing.handler import Deskew
from opm_engine.processing.projections import (
    MaxProjections,
    Projections,
    max_projections,
)
from opm_engine.processing.streaming import Deskewer

__all__ = [
    "Deskew",
    "Deskewer",
    "MaxProjections",
    "Projections",
    "deskew",
    "max_projections",
]
