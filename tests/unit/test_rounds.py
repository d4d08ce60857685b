"""The same object again and again: frames, baselines, what is refused."""

from __future__ import annotations

import array
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwcp.errors import DwcpError, IntegrityError, NotFoundError, ProtocolError, UsageError
from dwcp.hde.hashes import MIN_LEAF
from dwcp.hde.rounds import Decoder, Encoder, Frame

LIMIT = 64 * 1024 * 1024
Dirty = list[tuple[int, int]] | None
IMAGE = random.Random(9).randbytes(3 * MIN_LEAF + 1234)


def changed(image: bytes, *places: int) -> bytes:
    out = bytearray(image)
    for place in places:
        out[place] ^= 1
    return bytes(out)


def through(encoder: Encoder, decoder: Decoder, image: bytes, now: float = 0.0, dirty: Dirty = None) -> Frame:
    frame = encoder.encode("vm", image, now, dirty)
    assert decoder.decode(Frame.unpack(frame.pack())) == image
    return frame


def test_rounds_cost_what_changed() -> None:
    encoder, decoder = Encoder(), Decoder(max_size=LIMIT)
    assert through(encoder, decoder, IMAGE).full
    image = changed(IMAGE, 5, MIN_LEAF + 7)
    frame = through(encoder, decoder, image, dirty=[(0, 4096), (MIN_LEAF, 4096)])
    assert (frame.version, frame.base, len(frame.delta) < 150) == (2, 1, True)
    assert len(through(encoder, decoder, image).delta) < 150
    # longer, shorter, empty, and back
    for other in (image + b"more", image[: MIN_LEAF + 3], b"", IMAGE):
        assert not through(encoder, decoder, other).full


def test_an_image_stays_as_it_was_when_the_next_comes() -> None:
    encoder, decoder = Encoder(), Decoder(max_size=LIMIT)
    first = decoder.decode(encoder.encode("vm", IMAGE, 0))
    decoder.decode(encoder.encode("vm", IMAGE[::-1], 0))
    assert first == IMAGE
    assert first.readonly


def test_any_buffer() -> None:
    numbers = array.array("d", range(1000))
    frame = Encoder().encode("a", numbers, 0)
    assert Decoder(max_size=LIMIT).decode(frame) == numbers.tobytes()


def test_a_full_frame_after_so_many_deltas_or_so_long() -> None:
    encoder, decoder = Encoder(max_chain=2, baseline_interval=60), Decoder(max_size=LIMIT)
    times = [0.0, 1, 2, 3, 62, 63, 64]
    fulls = [through(encoder, decoder, changed(IMAGE, n), now).full for n, now in enumerate(times)]
    assert fulls == [True, False, False, True, False, True, False]


def test_a_lost_frame_is_named_and_mended() -> None:
    encoder, decoder = Encoder(), Decoder(max_size=LIMIT)
    lost = encoder.encode("vm", IMAGE, 0)
    second = encoder.encode("vm", changed(IMAGE, 1), 0)
    with pytest.raises(NotFoundError, match="stands on version 1, and none is here"):
        decoder.decode(second)
    decoder.decode(lost)
    third = encoder.encode("vm", IMAGE, 0)
    with pytest.raises(NotFoundError, match="stands on version 2, and version 1 is here"):
        decoder.decode(third)
    encoder.forget("vm")
    assert through(encoder, decoder, IMAGE).version == 4


def test_what_is_refused_leaves_what_was_here() -> None:
    encoder, decoder = Encoder(), Decoder(max_size=len(IMAGE) + 10)
    through(encoder, decoder, IMAGE)
    good = encoder.encode("vm", changed(IMAGE, 3), 0)
    bad = bytearray(good.delta)
    bad[-1] ^= 1
    with pytest.raises(IntegrityError):
        decoder.decode(Frame("vm", good.version, good.base, bytes(bad)))
    with pytest.raises(ProtocolError, match="one of another object or version"):
        decoder.decode(Frame("other", 1, 0, good.delta))
    with pytest.raises(ProtocolError, match="are allowed here"):
        decoder.decode(Encoder().encode("other", bytes(11), 0))
    assert decoder.decode(good) == changed(IMAGE, 3)
    decoder.forget("vm")
    assert decoder.decode(Encoder().encode("other", bytes(11), 0)) == bytes(11)


def test_usage() -> None:
    with pytest.raises(UsageError, match="a key has more"):
        Encoder().encode("x" * 201, b"", 0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cut short"),
        (b"x" * 40, "no frame"),
        (Frame("k", 1, 1, b"").pack(), "stands on version 1"),
        (Frame("k", 1, 0, b"").pack().replace(b"k", b"\xff"), "UTF-8"),
    ],
)
def test_what_is_no_frame(data: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        Frame.unpack(data)


@given(st.binary(max_size=200))
def test_noise_is_a_typed_error(noise: bytes) -> None:
    for data in (noise, Frame("k", 1, 0, noise).pack()):
        with pytest.raises(DwcpError):
            Decoder(max_size=LIMIT).decode(Frame.unpack(data))
