"""Clusters: what a file says of one, how one is started, and the client of it."""
