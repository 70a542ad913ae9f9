"""From a backup to a database again."""

from __future__ import annotations

from pathlib import Path

from . import migrations
from .database import Database, database_at
from .sealing import SealingKey
from .store import Store, adopt, load, verify


def restore_database(backup: Path, target_url: str, key: SealingKey | None) -> Store:
    """A new database at this URL from a copy that `Store.backup` made, opened. The copy stays as it is.

    Sequence numbers and keys in it are from the past: the manager has to become a new incarnation before it uses
    them. `StoreFault` if the backup is damaged, open to others, not sealed with `key`, or of a newer version, or if
    there is something at the target already."""
    return adopt(database_at(target_url).restore(backup, lambda database: _check(database, key)), key)


def _check(database: Database, key: SealingKey | None) -> None:
    version, sealer = database.run(lambda connection: verify(connection, key))
    if version == migrations.VERSION:  # an older one is loaded when it has been migrated
        database.run(lambda connection: load(connection, sealer))
