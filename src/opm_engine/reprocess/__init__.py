"""Stored planes to volumes, later: with other options, or where none were made live.

``run`` (the whole of it) -> ``source`` (which planes are there), ``target`` (the store
to fill, and going on where it was left), ``memory`` (what each process may take),
``work`` (one shard, in a process of its own).
"""

from opm_engine.reprocess.run import Reprocessed, reprocess

__all__ = ["Reprocessed", "reprocess"]
