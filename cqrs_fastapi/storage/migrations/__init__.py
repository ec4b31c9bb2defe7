"""The revisions of the framework's own tables. Each is handed `op` and `names`; none imports `alembic.op`."""
