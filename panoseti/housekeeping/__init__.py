"""Housekeeping from the boards to Redis and to disk, and how far it is trusted."""
