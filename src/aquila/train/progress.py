"""The line a run shows for a step, made from its metrics."""

from collections.abc import Mapping
from typing import Any

from aquila.config import format_size


def progress_line(record: Mapping[str, Any], total_steps: int) -> str:
    """`step 120/1000  loss 3.2144  lr 3.00e-04  norm 0.82  12.3k tok/s  MFU 41%  1.2 GiB  14m left`."""
    loss, norm = (float("nan") if record[key] is None else record[key] for key in ("loss", "grad_norm"))
    parts = [
        f"step {record['step']}/{total_steps}",
        f"loss {loss:.4f}",
        f"lr {record['lr']:.2e}",
        f"norm {norm:.2f}",
        f"{short_count(record['tokens_per_second'])} tok/s",
    ]
    if record.get("mfu"):
        parts.append(f"MFU {100 * record['mfu']:.0f}%")
    if record["peak_memory_bytes"]:
        parts.append(format_size(record["peak_memory_bytes"]))
    if record.get("seconds_left") is not None and record["step"] < total_steps:
        parts.append(f"{format_duration(record['seconds_left'])} left")
    if record.get("skipped"):
        parts.append(f"skipped: {record['skipped']}")
    return "  ".join(parts)


def short_count(value: float) -> str:
    """`950`, `12.3k`, `4.71M`, `7.3B`, `2T`."""
    for unit in ("", "k", "M", "B"):
        if abs(value) < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}T"


def format_duration(seconds: float) -> str:
    """`42s`, `14m`, `3h 20m`, `5d 4h`."""
    if seconds < 100:
        return f"{seconds:.0f}s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h {minutes:02d}m"
    days, hours = divmod(hours, 24)
    return f"{days:,}d {hours}h"
