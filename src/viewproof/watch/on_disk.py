"""The large tensors of the process in a file on disk, mapped to where they are, while forked copies of it run.

A copy that trains has weights, gradients and moments of its own, beside those of the process. While these lie in the
file, only the copy's are in memory. Every tensor has its address and its bits all the time: a page is exchanged for one
of the same bits, at once, there and back. What cannot be exchanged stays as it is.
"""

import ctypes
import mmap
import os
import sys
import tempfile
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from viewproof.watch.alive import Alive, is_plain

LEAST = 1 << 29
"""Bytes of large tensors from which on they are moved: with fewer, copies of them have room."""
LARGE = 1 << 20
"""Bytes of a tensor that is moved; smaller ones weigh little, and each is a mapping of its own."""
_CHUNK, _PAGE = 1 << 26, mmap.PAGESIZE
_MAPPINGS = 50_000
"""Of the 65,530 that Linux grants a process; what is moved takes three each."""
_DISKS = {0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0x2FC12FC1, 0x794C7630}
"""Of statfs(2), in turn: ext4, XFS, Btrfs, F2FS, ZFS and overlay; others may be memory, or another machine's."""
_FAILED, _MAY_MOVE_TO = ctypes.c_void_p(-1).value, 1 | 2

Copied = Callable[[Tensor], Callable[[], Tensor]]
"""Copies a tensor, and returns what gives the copy, in the CPU's memory."""


def in_memory(tensor: Tensor) -> Callable[[], Tensor]:
    """A copy in memory.

    >>> x = torch.zeros(2)
    >>> before = in_memory(x)
    >>> before().equal(x.add_(1))
    False
    """
    copy = tensor.detach().to("cpu", copy=True)
    return lambda: copy


class OnDisk:
    """The file, while tensors lie in it; ``reason`` says why none do, or is "".

    ``moved`` is how many bytes do. Forked copies of the process may keep further tensors in it (`copied`).
    """

    def __init__(self) -> None:
        self.reason, self.moved = "", 0
        self._file: Any = None
        self._next = self._end = 0
        self._ranges: list[tuple[int, int]] = []
        self._storages: list[Any] = []

    @property
    def told(self) -> str:
        """What a report says of it, after where the step was run."""
        if self.moved:
            return f", with {self.moved / 1e9:.1f} GB of its tensors in a file on disk meanwhile"
        return f", beside its large tensors, which stayed in memory: {self.reason}" if self.reason else ""

    def copied(self, tensor: Tensor) -> Callable[[], Tensor]:
        """A copy in the file, if there is room, and it is large; it is read anew each time.

        A forked copy may write to no file. This one it writes through its memory, which has its room already.
        """
        offset, size = self._next, tensor.nbytes
        if (
            not _on_cpu(tensor)
            or tensor.is_complex()
            or tensor.is_neg()
            or size < LARGE
            or offset + _pages(size) > self._end
        ):
            return in_memory(tensor)
        try:
            address = _mapped(size, self._file.fileno(), offset, shared=True)
        except OSError:
            return in_memory(tensor)
        self._next += _pages(size)
        value = tensor.detach().contiguous()
        ctypes.memmove(address, value.data_ptr(), size)
        _libc().munmap(address, size)
        shape, dtype, number = value.shape, value.dtype, self._file.fileno()

        def read() -> Tensor:
            out = torch.empty(shape, dtype=dtype)
            _through(lambda part, at: os.preadv(number, [part], offset + at), out.data_ptr(), size)
            return out

        return read

    def _move(self, tensors: Iterable[Tensor], copies: int) -> str:
        """Move what is large; return why nothing was moved, or ""."""
        # glibc keeps what is freed for the next step, and a copy would write to pages of its own there.
        if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)
        self._storages = _storages(tensors)
        if sum(storage.nbytes() for storage in self._storages) < LEAST:
            return ""
        ranges = _whole_pages(self._storages)
        total = sum(size for _, size in ranges)
        if total < LEAST:
            return "most of them are shared, or lie in files already"
        if threads := _other_threads():
            # What a thread writes while a page is exchanged would be lost.
            return f"the thread {threads[0]} runs beside"
        if any(line.split()[1] != "0" for line in _lines("status") if line.startswith(("VmLck", "VmPin"))):
            return "memory of the process is locked"
        self._file, reason = _file(total + copies)
        if reason:
            return reason
        self._next, self._end = total, total + copies
        offset, number = 0, self._file.fileno()
        for address, size in ranges:
            _through(lambda part, at, offset=offset: os.pwrite(number, part, offset + at), address, size)  # type: ignore[misc]
            # Before it is: what is put back without having been moved stays as it is.
            self._ranges.append((address, size))
            if not _exchanged(address, size, number, offset):
                return "" if self.moved else "no file with these bits can be mapped there"
            offset += size
            self.moved += size
        return ""

    def _back(self) -> None:
        """Into memory again; where the system has no room, it stays in the file, which lives as long as is needed."""
        for address, size in self._ranges:
            for at in range(0, size, _CHUNK):
                if not _exchanged(address + at, min(_CHUNK, size - at)):
                    break
        if self._file is not None:
            self._file.close()


