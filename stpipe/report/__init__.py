"""Pictures and numbers of a run."""
