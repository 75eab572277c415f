"""What all payloads are, and what a wrong one is told. The types of their fields are in db/fields.py."""

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from db.refusals import MOST_NAMED
from jobs.failures import InvalidPayload


class Payload(BaseModel):
    """What a job is asked to do. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# By pydantic's name of the fault, in words that need no Python. `{}` is its limit.
FAULTS = {
    "missing": "is missing",
    "extra_forbidden": "is not known; leave it out",
    "int_type": "must be a whole number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "model_type": "must be a JSON object",
    "dataclass_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
    "greater_than_equal": "must be {} or more",
    "less_than_equal": "must be {} or less",
    "literal_error": "must be {}",
    "string_too_short": "must have {} or more characters",
    "string_too_long": "must have {} characters at most",
    "too_short": "must have {} or more items",
    "too_long": "must have {} items at most",
    "json_invalid": "is not JSON",
}
LIMITS = ("ge", "le", "expected", "min_length", "max_length")


def invalid(error: ValidationError) -> InvalidPayload:
    """Name each wrong field and what is wrong with it (the first 20, and how many there are). Values are not shown."""
    faults = error.errors(include_url=False)
    named = [
        {"field": ".".join(str(part) for part in fault["loc"]) or "payload", "problem": _problem(fault)}
        for fault in faults[:MOST_NAMED]
    ]
    told = "; ".join(f"{fault['field']}: {fault['problem']}" for fault in named)
    more = len(faults) - len(named)
    return InvalidPayload(
        f"{told}{f'; and {more} more' if more else ''}", detail={"total": len(faults), "fields": named}
    )


def _problem(fault: ErrorDetails) -> str:
    # Of text that is checked before it is measured, pydantic counts items.
    text = "string_" if fault["type"].startswith("too_") and isinstance(fault["input"], str) else ""
    told = FAULTS.get(text + fault["type"])
    if told is None:
        return fault["msg"].removeprefix("Value error, ").replace("Input should", "must")
    limits = fault.get("ctx", {})
    limit = next((limits[name] for name in LIMITS if name in limits), "")
    return told.format(f"{limit:,}" if isinstance(limit, int) else limit)
