"""Names of what lives outside the schema: slots, publications, locks, instances."""

import hashlib
import re

_SAFE = re.compile(r"[^a-z0-9_]+")
_LIMIT = 63  # NAMEDATALEN - 1

INSTANCE_PREFIX = "pgcdc-outbox/"
"""How the application_name of every instance begins."""


def slot_name(schema: str, consumer: str, database_oid: int) -> str:
    """The slot of one consumer: safe for the server, unique in the cluster.

    Slots are cluster-wide, so the database is part of the name; by its oid,
    which a renamed database keeps and a copied one does not.
    """
    return _safe("pgcdc", (schema, consumer), suffix=str(database_oid))


def publication_name(schema: str) -> str:
    """The publication of an outbox. Publications belong to one database."""
    return _safe("pgcdc", (schema,))


def lock_key(schema: str, purpose: str) -> int:
    """Key of an advisory lock (locks belong to one database), as a signed bigint."""
    digest = hashlib.sha256(f"pgcdc_outbox\0{schema}\0{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _safe(prefix: str, parts: tuple[str, ...], suffix: str = "") -> str:
    """Join the parts; a hash keeps apart what the cleaning made equal or too long."""
    plain = "_".join((prefix, *parts, suffix)) if suffix else "_".join((prefix, *parts))
    cleaned = _SAFE.sub("_", plain.lower())
    # "a_b" + "c" and "a" + "b_c" read the same: only underscore-free parts may go bare.
    ambiguous = len(parts) > 1 and any("_" in part for part in parts)
    if cleaned == plain and not ambiguous and len(cleaned) <= _LIMIT:
        return cleaned

    mark = hashlib.sha256("\0".join((*parts, suffix)).encode()).hexdigest()[:8]
    return f"{cleaned[: _LIMIT - 9]}_{mark}"
