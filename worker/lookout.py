"""Which policies are disabled: those that the file has wrong, and those that the database has something against."""

import asyncio
from datetime import timedelta

import structlog

from db.engine import Database
from db.faults import server_message
from jobs.facts import Fact
from jobs.inspection import UNKNOWN, against, inspect
from jobs.partitions import PartitionAstray, bring_back
from jobs.policies import Broken, Policies, Policy
from worker.metrics import Metrics

log = structlog.get_logger()

# With the survey. What is mended in the database meanwhile counts from the next look on.
EVERY = timedelta(minutes=5)
# For one policy, far above what its questions may take together.
WITHIN_S = 30.0


class Lookout:
    """Of one process. `disabled` is what a run looks at when it begins; a look that fails leaves it as it is."""

    def __init__(self, database: Database, policies: Policies, *, metrics: Metrics) -> None:
        self.policies = policies.valid
        self.disabled = policies.disabled()
        self._database = database
        self._metrics = metrics
        for broken in policies.broken:
            self._tell(broken)
        for policy in policies.valid:  # one may be named as another without a name is called
            metrics.disabled(policy.name, is_disabled=False)

    async def run(self, *, every: timedelta = EVERY) -> None:
        while True:
            await self.look()
            await asyncio.sleep(every.total_seconds())

    async def look(self) -> None:
        await self._bring_back()
        for policy in self.policies:
            try:
                async with asyncio.timeout(WITHIN_S):
                    facts = await inspect(self._database, policy)
            except Exception as exc:  # most likely PostgreSQL is away
                log.warning("policy.not_inspected", policy=policy.name, why=server_message(exc))
            else:
                self._take(policy, facts)

    async def _bring_back(self) -> None:
        """Partitions that a run has left on their way out: their rows are missed where they are."""
        try:
            async with asyncio.timeout(WITHIN_S):  # it waits for others' transactions; the next look goes on
                brought = await bring_back(self._database, None)
            for partition in brought:
                log.warning("partition.attached_again", partition=partition)
        except PartitionAstray as exc:
            log.warning("partition.astray", why=str(exc))
        except Exception as exc:  # most likely PostgreSQL is away
            log.warning("partition.not_looked_for", why=server_message(exc))

    def _take(self, policy: Policy, facts: list[Fact]) -> None:
        before, broken = self.disabled.get(policy.name), against(policy, facts)
        if broken is not None:
            self.disabled[policy.name] = broken
            if broken != before:
                self._tell(broken)
        elif before is not None and not any(fact.about == UNKNOWN for fact in facts):
            del self.disabled[policy.name]
            self._metrics.disabled(policy.name, is_disabled=False)
            log.info("policy.enabled", policy=policy.name)

    def _tell(self, broken: Broken) -> None:
        self._metrics.disabled(broken.name, is_disabled=True)
        log.error("policy.disabled", policy=broken.name, reason=broken.reason)
