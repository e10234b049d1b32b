"""What this machine is: processor, cores that may be used, vector extensions, caches, memory, versions.

It measures nothing (see `limits`). What cannot be known is None, and `unknown` says why: on a notebook service, in a
container, on ARM, on macOS, in a browser. It never records a host or user name.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
from dataclasses import asdict, dataclass, field

from edgeinfer.measure import cgroup
from edgeinfer.measure.host import Host
from edgeinfer.measure.tables import html_table

FORMAT = "edgeinfer.machine/1"
# What matters for the kernels of this book, in rising order; other flags are left out.
X86_FLAGS = {
    "sse4_2": "SSE4.2",
    "avx": "AVX",
    "f16c": "F16C",
    "fma": "FMA",
    "avx2": "AVX2",
    "avx_vnni": "AVX-VNNI",
    "avx512f": "AVX-512F",
    "avx512bw": "AVX-512BW",
    "avx512vbmi": "AVX-512 VBMI",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_fp16": "AVX-512 FP16",
    "amx_tile": "AMX",
    "amx_bf16": "AMX BF16",
    "amx_int8": "AMX INT8",
}
ARM_FLAGS = {
    "asimd": "NEON",
    "asimdhp": "NEON FP16",
    "asimddp": "NEON dot product",
    "i8mm": "I8MM",
    "bf16": "BF16",
    "sve": "SVE",
    "sve2": "SVE2",
    "sme": "SME",
}
MAC_FLAGS = {
    "hw.optional.neon": "NEON",
    "hw.optional.AdvSIMD": "NEON",
    "hw.optional.arm.FEAT_FP16": "NEON FP16",
    "hw.optional.arm.FEAT_DotProd": "NEON dot product",
    "hw.optional.arm.FEAT_I8MM": "I8MM",
    "hw.optional.arm.FEAT_BF16": "BF16",
    "hw.optional.arm.FEAT_SME": "SME",
    "hw.optional.avx2_0": "AVX2",
    "hw.optional.avx512f": "AVX-512F",
}
# Part numbers that Linux shows for ARM's own cores instead of a name.
ARM_PARTS = {
    "0xd03": "Cortex-A53", "0xd05": "Cortex-A55", "0xd08": "Cortex-A72", "0xd0b": "Cortex-A76", "0xd0c": "Neoverse N1",
    "0xd40": "Neoverse V1", "0xd49": "Neoverse N2", "0xd4f": "Neoverse V2",
}  # fmt: skip


@dataclass(frozen=True)
class Cache:
    """One data or unified cache: `level` 1 to 4, size in `bytes`, number of processors that share one of them."""

    level: int
    bytes: int
    shared_by: int | None = None


@dataclass(frozen=True)
class Machine:
    """Description of a machine; None is unknown, and `unknown[field]` is a sentence that says why.

    Attributes:
        processor: name of the processor.
        architecture: "x86_64", "aarch64", "arm64", "wasm32".
        cores_visible: processors that the system shows.
        cores_usable: whole processors that this process may use (affinity and container quota).
        cpu_quota: processors' worth of time that the container allows, None without a limit.
        vector_extensions: names of the vector extensions, None when unknown.
        caches: data caches of one processor, L1 first, None when unknown.
        memory_total, memory_available: bytes, as limited by the container.
        operating_system, container: name and version; whether limits of a container were found.
        versions: {"python": "3.11.4", "numpy": ..., "torch": None when not installed}.
        unknown: field -> why it is None.
    """

    processor: str | None
    architecture: str
    cores_visible: int | None
    cores_usable: int | None
    cpu_quota: float | None
    vector_extensions: tuple[str, ...] | None
    caches: tuple[Cache, ...] | None
    memory_total: int | None
    memory_available: int | None
    operating_system: str
    container: bool | None
    versions: dict[str, str | None]
    unknown: dict[str, str] = field(default_factory=dict)

    def cache_bytes(self, level: int) -> int | None:
        """Return the size in bytes of the cache of `level`, None when unknown or absent."""
        return next((c.bytes for c in self.caches or () if c.level == level), None)

    @property
    def last_level_cache_bytes(self) -> int | None:
        """Size of the largest cache in bytes, None when unknown."""
        return max((c.bytes for c in self.caches or ()), default=None)

    def lines(self) -> list[tuple[str, str]]:
        """Return (what, value or why it is unknown) for a reader."""

        def say(name: str, text: str | None) -> str:
            return text if text is not None else f"unknown: {self.unknown.get(name, 'no reason recorded')}"

        cores = None
        if self.cores_usable is not None:
            cores = f"{self.cores_usable} usable of {self.cores_visible}"
            cores += f" (container allows {self.cpu_quota:g})" if self.cpu_quota is not None else ""
        extensions = None if self.vector_extensions is None else ", ".join(self.vector_extensions) or "none"
        caches = None
        if self.caches is not None:
            caches = ", ".join(f"L{c.level} {size_text(c.bytes)}" for c in self.caches)
        return [
            ("processor", say("processor", self.processor)),
            ("architecture", self.architecture),
            ("cores", say("cores_usable", cores)),
            ("vector extensions", say("vector_extensions", extensions)),
            ("data caches", say("caches", caches)),
            ("memory", say("memory_total", None if self.memory_total is None else size_text(self.memory_total))),
            (
                "memory available",
                say("memory_available", None if self.memory_available is None else size_text(self.memory_available)),
            ),
            ("operating system", self.operating_system + (" (in a container)" if self.container else "")),
            ("versions", ", ".join(f"{k} {v or 'not installed'}" for k, v in self.versions.items())),
        ]

    def __str__(self) -> str:
        return "\n".join(f"{what:18s} {value}" for what, value in self.lines())

    def _repr_html_(self) -> str:
        return html_table("This machine", self.lines())

    def to_json(self) -> str:
        """Return the description as JSON text; `from_json` reads it back."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Machine:
        """Read what `to_json` wrote.

        Raises:
            ValueError: "not a machine written by to_json: ...".
        """
        try:
            raw = json.loads(text)
            if raw.pop("format") != FORMAT:
                raise ValueError(f"expected format {FORMAT!r}")
            for name, make in (("caches", lambda c: Cache(**c)), ("vector_extensions", str)):
                raw[name] = None if raw[name] is None else tuple(map(make, raw[name]))
            return cls(**raw)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not a machine written by to_json: {error}") from error


