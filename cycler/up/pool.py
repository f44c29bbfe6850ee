"""The work pool: it is paused while running cycles finish, and what killed flow runs hold is given back at once.

Prefect shows the run of a killed process as running, and lets its deployment start no other until a lease ends, after
five minutes. Where all workers are of this machine, `up` knows better: it tells the server that such a run has crashed.
"""

import logging
import os
from collections.abc import Collection, Iterator
from typing import Any

import httpx

from dacycle.cycler.up.supervisor import lives

__all__ = ["Pool"]

logger = logging.getLogger(__name__)

_ACTIVE = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
_PATIENCE = 10.0
"""Seconds in which the server has to answer."""


class Pool:
    """Look after a work pool at its server.

    Args:
        url: of the Prefect server's interface.
        pool: name of the work pool.
        workers: names of all the workers of the pool that this machine runs.
    """

    def __init__(self, url: str, pool: str, workers: Collection[str]) -> None:
        name, _, password = os.environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
        self._client = httpx.Client(
            base_url=url, timeout=_PATIENCE, auth=(name, password) if name else None, trust_env=False
        )
        self._pool, self._workers = pool, workers
        self._unused: set[str] = set()

    def pause(self) -> bool:
        """Let workers start no further flow runs; return whether the server has taken it."""
        return self._set_paused(True)

    def resume(self) -> bool:
        """Let workers start flow runs; return whether the server has taken it."""
        return self._set_paused(False)

    def _set_paused(self, paused: bool) -> bool:
        try:
            return self._client.patch(f"/work_pools/{self._pool}", json={"is_paused": paused}).is_success
        except httpx.HTTPError as error:
            logger.debug("%s", error)
            return False

    def free(self) -> int:
        """Give back what no process holds; return how many runs or slots that was, 0 if the server is away."""
        try:
            return self._free()
        except httpx.HTTPError as error:
            logger.debug("%s", error)
            return 0

    def _free(self) -> int:
        unused, self._unused = self._unused, set()
        known = self._post(f"/work_pools/{self._pool}/workers/filter", {"workers": {"status": {"any_": ["ONLINE"]}}})
        if any(worker["name"] not in self._workers for worker in known):
            return 0  # processes of another machine cannot be seen from here
        of_pool = {"work_pools": {"name": {"any_": [self._pool]}}}
        runs = self._post("/flow_runs/filter", {"flow_runs": _ACTIVE, **of_pool})
        dead = [run for run in runs if _is_dead(run["infrastructure_pid"])]
        for run in dead:
            self._crash(run)
        if dead:
            return len(dead)
        busy = {run["deployment_id"] for run in runs}
        held = set(_held(self._post("/deployments/filter", of_pool), busy))
        for limit in held & unused:  # at two looks in turn: at one, a run may have been about to begin
            self._reset(limit)
        self._unused = held - unused
        return len(held & unused)

    def _crash(self, run: dict[str, Any]) -> None:
        state = {"type": "CRASHED", "name": "Crashed", "message": "its process has been killed"}
        self._post(f"/flow_runs/{run['id']}/set_state", {"state": state})
        logger.warning("flow run %s: process %s was killed", run["name"], run["infrastructure_pid"])

    def _reset(self, limit: str) -> None:
        self._client.patch(f"/v2/concurrency_limits/{limit}", json={"active_slots": 0}).raise_for_status()
        logger.warning("a deployment was held by no flow run, and is free again")

    def _post(self, path: str, content: dict[str, Any]) -> Any:
        answer = self._client.post(path, json=content)
        answer.raise_for_status()
        return answer.json()


def _held(deployments: list[dict[str, Any]], busy: set[str]) -> Iterator[str]:
    """Yield the limits that are in use although their deployment has no active run."""
    for deployment in deployments:
        limit = deployment.get("global_concurrency_limit")
        if limit and limit["active_slots"] > 0 and deployment["id"] not in busy:
            yield limit["id"]


def _is_dead(pid: str | None) -> bool:
    """Return whether a process has ended; False where there is none yet."""
    return pid is not None and pid.isdecimal() and not lives(int(pid))
