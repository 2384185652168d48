"""A private redis-server for tests: free port of 127.0.0.1, nothing kept, ended with the test."""

from __future__ import annotations

from simulator.private_services import PrivateRedis, private_redis

__all__ = ["PrivateRedis", "private_redis"]
