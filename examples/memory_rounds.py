"""Ships successive images of a memory to another process, as the rounds of a live migration do.

    python examples/memory_rounds.py [MEBIBYTES] [ROUNDS]

This process holds the memory and knows which pages it has changed; the other one has a copy after each round. What
carries the frames is a socket here; anything that keeps their order will do.
"""

from __future__ import annotations

import multiprocessing
import random
import sys
import time
from multiprocessing.connection import Connection

import xxhash

from dwcp.hde.rounds import Decoder, Encoder, Frame

PAGE = 4096
MEBIBYTE = 1024 * 1024


def receive(connection: Connection) -> None:
    """Answers each frame with the hash of the image that it made."""
    decoder = Decoder(max_size=2**32)
    while data := connection.recv_bytes():
        image = decoder.decode(Frame.unpack(data))
        connection.send_bytes(xxhash.xxh3_128_digest(image))


def main(mebibytes: int, rounds: int) -> None:
    here, there = multiprocessing.Pipe()
    # not forked: the copy is the other end's own
    receiver = multiprocessing.get_context("spawn").Process(target=receive, args=(there,))
    receiver.start()
    source = random.Random(1)  # noqa: S311  -- content, no secret
    memory = bytearray(mebibytes * MEBIBYTE)
    memory[: len(memory) // 2] = source.randbytes(len(memory) // 2)
    dirty: list[tuple[int, int]] = []
    encoder = Encoder(max_chain=None, baseline_interval=None)
    for number in range(rounds):
        began = time.monotonic()
        # the first frame is full, whatever the hint
        frame = encoder.encode("vm1", memory, began, dirty)
        seconds = time.monotonic() - began
        here.send_bytes(frame.pack())
        if here.recv_bytes() != xxhash.xxh3_128_digest(memory):
            sys.exit("the other end has something else")
        what = "full" if frame.full else f"{len(dirty)} dirty pages"
        print(f"round {number + 1}: {what}, {len(frame.delta)} bytes, {seconds:.3f} s")
        dirty = [(source.randrange(len(memory) // PAGE) * PAGE, PAGE) for _ in range(50)]
        for offset, _ in dirty:
            memory[offset : offset + 64] = source.randbytes(64)
    here.send_bytes(b"")
    receiver.join()


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    main(*given, *(64, 5)[len(given) :])
