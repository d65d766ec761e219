"""The simulated board, with its cables, as a process of its own.

Separate so that what the board puts out can be seen from outside, whatever becomes of
the process that drives it. Many may come and go: the board keeps its levels and its
time. Knows neither camera nor engine. ``python -m`` of this module serves one.
"""

from __future__ import annotations

import argparse
import queue
import re
import signal
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from opm_engine.simulation.board import Board
from opm_engine.simulation.cable_service import CableService
from opm_engine.simulation.clock import SimClock
from opm_engine.simulation.grpc_face import BoardServer
from opm_engine.simulation.products import PRODUCTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOSTS = ("127.0.0.1", "localhost")
SWITCH_S = 5e-4
"""So that calls of one client do not wait long for those of another."""


def serve_board(
    address: str,
    *,
    device: str = "Dev1",
    product: str = "PCIe-6363",
    time_scale: float = 1.0,
    on_bound: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve a simulated board until SIGINT or SIGTERM. In the main thread only.

    Parameters
    ----------
    address : str
        ``"127.0.0.1:port"``; port 0 takes a free one.
    device : str
        Name in NI MAX.
    product : str
        Its type.
    time_scale : float
        Simulated seconds per second, while no camera is plugged in.
    on_bound : callable
        Called with the address once it answers there.

    Raises
    ------
    ValueError
        If address or product cannot be; the message names it.
    OSError
        If the port is taken.
    """
    port = _port(address)
    if product not in PRODUCTS:
        msg = f"product: {product!r} is not modelled; one of {', '.join(PRODUCTS)}"
        raise ValueError(msg)
    clock = SimClock(time_scale)
    board = Board(device, product=product, clock=clock)
    sys.setswitchinterval(SWITCH_S)
    with ExitStack() as serving:
        ended = serving.enter_context(_signals(signal.SIGINT, signal.SIGTERM))
        cables = CableService(board, clock)
        serving.callback(cables.close)
        server = BoardServer(board, port, [cables.handler])
        try:
            serving.enter_context(server)
        except RuntimeError as error:
            msg = f"address: port {port} of 127.0.0.1 cannot be had: is it taken?"
            raise OSError(msg) from error
        on_bound(server.address)
        ended.get()


def _port(address: str) -> int:
    match = re.fullmatch(r"(.+):(\d{1,5})", address)
    if not match or int(match[2]) > 65535:
        msg = f'address: must be "host:port", like "127.0.0.1:31763", not {address!r}'
        raise ValueError(msg)
    if match[1] not in HOSTS:
        msg = (
            f"address: a simulated board serves this machine only: 127.0.0.1, "
            f"not {match[1]}"
        )
        raise ValueError(msg)
    return int(match[2])


@contextmanager
def _signals(*numbers: signal.Signals) -> Iterator[queue.SimpleQueue[int]]:
    """Within, these signals go into a queue, whose `put` a handler may call."""
    arrived: queue.SimpleQueue[int] = queue.SimpleQueue()

    def take(number: int, frame: Any) -> None:
        arrived.put(number)

    former = {number: signal.signal(number, take) for number in numbers}
    try:
        yield arrived
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def main(arguments: list[str] | None = None) -> None:
    """Serve a board as the arguments say; writes its address on a line of stdout."""
    parser = argparse.ArgumentParser(description="Serve a simulated board.")
    parser.add_argument("--address", default="127.0.0.1:0")
    parser.add_argument("--device", default="Dev1")
    parser.add_argument("--product", default="PCIe-6363")

    def on_bound(address: str) -> None:
        sys.stdout.write(f"{address}\n")
        sys.stdout.flush()

    serve_board(**vars(parser.parse_args(arguments)), on_bound=on_bound)


if __name__ == "__main__":
    main()
