"""`Simulation`: what turns a description into a simulated microscope."""

from __future__ import annotations

from typing import Literal

from opm_engine.config.fields import Flag, Positive, Table, Whole


class Simulation(Table):
    """Turns the description into a simulated microscope.

    Attributes
    ----------
    seed : int
        Places the specimen's structures and the noise.
    noise : bool
        Shot and read noise.
    time_scale : float
        Simulated seconds per second.
    board : str
        Product type of the simulated board.
    """

    seed: Whole = 1
    noise: Flag = True
    time_scale: Positive = 1.0
    board: Literal[
        "USB-6341", "PCIe-6343", "PCIe-6363", "PCIe-6738", "PCI-6733", "USB-6008"
    ] = "PCIe-6363"
