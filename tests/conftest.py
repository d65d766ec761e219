from __future__ import annotations

from pathlib import Path

import pytest

from opm_engine.config import Microscope
from scopes import bare

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def demo() -> Microscope:
    return bare()
