"""Run directories: writing, resuming, reporting."""
