"""Large tensors lie in a file while forked copies run: the same findings, the same bits, the same addresses."""

import ctypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import viewproof as vp
from viewproof.bits import same_bits
from viewproof.watch import on_disk as module
from viewproof.watch.alive import Alive
from viewproof.watch.child import Answer, fork
from viewproof.watch.on_disk import OnDisk, on_disk, room_for

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="copies of the process run on Linux")
SIZE = 64


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page is large here; the thread of a test runner that runs beside writes to no tensor."""
    monkeypatch.setattr(module, "LEAST", 1)
    monkeypatch.setattr(module, "LARGE", 1)
    monkeypatch.setattr(module, "_other_threads", list)


def mapped() -> list[str]:
    """What of this process's memory lies in files without a name."""
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("(deleted)")]


def wide(fault: str = "") -> tuple[Callable[[Any], None], Tensor, list[Tensor]]:
    """A student, a teacher that averages it, and a tied layer, wide enough to fill pages; all that the step moves."""
    torch.manual_seed(0)
    student, teacher = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE)
    head, tied = (nn.Linear(SIZE, SIZE, bias=False) for _ in range(2))
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(fault == "gradient")
    tied.weight = head.weight
    trained = [*student.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)

    def average() -> None:
        with torch.no_grad():
            for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
                t.lerp_(s, 0.0 if fault == "frozen" else 0.1)

    def step(x: Tensor) -> None:
        with torch.set_grad_enabled(fault == "gradient"):
            target = teacher(x[:, 1])
        loss = (tied(head(student(x[:, 0])).tanh()) - target).square().mean()
        if fault == "raises":
            raise ValueError("no such layer")
        optimizer.zero_grad()
        loss.backward()
        if fault == "cleared":
            optimizer.zero_grad()
        if fault == "early":
            average()
        optimizer.step()
        if fault == "exits":
            sys.exit(3)
        if fault != "early":
            average()

    x = torch.randn(3, 2, SIZE)
    if fault not in ("raises", "exits"):
        step(x)
    moments = [t for state in optimizer.state.values() for t in state.values()]
    gradients = [p.grad for p in trained if p.grad is not None]
    return step, x, [x, *trained, *teacher.parameters(), *moments, *gradients]


