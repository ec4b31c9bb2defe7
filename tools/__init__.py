"""Programs for people who work on this checkout. Nothing in here is shipped in the wheel."""
