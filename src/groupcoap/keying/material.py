"""A group's keying material on the wire: Group_OSCORE_Input_Material (KGO §6.3; RFC 9203 §3.2.1), value of key 8.

In the profile multicast-oscore-04 the Gid takes the Master Salt's place (§3): the wire then always has a salt,
equal to the Gid, so that who reads it as RFC 9203 does derives from the same [LOCAL]; the `master_salt` of values
stays empty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..core.multicast_oscore_04 import MULTICAST_OSCORE_04
from ..core.profile import Profile
from ..cose.algorithms import Kdf, aead_algorithm, encryption_algorithm, key_agreement
from ..cose.credentials import Credential, CredentialKind
from ..cose.keys import SignatureAlgorithm, signature_algorithm
from ..errors import MisuseError
from ..membership import SecurityParameters
from ..secret import Secret
from . import labels, reading
from .labels import CodePoints
from .reading import Malformed, Map, rejecting

MIN_MASTER_SECRET: Final = 16
"""Bytes of a Master Secret at least: as many as the shortest key derived from it."""

MAX_LENGTH: Final = 255
"""Bytes at most of Master Secret, Master Salt and Gid."""

_KDF_NUMBERS: Final = {Kdf.HKDF_SHA_256: 5, Kdf.HKDF_SHA_384: 6, Kdf.HKDF_SHA_512: 7}
_KDFS: Final = {number: kdf for kdf, number in _KDF_NUMBERS.items()}
_FORMATS: Final = {CredentialKind.CCS: 14, CredentialKind.CWT: 13, CredentialKind.X509: 33}
_KINDS: Final = {number: kind for kind, number in _FORMATS.items()}
_SIGN_PARAMS: Final = {-8: [[1], [1, 6]], -7: [[2], [2, 1]], -35: [[2], [2, 2]]}
_ECDH_PARAMS: Final = {-8: [[1], [1, 4]], -7: [[2], [2, 1]], -35: [[2], [2, 2]]}
_LOWEST: Final = -(1 << 63)


@dataclass(frozen=True, slots=True)
class KeyMaterial:
    """A Security Context as the Group Manager gives it out. `gid`, `master_secret`, `master_salt`: see
    `membership.Epoch`. `credential_kind`: of all members' credentials. `endpoint_id`: of who gets it; None for a
    pure listener, and where it is not said."""

    parameters: SecurityParameters
    gid: bytes
    master_secret: Secret
    master_salt: bytes
    credential_kind: CredentialKind
    endpoint_id: bytes | None = None


def sign_params(signature: SignatureAlgorithm) -> list[list[int]]:
    """[capabilities of the algorithm, of its key type], as COSE's registries have them: value of sign_params."""
    return _SIGN_PARAMS[signature.number]


def ecdh_params(signature: SignatureAlgorithm) -> list[list[int]]:
    """The same of the key agreement between keys of this signature algorithm: value of ecdh_params."""
    return _ECDH_PARAMS[signature.number]


def credential_format(kind: CredentialKind) -> int:
    """The COSE header parameter that says this kind of credential: value of cred_fmt. `MisuseError` for a raw key,
    which no header parameter carries."""
    try:
        return _FORMATS[kind]
    except KeyError:
        raise MisuseError(f"a Group Manager takes credentials of ccs, cwt or x509, not {kind.value}") from None


def secret_entries(gid: bytes, master_secret: Secret, master_salt: bytes, *, seed: bool) -> dict[int, object]:
    """What every renewal changes: ms, salt, contextId. `seed`: the profile is multicast-oscore-04."""
    salt = gid if seed else master_salt
    return {
        labels.MS: master_secret.reveal(),
        **({labels.SALT: salt} if salt else {}),
        labels.CONTEXT_ID: gid,
    }


def parse_secrets(content: Map, min_gid: int, *, seed: bool) -> tuple[bytes, Secret, bytes]:
    """(Gid, Master Secret, Master Salt) of what `secret_entries` has made; the salt empty in seed mode. `Malformed`
    if one is missing or of no fitting length."""
    gid = reading.octets(reading.needed(content, labels.CONTEXT_ID, "Gid"), "Gid", min_gid, MAX_LENGTH)
    found = reading.needed(content, labels.MS, "Master Secret")
    secret = Secret(reading.octets(found, "Master Secret", MIN_MASTER_SECRET, MAX_LENGTH))
    salt = reading.octets(content.get(labels.SALT, b""), "Master Salt", 0, MAX_LENGTH)
    if not seed:
        return gid, secret, salt
    if salt != gid:
        raise Malformed("a Master Salt that is not the Gid")
    return gid, secret, b""


def min_gid(*, seed: bool) -> int:
    """Bytes of a Gid at least."""
    return MULTICAST_OSCORE_04.rules.min_gid if seed else 1


