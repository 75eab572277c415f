"""JSON as jsonb can hold it."""

import json
from typing import Any


def as_jsonb(value: dict[str, Any] | None) -> str | None:
    """JSON text without what jsonb refuses: an error quotes names that come from outside."""
    return None if value is None else json.dumps(_storable(value))


def _storable(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")
    if isinstance(value, dict):
        return {_storable(name): _storable(inner) for name, inner in value.items()}
    return [_storable(inner) for inner in value] if isinstance(value, list) else value
