"""The description degrades to what can be known and says why; it is tested on faked systems."""

import pytest
from edgeinfer.measure import Cache, Machine, describe_machine, machine
from edgeinfer.measure.host import Host
from hypothesis import given
from hypothesis import strategies as st

X86 = """processor\t: 0
model name\t: Example CPU @ 3.00GHz
flags\t\t: fpu sse4_2 avx avx2 fma avx512f avx512_vnni amx_int8
"""
MEMINFO = "MemTotal:       8000000 kB\nMemFree:        1000 kB\nMemAvailable:   4000000 kB\n"


class Fake(Host):
    """A host whose answers are given; files lie in a folder."""

    def __init__(self, root, system="Linux", architecture="x86_64", cpus=8, allowed=8, values=None):
        super().__init__(root, system, architecture)
        self.cpus, self.allowed, self.values = cpus, allowed, values or {}

    def cpu_count(self):
        return self.cpus

    def affinity(self):
        return self.allowed

    def sysctl(self, name):
        return self.values.get(name)


def lay_out(root, files):
    for path, text in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return root


def cache(index, level, kind, size, shared="0-7"):
    base = f"sys/devices/system/cpu/cpu0/cache/index{index}"
    return {f"{base}/level": level, f"{base}/type": kind, f"{base}/size": size, f"{base}/shared_cpu_list": shared}


def test_an_ordinary_linux_machine(tmp_path):
    files = {"proc/cpuinfo": X86, "proc/meminfo": MEMINFO}
    files |= cache(0, "1", "Data", "32K", "0") | cache(1, "1", "Instruction", "32K", "0")
    files |= cache(2, "2", "Unified", "1024K", "0,4") | cache(3, "3", "Unified", "32M")
    found = describe_machine(Fake(lay_out(tmp_path, files)))
    assert found.processor == "Example CPU @ 3.00GHz"
    assert found.vector_extensions == ("SSE4.2", "AVX", "FMA", "AVX2", "AVX-512F", "AVX-512 VNNI", "AMX INT8")
    assert found.caches == (Cache(1, 32 << 10, 1), Cache(2, 1 << 20, 2), Cache(3, 32 << 20, 8))
    assert found.last_level_cache_bytes == 32 << 20 and found.cache_bytes(2) == 1 << 20
    assert (found.memory_total, found.memory_available) == (8_000_000 * 1024, 4_000_000 * 1024)
    assert (found.cores_visible, found.cores_usable, found.cpu_quota, found.container) == (8, 8, None, False)
    assert found.unknown == {}


def test_affinity_narrows_the_usable_cores(tmp_path):
    assert describe_machine(Fake(tmp_path, allowed=2)).cores_usable == 2


@pytest.mark.parametrize(
    ("files", "quota", "usable"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None, 8),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "300000 100000\n"}, 3, 3),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/pod\n",
                "sys/fs/cgroup/cpu/pod/cpu.cfs_quota_us": "150000",
                "sys/fs/cgroup/cpu/pod/cpu.cfs_period_us": "100000",
            },
            1.5,
            1,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/pod\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            None,
            8,
        ),
    ],
)
def test_a_container_quota_narrows_the_usable_cores(tmp_path, files, quota, usable):
    found = describe_machine(Fake(lay_out(tmp_path, files)))
    assert (found.cpu_quota, found.cores_usable, found.cores_visible) == (quota, usable, 8)
    assert found.container is (quota is not None)


@pytest.mark.parametrize(
    "files",
    [
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": "2000000000\n",
            "sys/fs/cgroup/memory.current": "900000000\n",
            "sys/fs/cgroup/memory.stat": "anon 1\ninactive_file 400000000\n",
        },
        {
            "proc/self/cgroup": "9:memory:/docker/x\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000000",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "900000000",
            "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 400000000\n",
        },
    ],
    ids=["version 2", "version 1"],
)
def test_a_container_limit_is_the_memory(tmp_path, files):
    found = describe_machine(Fake(lay_out(tmp_path, {**files, "proc/meminfo": MEMINFO})))
    assert (found.memory_total, found.memory_available, found.container) == (2_000_000_000, 1_500_000_000, True)


def test_an_unlimited_container_shows_the_machines_memory(tmp_path):
    files = {
        "proc/self/cgroup": "9:memory:/x\n",
        "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "9223372036854771712",
        "proc/meminfo": MEMINFO,
    }
    found = describe_machine(Fake(lay_out(tmp_path, files)))
    assert found.memory_total == 8_000_000 * 1024 and found.container is False


