"""Which host keys a known_hosts file trusts for a host.  Pure.

OpenSSH's format: plain and hashed names, patterns with * and ?, negated with !, several keys of a
host, @revoked lines.  Lines of certificate authorities are left out: a key is pinned, or unknown.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass

SSH_PORT = 22


@dataclass(frozen=True)
class PinnedKey:
    """A host key: its type ("ssh-ed25519") and its data in base64; revoked: never to be trusted."""

    kind: str
    data: str
    revoked: bool = False

    @property
    def fingerprint(self) -> str:
        """As ssh-keygen -l shows it."""
        return fingerprint(base64.b64decode(self.data))


def fingerprint(key: bytes) -> str:
    """Fingerprint of a public key as ssh-keygen -l shows it."""
    digest = hashlib.sha256(key).digest()
    return "SHA256:" + base64.b64encode(digest).decode("ascii").rstrip("=")


def host_entry(host: str, port: int) -> str:
    """How a known_hosts file names a host."""
    return host if port == SSH_PORT else f"[{host}]:{port}"


def pinned_keys(lines: Iterable[str], host: str, port: int) -> tuple[PinnedKey, ...]:
    """The keys that the lines of a known_hosts file have for a host, in their order."""
    name = host_entry(host.lower(), port)
    found = []
    for line in lines:
        words = line.split()
        marker = words.pop(0) if words and words[0].startswith("@") else ""
        if len(words) < 3 or words[0].startswith("#") or marker not in ("", "@revoked"):
            continue
        names, kind, data = words[:3]
        if _matches(names, name) and _is_base64(data):
            found.append(PinnedKey(kind, data, bool(marker)))
    return tuple(found)


def _matches(names: str, name: str) -> bool:
    """Whether the first word of a line means the host."""
    if names.startswith("|1|"):
        return _is_hash_of(names, name)
    matched = False
    for pattern in names.lower().split(","):
        # Brackets are part of "[host]:port", not a set of characters.
        plain = re.sub(r"[\[]", "[[]", pattern.removeprefix("!"))
        if fnmatch.fnmatchcase(name, plain):
            if pattern.startswith("!"):
                return False
            matched = True
    return matched


def _is_hash_of(text: str, name: str) -> bool:
    """|1|salt|hash, both in base64: HMAC-SHA1 of the name."""
    try:
        _, _, salt, digest = text.split("|")
        wanted = base64.b64decode(digest, validate=True)
        made = hmac.new(base64.b64decode(salt, validate=True), name.encode(), hashlib.sha1)
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(made.digest(), wanted)


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except binascii.Error:
        return False
    return True
