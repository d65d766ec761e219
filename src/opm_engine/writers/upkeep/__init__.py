"""Stores whose writer is gone, and that may be torn: looked at, told of, mended.

``inventory`` is what to read first: what a store holds. ``info`` tells it to people and
programs; ``repair`` mends what a crash left, with ``repair_documents`` and
``repair_journal``. All of them begin with ``files``, what lies in the folders,
``documents``, what the store says, and ``journals``, what is told of its frames;
nothing of that is trusted.

Imports go from ``repair`` and ``info`` to ``inventory`` to ``documents``, ``files`` and
``journals``, and out of this room to stores and ``shards``; never to the handler that
writes.
"""
