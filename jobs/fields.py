"""What all payloads are, and what a wrong one is told. The types of their fields are in db/fields.py."""

from pydantic import BaseModel, ConfigDict, ValidationError

from db.refusals import MOST_NAMED
from jobs.failures import InvalidPayload


class Payload(BaseModel):
    """What a job is asked to do. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def invalid(error: ValidationError) -> InvalidPayload:
    """Name each wrong field and what is wrong with it (the first 20, and how many there are). Values are not shown."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    named = [
        {"field": ".".join(str(part) for part in fault["loc"]) or "payload", "problem": fault["msg"]}
        for fault in faults[:MOST_NAMED]
    ]
    told = "; ".join(f"{fault['field']}: {fault['problem']}" for fault in named)
    more = len(faults) - len(named)
    return InvalidPayload(
        f"{told}{f'; and {more} more' if more else ''}", detail={"total": len(faults), "fields": named}
    )
