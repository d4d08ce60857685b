"""The content of a file at the receiver: leaves into its part, and out of its baseline."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from dwcp.errors import IntegrityError, Interrupted, ProtocolError, TemporaryError
from dwcp.files.attributes import Attributes
from dwcp.files.root import Root, open_regular
from dwcp.files.sparse import write_all, write_sparse
from dwcp.files.staging import NoStaging, Staging
from dwcp.hde.hashes import Hash
from dwcp.hde.index import cut, pack_index, page_hashes
from dwcp.transfer.encoding import Baseline
from dwcp.transfer.incoming import BASELINE, Incoming
from dwcp.transfer.plan import Planner
from dwcp.transfer.pool import BufferPool
from dwcp.wire.paths import display


class Writer:
    """Of one receiver; all its threads use it at once. Everything raises OSError, or a DwcpError."""

    def __init__(
        self,
        root: Root,
        staging: Staging | NoStaging,
        attributes: Attributes,
        planner: Planner,
        pool: BufferPool,
        hash_: Hash,
        ended: Callable[[], bool],
        check: Callable[[], None],
    ) -> None:
        """`ended`: whether the transfer has, and nothing long is to go on; `check` raises where nothing may be written
        any more."""
        self._root = root
        self._staging = staging
        self._attributes = attributes
        self._planner = planner
        self._pool = pool
        self._hash = hash_
        self._ended = ended
        self._check = check

    # -- the old version -----------------------------------------------------------------------------------------------

    def base_fd(self, file: Incoming) -> int:
        """The baseline, opened once. Raises StorageError when it is gone."""
        with file.lock:
            if file.base_fd is None:
                if file.base is None:
                    raise ProtocolError("the peer refers to a baseline that was not offered")
                with self._root.directory(file.base[:-1]) as parent:
                    file.base_fd = open_regular(file.base[-1], parent)
            return file.base_fd

    def baseline(self, file: Incoming) -> Baseline:
        fd = self.base_fd(file)
        return Baseline(file.base_size, lambda offset, view: os.preadv(fd, [view], offset))

    def index(self, file: Incoming, leaves: list[int], *, chunks: bool) -> bytes:
        """Finer hashes of the baseline: of the pages of these leaves, and of its chunks. Raises Interrupted."""
        base, base_size = self.base_fd(file), file.base_size
        pages = page_hashes(b"")
        for leaf in leaves:
            pages.extend(page_hashes(os.pread(base, file.leaf_size, leaf * file.leaf_size)))

        def read(offset: int, size: int) -> bytes:
            if self._ended():
                raise Interrupted("the transfer has ended")
            return os.pread(base, size, offset)

        return pack_index(pages, cut(read, base_size if chunks else 0))

    def is_baseline_itself(self, file: Incoming) -> bool:
        """Whether nothing has to be written: every leaf of what is under the file's name was found unchanged."""
        return (
            file.base == file.target
            and file.base_size == file.size
            and all(origin == BASELINE for origin in file.origin)
            # what has other names, perhaps outside of the export, is not changed under them
            and (not file.what or os.fstat(self.base_fd(file)).st_nlink == 1)
        )

    # -- the new one ---------------------------------------------------------------------------------------------------

    def write(self, file: Incoming, leaf: int, content: memoryview, *, zero: bool) -> None:
        """A verified leaf, into the part. `zero`: it is nothing but zeros."""
        fd, fresh = self._open(file)
        # nothing was ever written there: the hole reads as zeros
        fresh = fresh and not file.settled[leaf]
        if not (zero and fresh):
            _put(file, fd, content, leaf * file.leaf_size, fresh=fresh)

    def write_small(self, file: Incoming, content: memoryview) -> None:
        """All of a file, as a temporary one with its metadata."""
        self._check()
        file.temporary, fd = self._staging.create()
        try:
            _put(file, fd, content, 0, fresh=True)
            if file.entry.sparse:
                os.ftruncate(fd, len(content))
            self._attributes.apply(fd, file.entry)
        finally:
            os.close(fd)

    def complete(self, file: Incoming) -> bool:
        """Fetches what is unchanged from the baseline, and gives the part its size and metadata; False where the
        transfer ended meanwhile. Raises IntegrityError and TemporaryError where what is there does not fit."""
        fd, fresh = self._open(file)
        for leaf in range(file.leaves):
            if self._ended():
                return False
            if file.origin[leaf] == BASELINE:
                self._copy_from_base(file, leaf, fd, fresh=fresh)
        os.ftruncate(fd, file.size)
        if file.is_stream:
            self._check_end(file, fd)
        self._attributes.apply(fd, file.entry, mtime_ns=time.time_ns() if file.is_stream else None)
        return True

    def _open(self, file: Incoming) -> tuple[int, bool]:
        """(descriptor, whether nothing was in it when this transfer began)."""
        self._check()
        with file.lock:
            if file.fd is None and file.journalled:
                self._planner.open_part(file)
            if file.fd is None:
                file.temporary, file.fd = self._staging.create()
            return file.fd, file.part is None or file.part.fresh

    def _copy_from_base(self, file: Incoming, leaf: int, fd: int, *, fresh: bool) -> None:
        digest = file.digest(leaf)
        with self._pool.buffer(file.leaf_bytes(leaf)) as view:
            got = os.preadv(self.base_fd(file), [view], leaf * file.leaf_size)
            if got != len(view) or self._hash.digest(view) != digest:
                raise TemporaryError(
                    f"{display(b'/'.join(file.target))} changed at the receiver while it was replaced; send it again"
                )
            _put(file, fd, view, leaf * file.leaf_size, fresh=fresh)
        file.arrived(leaf, digest)

    def _check_end(self, file: Incoming, fd: int) -> None:
        """Of a stream, whose size is only known from its end: the last leaf has to reach to there, and no further."""
        if not file.leaves:
            return
        last = file.leaves - 1
        with self._pool.buffer(file.leaf_bytes(last)) as view:
            read = os.preadv(fd, [view], last * file.leaf_size)
            if read != len(view) or self._hash.digest(view) != file.digest(last):
                raise IntegrityError(f"{display(file.entry.path)} has another size than what came of it")


def _put(file: Incoming, fd: int, content: memoryview, offset: int, *, fresh: bool) -> None:
    if file.entry.sparse:
        write_sparse(fd, content, offset, fresh=fresh)
    else:
        write_all(fd, content, offset)
