"""Runs a command as systemd would run it for a unit, as far as that works without systemd: reads the unit file and its
drop-ins, makes the mount namespace, gives up capabilities, loads the filters of system calls, and executes the command.

confine.py <writable folder> <unit file> [<drop-in>...] -- <command> [<argument>...]

A setting that it doesn't know is an error, so that the unit and this can't drift apart. What is left out on purpose stands
in ELSEWHERE and NOT_HERE.
"""

import ctypes
import errno
import os
import re
import resource
import subprocess
import sys

# What concerns the start and the end, and no restriction.
ELSEWHERE = {
    "Type", "NotifyAccess", "ExecStart", "ExecReload", "KillSignal", "KillMode", "TimeoutStopSec", "Restart", "RestartSec",
    "OOMPolicy", "RuntimeDirectory", "RuntimeDirectoryMode", "TasksMax", "CPUWeight", "Delegate", "AmbientCapabilities",
}
# Restrictions that hide or lock something that the plugin doesn't look at, and that take systemd to make.
NOT_HERE = {"ProtectClock", "ProtectHostname", "ProtectKernelLogs"}

PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP, PR_SET_SECUREBITS = 38, 24, 28
NAMESPACES = {
    "cgroup": 0x02000000, "ipc": 0x08000000, "net": 0x40000000, "mnt": 0x00020000, "pid": 0x20000000, "user": 0x10000000,
    "uts": 0x04000000, "time": 0x00000080,
}
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}
MOST_FAMILIES = 64
PROT_WRITE, PROT_EXEC = 2, 4
SET_ID_BITS = 0o6000

libc = ctypes.CDLL(None, use_errno=True)


def fail(text):
    sys.exit(f"confine.py: {text}")


def settings(files):
    """The last value of each setting; an empty one takes earlier ones back, and lists add up."""
    found = {}
    lists = {"CapabilityBoundingSet", "SystemCallFilter", "RestrictAddressFamilies", "DeviceAllow"}
    for file in files:
        section = ""
        for line in open(file, encoding="utf-8"):
            line = line.strip()
            if not line or line[0] in "#;":
                continue
            if line[0] == "[":
                section = line
            elif section == "[Service]":
                name, _, value = line.partition("=")
                if name in lists and value:
                    found.setdefault(name, []).append(value)
                else:
                    found[name] = [value] if value else []
    return {name: " ".join(values) for name, values in found.items()}


def is_on(value):
    return value in ("yes", "true", "on", "1")


def mount(*words):
    done = subprocess.run(["mount", *words], capture_output=True, text=True)
    if done.returncode:
        fail(f"mount {' '.join(words)}: {done.stderr.strip()}")


def read_only(path):
    if os.path.exists(path):
        mount("--rbind", path, path)
        mount("-o", "remount,bind,ro", path)


