"""What changes, as rsync(1) prints it with --itemize-changes: YXcstpoguax and the name."""

from __future__ import annotations

import os

from dwcp.cli.options import printable
from dwcp.wire.tree import ACL, CONTENT, DELETED, GROUP, MODE, NEW, OWNER, SENT, SIZE, TIME, XATTR, Change

_KINDS = {"file": "f", "stream": "f", "dir": "d", "symlink": "L", "char": "D", "block": "D", "fifo": "S", "socket": "S"}
_COLUMNS = ((CONTENT, "c"), (SIZE, "s"), (TIME, "t"), (MODE, "p"), (OWNER, "o"), (GROUP, "g"), (ACL, "a"), (XATTR, "x"))


def itemize(change: Change, *, sends: bool) -> str:
    """One line. `sends`: content goes from here; else it comes here."""
    path = printable(os.fsdecode(change.path)) or "."
    path += "/" if change.type == "dir" else ""
    if change.what & DELETED:
        return f"*deleting   {path}"
    if change.type == "hardlink":
        how, kind = "h", "f"
    else:
        kind = _KINDS.get(change.type, "f")
        made = change.what & (NEW | CONTENT)
        how = ("<" if sends else ">") if change.what & SENT else "c" if made else "."
    if change.what & NEW:
        columns = "+++++++++"
    else:
        letters = [letter if change.what & bit else "." for bit, letter in _COLUMNS]
        # rsync keeps a column for access times between groups and ACLs
        columns = "".join([*letters[:6], ".", *letters[6:]])
    link = printable(os.fsdecode(change.link))
    arrow = {"symlink": f" -> {link}", "hardlink": f" => {link}"}.get(change.type, "")
    return f"{how}{kind}{columns} {path}{arrow}"
