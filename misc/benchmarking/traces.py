"""What a profile of training steps says."""

from __future__ import annotations

from typing import Any


def summarise_trace(
    events: list[dict[str, Any]], kinds: set[str], steps_: int, seconds: float
) -> dict[str, Any]:
    """Summarise a trace of some steps, of which one takes `seconds` when it is not profiled.

    `idle` is the share of an unprofiled step in which the device has no kernel to run,
    `idle, profiled` the same of the profiled steps, which are slowed down.
    """
    ours = [event for event in events if event.get("cat") in kinds and "dur" in event]
    if not ours:
        return {"failed": f"the trace has no events of {sorted(kinds)}"}
    spans = sorted((float(event["ts"]), float(event["ts"]) + float(event["dur"])) for event in ours)
    busy, reached = 0.0, spans[0][0]
    for begin, end in spans:
        busy += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    whole = reached - spans[0][0]
    by_name: dict[str, list[float]] = {}
    for event in ours:
        by_name.setdefault(str(event["name"])[:90], []).append(float(event["dur"]))
    longest = sorted(by_name.items(), key=lambda item: -sum(item[1]))[:25]
    return {
        "kernels a step": round(len(ours) / steps_, 1),
        "busy ms a step": round(busy / steps_ / 1e3, 4),
        "step ms": round(1e3 * seconds, 4),
        "idle": round(max(0.0, 1 - busy / steps_ / 1e6 / seconds), 3),
        "idle, profiled": round(1 - busy / whole, 3) if whole else 0.0,
        "longest": [
            {
                "kernel": name,
                "a step": round(len(times) / steps_, 1),
                "us a step": round(sum(times) / steps_, 1),
            }
            for name, times in longest
        ],
    }