def test_a_single_board_computer_is_named_by_its_device_tree(tmp_path):
    files = {
        "proc/cpuinfo": "processor : 0\nFeatures : fp asimd asimddp\nCPU implementer : 0x41\nCPU part : 0xd0b\n",
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    }
    found = describe_machine(Fake(lay_out(tmp_path, files), architecture="aarch64"))
    assert found.processor == "Raspberry Pi 5 Model B Rev 1.0"
    assert found.vector_extensions == ("NEON", "NEON dot product")
    assert found.caches is None and "caches" in found.unknown


def test_an_arm_server_is_named_by_its_part_number(tmp_path):
    info = "processor : 0\nFeatures : asimd sve i8mm bf16\nCPU implementer : 0x41\nCPU part : 0xd40\n"
    found = describe_machine(Fake(lay_out(tmp_path, {"proc/cpuinfo": info}), architecture="aarch64"))
    assert found.processor == "Arm Neoverse V1" and "SVE" in found.vector_extensions


def test_apple_silicon_uses_its_fast_cores(tmp_path):
    values = {
        "machdep.cpu.brand_string": "Apple M2",
        "hw.memsize": str(16 << 30),
        "hw.perflevel0.l1dcachesize": str(128 << 10),
        "hw.l1dcachesize": str(64 << 10),
        "hw.perflevel0.l2cachesize": str(16 << 20),
        "hw.optional.neon": "1",
        "hw.optional.AdvSIMD": "1",
        "hw.optional.arm.FEAT_DotProd": "1",
        "hw.optional.arm.FEAT_SME": "0",
    }
    found = describe_machine(Fake(tmp_path, "Darwin", "arm64", allowed=None, values=values))
    assert found.processor == "Apple M2" and found.memory_total == 16 << 30
    assert found.caches == (Cache(1, 128 << 10), Cache(2, 16 << 20))
    assert found.vector_extensions == ("NEON", "NEON dot product")
    assert found.cores_usable == 8 and found.container is None
    assert "macOS" in found.unknown["memory_available"]


@pytest.mark.parametrize("system", ["Linux", "Darwin", "Windows", "Emscripten", ""])
def test_where_nothing_answers_every_gap_has_a_reason(tmp_path, system, monkeypatch):
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    found = describe_machine(Fake(tmp_path, system, "", cpus=None, allowed=None))
    gaps = [n for n in vars(found) if getattr(found, n) is None and n not in ("cpu_quota", "container")]
    assert set(gaps) == set(found.unknown)
    assert all(len(why) > 10 for why in found.unknown.values())
    assert "unknown: " in str(found) and "unknown: " in found._repr_html_()
    assert Machine.from_json(found.to_json()) == found


def test_this_machine_can_be_described_and_read_back():
    found = describe_machine()
    assert found.cores_usable is None or found.cores_usable >= 1
    assert Machine.from_json(found.to_json()) == found
    assert "<caption>" in found._repr_html_()


def test_no_host_or_user_name_is_recorded():
    import getpass
    import socket

    text = describe_machine().to_json()
    assert socket.gethostname() not in text
    assert f'"{getpass.getuser()}"' not in text


@given(st.lists(st.integers(0, 500), min_size=1, max_size=5, unique=True))
def test_processor_lists_are_counted(numbers):
    assert machine._list_length(",".join(map(str, numbers))) == len(numbers)
    assert machine._list_length(f"{numbers[0]}-{numbers[0] + 3}") == 4
    assert machine._list_length("") is None and machine._list_length(None) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "edgeinfer.machine/1"}'])
def test_foreign_json_is_refused(text):
    with pytest.raises(ValueError, match="not a machine written by to_json"):
        Machine.from_json(text)


def test_damaged_answers_are_treated_as_unknown(tmp_path):
    files = {"proc/cpuinfo": "\x00garbage", "proc/meminfo": "MemTotal: many kB\n", "proc/self/cgroup": "garbage\n0:\n"}
    files |= cache(0, "x", "Data", "32K") | cache(1, "1", "Data", "")
    found = describe_machine(Fake(lay_out(tmp_path, files)))
    assert found.caches is None and found.memory_total is None and found.processor is None
