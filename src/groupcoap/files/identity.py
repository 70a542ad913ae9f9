"""The identity of a device: its private key and the credential that others know it by."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..cose.credentials import Credential, CredentialKind, claims_set
from ..cose.keys import DEFAULT_SIGNATURE, PrivateKey, SignatureAlgorithm, signature_algorithm
from ..errors import MisuseError
from ..secret import Secret
from .documents import DocumentKind, Field, Json, read_document, write_document

IDENTITY_FILE = "identity.json"
"""The name of the file in a device's directory."""

KIND = DocumentKind("groupcoap-identity", 1)


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """A device's name (for people), signature algorithm, private key and credential. `MisuseError` if the
    credential is not of this private key."""

    name: str
    signature: SignatureAlgorithm
    private_key: PrivateKey = field(repr=False)
    credential: Credential

    def __post_init__(self) -> None:
        if self.credential.public_key(self.signature).data != self.private_key.public_key.data:
            raise MisuseError("the credential does not belong to the private key")


def generate_identity(
    name: str, signature: SignatureAlgorithm = DEFAULT_SIGNATURE, *, claims: bool = False
) -> DeviceIdentity:
    """A new identity whose credential is the raw public key, or, with `claims`, a CWT Claims Set that holds it."""
    key = signature.generate()
    raw = Credential(CredentialKind.RAW_KEY, key.public_key.data)
    return DeviceIdentity(name, signature, key, claims_set(key.public_key, signature, name) if claims else raw)


def load_identity(path: Path) -> DeviceIdentity:
    """The identity in this file. `FileFault` if it cannot be used."""
    document = read_document(path, KIND)
    members = document.members(("name", "signature", "private_key", "credential"))
    name = members["name"].text()
    with members["signature"].refusing():
        algorithm = signature_algorithm(members["signature"].integer())
    with members["private_key"].refusing():
        key = algorithm.private_key(Secret(members["private_key"].hex(algorithm.key_length, algorithm.key_length)))
    credential = read_credential(members["credential"], algorithm)
    with document.refusing():
        return DeviceIdentity(name, algorithm, key, credential)


def save_identity(path: Path, identity: DeviceIdentity) -> None:
    """Write an identity to a new file of mode 0600. `FileFault` if the file exists: a private key is never
    overwritten."""
    body = {
        "name": identity.name,
        "signature": identity.signature.number,
        "private_key": identity.private_key.secret.reveal().hex(),
        "credential": credential_json(identity.credential),
    }
    write_document(path, KIND, body)


def read_credential(entry: Field, algorithm: SignatureAlgorithm) -> Credential:
    """A credential with a usable key for this algorithm. `FileFault` otherwise."""
    credential = read_opaque_credential(entry)
    with entry.refusing():
        credential.public_key(algorithm)
    return credential


def read_opaque_credential(entry: Field) -> Credential:
    """A credential whose key is of no concern. `FileFault` if it cannot be read."""
    members = entry.members(("kind", "data"))
    return Credential(members["kind"].choice(CredentialKind), members["data"].hex(1))


def credential_json(credential: Credential) -> Json:
    """A credential as it stands in files."""
    return {"kind": credential.kind.value, "data": credential.data.hex()}
