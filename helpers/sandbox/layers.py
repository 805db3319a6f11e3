"""What a sandbox server locks itself into on Linux, without root: namespaces, Landlock and seccomp, by ctypes.

Applied once per server; only the short seccomp filter of ``child_filter`` is installed once per program. Every
function returns ``None`` or the reason why the kernel or a container forbids the layer, so that the caller can go on
with the next. Sources: user_namespaces(7), capabilities(7), landlock(7), seccomp(2), pid_namespaces(7) of the Linux
manual, and the kernel's uapi headers for the numbers. Loaded by ``server.py`` only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_prctl = _libc.prctl
_prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 22, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
TMPFS = b"size=16m,nr_inodes=1024,mode=700"


def _reason(call: str) -> str:
    return f"{call}: {os.strerror(ctypes.get_errno())}"


def die_with_parent(signal: int) -> None:
    """Have the kernel send ``signal`` to this process when the thread that started it ends."""
    _prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0)


def adopt_orphans() -> None:
    """Processes that a child leaves behind become children of this one, which can then end and reap them."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def drop_privileges() -> None:
    """No capabilities, none to be gained by executing a file, no tracing by processes of the same user."""
    for capability in range(64):
        _prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = struct.pack("<Ii", 0x20080522, 0)  # version 3, this process
    _libc.capset(header, bytes(24))
    _prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


# --------------------------------------------------------------------------------------------------------- namespaces

_NEW_NS, _NEW_IPC, _NEW_USER, _NEW_PID, _NEW_NET = 0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
_MS_REC_PRIVATE = 0x4000 | 0x40000