def make_mounts(unit, writable):
    if libc.unshare(NAMESPACES["mnt"]):
        fail(f"no mount namespace: {os.strerror(ctypes.get_errno())}")
    mount("--make-rslave", "/")
    full = {"yes": ["/usr", "/boot"], "full": ["/usr", "/boot", "/etc"]}
    for path in full.get(unit.get("ProtectSystem", "no")) or ([] if unit["ProtectSystem"] == "no" else fail("ProtectSystem")):
        read_only(path)
    home = unit.get("ProtectHome", "no")
    for path in ["/home", "/root", "/run/user"] if home != "no" else []:
        if home != "read-only":
            fail(f"ProtectHome={home}")
        # The test's own interpreter may be there; it is still read.
        read_only(path)
    if is_on(unit.get("PrivateTmp", "no")):
        # All is hidden but the folder of the test, and this checkout if it is there.
        checkout = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        visible = [writable] + [checkout] * checkout.startswith("/tmp/")
        hidden = "/run/confine"
        os.makedirs(hidden, exist_ok=True)
        mount("-t", "tmpfs", "none", hidden)
        kept = {path: os.path.join(hidden, str(number)) for number, path in enumerate(visible)}
        for path, copy in kept.items():
            os.mkdir(copy)
            mount("--rbind", path, copy)
        mount("-t", "tmpfs", "-o", "mode=1777", "none", "/tmp")
        for path, copy in kept.items():
            os.makedirs(path, exist_ok=True)
            mount("--rbind", copy, path)
    if unit.get("ProtectProc", "default") != "default":
        mount("-t", "proc", "-o", f"hidepid={unit['ProtectProc']}", "proc", "/proc")
    if is_on(unit.get("ProtectKernelTunables", "no")):
        for path in ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/fs", "/sys"]:
            read_only(path)
    if is_on(unit.get("ProtectControlGroups", "no")):
        read_only("/sys/fs/cgroup")
    if is_on(unit.get("ProtectKernelModules", "no")) and os.path.isdir("/usr/lib/modules"):
        mount("-t", "tmpfs", "-o", "mode=000", "none", "/usr/lib/modules")
    if unit.get("DevicePolicy") == "closed":
        allowed = [word for word in unit.get("DeviceAllow", "").split() if word.startswith("/dev/")]
        devices = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", *allowed]
        nodes = [(path, os.stat(path)) for path in devices if os.path.exists(path)]
        mount("-t", "tmpfs", "-o", "mode=755", "none", "/dev")
        for path, stat in nodes:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.mknod(path, stat.st_mode, stat.st_rdev)
            os.chmod(path, stat.st_mode & 0o777)
        os.symlink("/proc/self/fd", "/dev/fd")