@contextmanager
def on_disk(tensors: Iterable[Tensor], copies: int) -> Iterator[OnDisk]:
    """Have large tensors and their gradients on disk inside, with room for ``copies`` bytes besides.

    >>> x = torch.zeros(3)
    >>> with on_disk([x], 0) as disk:
    ...     disk.moved, disk.reason
    (0, '')
    """
    disk, process = OnDisk(), os.getpid()
    try:
        try:
            disk.reason = disk._move(tensors, copies)
        except OSError as error:
            # What has been moved by then stays there; the disk may be full.
            disk.reason, disk._end = f"{type(error).__name__}: {error}", 0
        yield disk
    finally:
        if os.getpid() == process:
            disk._back()


def room_for(alive: Alive) -> int:
    """Bytes of room for what modules hold, and once more for what optimizers move."""
    held = {id(t): t for m in alive.modules for t in (*m.parameters(False), *m.buffers(False))}
    trained = {id(t): t for o in alive.optimizers for group in o.param_groups for t in group["params"]}
    return sum(_pages(t.nbytes) for t in (*held.values(), *trained.values()) if _on_cpu(t))


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and is_plain(tensor)


def _pages(size: int) -> int:
    return -size // _PAGE * -_PAGE


def _lines(name: str) -> list[str]:
    """The lines of what Linux says of this process."""
    return Path(f"/proc/self/{name}").read_text(errors="replace").rstrip("\n").split("\n")


def _storages(tensors: Iterable[Tensor]) -> list[Any]:
    """Those of large tensors and their gradients, by their addresses."""
    found: dict[int, Any] = {}
    for tensor in tensors:
        if type(tensor) is not Tensor and not isinstance(tensor, nn.Parameter):
            continue
        try:
            grad = tensor.grad if tensor.is_leaf else None
            for t in (tensor, grad):
                if t is not None and _on_cpu(t):
                    storage = t.untyped_storage()
                    if storage.nbytes() >= LARGE:
                        found[storage.data_ptr()] = storage
        except RuntimeError:
            continue  # Of a transform that is over.
    return [found[address] for address in sorted(found)]


