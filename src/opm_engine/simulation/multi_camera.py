"""`SimulatedMultiCamera`: several cameras as one, like Micro-Manager's Multi Camera.

Separate because it is a device that owns no sensor. Knows cameras, no optics.

What differs from ``DeviceAdapters/Utilities/MultiCamera.cpp``: the cameras expose
together, on the first one's shutter and trigger settings, whatever the others' say; the
tag ``ImageNumber`` counts the images of all cameras together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pymmcore_plus.experimental.unicore import CameraDevice

from opm_engine.simulation.camera import deliver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import DTypeLike, NDArray

    from opm_engine.simulation.camera import SimulatedCamera
    from opm_engine.simulation.imaging import Roi
    from opm_engine.simulation.sensor import Frame


class SimulatedMultiCamera(CameraDevice):
    """Delivers one image of each camera per exposure.

    Parameters
    ----------
    cameras : mapping
        Label → camera, in channel order; the first one makes the images of all.
    """

    def __init__(self, cameras: Mapping[str, SimulatedCamera]) -> None:
        super().__init__()
        self.labels = tuple(cameras)
        self._cameras = tuple(cameras.values())
        self._first = self._cameras[0]
        for number, label in enumerate(self.labels, start=1):
            self.register_property(
                f"Physical Camera {number}",
                default_value=label,
                allowed_values=("Undefined", *self.labels),
                is_read_only=True,
            )

    def get_exposure(self) -> float:
        """Exposure of the first camera in ms."""
        return self._first.get_exposure()

    def set_exposure(self, exposure: float) -> None:
        """Set the exposure of all, in ms."""
        for camera in self._cameras:
            camera.set_exposure(exposure)

    def shape(self) -> tuple[int, int]:
        """Rows and columns of each image."""
        return self._first.shape()

    def dtype(self) -> DTypeLike:
        """Pixel type."""
        return self._first.dtype()

    def get_roi(self) -> Roi:
        """Region of the first camera as (x, y, width, height)."""
        return self._first.get_roi()

    def set_roi(self, x: int, y: int, width: int, height: int) -> None:
        """Read this region of all."""
        for camera in self._cameras:
            camera.set_roi(x, y, width, height)

    def clear_roi(self) -> None:
        """Read all sensors whole."""
        for camera in self._cameras:
            camera.clear_roi()

    def start_sequence(
        self,
        n: int | None,
        get_buffer: Callable[[Sequence[int], DTypeLike], NDArray[Any]],
    ) -> Iterator[Mapping[str, str]]:
        """Expose from now on; ``n`` images are handed over, of all cameras together."""
        exposures = None if n is None else -(-n // len(self._cameras))
        return deliver(self._first.expose(exposures), n, get_buffer, self._channels)

    def snap(self) -> list[NDArray[Any]]:
        """Expose once; one image per camera."""
        images: list[NDArray[Any]] = []

        def get_buffer(shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
            images.append(np.empty(shape, dtype))
            return images[-1]

        run = self._first.expose(1)
        numbers = range(len(self._cameras))
        for _ in deliver(
            run, len(self._cameras), get_buffer, lambda _: [(k, {}) for k in numbers]
        ):
            pass
        return images

    def _channels(self, frame: Frame) -> list[tuple[int, dict[str, str]]]:
        """Sensor and tags of each image; cameras keep no order among themselves."""
        own = self.get_label()
        channels = [
            (
                number,
                {
                    "Camera": label,
                    f"{own}-CameraChannelName": label,
                    f"{own}-CameraChannelIndex": str(number),
                },
            )
            for number, label in enumerate(self.labels)
        ]
        return channels if frame.number % 2 else channels[::-1]
