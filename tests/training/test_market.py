"""Bars: segments, slices, frames and digests."""

import hashlib
import struct

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.market import Bars, assign_segments, make_bars, segment_bounds

HOUR = 3_600


def three_bars() -> Bars:
    t = np.array([0, HOUR, 8 * HOUR], dtype=np.int64)
    values = (np.array([1.0, 2.0, 3.0]) * k for k in (1.0, 1.5, 0.5, 1.2, 10.0))
    return make_bars(t, values, timeframe_s=HOUR, max_gap_s=6 * HOUR)


def test_a_gap_of_exactly_the_limit_stays_in_the_segment():
    t = np.array([0, 6 * HOUR, 12 * HOUR + 1], dtype=np.int64)
    assert assign_segments(t, 6 * HOUR).tolist() == [0, 0, 1]


def test_no_bars_have_no_segments():
    empty = np.array([], dtype=np.int64)
    assert assign_segments(empty, HOUR).tolist() == []
    assert segment_bounds(empty) == []


@given(st.lists(st.integers(1, 20), min_size=1, max_size=50), st.integers(1, 20))
def test_segments_by_a_plain_loop(steps, max_gap_s):
    t = np.cumsum(steps).astype(np.int64)
    expected = [0]
    for before, after in zip(t[:-1], t[1:], strict=True):
        expected.append(expected[-1] + (after - before > max_gap_s))
    segment = assign_segments(t, max_gap_s)
    assert segment.tolist() == expected
    assert segment.dtype == np.int32
    for number, (start, stop) in enumerate(segment_bounds(segment)):
        assert set(segment[start:stop].tolist()) == {number}
    assert sum(stop - start for start, stop in segment_bounds(segment)) == len(t)


def test_a_slice_keeps_its_segment_numbers():
    part = three_bars().slice(1, 3)
    assert len(part) == 2
    assert part.segment.tolist() == [0, 1]
    assert part.high.tolist() == [3.0, 4.5]


def test_a_frame_and_back_is_the_same_series():
    bars = three_bars()
    back = Bars.from_frame(bars.frame(), HOUR)
    assert list(bars.frame().columns) == ["t", "open", "high", "low", "close", "volume", "segment"]
    assert back.digest() == bars.digest()
    assert back.segment.tolist() == bars.segment.tolist()


def test_the_digest_is_of_the_little_endian_bytes_written_by_hand():
    bars = three_bars()
    text = b"bars 3600 3\n" + struct.pack("<3q", *bars.t.tolist())
    for column in (bars.open, bars.high, bars.low, bars.close, bars.volume):
        text += struct.pack("<3d", *column.tolist())
    assert bars.digest() == hashlib.sha256(text).hexdigest()


def test_the_digest_changes_with_any_value_and_with_the_timeframe():
    bars = three_bars()
    digests = {bars.digest(), Bars(**{**vars(bars), "timeframe_s": 60}).digest()}
    for name in ("t", "open", "high", "low", "close", "volume"):
        column = getattr(bars, name).copy()
        column[-1] += 1
        digests.add(Bars(**{**vars(bars), name: column}).digest())
    assert len(digests) == 8


def test_both_zeros_have_one_digest():
    bars = three_bars()
    digests = {Bars(**{**vars(bars), "volume": np.array([1.0, 2.0, zero])}).digest() for zero in (0.0, -0.0)}
    assert len(digests) == 1
