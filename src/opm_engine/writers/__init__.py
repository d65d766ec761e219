"""Frames and volumes to disk, as OME-Zarr.

A run: ``ome_zarr_writer``, the handler, is where to begin. ``announced`` tells it what
will come, ``way``, ``paths`` and ``room`` how and where that may be written. ``keeper``
opens one store after another; each is a ``saving``, in which ``run`` knows what belongs
and ``shards`` takes the pixels. ``shelf`` is the other way in: many processes, one
store.

A store: ``store`` makes it, ``metadata`` is what it says, ``node`` its documents,
``journal`` and ``notes`` what is told beside the pixels, ``lock`` its one writer.
``reading`` and ``planes`` read it back, ``pyramid`` and ``pyramid_thread`` add smaller
levels, ``scene`` lets it speak NGFF 0.6. ``upkeep`` is for stores that may be broken.

Imports go from runs to stores to ``shards``; ``upkeep`` knows stores and ``shards``,
not who wrote them.
"""

from opm_engine.writers.ome_zarr_writer import OMEZarrWriter
from opm_engine.writers.pyramid import build_pyramid
from opm_engine.writers.scene import rewrite_as_05, rewrite_as_scene

__all__ = ["OMEZarrWriter", "build_pyramid", "rewrite_as_05", "rewrite_as_scene"]
