"""AES-256-GCM (NIST SP 800-38D) with random nonces of 96 bits, and HKDF (RFC 5869), both of `cryptography`.

With random nonces a key may encrypt 2^32 values; a data subject's key encrypts the fields of that one person.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from cqrs_fastapi.errors import MissingExtraError

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16


class WrongKeyError(Exception):
    """These bytes were not encrypted with this key for this place, or were changed since."""


def require_crypto() -> None:
    """MissingExtraError unless `cryptography` is installed."""
    try:
        import cryptography  # noqa: F401, PLC0415  # an extra: only who has personal data needs it
    except ImportError:
        raise MissingExtraError(feature="the encryption of personal data", extra="crypto") from None


def new_key() -> bytes:
    """256 random bits of the operating system."""
    return os.urandom(KEY_BYTES)


def encrypt(key: bytes, plain: bytes, bound_to: bytes) -> bytes:
    """Nonce, ciphertext and tag. Only who gives the same `bound_to` can decrypt it."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415  # see require_crypto

    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, bound_to)


def decrypt(key: bytes, sealed: bytes, bound_to: bytes) -> bytes:
    """What `encrypt` was given; WrongKeyError if anything is not as it was then."""
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415  # see require_crypto
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415  # see require_crypto

    if len(sealed) < NONCE_BYTES + TAG_BYTES:
        raise WrongKeyError("too short to be anything that was encrypted")
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], bound_to)
    except InvalidTag:
        raise WrongKeyError("another key, another place, or changed bytes") from None


def joint_key(keys: Sequence[bytes], salt: bytes, purpose: bytes) -> bytes:
    """A key that nobody can make who lacks one of `keys`; their order matters."""
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415  # see require_crypto
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415  # see require_crypto

    return HKDF(SHA256(), KEY_BYTES, salt, purpose).derive(b"".join(keys))
