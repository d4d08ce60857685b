"""Round trips of a sample through every codec and the delta encoder: what the compression component checks."""

from __future__ import annotations

from dwcp.errors import IntegrityError
from dwcp.hde import codecs, delta
from dwcp.hde.index import PAGE, Index, page_hashes

_PAGES = 16


def check_compression() -> None:
    """Raises IntegrityError or ProtocolError when a round trip does not give back what went in."""
    base = b"".join(bytes([page]) * PAGE for page in range(_PAGES))
    sample = memoryview(base[: 5 * PAGE] + b"changed".ljust(PAGE, b".") + base[6 * PAGE :])
    for codec in codecs.CODECS:
        chosen, body = codecs.encode(codec, "fast", sample, 1.0)
        if bytes(memoryview(codecs.decode(chosen.id, body, len(sample)))) != bytes(sample):
            raise IntegrityError(f"codec {codec.name} does not give back what it was given; reinstall its package")
    ops = delta.in_place(sample, 0, Index(page_hashes(base), {}).pages, 0)
    out = bytearray(len(sample))

    def read(offset: int, view: memoryview) -> int:
        view[:] = base[offset : offset + len(view)]
        return len(view)

    delta.assemble(ops, memoryview(delta.literals(sample, ops)), memoryview(out), read)
    if bytes(out) != bytes(sample) or delta.literal_size(ops) != PAGE:
        raise IntegrityError("the delta encoder does not give back what it was given; reinstall xxhash")
