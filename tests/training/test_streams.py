import numpy as np

from training.streams import integer, stream


def test_a_stream_depends_on_its_names_and_seed_alone():
    first = stream(3, "ppo", 0).random(4)
    stream(3, "ppo", 1).random(100)
    assert np.array_equal(first, stream(3, "ppo", 0).random(4))
    assert not np.array_equal(first, stream(4, "ppo", 0).random(4))
    assert not np.array_equal(first, stream(3, "ppo", 1).random(4))


def test_integers_fit_every_library_and_differ_by_name():
    values = {integer(0, "unit", index) for index in range(1000)}
    assert len(values) == 1000
    assert all(0 <= value < 2**63 for value in values)


def test_distinct_names_give_uncorrelated_streams():
    a, b = stream(0, "a").standard_normal(20_000), stream(0, "b").standard_normal(20_000)
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(20_000)
