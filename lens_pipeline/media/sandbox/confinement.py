"""Takes rights away from programs that read strangers' files: privileges, files, system calls.

Linux keeps these rights for each thread, and children inherit them. So a thread gives up its own
and starts the program: code between fork and exec could deadlock in a process with threads.
"""

import ctypes
import os
import stat
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

# Programs, libraries and what these read of the machine.
_SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib64", "/nix/store", "/etc/ld.so.cache"),
    *("/dev/urandom", "/sys/devices/system"),
)
_NULL = Path(os.devnull)

# linux/prctl.h, linux/capability.h
_PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 22, 24, 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_DAC_OVERRIDE = 1
_MOST_CAPABILITIES = 64

# linux/landlock.h: system calls, and rights to files by version.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = _PATH_BENEATH = 1
_RIGHTS_OF_VERSION = (13, 14, 15, 15, 16)
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIRECTORY, _TRUNCATE = 1, 2, 4, 8, 1 << 14
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_READ = _EXECUTE | _READ_FILE | _READ_DIRECTORY
# Bytes of files, network (from version 4 on), and signals (from version 6 on).
_RULESET_BYTES = (8, 8, 8, 16, 16, 24)

# linux/seccomp.h, linux/bpf_common.h
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _FIRST_ARGUMENT_OFFSET = 0, 4, 16
_EPERM, _ENOSYS = 1, 38
# A second set of numbers on x86-64.
_X32 = 0x40000000
_CLONE3 = 435
# All of CLONE_NEW…: a namespace would bring capabilities.
_NAMESPACES = 0x7E020000
# The architecture, `clone`, then what opens a socket, reads another process or avoids this filter:
# socket, socketpair, ptrace, process_vm_readv, process_vm_writev, unshare, setns, bpf,
# perf_event_open, userfaultfd, keyctl, add_key, request_key, io_uring_setup, pidfd_getfd.
_SYSTEM_CALLS = {
    "x86_64": (
        *(0xC000003E, 56),
        *(41, 53, 101, 310, 311, 272, 308, 321, 298, 323, 250, 248, 249, 425, 438),
    ),
    "aarch64": (
        *(0xC00000B7, 220),
        *(198, 199, 117, 270, 271, 97, 268, 280, 241, 282, 219, 217, 218, 425, 438),
    ),
}

_libc = ctypes.CDLL(None, use_errno=True)


def confined_thread(read: Iterable[Path], write: Iterable[Path] = ()) -> ThreadPoolExecutor:
    """One thread that has given up rights; it and its children reach only these paths.

    Give it nothing to do but to start a program.
    """
    return ThreadPoolExecutor(1, "confined", _confine, (tuple(read), tuple(write)))


