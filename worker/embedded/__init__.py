"""PostgreSQL and Valkey from their wheels, for the demo, development and tests: started, watched and stopped by us."""

from worker.embedded.account import EmbeddedError
from worker.embedded.companion import Companion
from worker.embedded.postgres import Postgres
from worker.embedded.valkey import Valkey

__all__ = ["Companion", "EmbeddedError", "Postgres", "Valkey"]
