"""What the groups of the tests are protected with. Whole files run over both profiles by the fixture
`each_profile`; what belongs to one of them names its suite."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from groupcoap.core.contexts import CommonContext
from groupcoap.core.group_oscore import GROUP_OSCORE as GROUP_OSCORE_PROFILE
from groupcoap.core.multicast_oscore_04 import MULTICAST_OSCORE_04 as DRAFT_PROFILE
from groupcoap.cose.algorithms import Kdf, aead_algorithm, encryption_algorithm, key_agreement
from groupcoap.cose.credentials import Credential, CredentialKind, claims_set
from groupcoap.cose.keys import DEFAULT_SIGNATURE, PrivateKey, PublicKey, signature_algorithm
from groupcoap.membership import SecurityParameters
from groupcoap.secret import Secret

MANAGERS_KEY = DEFAULT_SIGNATURE.private_key(Secret(sha256(b"key of the Group Manager").digest()))


@dataclass(frozen=True)
class Suite:
    """A wire profile with its algorithms, and how members are known in such a group."""

    parameters: SecurityParameters

    @property
    def name(self) -> str:
        return self.parameters.profile.name

    @property
    def bound(self) -> bool:
        """Whether messages are bound to credentials: a look-up then comes before decryption."""
        return self.parameters.profile.rules.binds_credentials

    @property
    def pairwise(self) -> bool:
        """Whether there is a pairwise mode."""
        return self.parameters.aead is not None and self.parameters.key_agreement is not None

    @property
    def challenge_code(self) -> int:
        """Of the answer that asks for an echo."""
        return self.parameters.profile.rules.challenge_code

    def generate(self) -> PrivateKey:
        """A new key of the group's signature algorithm."""
        return self.parameters.signature.generate()

    def credential(self, key: PublicKey) -> Credential:
        """How a member with this key is known."""
        if self.bound:
            return claims_set(key, self.parameters.signature, "a member")
        return Credential(CredentialKind.RAW_KEY, key.data)

    def authenticated(self, key: PublicKey) -> bytes | None:
        """Its credential as it enters the AAD."""
        return self.parameters.authenticated(self.credential(key))

    def common_context(self, gid: bytes, secret: Secret, salt: bytes = b"") -> CommonContext:
        return self.parameters.common_context(gid, secret, salt)

    def with_algorithms(self, **changes: Any) -> Suite:
        return Suite(replace(self.parameters, **changes))

    @property
    def of_configuration(self) -> dict[str, Any]:
        """Of a `GroupConfiguration`."""
        return {name: getattr(self.parameters, name) for name in SecurityParameters.__dataclass_fields__}

    @property
    def of_plan(self) -> dict[str, Any]:
        """Of a `GroupPlan`: a Group Manager's credential is made with the group."""
        return {name: value for name, value in self.of_configuration.items() if name != "manager_credential"}


DRAFT = Suite(SecurityParameters(DRAFT_PROFILE))
# The two modes have algorithms with nonces of two lengths, so that they cannot be mixed up.
GROUP_OSCORE = Suite(
    SecurityParameters(
        GROUP_OSCORE_PROFILE,
        aead_algorithm(24),  # ChaCha20/Poly1305, 12 bytes of nonce
        Kdf.HKDF_SHA_256,
        DEFAULT_SIGNATURE,
        encryption_algorithm(10),  # AES-CCM-16-64-128, 13 bytes
        key_agreement(-27),
        manager_credential=claims_set(MANAGERS_KEY.public_key, DEFAULT_SIGNATURE, "manager"),
    )
)
# For the longest Endpoint IDs: nonces of 13 bytes in both modes.
LONG_NONCES = GROUP_OSCORE.with_algorithms(aead=aead_algorithm(30))  # AES-CCM-16-128-128
GROUP_MODE_ONLY = GROUP_OSCORE.with_algorithms(aead=None, key_agreement=None)
COUNTER_MODE = GROUP_OSCORE.with_algorithms(group_encryption=encryption_algorithm(-65534))  # A128CTR
ES256 = GROUP_OSCORE.with_algorithms(signature=signature_algorithm(-7))
ES384 = GROUP_OSCORE.with_algorithms(signature=signature_algorithm(-35))

SUITES = (DRAFT, GROUP_OSCORE)

default = DRAFT
"""Of a `World` that is not told otherwise: see `each_profile`."""
