"""Limits that Linux control groups (containers, Binder, batch systems) put on this process: processor time and memory.

It reads version 1 and version 2 of the interface, this group and all those above it: the tightest limit holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from edgeinfer.measure.host import Host

# Version 1 writes "no limit" as a huge number that depends on the page size.
NO_LIMIT = 1 << 60


def group_folders(host: Host, controller: str) -> Iterator[str]:
    """Yield the folders of the process's group and of its ancestors, for version 2 and for version 1."""
    found = host.read("/proc/self/cgroup") or ""
    for line in found.splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3:
            continue
        _, controllers, path = parts
        if controllers == "":
            bases = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        elif controller in controllers.split(","):
            bases = [f"/sys/fs/cgroup/{controller}", f"/sys/fs/cgroup/{controllers}"]
        else:
            continue
        group = PurePosixPath("/" + path.strip("/"))
        for base in bases:
            # In a container the path names a group of the host; what is mounted then is the root itself.
            for place in (group, *group.parents):
                yield base + ("" if str(place) == "/" else str(place))


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def cpu_quota(host: Host) -> float | None:
    """Return the processors' worth of time that the groups allow (0.5 is half a core), or None without a limit."""
    quotas = []
    for folder in group_folders(host, "cpu"):
        two = (host.read(f"{folder}/cpu.max") or "").split()
        if len(two) == 2 and two[0].isdigit() and two[1].isdigit() and int(two[1]) > 0:
            quotas.append(int(two[0]) / int(two[1]))
        quota = _number(host.read(f"{folder}/cpu.cfs_quota_us"))  # "-1" means no limit and is not a digit
        period = _number(host.read(f"{folder}/cpu.cfs_period_us"))
        if quota and period:
            quotas.append(quota / period)
    return min(quotas) if quotas else None


def memory_limit(host: Host) -> tuple[int, int] | None:
    """Return (limit, still free) in bytes of the tightest group, or None without a limit."""
    limits = []
    for folder in group_folders(host, "memory"):
        for limit_name, used_name in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, used = _number(host.read(f"{folder}/{limit_name}")), _number(host.read(f"{folder}/{used_name}"))
            if limit is None or limit >= NO_LIMIT:
                continue
            # File pages that were not touched lately are given back when memory is short.
            reclaimable = 0
            for line in (host.read(f"{folder}/memory.stat") or "").splitlines():
                key, _, value = line.partition(" ")
                if key in ("inactive_file", "total_inactive_file") and value.isdigit():
                    reclaimable = int(value)
            limits.append((limit, max(0, limit - max(0, (used or 0) - reclaimable))))
    return min(limits) if limits else None
