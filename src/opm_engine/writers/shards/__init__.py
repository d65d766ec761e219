"""Pixels into shards: files of chunks, in the layout of zarr v3.

``sink`` is the door, and what to read first: what may be asked of any way to the disk.
``sinks`` picks one of the two that there are: ``appender``, with ``batch`` and
``open_shards``, and ``whole_shards``. Both cut with ``pieces``, by ``layout``.
``encoding`` knows the codecs, ``file`` one shard that grows, ``index`` its last bytes.

Imports go from ``sinks`` over the two ways down to ``file`` and ``index``. Whoever
writes, reads or mends stores imports this room; it knows neither events nor metadata,
and of the rest of ``writers`` only ``node``.
"""
