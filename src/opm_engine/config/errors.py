"""Says what is wrong with a microscope description, one phrase per TOML field.

Separate from `config.py` because it is about words: it turns pydantic's findings into
the names and units that the author of the file wrote. Knows no rule of its own.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_UNITS = {
    "_v_per_ms": "V/ms",
    "volts_per_um": "V/µm",
    "_e_per_count": "electrons per count",
    "_counts": "counts",
    "_deg": "degrees",
    "_um": "µm",
    "_us": "µs",
    "_ms": "ms",
    "_v": "V",
}
_NUMBERS = {"float_type": "a number", "int_type": "a whole number"}
_COMPLETE = ("missing", "extra_forbidden", "value_error")


class ConfigError(ValueError):
    """A microscope description that cannot be; each phrase names a field."""


class FieldError(ValueError):
    """What a rule about several fields says of one of them.

    Parameters
    ----------
    field : str
        Path below the table that has the rule, like ``"park_v"``.
    message : str
    """

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)


def explain(error: ValidationError, model: type[BaseModel], table: Any) -> str:
    """Return one phrase per field, like ``daq.galvo.park_v: 6 V lies outside …``.

    Parameters
    ----------
    error : ValidationError
        What `model` said of `table`.
    model : type of BaseModel
    table : dict
        The parsed TOML.
    """
    phrases: dict[str, dict[str, None]] = {}
    inputs: dict[str, str] = {}
    for detail in error.errors():
        path = _toml_path(detail["loc"], table)
        field = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path)
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, FieldError):
            field += f".{cause.field}"
        field = field.lstrip(".") or "microscope"
        phrases.setdefault(field, {})[_phrase(detail, path, model)] = None
        value = detail["input"]
        if detail["type"] not in _COMPLETE and not isinstance(value, dict):
            inputs[field] = f", not {value!r}"
    return "; ".join(
        f"{field}: {' or '.join(alternatives)}{inputs.get(field, '')}"
        for field, alternatives in phrases.items()
    )


def _toml_path(loc: tuple[int | str, ...], table: Any) -> list[int | str]:
    """Return the part of `loc` that is in the TOML, without the names of types."""
    path: list[int | str] = []
    value = table
    for part in loc:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list | tuple) and isinstance(part, int):
            value = value[part] if part < len(value) else None
        else:
            break
        path.append(part)
    return path


def _phrase(detail: ErrorDetails, path: list[int | str], model: type[BaseModel]) -> str:
    if detail["type"] == "missing":
        return "is required"
    if detail["type"] == "extra_forbidden":
        return "unknown key" + _hint(path, model)
    if detail["type"] in _NUMBERS:
        return f"must be {_NUMBERS[detail['type']]}{_unit(path)}"
    message = detail["msg"].removeprefix("Value error, ")
    return re.sub(r"^(Input|String) should", "must", message)


def _unit(path: list[int | str]) -> str:
    name = next((part for part in reversed(path) if isinstance(part, str)), "")
    found = (unit for suffix, unit in _UNITS.items() if name.endswith(suffix))
    return f" in {unit}" if (unit := next(found, "")) else ""


def _hint(path: list[int | str], model: type[BaseModel]) -> str:
    *tables, key = [part for part in path if isinstance(part, str)]
    for name in tables:
        model = _table_in(model.model_fields[name].annotation) or model
    close = get_close_matches(key, model.model_fields, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _table_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_table_in, get_args(annotation))), None)