def size_text(count: int) -> str:
    """Return a number of bytes for a reader: "32 KiB", "1.5 GiB"."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"


def describe_machine(host: Host | None = None) -> Machine:
    """Describe the machine this process runs on. Quick; never raises because something cannot be known.

    Args:
        host: who answers (default: this machine); tests pass a host with a root folder of their own.
    """
    host = host or Host()
    found = {"Linux": _linux, "Darwin": _mac}.get(host.system, _other)(host)
    unknown: dict[str, str] = {k: why for k, (value, why) in found.items() if value is None}
    values = {k: value for k, (value, _) in found.items()}

    visible, allowed = host.cpu_count(), host.affinity()
    quota = cgroup.cpu_quota(host) if host.system == "Linux" else None
    usable = allowed if allowed is not None else visible
    if usable is not None and quota is not None:
        usable = max(1, min(usable, math.floor(quota)))
    if usable is None:
        unknown["cores_visible"] = unknown["cores_usable"] = "the system does not say how many processors it has"
    limit = cgroup.memory_limit(host) if host.system == "Linux" else None
    total, available = values["memory_total"], values["memory_available"]
    limited = limit is not None and (total is None or limit[0] < total)
    if limit is not None and limited:
        total = limit[0]
        available = limit[1] if available is None else min(limit[1], available)
        unknown.pop("memory_total", None)
        unknown.pop("memory_available", None)
    container: bool | None = None
    if host.system == "Linux":
        signs = (host.read("/.dockerenv"), host.read("/run/.containerenv"))
        container = limited or quota is not None or any(s is not None for s in signs)
    return Machine(
        processor=values["processor"],
        architecture=host.architecture or "unknown",
        cores_visible=visible,
        cores_usable=usable,
        cpu_quota=quota,
        vector_extensions=values["vector_extensions"],
        caches=values["caches"],
        memory_total=total,
        memory_available=available,
        operating_system=f"{host.system} {platform.release()}".strip() if host.root == Host().root else host.system,
        container=container,
        versions={"python": platform.python_version(), **{n: _version(n) for n in ("numpy", "numba", "torch")}},
        unknown=unknown,
    )


Found = dict[str, tuple]  # field -> (value or None, why it is None)


def _linux(host: Host) -> Found:
    info = host.read("/proc/cpuinfo") or ""
    memory = dict(line.split(":", 1) for line in (host.read("/proc/meminfo") or "").splitlines() if ":" in line)

    def kib(key: str) -> int | None:
        words = memory.get(key, "").split()
        return int(words[0]) * 1024 if words and words[0].isdigit() else None

    flags = (_entry(info, "flags") or _entry(info, "Features") or "").split()
    table = {**X86_FLAGS, **ARM_FLAGS}
    extensions = tuple(name for flag, name in table.items() if flag in flags) if flags else None
    no_info = "/proc/cpuinfo cannot be read here" if not info else "/proc/cpuinfo does not name it"
    caches = _linux_caches(host)
    return {
        "processor": (_linux_processor(host, info), no_info),
        "vector_extensions": (extensions, no_info),
        "caches": (caches, "the system does not list its caches (common in virtual machines and containers)"),
        "memory_total": (kib("MemTotal"), "/proc/meminfo cannot be read here"),
        "memory_available": (kib("MemAvailable"), "/proc/meminfo does not say how much memory is available"),
    }


def _linux_processor(host: Host, info: str) -> str | None:
    name = _entry(info, "model name") or host.read("/proc/device-tree/model") or _entry(info, "Hardware")
    if name is None and _entry(info, "CPU implementer") == "0x41":
        name = ARM_PARTS.get(_entry(info, "CPU part") or "")
        name = f"Arm {name}" if name else None
    return name


def _entry(info: str, key: str) -> str | None:
    for line in info.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key and value.strip():
            return value.strip()
    return None


def _linux_caches(host: Host) -> tuple[Cache, ...] | None:
    base, found = "/sys/devices/system/cpu/cpu0/cache", []
    for index in host.folder(base):
        kind, level = host.read(f"{base}/{index}/type"), host.read(f"{base}/{index}/level")
        size = host.read(f"{base}/{index}/size") or ""
        number = size.rstrip("KMG")
        if kind not in ("Data", "Unified") or not (level or "").isdigit() or not number.isdigit():
            continue
        scale = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(size[-1], 1)
        shared = _list_length(host.read(f"{base}/{index}/shared_cpu_list"))
        found.append(Cache(int(level or 0), int(number) * scale, shared))
    return tuple(sorted(found, key=lambda c: c.level)) or None


def _list_length(text: str | None) -> int | None:
    """Return how many processors a list such as "0-3,8" names."""
    try:
        ends = [part.split("-") for part in (text or "").split(",")]
        return sum(int(e[-1]) - int(e[0]) + 1 for e in ends)
    except ValueError:
        return None


def _mac(host: Host) -> Found:
    why = "sysctl does not answer"

    def number(name: str) -> int | None:
        text = host.sysctl(name)
        return int(text) if text is not None and text.isdigit() else None

    # The fast cores have their own entries on Apple silicon; the plain ones describe the slow cores there.
    caches = []
    for level, name in ((1, "l1dcachesize"), (2, "l2cachesize"), (3, "l3cachesize")):
        size = number(f"hw.perflevel0.{name}") or number(f"hw.{name}")
        if size:
            caches.append(Cache(level, size))
    flags = [name for key, name in MAC_FLAGS.items() if number(key) == 1]
    return {
        "processor": (host.sysctl("machdep.cpu.brand_string"), why),
        "vector_extensions": (tuple(dict.fromkeys(flags)) or None, why),
        "caches": (tuple(caches) or None, why),
        "memory_total": (number("hw.memsize"), why),
        "memory_available": (None, "macOS compresses and reclaims memory, so one number would mislead"),
    }


def _other(host: Host) -> Found:
    where = "a browser hides it" if host.system == "Emscripten" else f"not asked for on {host.system or 'this system'}"
    fields = ("vector_extensions", "caches", "memory_total", "memory_available")
    return {"processor": (platform.processor() or None, where), **{name: (None, where) for name in fields}}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