def _whole_pages(storages: list[Any]) -> list[tuple[int, int]]:
    """Address and size of the pages that hold nothing else, in private memory of no file; the largest come first."""
    memory, lines = list[list[int]](), _lines("maps")
    for line in lines:
        where, rights, _, _, inode, *name = line.split(maxsplit=5)
        if rights == "rw-p" and inode == "0" and not (name and name[0].startswith(("[stack", "[v"))):
            first, last = (int(number, 16) for number in where.split("-"))
            if memory and memory[-1][1] == first:
                memory[-1][1] = last
            else:
                memory.append([first, last])
    starts, ranges, end = [first for first, _ in memory], list[tuple[int, int]](), 0
    for storage in storages:
        # Two arrays of NumPy's may share memory.
        first, last = max(_pages(storage.data_ptr()), end), (storage.data_ptr() + storage.nbytes()) // _PAGE * _PAGE
        inside = bisect_right(starts, first) - 1
        if last - first >= LARGE and inside >= 0 and last <= memory[inside][1]:
            ranges.append((first, last - first))
            end = last
    return sorted(ranges, key=lambda r: -r[1])[: max(0, _MAPPINGS - len(lines)) // 3]


def _other_threads() -> list[str]:
    names = {t.ident: t.name for t in threading.enumerate()}
    return [names.get(key, "of another library") for key in sys._current_frames() if key != threading.get_ident()]


def _file(size: int) -> tuple[Any, str]:
    """A file without a name that has this room, and why there is none, or ""."""
    reason = "no folder for temporary files can be written to"
    for folder in dict.fromkeys((tempfile.gettempdir(), "/var/tmp")):
        try:
            file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open as long as tensors lie in it
            if _kind(file.fileno()) not in _DISKS:
                reason = f"{folder} lies on no disk of this machine"
            elif (free := os.statvfs(folder)).f_bavail * free.f_frsize < 2 * size:
                reason = f"{folder} has less room than twice the {size / 1e9:.1f} GB that are needed"
            else:
                os.posix_fallocate(file.fileno(), 0, size)
                return file, ""
            file.close()
        except OSError as error:
            reason = f"{folder}: {type(error).__name__}: {error}"
    return None, reason


def _kind(number: int) -> int:
    """The kind of file system on which an open file lies: the first word of what the system says of it, or 0."""
    answer = (ctypes.c_ulong * 64)()
    _libc().fstatfs(number, answer)
    return answer[0]


def _through(call: Callable[[Any, int], int], address: int, size: int) -> None:
    """Hand memory to a call that reads or writes part of it, until all is through."""
    whole, at = memoryview((ctypes.c_char * size).from_address(address)), 0
    while at < size:
        done = call(whole[at : at + _CHUNK], at)
        if not done:
            raise OSError("the file has ended")
        at += done


def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    long, pointer = ctypes.c_size_t, ctypes.c_void_p
    libc.mmap.restype = libc.mremap.restype = pointer
    libc.mmap.argtypes = [pointer, long, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.mremap.argtypes = [pointer, long, long, ctypes.c_int, pointer]
    libc.munmap.argtypes = [pointer, long]
    libc.memcmp.argtypes = [pointer, pointer, long]
    libc.madvise.argtypes = [pointer, long, ctypes.c_int]
    return libc


def _mapped(size: int, number: int = -1, offset: int = 0, shared: bool = False) -> int:
    """The address of new memory: of a file, or with the number -1 of none; what is written to it if ``shared``."""
    kind = (mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE) | (mmap.MAP_ANONYMOUS if number < 0 else 0)
    address: int = _libc().mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, kind, number, offset)
    if address == _FAILED:
        raise OSError(ctypes.get_errno(), "no memory can be mapped")
    return address


def _exchanged(address: int, size: int, number: int = -1, offset: int = 0) -> bool:
    """Whether these pages are now those of the file, if it has the same bits; with the number -1, of memory."""
    try:
        new = _mapped(size, number, offset)
    except OSError:
        return False
    if number < 0:
        ctypes.memmove(new, address, size)
    same = _same(new, address, size)
    if number >= 0:
        # The comparison has read the file, which is to be no memory of this process.
        _libc().madvise(new, size, mmap.MADV_DONTNEED)
    if not same or _libc().mremap(new, size, size, _MAY_MOVE_TO, address) == _FAILED:
        _libc().munmap(new, size)
        return False
    return True


def _same(one: int, other: int, size: int) -> bool:
    """Whether the bits at two addresses agree."""
    return not _libc().memcmp(one, other, size)
