import numpy as np
import pytest
import torch

from viewproof.data import Split, batches, make_dataset
from viewproof.data import values as stats
from viewproof.data.checks import check_fraction, check_int, require
from viewproof.data.dataset import fixed_split
from viewproof.errors import InvalidArgument


class Spy:
    """An array that records the size of every index it is asked for."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.asked = array, array.shape, array.dtype, []

    def __len__(self):
        return len(self.array)

    def __getitem__(self, index):
        self.asked.append(len(index))
        return self.array[index]


def images(count, seed=0, shape=(3, 4, 5)):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def test_statistics_are_those_of_the_training_part_alone():
    train, test = images(20), np.full((20, 3, 4, 5), 255, np.uint8)
    data = make_dataset("d", Split(train), Split(test))
    deep = train.astype(np.float64)
    torch.testing.assert_close(data.mean.flatten(), torch.tensor(deep.mean((0, 2, 3)), dtype=torch.float32))
    torch.testing.assert_close(data.std.flatten(), torch.tensor(deep.std((0, 2, 3)), dtype=torch.float32))
    pooled = make_dataset("d", Split(np.concatenate((train, test))), Split(test))
    assert not torch.allclose(data.mean, pooled.mean), "this test could not tell a mutant that pools both parts"


@pytest.mark.parametrize(
    ("shape", "statistic"), [((7,), (7,)), ((6, 5), (1, 1)), ((3, 4, 5), (3, 1, 1)), ((2, 3, 4, 5), (2, 1, 1, 1))]
)
def test_statistics_broadcast_against_one_sample(shape, statistic):
    part = Split(images(9, shape=shape))
    data = make_dataset("d", part, part)
    assert tuple(data.mean.shape) == tuple(data.std.shape) == statistic
    x = data.fetch("train", range(9)).double()
    axes = tuple(axis for axis in range(x.ndim) if axis == 0 or statistic[axis - 1] == 1)
    assert x.mean(axes).abs().max() < 1e-6
    assert (x.std(axes, correction=0) - 1).abs().max() < 1e-6


def test_statistics_run_in_chunks_and_agree_with_one_chunk(monkeypatch):
    spy = Spy(images(50))
    whole = stats.moments(spy)
    assert spy.asked[1:] == [50]
    monkeypatch.setattr(stats, "CHUNK", 60 * 8)
    spy.asked.clear()
    chunked = stats.moments(spy)
    assert spy.asked[1:] == [8, 8, 8, 8, 8, 8, 2]
    np.testing.assert_array_equal(whole[0], chunked[0])
    np.testing.assert_allclose(whole[1], chunked[1], rtol=1e-6)


def test_statistics_do_not_cancel_far_from_zero():
    table = np.array([[1e6 - 1], [1e6 + 1]] * 1000)
    mean, std, _ = stats.moments(table)
    assert (mean[0], std[0]) == (1e6, 1)


def test_constants_get_deviation_one_even_where_their_sum_rounds():
    table = np.random.default_rng(0).normal(size=(1000, 3))
    table[:, 1] = 0.1
    part = Split(table)
    data = make_dataset("d", part, part)
    assert data.std[1] == 1
    assert torch.equal(data.fetch("train", [0, 999])[:, 1], torch.zeros(2))


@pytest.mark.parametrize("dtype", ["uint8", "bool", ">i2", "uint64", "float16", ">f4", "float64", "longdouble"])
def test_every_real_dtype_is_standardised_and_restored(dtype):
    values = (np.arange(24).reshape(4, 6) % 2 if dtype == "bool" else np.arange(24).reshape(4, 6)).astype(dtype)
    data = make_dataset("d", Split(values), Split(values))
    x = data.fetch("test", torch.tensor([3, 0]))
    assert x.dtype == torch.float32
    torch.testing.assert_close(data.restore(x), torch.from_numpy(values[[3, 0]].astype(np.float32)))
    torch.testing.assert_close(x, (torch.from_numpy(values[[3, 0]].astype(np.float32)) - data.mean) / data.std)


def test_nothing_broadcasts():
    part = Split(images(3))
    data = make_dataset("d", part, part)
    for wrong in (torch.zeros(2, 1, 4, 5), torch.zeros(3), torch.zeros(2, 3, 4, 1)):
        with pytest.raises(InvalidArgument, match=r"must end in the sample shape \(3, 4, 5\)"):
            data.standardize(wrong)
        with pytest.raises(InvalidArgument, match=r"must end in the sample shape \(3, 4, 5\)"):
            data.restore(wrong)


def test_fetch_reads_once_and_keeps_order_and_repeats():
    spy = Spy(images(10))
    data = make_dataset("d", Split(spy), Split(spy))
    spy.asked.clear()
    x = data.fetch("train", [7, 2, 7])
    assert spy.asked == [3]
    assert torch.equal(x[0], x[2])
    torch.testing.assert_close(data.restore(x), torch.from_numpy(spy.array[[7, 2, 7]].astype(np.float32)))
    assert data.fetch("train", []).shape == (0, 3, 4, 5)


def test_each_batch_is_one_index():
    spy = Spy(images(23))
    data = make_dataset("d", Split(spy), Split(spy))
    spy.asked.clear()
    for x, ids in batches(data, "train", 5, drop_last=False):
        assert ids.dtype == torch.int64 and x.dtype == torch.float32 and x.shape[1:] == (3, 4, 5)
        torch.testing.assert_close(data.restore(x), torch.from_numpy(spy.array[ids.numpy()].astype(np.float32)))
    assert sorted(spy.asked) == [3, 5, 5, 5, 5]


@pytest.mark.parametrize("indices", [[-1], [10], [0.5], [True], [[0, 1]], 3, ["0"]])
def test_fetch_refuses_other_indices(indices):
    part = Split(images(10))
    with pytest.raises(InvalidArgument, match="indices"):
        make_dataset("d", part, part).fetch("train", indices)


def test_part_must_be_train_or_test():
    part = Split(images(3))
    with pytest.raises(InvalidArgument, match="part='valid' must be 'train' or 'test'"):
        make_dataset("d", part, part).part("valid")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("where", ["train", "test"])
def test_unusable_values_of_either_part_are_counted(bad, where):
    parts = {"train": np.ones((6, 5)), "test": np.ones((4, 5))}
    parts[where].flat[[0, 7]] = bad
    with pytest.raises(InvalidArgument, match=r"^some\.npy: 2 of 50 values are NaN, infinite or beyond"):
        make_dataset("d", Split(parts["train"]), Split(parts["test"]), source="some.npy")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((3, 2), complex), "dtype complex128 is not of real numbers"),
        (np.full((3, 2), "a"), "dtype <U1 is not of real numbers"),
        (np.zeros((3, 2), object), "dtype object is not of real numbers"),
        (np.zeros(3), r"shape \(3,\) has no sample axes"),
        (np.zeros((0, 2)), r"shape \(0, 2\) is empty"),
        (np.zeros((3, 0)), r"shape \(3, 0\) is empty"),
    ],
)
def test_other_arrays_are_refused(values, message):
    with pytest.raises(InvalidArgument, match=message):
        make_dataset("d", Split(values), Split(values))


def test_parts_must_agree():
    x, y = np.ones((3, 2)), np.array([0, 1, 1])
    with pytest.raises(InvalidArgument, match=r"shape \(2,\) and test samples of shape \(1,\) must have one shape"):
        make_dataset("d", Split(x), Split(x[:, :1]))
    with pytest.raises(InvalidArgument, match="label both parts, or neither"):
        make_dataset("d", Split(x, y), Split(x))
    with pytest.raises(InvalidArgument, match="labels 0 to 1 must lie in 0 to 0"):
        make_dataset("d", Split(x, y), Split(x, y), ["only"])
    with pytest.raises(InvalidArgument, match="labels -1 to 0"):
        make_dataset("d", Split(x, y - 1), Split(x, y - 1))
    data = make_dataset("d", Split(x, y), Split(x, y), ["no", "yes"])
    assert (data.classes, data.class_names) == (2, ("no", "yes"))
    assert make_dataset("d", Split(x), Split(x)).classes is None


@pytest.mark.parametrize(("size", "fraction", "held_out"), [(10, 0.2, 2), (2, 0.01, 1), (3, 0.99, 2), (1000, 0.1, 100)])
def test_fixed_split_partitions_and_keeps_labels(size, fraction, held_out):
    whole = Split(np.arange(2 * size).reshape(size, 2), np.arange(size))
    train, test = fixed_split("s", whole, fraction)
    assert len(test) == held_out
    assert sorted([*train.labels, *test.labels]) == list(range(size))
    for part in (train, test):
        assert np.array_equal(part.values[:, 0], 2 * part.labels)
        assert np.all(np.diff(part.labels) > 0)


def test_fixed_split_is_the_same_for_ever_and_leaves_global_state():
    state = np.random.get_state()[1].copy()
    _, test = fixed_split("s", Split(np.arange(20).reshape(10, 2), np.arange(10)), 0.3)
    assert test.labels.tolist() == [2, 4, 8]
    assert np.array_equal(np.random.get_state()[1], state)


def test_one_sample_cannot_be_split():
    with pytest.raises(InvalidArgument, match="1 sample cannot be split"):
        fixed_split("s", Split(np.ones((1, 2))), 0.5)


@pytest.mark.parametrize("value", [0, 0.5, -1, True, "8", None, float("nan")])
def test_counts_must_be_integers(value):
    with pytest.raises(InvalidArgument, match=f"batch_size={value!r} must be an integer of at least 1"):
        check_int("batch_size", value, 1)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1, True, "0.1", float("nan")])
def test_fractions_lie_inside_the_unit_interval(value):
    with pytest.raises(InvalidArgument, match=f"test_fraction={value!r} must lie strictly between 0 and 1"):
        check_fraction(value)


def test_an_installed_package_is_returned():
    assert require("math", "this", "nothing").sqrt(4) == 2