def missing_protections(paths: Iterable[Path]) -> list[str]:
    """What programs that read `paths` go without here, with the reason: found out by trying."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_confine, paths, ()).result()


def _confine(read: Iterable[Path], write: Iterable[Path]) -> list[str]:
    """Returns what is missing."""
    if sys.platform != "linux":
        return ["memory, files, network and system calls: only Linux can take these away"]
    readable = [*map(Path, _SYSTEM), *read]
    writable = [_NULL, *write]
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    missing: list[str] = []
    for name, protect in (
        ("capabilities", lambda: _drop_capabilities([*readable, *writable])),
        ("files (Landlock)", lambda: _restrict_files(readable, writable)),
        ("network and system calls (seccomp)", _restrict_system_calls),
    ):
        try:
            protect()
        except OSError as error:
            missing.append(f"{name}: {error.strerror}")
    return missing


def _drop_capabilities(paths: Iterable[Path]) -> None:
    """All; but root needs one to reach files below another user's private directory.

    Raises PermissionError: it has been left.
    """
    _, permitted, _ = _capabilities()
    _set_capabilities(0, permitted)
    kept = 0 if all(map(_is_reachable, paths)) else permitted & 1 << _CAP_DAC_OVERRIDE
    _set_capabilities(permitted, permitted)
    for number in range(_MOST_CAPABILITIES):
        if not kept >> number & 1:
            # It is refused without root, and for numbers that no capability has.
            with suppress(OSError):
                _prctl(_PR_CAPBSET_DROP, number)
    _set_capabilities(kept, kept)
    if kept:
        raise PermissionError(_EPERM, "root keeps CAP_DAC_OVERRIDE to reach another user's files")


def _is_reachable(path: Path) -> bool:
    try:
        with _opened(path):
            return True
    except OSError as error:
        return not isinstance(error, PermissionError)


def _restrict_files(readable: Iterable[Path], writable: Iterable[Path]) -> None:
    """Raises OSError: this kernel has no Landlock."""
    version = min(_call(_CREATE_RULESET, None, 0, _VERSION_FLAG), len(_RULESET_BYTES))
    rights = (1 << _RIGHTS_OF_VERSION[min(version, len(_RIGHTS_OF_VERSION)) - 1]) - 1
    # No network, and no signals or sockets to processes outside.
    attributes = struct.pack("QQQ", rights, 0b11, 0b11)
    ruleset = _call(_CREATE_RULESET, attributes, _RULESET_BYTES[version - 1], 0)
    try:
        for paths, allowed in ((readable, _READ & rights), (writable, rights)):
            for path in paths:
                # What is not there, or not ours, stays out of reach.
                with suppress(OSError), _opened(path) as opened:
                    is_directory = stat.S_ISDIR(os.fstat(opened).st_mode)
                    of_path = allowed if is_directory else allowed & _OF_FILES
                    rule = struct.pack("=Qi", of_path, opened)
                    _call(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _restrict_system_calls() -> None:
    """Raises OSError: this kernel has no seccomp, or the processor is not known."""
    known = _SYSTEM_CALLS.get(os.uname().machine)
    if known is None:
        raise OSError(_ENOSYS, f"not known for {os.uname().machine}")
    code = b"".join(struct.pack("HBBI", *step) for step in _filter(*known))
    steps = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HP", len(code) // 8, ctypes.addressof(steps))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program)


def _filter(architecture: int, clone: int, *refused: int) -> Iterator[tuple[int, int, int, int]]:
    """Steps of (operation, steps to skip if true, if false, operand)."""
    yield _LOAD, 0, 0, _ARCHITECTURE_OFFSET
    yield _EQUAL, 1, 0, architecture
    yield _RETURN, 0, 0, _ERROR | _EPERM
    yield _LOAD, 0, 0, _NUMBER_OFFSET
    for operation, operand, answer in (
        *((_EQUAL, number, _ERROR | _EPERM) for number in refused),
        (_AT_LEAST, _X32, _ERROR | _EPERM),
        # Its flags are out of sight; C libraries then use `clone`.
        (_EQUAL, _CLONE3, _ERROR | _ENOSYS),
    ):
        yield operation, 0, 1, operand
        yield _RETURN, 0, 0, answer
    yield _EQUAL, 0, 3, clone
    yield _LOAD, 0, 0, _FIRST_ARGUMENT_OFFSET
    yield _ANY_BIT, 0, 1, _NAMESPACES
    yield _RETURN, 0, 0, _ERROR | _EPERM
    yield _RETURN, 0, 0, _ALLOW


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _capabilities() -> tuple[int, int, int]:
    """Effective, permitted and inheritable."""
    data = ctypes.create_string_buffer(24)
    _checked(_libc.capget, struct.pack("Ii", _CAPABILITY_VERSION_3, 0), data)
    low, high = struct.unpack("3I", data.raw[:12]), struct.unpack("3I", data.raw[12:])
    effective, permitted, inheritable = (a | b << 32 for a, b in zip(low, high, strict=True))
    return effective, permitted, inheritable


def _set_capabilities(effective: int, permitted: int) -> None:
    low, high = ((x & 0xFFFFFFFF, x >> 32) for x in (effective, permitted))
    data = struct.pack("6I", low[0], high[0], 0, low[1], high[1], 0)
    _checked(_libc.capset, struct.pack("Ii", _CAPABILITY_VERSION_3, 0), data)


def _prctl(option: int, value: int, data: bytes | None = None) -> None:
    zero = ctypes.c_ulong(0)
    _checked(_libc.prctl, option, ctypes.c_ulong(value), data, zero, zero)


def _call(number: int, *arguments: int | bytes | None) -> int:
    whole = (ctypes.c_long(one) if isinstance(one, int) else one for one in arguments)
    return _checked(_libc.syscall, ctypes.c_long(number), *whole)


def _checked(function: Callable[..., int], *arguments: object) -> int:
    result = function(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
