"""What a receiver needs of each announced file, given what it has: the same name, an unfinished part, a likely twin."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from enum import Enum, auto

from dwcp.errors import DwcpError, RefusedError
from dwcp.files.attributes import Attributes
from dwcp.files.root import Parts, Root, open_regular
from dwcp.files.scan import Scan
from dwcp.files.staging import Staging, part_key
from dwcp.hde.hashes import LEAF_SIZES, Hash
from dwcp.store.journal import Journal
from dwcp.transfer.incoming import BASELINE, HERE, NOWHERE, Incoming
from dwcp.transfer.look import look
from dwcp.transfer.tree import TreeKeeper
from dwcp.transfer.work import PACK_FILE
from dwcp.wire.messages import Entry
from dwcp.wire.paths import check_link, check_relative, display
from dwcp.wire.tree import NEW, SENT, SIZE, TIME


class Plan(Enum):
    UNCHANGED = auto()
    """What is here is what was announced."""
    DONE = auto()
    """It was made at once: a directory, a link, an empty file."""
    WHOLE = auto()
    COMPARE = auto()
    """Something of it may be here: its leaves have to be hashed first."""


class Planner:
    """`plan` is for one thread, `hash_what_is_here` and `open_part` for any."""

    def __init__(
        self,
        root: Root,
        target: Parts,
        tree: TreeKeeper,
        staging: Staging,
        attributes: Attributes,
        hash_: Hash,
        *,
        delta: bool,
        compare: bool,
        pretend: bool,
    ) -> None:
        """`compare`: files are told apart by content, not by size and time. `pretend`: nothing is made."""
        self._root = root
        self._target = target
        self._tree = tree
        self._staging = staging
        self._attributes = attributes
        self._hash = hash_
        self._delta = delta
        self._compare = compare
        self._pretend = pretend
        self._twins: dict[tuple[int, int], Parts] | None = None

    def close(self) -> None:
        self._twins = None

    def target_of(self, entry: Entry) -> Parts:
        """Where an entry goes, below the root. Raises RefusedError for a path that leads elsewhere."""
        return self.target_of_name(entry.path)

    def target_of_name(self, path: bytes) -> Parts:
        """As `target_of`."""
        return self._target + check_relative(path)

    def plan(self, file: Incoming) -> Plan:
        """Raises OSError or a DwcpError when this one cannot be received."""
        entry, target = file.entry, file.target
        self._tree.keep(target)
        self._tree.check_case(target)
        if self._pretend:
            return self._rehearse(file)
        if entry.type in ("file", "stream") and target:
            return self._plan_file(file)
        file.what = self._place(entry, target)
        return Plan.DONE if file.what else Plan.UNCHANGED

    def _place(self, entry: Entry, target: Parts) -> int:
        """Makes something without content; bits of `Change.what`."""
        if entry.type == "dir":
            return self._tree.place_directory(target, entry)
        if not target:
            raise RefusedError("an export itself cannot be replaced by a file; name a path below it")
        if entry.type == "hardlink":
            if not entry.link:
                raise RefusedError(f"{display(entry.path)} is refused: a hard link needs the name of a file")
            return self._tree.place_hardlink(target, self._target + check_relative(entry.link))
        if entry.type == "symlink":
            check_link(entry.link)
        return self._tree.place_link_or_special(target, entry)

    def _rehearse(self, file: Incoming) -> Plan:
        """What `plan` would do. Raises OSError, RefusedError."""
        entry, target = file.entry, file.target
        if entry.type == "hardlink":
            file.what = self._tree.link_difference(target, self._target + check_relative(entry.link))
        elif not target:
            file.what = self._tree.root_differences(entry)
        else:
            try:
                with self._root.directory(target[:-1]) as parent:
                    file.what, _ = look(entry, target[-1], parent, self._attributes)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise
                # a directory of its path is still to be made
                file.what = NEW
        if entry.type in ("file", "stream"):
            if self._compare and entry.size and not file.what & (NEW | SIZE):
                file.base = target
                return Plan.COMPARE
            file.what |= SENT * bool(file.what & (NEW | SIZE | TIME))
        return Plan.DONE if file.what else Plan.UNCHANGED

    def _plan_file(self, file: Incoming) -> Plan:
        entry, target = file.entry, file.target
        parent, name = self._tree.held(target[:-1]), target[-1]
        what, status = look(entry, name, parent, self._attributes)
        if what & NEW:
            self._tree.make_room(status, target)
            status = None
        file.what = what
        same_size = not file.what & (NEW | SIZE) and not file.is_stream
        if status is not None and same_size and (not entry.size or not (self._compare or file.what & TIME)):
            if not file.what:
                return Plan.UNCHANGED
            if self._tree.adjust(name, parent, entry, status):
                file.what |= SENT * bool(file.what & TIME)
                return Plan.DONE
            # what has other names, perhaps outside of the export, is not changed under them but made anew
        if not entry.size and not file.is_stream:
            self._place_empty(entry, name, parent, target)
            file.what |= SENT
            return Plan.DONE
        if file.journalled and self._staging.has_part(self._key(file)):
            return Plan.COMPARE
        if self._compare and same_size:
            file.base = target
            return Plan.COMPARE
        if entry.size > PACK_FILE and self._delta:
            file.base = target if status is not None and status.st_size else self._twin(entry)
            if file.base is not None:
                return Plan.COMPARE
        return Plan.WHOLE

    def _place_empty(self, entry: Entry, name: bytes, parent: int, target: Parts) -> None:
        temporary, fd = self._staging.create()
        try:
            self._attributes.apply(fd, entry)
        finally:
            os.close(fd)
        self._tree.publish(temporary, name, parent, target)

    def _twin(self, entry: Entry) -> Parts | None:
        """A large file below the target with the same size and time: most likely the same, before it was renamed."""
        if self._twins is None:
            self._twins = {}
            try:
                for found in Scan(self._root, self._target, _ignore):
                    if stat.S_ISREG(found.stat.st_mode) and found.stat.st_size > PACK_FILE:
                        key = (found.stat.st_size, found.stat.st_mtime_ns)
                        self._twins[key] = self._target + check_relative(found.path)
            except DwcpError:
                # nothing is there yet
                self._twins = {}
        return self._twins.get((entry.size, entry.mtime_ns))

    def _key(self, file: Incoming) -> str:
        entry = file.entry
        return part_key(b"/".join(file.target), entry.size, entry.mtime_ns, self._hash.name)

    def open_part(self, file: Incoming) -> tuple[list[int], bool]:
        """Opens the file's part and journal: the leaves that are promised, and whether the journal, as it stands now,
        still has them. Call with the file's lock held.

        Raises OSError, or TemporaryError while another transfer has it.
        """
        target = b"/".join(file.target)
        part = self._staging.open_part(self._key(file), target)
        file.part, file.fd = part, part.fd
        file.journal = Journal(part.journal_fd, self._hash.size)
        about: dict[str, str | int] = {
            "target": display(target),
            "size": file.entry.size,
            "mtime_ns": file.entry.mtime_ns,
            "leaf_size": file.leaf_size,
            "checksum": self._hash.name,
        }
        promised = file.journal.read(about)
        if promised is not None:
            return sorted(promised), True
        leaves = self._promised_in_other_leaves(file, file.journal, about)
        if not leaves:
            os.ftruncate(part.fd, 0)
            part.fresh = True
        file.journal.begin(about)
        return leaves, False

    def _promised_in_other_leaves(self, file: Incoming, journal: Journal, about: dict[str, str | int]) -> list[int]:
        """The leaves that are covered by what an earlier try has left, in leaves of another size."""
        for size in LEAF_SIZES:
            promised = journal.read({**about, "leaf_size": size})
            if promised is not None:
                return [leaf for leaf in range(file.leaves) if all(n in promised for n in _covering(file, leaf, size))]
        return []

    def hash_what_is_here(self, file: Incoming, stop: Callable[[], bool]) -> None:
        """Fills in the digests of the leaves that the part or the baseline has, until `stop` says that nobody cares.

        Raises OSError or a DwcpError.
        """
        if file.journalled and self._staging.has_part(self._key(file)):
            with file.lock:
                promised, journalled = self.open_part(file)
            for leaf in promised:
                if stop():
                    return
                self._hash_leaf(file, leaf, file.part.fd if file.part else -1, HERE)
                if not journalled and file.journal is not None and file.origin[leaf] == HERE:
                    file.journal.add(leaf, file.digest(leaf))
        if file.base is None:
            return
        try:
            with self._root.directory(file.base[:-1]) as parent:
                base = open_regular(file.base[-1], parent)
        except FileNotFoundError:
            file.base = None
            return
        try:
            for leaf in range(file.leaves):
                if stop():
                    return
                if file.origin[leaf] == NOWHERE:
                    self._hash_leaf(file, leaf, base, BASELINE)
            file.base_size = os.fstat(base).st_size
        finally:
            if file.base == file.target or not file.keep_base(base):
                os.close(base)

    def _hash_leaf(self, file: Incoming, leaf: int, fd: int, origin: int) -> None:
        size = file.leaf_size if file.is_stream else file.leaf_bytes(leaf)
        content = os.pread(fd, size, leaf * file.leaf_size)
        # of a baseline also where it ends within the leaf: by that the sender knows whether it has the same baseline
        if len(content) == size or (content and (file.is_stream or origin == BASELINE)):
            with file.lock:
                file.have(leaf, self._hash.digest(content), origin)


def _covering(file: Incoming, leaf: int, size: int) -> range:
    """The leaves of `size` bytes that together hold `leaf`."""
    start = leaf * file.leaf_size
    return range(start // size, (start + file.leaf_bytes(leaf) - 1) // size + 1)


def _ignore(problem: DwcpError) -> None:
    """What cannot be read is no baseline; it is told of where it matters."""
