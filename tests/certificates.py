"""A private authority, and a server's certificate by it for 127.0.0.1 and localhost."""

import datetime as dt
import ipaddress
import os
import pwd
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["Certificates", "make_certificates"]


class Certificates(NamedTuple):
    """Paths of PEM files."""

    authority: Path
    certificate: Path
    key: Path


def make_certificates(folder: Path, owner: pwd.struct_passwd | None = None) -> Certificates:
    """Make an authority, and a certificate with a key that only this owner may read."""
    now = dt.datetime.now(dt.UTC)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_name, name = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, of)]) for of in ("authority", "server"))
    lasting = x509.CertificateBuilder().issuer_name(authority_name).not_valid_before(now - dt.timedelta(days=1))
    lasting = lasting.not_valid_after(now + dt.timedelta(days=1))
    identifier = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    usages = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    signs = x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, **usages)
    authority = (
        lasting.subject_name(authority_name)
        .public_key(authority_key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(signs, critical=True)
        .add_extension(identifier, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))],
    )
    by_it = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    certificate = (
        lasting.subject_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(names, critical=False)
        .add_extension(by_it, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    made = Certificates(folder / "authority.pem", folder / "certificate.pem", folder / "key.pem")
    made.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    made.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    made.key.chmod(0o600)
    if owner:
        os.chown(made.key, owner.pw_uid, owner.pw_gid)
    return made
