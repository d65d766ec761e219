"""Commands on stored data: no instrument is opened.

Separate from those that need one. Each loads what it needs when it is called.
"""

from __future__ import annotations

from typing import Any

from opm_engine.cli import talk


def repair(store: talk.Store, as_json: talk.AsJson = False) -> None:
    """Finish what a crash or a full disk cut off, and say what is missing."""
    from opm_engine.writers.repair import repair as mend

    report = mend(store).as_json()
    talk.show(report, as_json=as_json, title=f"opm-engine repair {store}")


def info(store: talk.Store, as_json: talk.AsJson = False) -> None:
    """Tell what a dataset holds and whether it is whole."""
    from opm_engine.writers.info import describe_store

    report = describe_store(store)
    if not as_json:
        report = _for_people(report)
    talk.show(report, as_json=as_json, title=f"opm-engine info {store}")


def _for_people(report: dict[str, Any]) -> dict[str, Any]:
    """Put small tables into one line each, and leave out what is empty."""
    lines = {}
    for name, value in report.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {inner}" for key, inner in value.items())
        elif isinstance(value, list):
            value = "; ".join(str(inner) for inner in value)
        if value not in ("", None):
            lines[name] = value
    return lines