def namespaces() -> str | None:
    """New user, mount, pid (for the next child), network and ipc namespaces; this user is "nobody" inside.

    Raises OSError if the namespaces exist but cannot be set up: the process is then of no use.
    """
    uid, gid = os.geteuid(), os.getegid()
    if _libc.unshare(_NEW_USER | _NEW_NS | _NEW_PID | _NEW_NET | _NEW_IPC):
        return _reason("unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"65534 {uid} 1"), ("gid_map", f"65534 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    return None


def private_folder() -> tuple[str, str | None]:
    """A small empty file system in memory over a folder that Python does not use, seen only in our mount namespace.

    Returns its path, or "" and the reason.
    """
    used = [os.path.realpath(path) for path in (*sys.path, sys.executable, sys.base_prefix, __file__)]
    for folder in ("/tmp", "/var/tmp", "/dev/shm", "/mnt"):
        path = os.path.realpath(folder)
        if os.path.isdir(path) and not any(item == path or item.startswith(path + "/") for item in used):
            _libc.mount(None, b"/", None, _MS_REC_PRIVATE, None)
            if _libc.mount(b"tmpfs", path.encode(), b"tmpfs", 6, TMPFS):  # 6: nosuid, nodev
                return "", _reason("mount")
            if path != "/tmp":  # a name that stands for nothing else, so that verdicts can call it /tmp
                path = os.path.join(path, "ppo-sandbox-" + os.urandom(8).hex())
                os.mkdir(path, 0o700)
            return path, None
    return "", "no folder to mount over"


# ----------------------------------------------------------------------------------------------------------- Landlock

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE, _IOCTL = 1, 2, 4, 8, 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446


def _library_folders() -> set[str]:
    """Where Python's modules and the shared libraries of this process are."""
    folders = {"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/localtime", "/etc/ld.so.cache"}
    folders.update(path for path in sys.path if path)
    with open("/proc/self/maps") as maps:
        for line in maps:
            path = line.split(maxsplit=5)[5].strip() if line.count("/") else ""
            if ".so" in path:
                folders.add(os.path.dirname(path))
    return folders


def landlock(scratch: str) -> str | None:
    """Files: read Python's modules and libraries, write in ``scratch`` only; no TCP and no signals to outside where
    the kernel's version of Landlock has that."""
    version = _syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return _reason("landlock_create_ruleset")
    files = (1 << 13) - 1
    for needed, bit in ((2, 1 << 13), (3, _TRUNCATE), (5, _IOCTL)):
        files |= bit if version >= needed else 0
    attributes = struct.pack("<QQQ", files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    ruleset = _syscall(_CREATE_RULESET, attributes, 24 if version >= 6 else 16 if version >= 4 else 8, 0)
    if ruleset < 0:
        return _reason("landlock_create_ruleset")
    rules = dict.fromkeys(_library_folders(), _READ_FILE | _READ_DIR)
    rules.update({"/dev/urandom": _READ_FILE, "/dev/zero": _READ_FILE, "/dev/null": _OF_FILES & ~_EXECUTE})
    rules[scratch] = files & ~_EXECUTE
    for path, access in rules.items():
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= _OF_FILES
        _syscall(_ADD_RULE, ruleset, 1, struct.pack("<Qi", access & files, descriptor), 0)
        os.close(descriptor)
    _prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    failed = _syscall(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return _reason("landlock_restrict_self") if failed else None


# ------------------------------------------------------------------------------------------------------------ seccomp

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # audit number, column below
# What neither the server nor a program needs: "name x86_64 aarch64", - where the call does not exist.
_FORBIDDEN = """
socket 41 198, connect 42 203, bind 49 200, execve 59 221, execveat 322 281, ptrace 101 117,
process_vm_readv 310 270, process_vm_writev 311 271, process_madvise 440 440, kcmp 312 272, pidfd_getfd 438 438,
mount 165 40, umount2 166 39, pivot_root 155 41, chroot 161 51, unshare 272 97, setns 308 268, fsopen 430 430,
fsmount 432 432, fsconfig 431 431, fspick 433 433, move_mount 429 429, open_tree 428 428, mount_setattr 442 442,
bpf 321 280, perf_event_open 298 241, userfaultfd 323 282, io_uring_setup 425 425, io_uring_enter 426 426,
io_uring_register 427 427, keyctl 250 219, add_key 248 217, request_key 249 218, shmget 29 194, semget 64 190,
msgget 68 186, mq_open 240 180, memfd_create 319 279, memfd_secret 447 447, chmod 90 -, fchmod 91 52, fchmodat 268 53,
chown 92 -, fchown 93 55, lchown 94 -, fchownat 260 54, setxattr 188 5, lsetxattr 189 6, fsetxattr 190 7,
removexattr 197 14, lremovexattr 198 15, fremovexattr 199 16, utime 132 -, utimes 235 -, utimensat 280 88,
futimesat 261 -, truncate 76 45, mknod 133 -, mknodat 259 33, name_to_handle_at 303 264, open_by_handle_at 304 265,
fanotify_init 300 262, inotify_init 253 -, inotify_init1 294 26, quotactl 179 60, acct 163 89, swapon 167 224,
swapoff 168 225, reboot 169 142, syslog 103 116, kexec_load 246 104, init_module 175 105, finit_module 313 273,
delete_module 176 106, setpriority 141 140, sched_setaffinity 203 122, sched_setscheduler 144 119,
sched_setparam 142 118, sched_setattr 314 274, ioprio_set 251 30, migrate_pages 256 238, move_pages 279 239,
personality 135 92, modify_ldt 154 -, settimeofday 164 170, clock_settime 227 112, clock_adjtime 305 266,
adjtimex 159 171, sethostname 170 161, setdomainname 171 162, setuid 105 146, setgid 106 144, setreuid 113 145,
setregid 114 143, setresuid 117 147, setresgid 119 149, setgroups 116 159, setfsuid 122 151, setfsgid 123 152,
capset 126 91
"""
# Changes to files: forbidden altogether where Landlock cannot confine them to the scratch folder.
_CHANGES = """
creat 85 -, unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38, renameat2 316 276, mkdir 83 -, mkdirat 258 34,
rmdir 84 -, link 86 -, linkat 265 37, symlink 88 -, symlinkat 266 36, openat2 437 437
"""
# Of programs only: the server forks, and ends what it started.
_OF_CHILD = """
fork 57 -, vfork 58 -, kill 62 129, tkill 200 130, tgkill 234 131, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240,
pidfd_send_signal 424 424
"""
_BY_ARGUMENT = "clone 56 220, clone3 435 435, prlimit64 302 261, fcntl 72 25, ioctl 16 29, open 2 -, openat 257 56"
_UNKNOWN = 450  # this call and all newer ones are answered as an older kernel would

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # of the classic BPF machine
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_THREAD = 0x00010000  # CLONE_THREAD


def _numbers(table: str, column: int) -> dict[str, int]:
    rows = [entry.split() for entry in table.replace("\n", " ").split(",")]
    return {row[0]: int(row[1 + column]) for row in rows if row[1 + column] != "-"}


class _Filter:
    """A seccomp program, assembled for this machine."""

    def __init__(self) -> None:
        audit, self.column = _ARCHITECTURES[os.uname().machine]
        self.special = _numbers(_BY_ARGUMENT, self.column)
        self.code = bytearray()
        self._add(_LOAD, 4)  # the architecture of the call
        self._add(_EQUAL, audit, 1, 0)
        self._add(_RETURN, _KILL)
        self._add(_LOAD, 0)  # its number

    def _add(self, operation: int, value: int, then: int = 0, otherwise: int = 0) -> None:
        self.code += struct.pack("<HBBI", operation, then, otherwise, value)

    def forbid(self, table: str) -> None:
        for number in _numbers(table, self.column).values():
            self._add(_EQUAL, number, 0, 1)
            self._add(_RETURN, _ERROR | errno.EPERM)

    def forbid_unknown(self) -> None:
        self._add(_AT_LEAST, _UNKNOWN, 0, 1)
        self._add(_RETURN, _ERROR | errno.ENOSYS)

    def absent(self, name: str) -> None:
        self._add(_EQUAL, self.special[name], 0, 1)
        self._add(_RETURN, _ERROR | errno.ENOSYS)

    def argument(self, name: str, index: int, operation: int, values: list[int], forbidden: bool) -> None:
        """A call whose argument (its low 32 bits) decides: forbidden, or allowed only, if one of ``values`` fits."""
        if name not in self.special:
            return
        self._add(_EQUAL, self.special[name], 0, len(values) + 3)
        self._add(_LOAD, 16 + 8 * index)
        for place, value in enumerate(values):
            self._add(operation, value, len(values) - place, 0)
        self._add(_RETURN, _ALLOW if forbidden else _ERROR | errno.EPERM)
        self._add(_RETURN, _ERROR | errno.EPERM if forbidden else _ALLOW)

    def finish(self) -> ctypes.Array[ctypes.c_char]:
        self._add(_RETURN, _ALLOW)
        return ctypes.create_string_buffer(bytes(self.code), len(self.code))


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]


_kept: list[object] = []  # what the kernel is given by address


def _installer(filter_: _Filter) -> Callable[[], None]:
    code = filter_.finish()
    program = _Program(len(code) // 8, ctypes.cast(code, ctypes.c_void_p))
    _kept.extend((code, program))
    address = ctypes.addressof(program)

    def install() -> None:
        if _prctl(PR_SET_SECCOMP, 2, address, 0, 0):
            raise OSError(ctypes.get_errno(), "seccomp")

    return install


def seccomp(changes: bool) -> str | None:
    """Forbid the calls of no use to a program. ``changes``: also all that write, create or remove files."""
    if os.uname().machine not in _ARCHITECTURES or struct.calcsize("P") != 8:
        return f"no filter for {os.uname().machine}"
    rules = _Filter()
    rules.forbid_unknown()
    rules.forbid(_FORBIDDEN)
    rules.argument("prlimit64", 0, _EQUAL, [0], forbidden=False)  # of itself only
    rules.argument("fcntl", 1, _EQUAL, [8, 10, 15], forbidden=True)  # SETOWN, SETSIG, SETOWN_EX: signals to others
    rules.argument("ioctl", 1, _EQUAL, [0x8901, 0x8902, 0x5412], forbidden=True)  # the same; TIOCSTI
    if changes:
        rules.forbid(_CHANGES)
        writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
        rules.argument("open", 1, _ANY_BIT, [writing], forbidden=True)
        rules.argument("openat", 2, _ANY_BIT, [writing], forbidden=True)
    _prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    try:
        _installer(rules)()
    except OSError as error:
        return f"prctl: {error.strerror}: {os.strerror(error.errno or 0)}"
    return None


def child_filter() -> Callable[[], None]:
    """A function that forbids this process new processes (threads are allowed) and signals to others."""
    rules = _Filter()
    rules.absent("clone3")  # its flags are out of a filter's sight; the C library then uses clone
    rules.argument("clone", 0, _ANY_BIT, [_THREAD], forbidden=False)
    rules.forbid(_OF_CHILD)
    return _installer(rules)
