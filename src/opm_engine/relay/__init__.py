"""The relay: a tree of handlers, each branch with its own thread, queue and fate.

``branch`` is what a user says of a handler, ``lane`` a branch during one run, made of
``waiting`` (its queue) and ``stats``. ``thread_relay`` is what lanes share; ``budget``
bounds what waits in all of them, ``tree`` finds relays within relays, ``fitting``
compares what comes with what was announced. ``latch``, ``activity`` and ``connection``
are the way back to the runner, ``publisher`` and ``outlet`` the ways out to whoever
looks on. Knows no stage: neither deskew nor writers, neither engine nor devices.
"""

from opm_engine.relay.branch import Branch, latest
from opm_engine.relay.outlet import Item, Outlet
from opm_engine.relay.stats import BranchStats
from opm_engine.relay.thread_relay import ThreadRelay

__all__ = [
    "Branch",
    "BranchStats",
    "Item",
    "Outlet",
    "ThreadRelay",
    "latest",
]