class Comparison(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


NE, LT, LE, EQ, GE, GT, MASKED_EQ = range(1, 8)
ALLOW = 0x7FFF0000


def refuse(number):
    return 0x00050000 | number


class Filter:
    """A filter of system calls by libseccomp, which knows their names."""

    lib = None

    def __init__(self, default):
        if Filter.lib is None:
            lib = Filter.lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
            lib.seccomp_init.restype = ctypes.c_void_p
            lib.seccomp_load.argtypes = [ctypes.c_void_p]
            lib.seccomp_release.argtypes = [ctypes.c_void_p]
            lib.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
            lib.seccomp_rule_add_array.argtypes = [
                ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(Comparison)]
        self.context = Filter.lib.seccomp_init(default)
        # SCMP_FLTATR_CTL_NNP off: whether privileges can be gained is another setting.
        Filter.lib.seccomp_attr_set(self.context, 3, 0)

    def add(self, action, name, *comparisons):
        number = Filter.lib.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            return  # Not on this machine.
        array = (Comparison * max(len(comparisons), 1))(*[Comparison(*it) for it in comparisons])
        failed = Filter.lib.seccomp_rule_add_array(self.context, action, number, len(comparisons), array)
        if failed:
            fail(f"seccomp {name}: {os.strerror(-failed)}")

    def load(self):
        failed = Filter.lib.seccomp_load(self.context)
        if failed:
            fail(f"seccomp: {os.strerror(-failed)}")
        Filter.lib.seccomp_release(self.context)


def calls(words, known=None):
    """System calls by the names of systemd's sets."""
    found = set()
    for word in words:
        if not word.startswith("@"):
            found.add(word)
            continue
        told = subprocess.run(["systemd-analyze", "syscall-filter", word], capture_output=True, text=True)
        if told.returncode:
            fail(f"systemd-analyze syscall-filter {word}: {told.stderr.strip()}")
        names = [line.strip() for line in told.stdout.splitlines()[1:]]
        found |= calls([name for name in names if name and name[0] != "#"])
    return found


def filters(unit):
    """All of them, made before the first one is loaded."""
    made = []
    words = unit.get("SystemCallFilter", "").split()
    if words:
        if any(word.startswith("~") or ":" in word for word in words):
            fail("SystemCallFilter: lists of what is forbidden, and errors of single calls, are not understood here")
        made.append(Filter(refuse(getattr(errno, unit.get("SystemCallErrorNumber", "EPERM")))))
        # What systemd itself calls behind the filter, and what this has to do.
        for name in sorted(calls(["@default", "execve", *words])):
            made[0].add(ALLOW, name)
    kept = unit.get("RestrictNamespaces", "no")
    if kept != "no":
        names = [] if is_on(kept) else kept.split()
        limits = Filter(ALLOW)
        limits.add(refuse(errno.ENOSYS), "clone3")
        for name, flag in NAMESPACES.items():
            if name in names:
                continue
            for call, argument in (("unshare", 0), ("setns", 1)) + ((("clone", 0),) if name != "time" else ()):
                limits.add(refuse(errno.EPERM), call, (argument, MASKED_EQ, flag, flag))
        limits.add(refuse(errno.EPERM), "setns", (1, EQ, 0, 0))
        made.append(limits)
    families = unit.get("RestrictAddressFamilies")
    if families:
        known = {FAMILIES[name] for name in families.split()}
        limits = Filter(ALLOW)
        for family in set(range(MOST_FAMILIES)) - known:
            limits.add(refuse(errno.EAFNOSUPPORT), "socket", (0, EQ, family, 0))
        limits.add(refuse(errno.EAFNOSUPPORT), "socket", (0, GE, MOST_FAMILIES, 0))
        made.append(limits)
    others = Filter(ALLOW)
    if is_on(unit.get("MemoryDenyWriteExecute", "no")):
        both = PROT_WRITE | PROT_EXEC
        others.add(refuse(errno.EPERM), "mmap", (2, MASKED_EQ, both, both))
        others.add(refuse(errno.EPERM), "mprotect", (2, MASKED_EQ, PROT_EXEC, PROT_EXEC))
        others.add(refuse(errno.EPERM), "pkey_mprotect", (2, MASKED_EQ, PROT_EXEC, PROT_EXEC))
    if is_on(unit.get("LockPersonality", "no")):
        others.add(refuse(errno.EPERM), "personality", (0, NE, 0, 0))
    if is_on(unit.get("RestrictRealtime", "no")):
        for policy in (1, 2, 6):
            others.add(refuse(errno.EPERM), "sched_setscheduler", (1, EQ, policy, 0))
    if is_on(unit.get("RestrictSUIDSGID", "no")):
        for bit in (0o4000, 0o2000):
            for call, argument in (("chmod", 1), ("fchmod", 1), ("fchmodat", 2), ("mkdir", 1), ("mkdirat", 2)):
                others.add(refuse(errno.EPERM), call, (argument, MASKED_EQ, bit, bit))
    made.append(others)
    return made


KNOWN = ELSEWHERE | NOT_HERE | {
    "CapabilityBoundingSet", "NoNewPrivileges", "RestrictNamespaces", "RestrictAddressFamilies", "SystemCallArchitectures",
    "SystemCallFilter", "SystemCallErrorNumber", "MemoryDenyWriteExecute", "LockPersonality", "RestrictRealtime",
    "RestrictSUIDSGID", "DevicePolicy", "DeviceAllow", "ProtectSystem", "ProtectHome", "PrivateTmp", "ProtectProc",
    "ProtectControlGroups", "ProtectKernelModules", "ProtectKernelTunables", "LimitNOFILE",
}


def main():
    divider = sys.argv.index("--")
    writable, files, command = sys.argv[1], sys.argv[2:divider], sys.argv[divider + 1:]
    unit = settings(files)
    if unknown := set(unit) - KNOWN:
        fail(f"settings that are not understood here: {', '.join(sorted(unknown))}")
    made = filters(unit)
    make_mounts(unit, writable)
    words = ["setpriv", "--inh-caps=-all"]
    if "CapabilityBoundingSet" in unit:
        kept = [re.sub("^CAP_", "", name).lower() for name in unit["CapabilityBoundingSet"].split()]
        words.append("--bounding-set=" + ",".join(["-all", *(f"+{name}" for name in kept)]))
    if is_on(unit.get("NoNewPrivileges", "no")):
        words.append("--no-new-privs")
    if "LimitNOFILE" in unit:
        # As much of it as this machine gives to anybody.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        wanted = int(unit["LimitNOFILE"])
        wanted = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    os.chdir(writable)
    for limits in made:
        limits.load()
    os.execvp(words[0], [*words, *command])


main()
