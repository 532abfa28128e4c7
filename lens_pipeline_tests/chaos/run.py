"""One run: rows arrive and things go wrong for a while; then all is healed, and judged."""

import heapq
import itertools
import random
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy.exc import DBAPIError

from lens_pipeline.core.endpoints import StackError
from lens_pipeline_tests.chaos import faults, invariants, observations
from lens_pipeline_tests.chaos.deployment import Deployment, deployment
from lens_pipeline_tests.chaos.workload import Workload

_LOOK_SECONDS = 0.25
_SETTLE_LOOK_SECONDS = 2.0
_TELL_SECONDS = 30.0
# Backoff, attempts by a backfill each minute, and Dagster's standstill of at most 30 s after a
# clock was set back.
_SETTLE_SECONDS = 420.0
# A busy machine may answer a probe too late once.
_WELL_SECONDS = 60.0


@dataclass(frozen=True)
class Plan:
    """What to do; `minutes` is how long things go wrong."""

    seed: int
    minutes: float
    fault_seconds: float = 7.0
    """Between the beginnings of two faults, on average."""
    rows_per_second: float = 1.2
    patience_seconds: float = _SETTLE_SECONDS / 2
    """At the end, failed files that are due later are tried again at once."""

    @property
    def away_minutes(self) -> float:
        """How long one host of sources is away; 30 of a run of 20."""
        return 1.5 * self.minutes


@dataclass
class Verdict:
    """What came of it."""

    violations: list[str]
    figures: dict[str, Any]


