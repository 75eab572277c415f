"""Everything that the environment may say: the only place where it is read."""

import getpass
import os
import re
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from db.engine import Address
from worker import redis_url

DEFAULT_POLICIES = Path("lowtide.toml")
HTTP_ADDRESS = re.compile(r"(?:(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):)?(?P<port>[0-9]{1,5})")
HIGHEST_PORT = 65_535
# Connections for so many runs at once: as many as they can use, and as few as they can work with. Of PostgreSQL a run
# has two lanes, a watch for each, a look or a heartbeat; of Redis its own command and the renewal of its mark.
POOLS: dict[str, tuple[Callable[[int], int], Callable[[int], int]]] = {
    "database_pool": (lambda runs: 5 * runs + 6, lambda runs: 3 * runs + 3),
    "redis_pool": (lambda runs: 2 * runs + 8, lambda runs: runs + 4),
}


class WrongSettings(Exception):
    """The environment is missing something or holds something that can't be used; the message names each variable."""


def _database_url(value: SecretStr) -> SecretStr:
    Address.parse(value.get_secret_value())
    return value


def _redis_url(value: SecretStr) -> SecretStr:
    redis_url.check(value.get_secret_value())
    return value


def _http(value: str) -> str:
    """A port alone means this machine alone: what is told there is for those who run it."""
    found = HTTP_ADDRESS.fullmatch(value)
    if found is None or not 1 <= int(found["port"]) <= HIGHEST_PORT:
        raise ValueError("a port, or an address and a port: 9187, 127.0.0.1:9187, 0.0.0.0:9187 or [::]:9187")
    return f"{found['host'] or '127.0.0.1'}:{found['port']}"


class Settings(BaseSettings):
    """URLs are secret because they hold passwords: they never appear in a repr, a log or an error."""

    model_config = SettingsConfigDict(env_prefix="LOWTIDE_", frozen=True, extra="ignore")

    database_url: Annotated[SecretStr, AfterValidator(_database_url)]
    redis_url: Annotated[SecretStr, AfterValidator(_redis_url)] | None = None
    queue: str = Field(default="arq:queue", min_length=1, max_length=200)
    policies: Path | None = Field(default=None, validate_default=True)
    parallel_runs: int = Field(default=4, ge=1, le=100)
    database_pool: int | None = Field(default=None, ge=1, le=1000, validate_default=True)
    redis_pool: int | None = Field(default=None, ge=1, le=1000, validate_default=True)
    lease: timedelta = Field(default=timedelta(seconds=30), ge=timedelta(seconds=1), le=timedelta(minutes=10))
    slice: timedelta = Field(default=timedelta(seconds=60), ge=timedelta(milliseconds=100), le=timedelta(minutes=10))
    tick: timedelta = Field(default=timedelta(seconds=5), ge=timedelta(milliseconds=100), le=timedelta(minutes=5))
    shutdown: timedelta = Field(default=timedelta(seconds=4), ge=timedelta(0), le=timedelta(hours=1))
    http: Annotated[str, AfterValidator(_http)] | None = None

    @field_validator("lease", "slice", "tick", "shutdown", mode="before")
    @classmethod
    def _seconds(cls, value: Any) -> Any:  # noqa: ANN401 - whatever the environment holds
        """A plain number is seconds, as people write it; pydantic's own ISO 8601 durations work too."""
        try:
            return timedelta(seconds=float(value))
        except (TypeError, ValueError, OverflowError):
            return value

    @field_validator("database_pool", "redis_pool")
    @classmethod
    def _pool(cls, value: int | None, info: ValidationInfo) -> int:
        """What is needed where nothing is said; less than the least lets runs wait for each other for ever."""
        runs = info.data.get("parallel_runs", 1)
        usual, least = POOLS[str(info.field_name)]
        if value is not None and value < least(runs):
            raise ValueError(f"{runs} runs at once (LOWTIDE_PARALLEL_RUNS) need at least {least(runs)}")
        return value or usual(runs)

    @field_validator("redis_url", mode="before")
    @classmethod
    def _redis(cls, value: Any) -> Any:  # noqa: ANN401 - as above
        """The empty text means none, as where nothing is said: commands that need the database alone work."""
        return None if value == "" else value

    @field_validator("policies", mode="before")
    @classmethod
    def _policies(cls, value: Any) -> Any:  # noqa: ANN401 - as above
        """The file in this folder, unless told otherwise; the empty text means none. A link to nowhere is a file."""
        if value == "":
            return None
        return DEFAULT_POLICIES if value is None and os.path.lexists(DEFAULT_POLICIES) else value


def load(**overrides: Any) -> Settings:  # noqa: ANN401 - the fields of Settings
    """Raises WrongSettings, which names each variable and never its value."""
    try:
        return Settings(**overrides)
    except ValidationError as exc:
        faults = exc.errors(include_url=False, include_context=False, include_input=False)
        told = [f"LOWTIDE_{'_'.join(map(str, fault['loc'])).upper()}: {_said(fault['msg'])}" for fault in faults]
        raise WrongSettings("; ".join(told)) from None


def _said(message: str) -> str:
    return "is not set" if message == "Field required" else message.removeprefix("Value error, ")


def process_name() -> str:
    """Which process holds a lease, for people: host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


def operator_name() -> str:
    """Who sits at the terminal, as far as the system knows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
