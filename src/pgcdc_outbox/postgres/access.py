"""The line of pg_hba.conf that lets somebody in whom the server has turned away."""

import re

# The server's words, which are its administrators' language: other ones are not understood.
_TURNED_AWAY = re.compile(
    r'no pg_hba\.conf entry for (?:replication connection from )?host "(?P<host>[^"]+)", '
    r'user "(?P<user>[^"]+)"(?:, database "(?P<database>[^"]+)")?'
    r"(?:, (?P<encryption>(?:SSL|no) encryption))?"
)
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*", re.ASCII)

# Names that mean something else in that file, unless they are quoted.
_KEYWORDS = {"all", "sameuser", "samerole", "samegroup", "replication"}


def hba_line(text: str) -> str:
    """What to add for the connection that an error speaks of; empty if it is about something else.

    A replication connection for logical decoding is looked up under its database,
    as any other.
    """
    match = _TURNED_AWAY.search(text)
    if match is None:
        return ""

    database = _word(match["database"]) if match["database"] else "all"
    who = f"{database} {_word(match['user'])}"
    if match["host"] == "[local]":
        return f"local {who} scram-sha-256"

    kind = "hostssl" if match["encryption"] == "SSL encryption" else "host"
    return f"{kind} {who} {match['host']}/{128 if ':' in match['host'] else 32} scram-sha-256"


def _word(name: str) -> str:
    return name if _PLAIN.fullmatch(name) and name not in _KEYWORDS else f'"{name}"'