@dataclass
class Chaos:
    plan: Plan
    deployment: Deployment
    say: Callable[[str], None]
    _faults: Counter[str] = field(default_factory=Counter)
    _healing: list[tuple[float, int, str, faults.Heal]] = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def run(self) -> Verdict:
        returns_at = time.monotonic() + 60 * self.plan.away_minutes
        workload = Workload(
            self.deployment, random.Random(f"{self.plan.seed} rows"), self.plan.rows_per_second
        )
        workload.begin()
        try:
            self._break_things(workload)
        finally:
            self._heal_all()
            workload.end()
        self.say("everything is healed, but a host of sources is still away")
        while time.monotonic() < returns_at:
            self.deployment.keep_running()
            time.sleep(_LOOK_SECONDS)
        self.deployment.away_proxy.come_back()
        self.say("the host of sources is back")
        return self._judge(workload)

    def _break_things(self, workload: Workload) -> None:
        rng = random.Random(self.plan.seed)
        end = time.monotonic() + 60 * self.plan.minutes
        due = tell = time.monotonic()
        happening = faults.happen(self.deployment, rng)
        least = len(faults.kinds(self.deployment))
        while (now := time.monotonic()) < end or self._faults.total() < least:
            self._heal(until=now)
            self.deployment.keep_running()
            self.deployment.processes()
            if now >= tell:
                tell = now + _TELL_SECONDS
                self.say(f"{len(workload.rows)} rows, {self._faults.total()} faults")
            if now >= due and not self.deployment.stack.is_stopping:
                due = now + rng.expovariate(1 / self.plan.fault_seconds)
                self._begin(next(happening))
            time.sleep(_LOOK_SECONDS)

    def _begin(self, fault: faults.Fault) -> None:
        self._faults[fault.what] += 1
        lasts = f" for {fault.seconds:.0f} s" if fault.heal else ""
        self.say(f"  {fault.what}{lasts}")
        if fault.heal:
            entry = (time.monotonic() + fault.seconds, next(self._numbers), fault.what, fault.heal)
            heapq.heappush(self._healing, entry)

    def _heal(self, until: float) -> None:
        while self._healing and self._healing[0][0] <= until:
            _, _, what, heal = heapq.heappop(self._healing)
            heal()
            self.say(f"  over: {what}")

    def _heal_all(self) -> None:
        self._heal(until=float("inf"))
        self.deployment.await_end_of_stop()
        self.deployment.keep_running()

    # --- the end

    def _judge(self, workload: Workload) -> Verdict:
        wrong = self._settle(workload, forgive=invariants.TOO_OFTEN)
        tired = [
            standing
            for standing in observations.standings(self.deployment)
            if standing.state == "dead" and not workload.rows[standing.row_id].reasons
        ]
        if tired:
            self.say(f"{len(tired)} good files had too many attempts: they are tried again")
            answer = self.deployment.stack.lens("retry", "--all", timeout=180)
            wrong += [f"lens retry: {answer.stderr}"] if answer.returncode else []
            wrong += self._settle(workload, forgive=())
        made = observations.made(self.deployment)
        live = [r for r in made.records.values() if r.row_id in workload.rows]
        objects = observations.objects(self.deployment)
        wrong += invariants.wrong_objects(live, objects)
        known = {*workload.rows, *workload.deleted}
        wrong += invariants.orphan_objects(live, objects, known)
        wrong += invariants.made_too_often(made.times, made.broken_off + workload.backfilled)
        wrong += observations.unfinished_uploads(self.deployment)
        wrong += self.deployment.tracebacks()
        wrong += self._unwell()
        if failed := made.backfills["FAILED"]:
            wrong.append(f"{failed} backfills of the UI failed")
        wrong += self._stop()
        return Verdict(wrong, self._figures(workload, made, len(tired)))

    def _settle(self, workload: Workload, *, forgive: frozenset[str] | tuple[()]) -> list[str]:
        """Wait until nothing is left to do; what is still wrong then."""
        end = time.monotonic() + _SETTLE_SECONDS
        while True:
            self.deployment.keep_running()
            wrong, busy = self._left_to_do(workload, forgive)
            if not (wrong or busy) or time.monotonic() > end:
                break
            self.say(f"{len(wrong + busy)} things to do, as: {(wrong + busy)[0]}")
            time.sleep(_SETTLE_LOOK_SECONDS)
        why = observations.reasons(self.deployment) if wrong else {}
        return [f"{line} ({_reason(why, line)})" for line in wrong] + busy

    def _left_to_do(
        self, workload: Workload, forgive: frozenset[str] | tuple[()]
    ) -> tuple[list[str], list[str]]:
        """What is not as it should be, and what goes on or is to be cleared away."""
        try:
            if late := observations.failed_ids(self.deployment, self.plan.patience_seconds):
                self.say(f"{len(late)} failed files are not due for long: they are tried again")
                self.deployment.stack.lens("retry", *sorted(late), timeout=180)
            found = observations.standings(self.deployment)
            wrong = invariants.wrong_standings(workload.rows, found, forgive=forgive)
            busy = [
                *observations.unfinished_runs(self.deployment),
                *observations.unfinished_backfills(self.deployment),
                *observations.held_locks(self.deployment),
                *self.deployment.running_commands(),
            ]
        except (DBAPIError, StackError) as error:
            # `lens up` finds late that its supervisor was frozen, and stops; then it is restarted.
            return [], [f"nothing runs: {error}"]
        return wrong, busy + self._left_of_deleted(workload)

    def _left_of_deleted(self, workload: Workload) -> list[str]:
        """Objects of rows that are gone, which a sensor deletes within a minute; and of checks."""
        gone = set(workload.deleted)
        return [
            f"{key} is left of a deleted row or of a check of the store"
            for key in observations.keys(self.deployment)
            if (key.rpartition("/")[2].partition("_")[0] in gone or key.startswith("lens-check-"))
            and not invariants.row_of_original(key)
        ]

    def _unwell(self) -> list[str]:
        wrong = []
        url = f"http://127.0.0.1:{self.deployment.stack.api_port}/api/health"
        end = time.monotonic() + _WELL_SECONDS
        while problem := _problem(url):
            if time.monotonic() > end:
                wrong.append(f"/api/health: {problem}")
                break
            time.sleep(1)
        doctor = self.deployment.stack.lens("doctor", timeout=120)
        if doctor.returncode:
            wrong.append(f"lens doctor: {doctor.stdout}{doctor.stderr}")
        return wrong

    def _stop(self) -> list[str]:
        self.deployment.processes()
        wrong = self.deployment.stop()
        wrong += [f"still running: {process}" for process in self.deployment.survivors()]
        wrong += [f"left in the scratch directory: {path}" for path in self.deployment.disk.left()]
        return wrong

    def _figures(self, workload: Workload, made: observations.Made, tired: int) -> dict[str, Any]:
        latencies = np.array(made.latencies or [0.0])
        return {
            "seed": self.plan.seed,
            "minutes": self.plan.minutes,
            "rows": len(workload.rows),
            "bad_rows": sum(bool(row.reasons) for row in workload.rows.values()),
            "deleted_rows": len(workload.deleted),
            "arrivals": workload.done,
            "faults": self._faults.total(),
            "faults_by_name": dict(self._faults.most_common()),
            "backfills_of_the_ui": dict(made.backfills),
            "files_made": made.times.total(),
            "made_again_after_crashes": sum(times - 1 for times in made.times.values()),
            "good_files_with_too_many_attempts": tired,
            "latency_p50_seconds": round(float(np.quantile(latencies, 0.5)), 1),
            "latency_p95_seconds": round(float(np.quantile(latencies, 0.95)), 1),
            "latency_max_seconds": round(float(latencies.max()), 1),
        }


def _problem(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=30):
            return None
    except urllib.error.HTTPError as error:
        return f"{error}: {error.read().decode()}"
    except (urllib.error.URLError, TimeoutError) as error:
        return str(error)


def _reason(why: dict[tuple[str, str], str], line: str) -> str:
    asset, _, rest = line.partition(" of ")
    return why.get((asset, rest.partition(":")[0]), "")


def run(plan: Plan, directory: Path, say: Callable[[str], None]) -> Verdict:
    """Build a deployment in `directory`, break it, judge it; nothing of it runs on."""
    with deployment(directory, random.Random(f"{plan.seed} network")) as built:
        return Chaos(plan, built, say).run()