@pytest.mark.parametrize("fault", ["", "frozen", "gradient", "early", "cleared", "raises", "exits"])
def test_the_findings_are_those_of_a_fork_and_the_bits_stay(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    step, x, tensors = wide(fault)
    before = [(t.data_ptr(), t._version, t.clone()) for t in tensors]
    on = vp.watch(step, x, name="a step")
    for t, (address, version, value) in zip(tensors, before, strict=True):
        assert t.data_ptr() == address and t._version == version and same_bits(t.detach(), value.detach())
    assert "tensors in a file on disk meanwhile" in str(on.ledger["how"]) and not mapped()
    monkeypatch.setattr(module, "LEAST", 1 << 60)
    off = vp.watch(step, x, name="a step")
    assert off.ledger["how"] == ("in forked copies of the process",) and str(on) == str(off)
    assert bool(on.failures()) is bool(fault), str(on)


def test_a_recording_has_them_on_disk_too(monkeypatch: pytest.MonkeyPatch) -> None:
    reports = list[str]()
    for least, how in ((1, "on disk meanwhile"), (1 << 60, "forked copies of the process")):
        monkeypatch.setattr(module, "LEAST", least)
        step, x, tensors = wide()
        with vp.watch.recording() as seen:
            for batch in torch.utils.data.DataLoader(x, batch_size=1):
                step(batch)
        assert seen.steps == 3 and seen.report is not None and not mapped()
        assert how in str(seen.report.ledger["how"]) and seen.report.losses
        reports.append(str(seen.report) + str([t.tolist() for t in tensors]))
    assert reports[0] == reports[1]


def payload() -> Tensor:
    """Many pages of bits that are no numbers: NaN with payloads, zeros of both signs."""
    bits = torch.randint(-(2**31), 2**31 - 1, (SIZE, 4 * SIZE), generator=torch.Generator().manual_seed(0))
    return bits.to(torch.int32).view(torch.float32)


def kept(exchanged: Tensor, value: Tensor) -> bool:
    """The check of the tests below: the bits are there inside, and afterwards."""
    with on_disk([exchanged], 0) as disk:
        assert disk.moved and not disk.reason
        inside = same_bits(exchanged, value)
    return inside and same_bits(exchanged, value)


def test_bits_views_and_writes_stay() -> None:
    x, value = payload(), payload()
    view, storage = x[3:, 5:].T, x.untyped_storage()
    x.grad = grad = payload().neg()
    assert kept(x, value)
    with on_disk([x], 0) as disk:
        assert disk.moved >= 2 * (x.nbytes - 2 * 4096) and len(mapped()) == 2
        assert x.untyped_storage().data_ptr() == storage.data_ptr() and same_bits(view, value[3:, 5:].T)
        x[10] = 7.0
    assert not mapped() and bool((view[:, 7] == 7).all()) and same_bits(x[11:], value[11:])
    assert x.grad is grad and same_bits(grad, payload().neg())


@pytest.mark.parametrize("name", ["_through", "ctypes"])
def test_pages_of_other_bits_are_not_exchanged(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoCopy:
        memmove = staticmethod(lambda *_: None)

        def __getattr__(self, key: str) -> Any:
            return getattr(ctypes, key)

    monkeypatch.setattr(module, name, NoCopy() if name == "ctypes" else lambda *_: None)
    x = payload()
    with on_disk([x], 0) as disk:
        assert same_bits(x, payload()) and bool(disk.moved) is (name == "ctypes")
    assert same_bits(x, payload()) and bool(mapped()) is (name == "ctypes")
    # Without the comparison they are, and the check of these tests sees it.
    monkeypatch.setattr(module, "_same", lambda *_: True)
    assert not kept(payload(), payload())
    monkeypatch.undo()
    disk._back()
    assert same_bits(x, payload()) and not mapped()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_after_an_exception_all_is_in_memory(error: type[BaseException]) -> None:
    x, files = payload(), len([*Path("/proc/self/fd").iterdir()])
    with pytest.raises(error), on_disk([x], 0) as disk:
        assert disk.moved and mapped()
        raise error
    assert same_bits(x, payload()) and not mapped() and len([*Path("/proc/self/fd").iterdir()]) == files


@pytest.mark.parametrize("at", ["there", "back"])
def test_an_interrupt_or_no_memory_in_between_loses_nothing(at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, exchanged = [payload() for _ in range(4)], module._exchanged
    calls: list[int] = []

    def second(address: int, size: int, number: int = -1, offset: int = 0) -> bool:
        calls.append(number)
        if len(calls) == 2 and at == "there":
            raise KeyboardInterrupt
        return len(calls) != 6 and exchanged(address, size, number, offset)

    monkeypatch.setattr(module, "_exchanged", second)
    try:
        with on_disk(tensors, 0) as disk:
            assert at == "back"
    except KeyboardInterrupt:
        assert at == "there"
    assert all(same_bits(t, payload()) for t in tensors)
    # What could not be put back lies in the file, which lives with it.
    assert len(mapped()) == (at == "back")
    if at == "back":
        disk._back()
        assert not mapped() and all(same_bits(t, payload()) for t in tensors)


def test_without_room_or_a_disk_the_copies_are_as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    step, x, tensors = wide()
    before = [t.clone() for t in tensors]

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    for owner, name, value, reason in (
        (os, "posix_fallocate", full, "No space left on device"),
        (module, "_DISKS", (), "lies on no disk of this machine"),
        (module, "_mapped", full, "no file with these bits can be mapped there"),
        (module, "_other_threads", lambda: ["saver"], "the thread saver runs beside"),
        (tempfile, "TemporaryFile", full, "No space left on device"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value)
            report = vp.watch(step, x)
        assert "which stayed in memory: " in str(report.ledger["how"]) and reason in str(report.ledger["how"])
        assert not report.failures() and all(map(same_bits, map(Tensor.detach, tensors), map(Tensor.detach, before)))
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path))
        vp.watch(step, x)
    assert not list(tmp_path.iterdir())


def test_memory_is_no_disk() -> None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        folder, kind = Path(line.split()[4]), line.partition(" - ")[2].split()[0]
        if kind == "tmpfs" and os.access(folder, os.W_OK):
            with tempfile.TemporaryFile(dir=folder) as file:
                assert module._kind(file.fileno()) == 0x01021994 and 0x01021994 not in module._DISKS
            return


def test_only_private_memory_of_no_file_is_moved() -> None:
    shared, small = payload(), torch.zeros(8)
    shared.share_memory_()  # type: ignore[no-untyped-call]
    no_values = torch.empty(SIZE, SIZE, device="meta")
    with on_disk([shared, small, no_values], 0) as disk:
        assert (disk.moved, disk.reason) == (0, "most of them are shared, or lie in files already")


def test_a_copy_in_the_file_stays_what_it_was() -> None:
    layer = nn.Linear(SIZE, SIZE)
    model, weight, value = nn.Sequential(layer, nn.BatchNorm1d(SIZE)), layer.weight, layer.weight.detach().clone()
    alive = Alive([*model.modules()], [torch.optim.SGD(model.parameters())], [*model.parameters()])
    with on_disk(alive.tensors, room_for(alive)) as disk:
        free = disk._end - disk._next
        side = fork()
        if not isinstance(side, Answer):
            # As in the copy that runs the step: no file can be written to.
            before, turned = disk.copied(weight), disk.copied(weight.T)
            weight.data.add_(1)
            side.send((before().equal(value), turned().equal(value.T), disk._end - disk._next))
        assert side.value == (True, True, free - 2 * 4 * SIZE * SIZE), side.failure
        assert torch.equal(weight, value)
        while disk._end - disk._next >= weight.nbytes:
            disk.copied(weight)
        after = disk.copied(weight)
    assert after().equal(value)


def test_of_a_few_tensors_nothing_is_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert module.LEAST == 1 << 29
    with on_disk([payload()], 0) as disk:
        assert isinstance(disk, OnDisk) and (disk.moved, disk.reason) == (0, "")


FREED = """
import torch
from viewproof.watch.on_disk import on_disk

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))

kept = [torch.zeros(4096) for _ in range(2 * 8192)][1::2]  # every other one, so that none lies at the end
last = torch.zeros(4096)
before = resident()
with on_disk([], 0):
    print(before - resident())
"""


def test_what_the_allocator_keeps_of_freed_tensors_is_given_back() -> None:
    """128 MiB are free, and stay in the process otherwise: a copy would have pages of its own there."""
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 64 << 10, done.stderr


KILLED = """
import os, signal, sys, tempfile, torch
from viewproof.watch import on_disk
on_disk.LEAST, tempfile.tempdir = 1, sys.argv[1]
with on_disk.on_disk([torch.zeros(1 << 20)], 0) as disk:
    print(disk.moved, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_is_killed_leaves_no_file(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == -9 and int(done.stdout) > 0, done.stderr
    assert not list(tmp_path.iterdir())
