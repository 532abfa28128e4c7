"""What goes wrong, each with its end."""

import contextlib
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil

from lens_pipeline_tests.chaos.deployment import Deployment
from lens_pipeline_tests.chaos.proxy import FaultyProxy, Weather
from lens_pipeline_tests.support.stack import role_of

Heal = Callable[[], None]
# Roles whose processes die by themselves on a bad day, or are shot by a kernel short of memory.
_VICTIMS = (
    *("daemon", "code", "web", "api", "worker", "worker-masters", "render", "ffmpeg"),
    *("postgres", "valkey", "supervisor"),
)
# Those that come and go with the work are waited for a while.
_PASSING = ("render", "ffmpeg")
_AWAIT_SECONDS = 4
# Far more than a clock that NTP keeps is wrong by. Dagster's sensors, schedules and loops stand
# still for as long as a clock was set back.
_CLOCK_STEPS_SECONDS = (-30, -5, 5, 30)


@dataclass(frozen=True)
class Fault:
    """Something that begins now and is over when `heal` is called after `seconds`."""

    what: str
    seconds: float
    heal: Heal | None = None


def kinds(deployment: Deployment) -> dict[Callable[[Deployment, random.Random], Fault], int]:
    """What can go wrong, and how often in relation to the others."""
    found = {
        _kill: 10, _freeze: 3, _restart_server: 2, _break_store: 4, _break_sources: 4,
        _backfill_beside: 1, _step_clock: 1, _kill_everything: 1, _stop_everything: 1,
    }  # fmt: skip
    return found | ({_fill_disk: 2} if deployment.disk.is_usable else {})


def happen(deployment: Deployment, rng: random.Random) -> Iterator[Fault]:
    """Let something go wrong with each step: each kind once, then any of them for ever."""
    weights = kinds(deployment)
    for kind in rng.sample(list(weights), len(weights)):
        yield kind(deployment, rng)
    while True:
        yield rng.choices(list(weights), list(weights.values()))[0](deployment, rng)


def _kill(deployment: Deployment, rng: random.Random) -> Fault:
    """kill -9, or now and then SIGTERM, of any process."""
    role, victim = _victim(deployment, rng)
    number = signal.SIGKILL if rng.random() < 0.8 else signal.SIGTERM
    _send(victim, number)
    return Fault(f"{number.name} to {role}", 0)


def _freeze(deployment: Deployment, rng: random.Random) -> Fault:
    """A process that is there and does nothing, as on a host that swaps."""
    role, victim = _victim(deployment, rng)
    _send(victim, signal.SIGSTOP)
    return Fault(f"{role} is frozen", rng.uniform(2, 25), lambda: _send(victim, signal.SIGCONT))


def _restart_server(deployment: Deployment, rng: random.Random) -> Fault:
    """A server that somebody restarts in order."""
    role = rng.choice(["postgres", "valkey"])
    for process in _by_role(deployment).get(role, [])[:1]:
        _send(process, signal.SIGINT)
    return Fault(f"{role} is restarted", 0)


def _break_store(deployment: Deployment, rng: random.Random) -> Fault:
    return _break(deployment.store_proxy, "store", rng)


def _break_sources(deployment: Deployment, rng: random.Random) -> Fault:
    return _break(deployment.source_proxy, "sources", rng)


def _break(proxy: FaultyProxy, name: str, rng: random.Random) -> Fault:
    proxy.weather = rng.choice([weather for weather in Weather if weather is not Weather.FINE])

    def heal() -> None:
        proxy.weather = Weather.FINE

    return Fault(f"{name}: {proxy.weather}", rng.uniform(3, 20), heal)


def _step_clock(deployment: Deployment, rng: random.Random) -> Fault:
    seconds = rng.choice(_CLOCK_STEPS_SECONDS)
    deployment.clock.set(seconds)
    return Fault(f"clock {seconds:+d} s", rng.uniform(5, 30), lambda: deployment.clock.set(0))


def _fill_disk(deployment: Deployment, rng: random.Random) -> Fault:
    deployment.disk.fill()
    return Fault("scratch disk full", rng.uniform(3, 15), deployment.disk.empty)


def _backfill_beside(deployment: Deployment, rng: random.Random) -> Fault:
    """An operator's command that works beside the workers, and ends by itself."""
    deployment.begin_backfill()
    return Fault("lens backfill", 0)


def _kill_everything(deployment: Deployment, rng: random.Random) -> Fault:
    """kill -9 to `lens up` itself, which is then started again."""
    deployment.stack.kill()
    return Fault("SIGKILL to lens up", 0)


def _stop_everything(deployment: Deployment, rng: random.Random) -> Fault:
    """A machine that is rebooted in order."""
    deployment.stack.begin_to_stop()
    return Fault("SIGTERM to lens up", 0)


def _victim(deployment: Deployment, rng: random.Random) -> tuple[str, psutil.Process | None]:
    role = rng.choice(_VICTIMS)
    end = time.monotonic() + (_AWAIT_SECONDS if role in _PASSING else 0)
    found = _by_role(deployment)
    while not found.get(role) and time.monotonic() < end:
        time.sleep(0.05)
        found = _by_role(deployment)
    there = [role for role in _VICTIMS if found.get(role)]
    if not there:
        return "nobody", None
    role = role if role in there else rng.choice(there)
    return role, rng.choice(found[role])


def _by_role(deployment: Deployment) -> dict[str, list[psutil.Process]]:
    """Parents before their children."""
    found: dict[str, list[psutil.Process]] = {}
    for process in deployment.processes():
        with contextlib.suppress(psutil.Error):
            found.setdefault(_role(process), []).append(process)
    return found


def _role(process: psutil.Process) -> str:
    name, arguments = process.name(), process.cmdline()
    if name == "valkey-server":
        return "valkey"
    if "ffmpeg" in name:
        return "ffmpeg"
    if "lens_pipeline.media.sandbox.worker" in arguments:
        return "render"
    return role_of(process) or "other"


def _send(process: psutil.Process | None, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        if process is not None:
            process.send_signal(number)
