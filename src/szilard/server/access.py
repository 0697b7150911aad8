"""Who may ask: API keys from a file or the environment, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from szilard.server.errors import RequestError

ENVIRONMENT = "SZILARD_API_KEYS"


class Keys:
    """The keys that open the server; without any it is open to all who reach it.

    Args:
        keys: texts.
    """

    def __init__(self, keys: list[str]) -> None:
        self._hashes = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def check(self, authorization: str | None) -> None:
        """Refuse a request without a known key.

        Args:
            authorization: the header's value, "Bearer KEY".

        Raises:
            RequestError: 401.
        """
        if not self._hashes:
            return
        kind, _, given = (authorization or "").partition(" ")
        found = hashlib.sha256(given.strip().encode()).digest()
        known = [hmac.compare_digest(found, own) for own in self._hashes]  # all of them, whichever fits
        if kind.lower() != "bearer" or not any(known):
            raise RequestError(
                401, "give a valid API key, as in 'Authorization: Bearer KEY'.", code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip


def check_host(given: str | None, known: tuple[str, ...]) -> None:
    """Refuse a request that asks for the server under another name.

    Args:
        given: the Host header.
        known: names; empty: any.

    Raises:
        RequestError: 403.
    """
    name = (given or "").lower()
    name = name[1 : name.find("]")] if name.startswith("[") else name.partition(":")[0]
    if known and name not in known:
        raise RequestError(403, f"this server answers as {', '.join(known)} alone.", code="unknown_host")


def read_keys(file: Path | None) -> Keys:
    """Keys of a file (one a line; # begins a comment) and of the environment's SZILARD_API_KEYS (with commas).

    Raises:
        ValueError: a file that cannot be read, or no key in a file or variable that is there to hold some.
    """
    keys = [key.strip() for key in os.environ.get(ENVIRONMENT, "").split(",") if key.strip()]
    if ENVIRONMENT in os.environ and not keys:
        raise ValueError(f"{ENVIRONMENT} is set and holds no key: write keys into it, with commas, or unset it.")
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the keys in {str(file)!r} cannot be read: {error}.") from None
        own = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
        if not own:
            raise ValueError(f"{str(file)!r} holds no key: write one a line.")
        keys += own
    return Keys(keys)
