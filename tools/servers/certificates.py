"""Certificates for tests: an authority of one's own, and what it signs. Nothing of it leaves its folder."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tools.servers.ports import LOOPBACK


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs certificates, each with its key in one PEM file."""

    folder: Path
    name: str = "tests"

    @property
    def file(self) -> Path:
        """Whom to believe."""
        return self.folder / f"{self.name}-ca.pem"

    @classmethod
    def create(cls, folder: Path, name: str = "tests") -> Authority:
        authority, key = cls(folder, name), _key()
        subject = _name(name)
        made = _builder(subject, subject, key, datetime.now(UTC), timedelta(days=1)).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        authority.file.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        authority._key_file.write_bytes(_pem(key))
        return authority

    def sign(self, name: str, *, host: str = LOOPBACK, expired: bool = False) -> Path:
        """A certificate for a host, with its key. An expired one was good until yesterday."""
        now, own = datetime.now(UTC), _key()
        issuer = x509.load_pem_x509_certificate(self.file.read_bytes())
        key = serialization.load_pem_private_key(self._key_file.read_bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        start = now - timedelta(days=3) if expired else now
        life = timedelta(days=2 if expired else 1)
        made = _builder(_name(name), issuer.subject, own, start, life).add_extension(
            x509.SubjectAlternativeName([_host(host)]), critical=False
        )
        file = self.folder / f"{self.name}-{name}.pem"
        file.write_bytes(_pem(own) + made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        file.chmod(0o600)
        return file

    @property
    def _key_file(self) -> Path:
        return self.folder / f"{self.name}-ca.key"


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, start: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - timedelta(hours=1))
        .not_valid_after(start + life)
    )


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
