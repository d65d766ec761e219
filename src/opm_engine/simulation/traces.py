"""`Trace`: when one pin had which value.

Separate because the twin's camera asks for the past (what was lit while a row
exposed), while tasks only write the present. Knows no pin and no clock.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray


class Trace:
    """Bounded history of one value; changes only, times never decreasing.

    Parameters
    ----------
    value : float
        Held since for ever.
    history_s : float
        Changes older than this are forgotten, except the latest of them.
    """

    def __init__(self, value: float, history_s: float) -> None:
        self.value = value
        self.rises = 0
        self._history_s = history_s
        self._times_s = [-float("inf")]
        self._values = [value]

    def set(self, value: float, time_s: float) -> None:
        """Take ``value`` from ``time_s`` on."""
        if value == self.value:
            return
        self.rises += value > self.value
        self.value = value
        if time_s == self._times_s[-1]:
            self._values[-1] = value
            return
        self._times_s.append(time_s)
        self._values.append(value)
        if not len(self._times_s) % 1024:
            self._forget(time_s - self._history_s)

    def _forget(self, before_s: float) -> None:
        keep = bisect_right(self._times_s, before_s) - 1
        del self._times_s[:keep], self._values[:keep]

    def between(
        self, start_s: float, end_s: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Value holding at ``start_s``, then the changes in (start_s, end_s].

        Returns
        -------
        times_s, values : ndarray, (K,) float64
            ``times_s[0] == start_s``.
        """
        first = bisect_right(self._times_s, start_s)
        last = max(bisect_right(self._times_s, end_s), first)
        held = self._values[max(first - 1, 0)]
        times_s = np.array([start_s, *self._times_s[first:last]], dtype=np.float64)
        values = np.array([held, *self._values[first:last]], dtype=np.float64)
        return times_s, values
