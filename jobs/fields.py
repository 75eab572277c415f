"""Field types that payloads share, and what a wrong payload is told. Strict: `true` and `1.0` are not ids."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, ValidationError

from jobs.failures import InvalidPayload

MOST_NAMED = 20
BIGINT = 2**63 - 1


class Payload(BaseModel):
    """What a job is asked to do. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _storable(value: str) -> str:
    """What PostgreSQL's text can hold. Most text is ASCII, and then only a NUL can be wrong."""
    if "\x00" in value:
        raise ValueError("holds a NUL character, which PostgreSQL can't store")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("holds half of a surrogate pair, which is no character") from None
    return value


Id = Annotated[int, Strict(), Field(ge=1, le=BIGINT)]
Text = Annotated[str, Strict(), AfterValidator(_storable)]


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
