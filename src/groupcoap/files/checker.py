"""What an external signature checker is given of a group under one Gid, in a file (Group OSCORE §12.3).

    {"format": "groupcoap-checker", "version": 1, "group": "room", "gid": …, "signature_encryption_key": …, …}

With it the makers of messages in group mode are told, and nothing is read: there is no Master Secret in it, nor any
key that is derived from one but the Signature Encryption Key. HKDF's hash, which §12.3 passes over, is there since
the keystream takes it; names and addresses, which are no secret, are for people and for finding the group's
traffic. A renewal makes the file one of the past: another one is exported then."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..core.checker import SignatureChecker
from ..errors import MisuseError
from ..membership import GroupAddress, GroupConfiguration, Member, SecurityParameters
from ..secret import Secret
from .documents import DocumentKind, Field, parse_document, read_private, write_document
from .group import OPTIONAL_PARAMETERS, parameters_json, read_addresses, read_parameters, usable_credential
from .identity import credential_json
from .keylog import with_own

KIND = DocumentKind("groupcoap-checker", 1)


@dataclass(frozen=True, slots=True)
class CheckedGroup:
    """A group under one Gid, as a signature checker knows it. What the members' roles are is not said."""

    name: str
    parameters: SecurityParameters
    addresses: tuple[GroupAddress, ...]
    gid: bytes
    signature_encryption_key: Secret
    members: tuple[Member, ...]

    def checker(self) -> SignatureChecker:
        """What verifies its messages. `MisuseError` if these cannot be a group's."""
        parameters = self.parameters
        manager = parameters.manager_credential
        return SignatureChecker(
            gid=self.gid,
            signature_encryption_key=self.signature_encryption_key,
            members={
                member.endpoint_id: (
                    member.credential.authenticated,
                    member.credential.public_key(parameters.signature),
                )
                for member in self.members
            },
            manager_credential=b"" if manager is None else manager.authenticated,
            encryption=parameters.encryption,
            signature=parameters.signature,
            kdf=parameters.kdf,
            aead=parameters.aead,
            key_agreement=parameters.key_agreement,
            sign_protected=parameters.sign_protected,
        )


def checked_group(group: GroupConfiguration) -> CheckedGroup:
    """What a signature checker may know of a group's current epoch. `MisuseError` if its profile has no use for
    one."""
    epoch = group.current
    key = group.common_context(epoch).signature_encryption_key
    if key is None:
        raise MisuseError(
            f"group {group.name} is of {group.profile.name}, whose countersignatures travel in clear: the members' "
            "public keys are enough to verify them, and there is no key to give; checkers are for group-oscore"
        )
    members = (replace(member, roles=frozenset()) for member in with_own(epoch).members)
    return CheckedGroup(group.name, group.parameters, group.addresses, epoch.gid, key, tuple(members))


def save_checker(path: Path, group: CheckedGroup) -> None:
    """Write it to a new file of mode 0600. `FileFault` if the file exists or cannot be written."""
    body = {
        "group": group.name,
        **parameters_json(group.parameters),
        "addresses": [str(address) for address in group.addresses],
        "gid": group.gid.hex(),
        "signature_encryption_key": group.signature_encryption_key.reveal().hex(),
        "members": [
            {
                "id": member.endpoint_id.hex(),
                "name": member.name,
                "credential": credential_json(member.credential),
            }
            for member in group.members
        ],
    }
    write_document(path, KIND, body)


def load_checker(path: Path) -> CheckedGroup:
    """The group in this file. `FileFault` if it cannot be used."""
    data = read_private(path, missing="check the path; groupcoap checker makes one")
    document = parse_document(data, KIND, Field(path, "", None))
    members = document.members(
        (
            "group",
            "profile",
            "aead",
            "kdf",
            "signature",
            "addresses",
            "gid",
            "signature_encryption_key",
            "members",
        ),
        OPTIONAL_PARAMETERS,
    )
    parameters = read_parameters(members)
    if not parameters.profile.rules.binds_credentials:
        members["profile"].fault("has no signature checkers")
    group = CheckedGroup(
        members["group"].text(),
        parameters,
        read_addresses(members["addresses"]),
        members["gid"].hex(parameters.profile.rules.min_gid, 255),
        Secret(members["signature_encryption_key"].hex(1, 255)),
        _members(members["members"], parameters),
    )
    with document.refusing():
        group.checker()
    return group


def _members(entry: Field, parameters: SecurityParameters) -> tuple[Member, ...]:
    members: dict[bytes, Member] = {}
    for item in entry.items(at_least=1):
        fields = item.members(("id", "name", "credential"))
        endpoint_id = fields["id"].hex(0, 255)
        credential = usable_credential(fields["credential"], parameters)
        if endpoint_id in members:
            item.fault(f"Endpoint ID {endpoint_id.hex()!r} stands here twice")
        members[endpoint_id] = Member(endpoint_id, fields["name"].text(), frozenset(), credential)
    return tuple(members.values())
