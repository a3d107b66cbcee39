import numpy as np
import plain
import pytest
import torch

from viewproof.data import EpochSampler, Split, batches, load_dataset, make_dataset
from viewproof.errors import InvalidArgument


def numbered(count):
    """A data set whose standardised samples tell their own index."""
    part = Split(np.arange(2.0 * count).reshape(count, 2))
    return make_dataset("numbered", part, part)


def order(sampler):
    return torch.cat(list(sampler)).tolist()


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("size", "batch_size"), [(10, 3), (9, 3), (5, 5), (4, 1)])
def test_an_epoch_covers_each_index_once(shuffle, size, batch_size):
    sampler = EpochSampler(size, batch_size, seed=1, shuffle=shuffle, drop_last=False)
    assert sorted(order(sampler)) == list(range(size))
    assert len(list(sampler)) == len(sampler) == -(-size // batch_size)
    dropped = EpochSampler(size, batch_size, seed=1, shuffle=shuffle, drop_last=True)
    assert [len(ids) for ids in dropped] == [batch_size] * (size // batch_size) and len(dropped) == size // batch_size
    assert order(dropped) == order(sampler)[: size // batch_size * batch_size]


def test_order_is_a_function_of_seed_and_epoch():
    orders = {}
    for seed in range(3):
        for epoch in range(3):
            sampler = EpochSampler(50, 7, seed=seed)
            sampler.set_epoch(epoch)
            torch.rand(seed + epoch + 1)
            again = EpochSampler(50, 9, seed=seed, drop_last=False)
            again.set_epoch(epoch)
            assert order(again)[:49] == order(sampler)
            orders[tuple(order(sampler))] = seed, epoch
    assert len(orders) == 9
    assert tuple(range(49)) not in orders


def test_set_epoch_returns_to_an_earlier_epoch():
    sampler = EpochSampler(50, 10, seed=3)
    first = order(sampler)
    assert order(sampler) == first
    sampler.set_epoch(1)
    assert order(sampler) != first
    sampler.set_epoch(0)
    assert order(sampler) == first


@pytest.mark.parametrize("num_workers", [0, 1])
def test_global_random_state_is_untouched(num_workers):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(batches(numbered(12), "train", 4, seed=5, num_workers=num_workers))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


@pytest.mark.parametrize(("context", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_change_nothing(context, workers, tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40, 3)))
    data = load_dataset(tmp_path / "x.npy")
    alone, helped = batches(data, "train", 8, seed=2), batches(data, "train", 8, seed=2, num_workers=workers)
    helped.multiprocessing_context = context
    for epoch in range(2):
        alone.sampler.set_epoch(epoch)
        helped.sampler.set_epoch(epoch)
        pairs = list(zip(alone, helped, strict=True))
        assert len(pairs) == 4
        assert all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


def test_training_shuffles_and_drops_and_testing_does_neither():
    data = numbered(10)
    assert torch.cat([ids for _, ids in batches(data, "test", 4)]).tolist() == list(range(10))
    train = torch.cat([ids for _, ids in batches(data, "train", 4)]).tolist()
    assert len(train) == 8 and train != list(range(8))
    assert torch.cat([ids for _, ids in batches(data, "train", 4, shuffle=False)]).tolist() == list(range(8))
    assert len(batches(data, "train", 4)) == 2 and len(batches(data, "test", 4)) == 3


def test_a_data_set_smaller_than_a_batch_is_refused():
    with pytest.raises(
        InvalidArgument, match="batch_size=11 is larger than the data set's 10 samples; pass batch_size=10"
    ):
        batches(numbered(10), "train", 11)
    assert len(batches(numbered(10), "train", 10)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 0}, {"batch_size": True}, {"seed": -1}, {"num_workers": -1}, {"num_workers": 2**40},
        {"min_area": float("nan")}, {"min_area": "1"}, {"flip": 1j}, {"flip": None},
    ],
)  # fmt: skip
def test_other_arguments_are_refused(change):
    (name,) = change
    with pytest.raises(plain.InvalidArgument, match=f"^{name}="):
        plain.batches(numbered(10), "train", **({"batch_size": 2} | change))
    with pytest.raises(InvalidArgument, match="epoch=-1 must be"):
        EpochSampler(4, 2).set_epoch(-1)
    with pytest.raises(InvalidArgument, match="part='valid' must be"):
        batches(numbered(10), "valid", 2)


def test_lightning_sets_the_epoch():
    lightning = pytest.importorskip("pytorch_lightning")

    class Recorder(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer, self.seen = torch.nn.Linear(2, 1), []

        def training_step(self, batch, _):
            x, ids = batch
            self.seen.append(ids.tolist())
            return self.layer(x).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module = Recorder()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    lightning.Trainer(max_epochs=2, accelerator="cpu", **quiet).fit(module, batches(numbered(8), "train", 8))
    expected = []
    for epoch in range(2):
        sampler = EpochSampler(8, 8)
        sampler.set_epoch(epoch)
        expected += [order(sampler)]
    assert module.seen == expected and expected[0] != expected[1]


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (1, 3), (2, 3), (4, 3)])
def test_ranks_and_micro_batches_share_the_batches_of_one_rank(world, accumulate):
    alone = list(EpochSampler(40, 12, seed=1))
    ranks = [list(EpochSampler(40, 12, seed=1, rank=rank, world=world, accumulate=accumulate)) for rank in range(world)]
    assert {len(ids) for rank in ranks for ids in rank} == {12 // (world * accumulate)}
    assert all(len(rank) == len(alone) * accumulate for rank in ranks)
    shared = [torch.cat([rank[k] for rank in ranks]) for k in range(len(alone) * accumulate)]
    assert all(
        torch.equal(torch.cat(shared[accumulate * b : accumulate * (b + 1)]), alone[b]) for b in range(len(alone))
    )


@pytest.mark.parametrize("size", range(3, 14))
def test_held_out_shares_are_never_empty_and_lose_nothing(size):
    ranks = [EpochSampler(size, 3, shuffle=False, drop_last=False, rank=rank, world=3) for rank in range(3)]
    shares = [list(rank) for rank in ranks]
    assert [len(share) for share in shares] == [len(rank) for rank in ranks]
    assert min(len(ids) for share in shares for ids in share) > 0
    assert [i for step in zip(*shares, strict=True) for ids in step for i in ids.tolist()] == list(range(size))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_goes_on_within_an_epoch_and_then_starts_whole_ones(num_workers):
    straight, resumed = (batches(numbered(20), "train", 4, seed=2, num_workers=num_workers) for _ in range(2))
    straight.sampler.set_epoch(3)
    given = iter(straight)
    for _ in range(2):
        next(given)
    resumed.load_state_dict(state := straight.state_dict())
    assert state == {"epoch": 3, "batch": 2}
    rest = [ids.tolist() for _, ids in resumed]
    assert rest == [ids.tolist() for _, ids in given] and len(rest) == 3
    assert resumed.state_dict() == {"epoch": 3, "batch": 5} and len(resumed) == 5
    assert len(list(resumed)) == 5


SHARES = [
    (
        {"world": 3},
        "batch_size=8 must be a multiple of 3 ranks times 1 micro-batches, so that every share is equal; pass 6",
    ),
    ({"world": 2, "accumulate": 3}, "batch_size=8 must be a multiple of 2 ranks times 3 micro-batches"),
    ({"world": 2, "rank": 2}, "rank=2 must be below world=2"),
    ({"world": 11}, "world=11 is more than the 10 samples"),
    ({"world": 0}, "world=0 must be an integer of at least 1"),
    ({"accumulate": True}, "accumulate=True must be an integer of at least 1"),
    ({"rank": -1}, "rank=-1 must be an integer of at least 0"),
]


@pytest.mark.parametrize(("change", "message"), SHARES, ids=[message for _, message in SHARES])
def test_unequal_shares_are_refused(change, message):
    with pytest.raises(InvalidArgument, match=f"^{message}"):
        batches(numbered(10), "train", 8, **change)
