"""A checkpoint that is not what was written is refused, and names itself."""

import pytest
import torch

from viewproof.errors import InvalidArgument
from viewproof.training.checkpoints import WholeFiles


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "last.ckpt"
    WholeFiles().save_checkpoint({"state_dict": {"w": torch.arange(100.0)}, "global_step": 3}, path)
    return path


def test_a_whole_checkpoint_is_read_by_us_and_by_torch(checkpoint):
    for read in (WholeFiles().load_checkpoint(checkpoint), torch.load(checkpoint, weights_only=True)):
        assert read["global_step"] == 3 and torch.equal(read["state_dict"]["w"], torch.arange(100.0))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_flipped_bit_is_noticed(checkpoint, share):
    content = bytearray(checkpoint.read_bytes())
    content[int(share * len(content))] ^= 4
    checkpoint.write_bytes(content)
    with pytest.raises(InvalidArgument, match=r"last\.ckpt is damaged"):
        WholeFiles().load_checkpoint(checkpoint)


@pytest.mark.parametrize("length", [0, 1, 100, -60, -200])
def test_a_truncated_checkpoint_is_one_line(checkpoint, length):
    checkpoint.write_bytes(checkpoint.read_bytes()[:length])
    with pytest.raises(InvalidArgument, match=r"last\.ckpt is damaged"):
        WholeFiles().load_checkpoint(checkpoint, weights_only=True)


@pytest.mark.parametrize(
    "pickled", [b"\x80\x02.", b"\x80\x02(.", b"\x80\x02ctorch\nTensor\n.", b"\x80\x02]q\x00a.", b"x" * 99]
)
def test_words_that_no_pickle_has_are_one_line(tmp_path, pickled):
    (path := tmp_path / "last.ckpt").write_bytes(pickled)
    with pytest.raises(InvalidArgument, match=r"last\.ckpt is damaged"):
        WholeFiles().load_checkpoint(path, weights_only=True)
