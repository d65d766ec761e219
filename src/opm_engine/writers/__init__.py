"""Frames and volumes to disk."""

from opm_engine.writers.ome_zarr_writer import OMEZarrWriter
from opm_engine.writers.pyramid import build_pyramid
from opm_engine.writers.scene import rewrite_as_05, rewrite_as_scene

__all__ = ["OMEZarrWriter", "build_pyramid", "rewrite_as_05", "rewrite_as_scene"]
