"""Enqueue a job with nothing but two Redis commands, from any language that speaks Redis.

    python examples/enqueue_from_redis.py mark-completed '{"task_ids": [7, 8], "requested_by": 3}' --id order-77

prints the id of the run. That is a promise of Redis, not yet of lowtide: the run is accepted once a worker has written
it into the ledger, as the row of this id in lowtide.run. Until then, a Redis that is flushed or starts empty loses it.
Whoever can't live with that looks for the row, and while there is none sends again with the same id: it runs once.
"""

import argparse
import json
import os
import sys
import time
import uuid
from typing import Any

from redis import Redis, RedisError


def enqueue(redis: Redis, *, queue: str, job: str, payload: dict[str, Any], run_id: str) -> None:
    now_ms = int(time.time() * 1000)
    message: dict[str, Any] = {"t": None, "f": job, "a": [], "k": payload, "et": now_ms}
    with redis.pipeline(transaction=True) as both:  # MULTI: both keys, or none
        # nx: where a run of this id waits already, its payload and its time stand.
        both.set(f"arq:job:{run_id}", json.dumps(message), nx=True)
        both.zadd(queue, {run_id: now_ms}, nx=True)
        both.execute()


def json_object(text: str) -> dict[str, Any]:
    try:
        payload = json.loads(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"it is not JSON: {exc}") from None
    if not isinstance(payload, dict):
        raise argparse.ArgumentTypeError("it is not a JSON object")
    return payload


def main() -> None:
    parser = argparse.ArgumentParser(description="Enqueue a job of lowtide through Redis; prints the run's id.")
    parser.add_argument("job", help="for example mark-completed")
    parser.add_argument("payload", type=json_object, help="a JSON object, as README describes it for each job")
    parser.add_argument("--id", default=uuid.uuid4().hex, help="the run's id: with the same one it runs once")
    given = parser.parse_args()
    try:
        with Redis.from_url(os.environ["LOWTIDE_REDIS_URL"]) as redis:
            queue = os.environ.get("LOWTIDE_QUEUE", "arq:queue")
            enqueue(redis, queue=queue, job=given.job, payload=given.payload, run_id=given.id)
    except KeyError:
        sys.exit("set LOWTIDE_REDIS_URL, for example to redis://localhost:6379/0")
    except RedisError as exc:
        sys.exit(f"nothing was enqueued: {exc}")
    print(given.id)


if __name__ == "__main__":
    main()
