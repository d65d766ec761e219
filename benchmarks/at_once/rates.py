"""Looking for the highest rate that holds, with few trials.

Separate because it is plain arithmetic: knows nothing of frames or processes.
"""

from __future__ import annotations

from dataclasses import dataclass

STEPS_PER_OCTAVE = 6
"""Rates that are tried lie 12 % apart."""


def rates_hz(lowest: float, highest: float, through: float = 400.0) -> list[float]:
    """Rates from about ``lowest`` to ``highest``, ``through`` among them."""
    ratio = 2 ** (1 / STEPS_PER_OCTAVE)
    found = [through]
    while found[0] / ratio >= lowest * 0.99:
        found.insert(0, found[0] / ratio)
    while found[-1] * ratio <= highest * 1.01:
        found.append(found[-1] * ratio)
    kept = [rate for rate in found if lowest * 0.99 <= rate <= highest * 1.01]
    return [round(rate, 2) for rate in kept] or [lowest]


@dataclass(frozen=True)
class Step:
    """A trial that is due.

    Attributes
    ----------
    rate_hz : float
    is_full : bool
        Whether it is to last as long as a rate must hold, to confirm it; else it is a
        short one, to find the neighbourhood.
    """

    rate_hz: float
    is_full: bool


class Search:
    """Bisection with short trials, then downwards with full ones until one holds.

    Parameters
    ----------
    rates : list of float
        Ascending. A single one is tried in full at once.
    """

    def __init__(self, rates: list[float]) -> None:
        self._rates = rates
        self._low, self._high = -1, len(rates)
        if len(rates) == 1:
            self._low = 0
        self._held = -1

    @property
    def held_hz(self) -> float | None:
        """The highest rate that held in a full trial."""
        return self._rates[self._held] if self._held >= 0 else None

    def step(self) -> Step | None:
        """Return what to try next; None when it is known."""
        if self._high - self._low > 1:
            number = (self._low + self._high) // 2
            return Step(self._rates[number], is_full=False)
        if self._low in (-1, self._held):
            return None
        return Step(self._rates[self._low], is_full=True)

    def tell(self, step: Step, *, held: bool) -> None:
        """Say how a step went."""
        number = self._rates.index(step.rate_hz)
        if step.is_full and held:
            self._held = self._low = number
        elif step.is_full:
            self._low, self._high = number - 1, number
        elif held:
            self._low = number
        else:
            self._high = number