def material_map(material: KeyMaterial, points: CodePoints, *, with_id: bool) -> dict[int, object]:
    """The map of key 8, secrets in clear. `with_id`: whether it says the Endpoint ID. No label inside depends on
    `points` so far. Where messages to the group are not in an algorithm of their own, that of `aead` is said to
    be theirs; `aead` itself is said only where the pairwise mode is used. `MisuseError` if there is no algorithm,
    or the credentials are raw keys."""
    parameters = material.parameters
    seed = not parameters.profile.rules.pairwise
    secrets = secret_entries(material.gid, material.master_secret, material.master_salt, seed=seed)
    content: dict[int, object] = {labels.MS: secrets.pop(labels.MS)}
    if parameters.kdf is not Kdf.HKDF_SHA_256:
        content[labels.HKDF] = _KDF_NUMBERS[parameters.kdf]
    pairwise = _pairwise_entries(parameters)
    if labels.ALG in pairwise:
        content[labels.ALG] = pairwise.pop(labels.ALG)
    content |= secrets
    if with_id and material.endpoint_id is not None:
        content[labels.GROUP_SENDER_ID] = material.endpoint_id
    content[labels.CRED_FMT] = credential_format(material.credential_kind)
    content[labels.GP_ENC_ALG] = parameters.encryption.number
    content[labels.SIGN_ALG] = parameters.signature.number
    content[labels.SIGN_PARAMS] = sign_params(parameters.signature)
    return content | pairwise


def uses_pairwise(parameters: SecurityParameters) -> bool:
    """Whether the pairwise mode is used in the group."""
    return (
        parameters.profile.rules.pairwise and parameters.aead is not None and parameters.key_agreement is not None
    )


def _pairwise_entries(parameters: SecurityParameters) -> dict[int, object]:
    if not uses_pairwise(parameters) or parameters.aead is None or parameters.key_agreement is None:
        return {}
    return {
        labels.ALG: parameters.aead.number,
        labels.ECDH_ALG: parameters.key_agreement.number,
        labels.ECDH_PARAMS: ecdh_params(parameters.signature),
    }


@rejecting
def parse_material(value: object, profile: Profile, manager_credential: Credential | None) -> KeyMaterial:
    """What `material_map` has made; `manager_credential` goes into its parameters, as it is. `Rejected`
    (malformed) if something is missing, not supported, or does not fit together. Whether the profile takes these
    algorithms shows when its Common Context is made."""
    content = reading.fields(value, "key")
    seed = not profile.rules.pairwise
    gid, secret, salt = parse_secrets(content, profile.rules.min_gid, seed=seed)
    parameters = _parameters(content, profile, manager_credential)
    kind = _KINDS.get(_number(content, labels.CRED_FMT, "cred_fmt"))
    if kind is None:
        raise Malformed("a cred_fmt that is not supported")
    return KeyMaterial(parameters, gid, secret, salt, kind, _endpoint_id(content, parameters))


def _parameters(content: Map, profile: Profile, manager_credential: Credential | None) -> SecurityParameters:
    kdf = _KDFS.get(_number(content, labels.HKDF, "hkdf") if labels.HKDF in content else 5)
    if kdf is None:
        raise Malformed("an hkdf that is not supported")
    signature = signature_algorithm(_number(content, labels.SIGN_ALG, "sign_alg"))
    _same(content, labels.SIGN_PARAMS, sign_params(signature), "sign_params")
    group = _number(content, labels.GP_ENC_ALG, "gp_enc_alg")
    if not profile.rules.pairwise:
        return SecurityParameters(
            profile, aead_algorithm(group), kdf, signature, manager_credential=manager_credential
        )
    aead, agreement = None, None
    if labels.ALG in content or labels.ECDH_ALG in content:
        aead = aead_algorithm(_number(content, labels.ALG, "alg"))
        agreement = key_agreement(_number(content, labels.ECDH_ALG, "ecdh_alg"))
        _same(content, labels.ECDH_PARAMS, ecdh_params(signature), "ecdh_params")
    return SecurityParameters(
        profile,
        aead,
        kdf,
        signature,
        encryption_algorithm(group),
        agreement,
        manager_credential=manager_credential,
    )


def _number(content: Map, label: int, what: str) -> int:
    return reading.integer(reading.needed(content, label, what), what, _LOWEST)


def _same(content: Map, label: int, expected: list[list[int]], what: str) -> None:
    if reading.needed(content, label, what) != expected:
        raise Malformed(f"{what} of another algorithm")


def _endpoint_id(content: Map, parameters: SecurityParameters) -> bytes | None:
    if labels.GROUP_SENDER_ID not in content:
        return None
    longest = parameters.encryption.max_id_length
    if parameters.aead is not None:
        longest = min(longest, parameters.aead.max_id_length)
    return reading.octets(content[labels.GROUP_SENDER_ID], "Endpoint ID", 0, longest)
