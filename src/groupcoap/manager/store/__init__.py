"""The Group Manager's database: everything is loaded at the start, and writes are committed in batches.

    commands ─ writes ─► GroupCommit ─ one transaction ─► Store ─ sealed ─► SQLAlchemy Core ─► SQLite
                                                            └─ load, erase, backup

Values of `sealed` columns are plain bytes above `Store` and sealed below it. What only SQLite knows is in `sqlite`;
another database gets a module beside it and a line in `database.database_at`.
"""
