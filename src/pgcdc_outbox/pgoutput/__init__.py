"""PostgreSQL's logical replication protocol, without I/O.

Bytes in, values out, and back again: the frames of a replication connection,
every message of the output plugin ``pgoutput``, versions 1 to 4, and the text of
the commands. It needs nothing but the standard library, and nothing around it.
"""

from __future__ import annotations

from . import commands
from .changes import Delete, Insert, LogicalMessage, Truncate, Update
from .errors import ProtocolError
from .frames import (
    ClientFrame,
    HotStandbyFeedback,
    PrimaryKeepalive,
    ServerFrame,
    StandbyStatusUpdate,
    UnknownFrame,
    XLogData,
    decode_client_frame,
    decode_frame,
)
from .parser import Message, Parser, decode
from .prepared import (
    BeginPrepare,
    CommitPrepared,
    Prepare,
    RollbackPrepared,
    StreamPrepare,
)
from .relations import Column, Relation, Type
from .rows import UNCHANGED, Cell, Row, Unchanged
from .streams import StreamAbort, StreamCommit, StreamStart, StreamStop
from .transactions import Begin, Commit, Origin
from .units import (
    Lsn,
    Microseconds,
    format_lsn,
    from_datetime,
    from_unix,
    parse_lsn,
    to_datetime,
)

__all__ = [
    "UNCHANGED",
    "Begin",
    "BeginPrepare",
    "Cell",
    "ClientFrame",
    "Column",
    "Commit",
    "CommitPrepared",
    "Delete",
    "HotStandbyFeedback",
    "Insert",
    "LogicalMessage",
    "Lsn",
    "Message",
    "Microseconds",
    "Origin",
    "Parser",
    "Prepare",
    "PrimaryKeepalive",
    "ProtocolError",
    "Relation",
    "RollbackPrepared",
    "Row",
    "ServerFrame",
    "StandbyStatusUpdate",
    "StreamAbort",
    "StreamCommit",
    "StreamPrepare",
    "StreamStart",
    "StreamStop",
    "Truncate",
    "Type",
    "Unchanged",
    "UnknownFrame",
    "Update",
    "XLogData",
    "commands",
    "decode",
    "decode_client_frame",
    "decode_frame",
    "format_lsn",
    "from_datetime",
    "from_unix",
    "parse_lsn",
    "to_datetime",
]
