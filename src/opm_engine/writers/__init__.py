"""Frames and volumes to disk."""

from opm_engine.writers.ome_zarr_writer import OMEZarrWriter

__all__ = ["OMEZarrWriter"]
