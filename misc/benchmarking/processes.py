"""Stages of a benchmark, each in a fresh process that sends each finding as soon as it has it."""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.connection
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from utils.errors import ProjectError

Finding = tuple[str, Any]


def run_stage(
    module: str, name: str, settings: Mapping[str, Any], seconds: float | None = None
) -> Iterator[Finding]:
    """Yield what `run(name, settings)` of a module yields, in a process of its own.

    `settings` get the time at which the process began and how long it imported torch. Raises
    ProjectError when the stage fails, or takes more than `seconds`.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    arguments = (sender, module, name, {**settings, "began": time.time()})
    process = context.Process(target=_enter, args=arguments, daemon=True)
    deadline = None if seconds is None else time.monotonic() + seconds
    process.start()
    sender.close()
    try:
        while receiver.poll(None if deadline is None else max(0, deadline - time.monotonic())):
            key, value = receiver.recv()
            if key is None:
                if value:
                    raise ProjectError(f"{name}: {value}")
                return
            yield key, value
        process.kill()
        raise ProjectError(f"{name}: stopped after {seconds:.0f} seconds")
    except EOFError:
        process.join()
        raise ProjectError(f"{name}: its process ended, status {process.exitcode}") from None
    finally:
        process.join(10)


def _enter(
    sender: multiprocessing.connection.Connection, module: str, name: str, settings: dict[str, Any]
) -> None:
    """Be the process of a stage: send its findings, then (None, the failure or None)."""
    started = time.perf_counter()
    import torch  # noqa: F401

    settings["importing_torch"] = time.perf_counter() - started
    try:
        for finding in importlib.import_module(module).run(name, settings):
            sender.send(finding)
        sender.send((None, None))
    except ProjectError as error:
        sender.send((None, str(error)))
    except Exception:
        sender.send((None, traceback.format_exc()[-3000:]))
