"""Numbers of the wire: CBOR map keys of RFC 9594 §8 and KGO, content formats, and this project's private ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Content-Formats.
COSE_ENCRYPT0: Final = 16
CBOR: Final = 60
PROBLEM_DETAILS: Final = 257
GROUPCOMM_CBOR: Final = 261

# Map keys of Content-Format 261 (RFC 9594 §8).
GID: Final = 0
GNAME: Final = 1
GURI: Final = 2
SCOPE: Final = 3
GET_CREDS: Final = 4
CLIENT_CRED: Final = 5
CNONCE: Final = 6
GKTY: Final = 7
KEY: Final = 8
NUM: Final = 9
ACE_GROUPCOMM_PROFILE: Final = 10
EXP: Final = 11
EXI: Final = 12
CREDS: Final = 13
PEER_ROLES: Final = 14
PEER_IDENTIFIERS: Final = 15
GROUP_POLICIES: Final = 16
KDC_CRED: Final = 17
KDC_NONCE: Final = 18
KDC_CRED_VERIFY: Final = 19
REKEYING_SCHEME: Final = 20
CLIENT_CRED_VERIFY: Final = 24
CREDS_REPO: Final = 25
CONTROL_URI: Final = 26
MGT_KEY_MATERIAL: Final = 27
CONTROL_GROUP_URI: Final = 28
SIGN_INFO: Final = 29
KDCCHALLENGE: Final = 30

# The same, private to this project [LOCAL].
HELD: Final = -65540
ROSTER: Final = -65541
RELOAD: Final = -65549
PEER_NAMES: Final = -65542
ADDRESSES: Final = -65543
POLICY: Final = -65544
INCARNATION: Final = -65546
PROFILE_NAME: Final = -65547

# Inside `key`: Group_OSCORE_Input_Material (RFC 9203 §3.2.1, KGO).
MS: Final = 2
HKDF: Final = 3
ALG: Final = 4
SALT: Final = 5
CONTEXT_ID: Final = 6
GROUP_SENDER_ID: Final = 7
CRED_FMT: Final = 8
GP_ENC_ALG: Final = 9
SIGN_ALG: Final = 10
SIGN_PARAMS: Final = 11
ECDH_ALG: Final = 12
ECDH_PARAMS: Final = 13

# Inside `group_policies` (RFC 9594 §8.7).
SYNCHRONIZATION_METHOD: Final = 0
KEY_UPDATE_CHECK_INTERVAL: Final = 1
EXPIRATION_DELTA: Final = 2

# Values of the first of them [LOCAL]: the registry has none.
BEST_EFFORT: Final = -65537
BASELINE: Final = -65538
CHALLENGE_RESPONSE: Final = -65539

# Inside POLICY [LOCAL].
CHALLENGE_LIFETIME: Final = 0
RECHALLENGE_AFTER: Final = 1
REPEAT_LENGTH: Final = 2
MAX_GAP: Final = 3
VERIFICATION: Final = 4
RESPONSE_MODE: Final = 5
MAX_UNFRAGMENTED_SIZE: Final = 6
SIGN_PROTECTED: Final = 7
CONFIRM_WITHIN: Final = 8
EXACT_GRACE: Final = 10

# Concise problem details (RFC 9290), with the custom entry of RFC 9594 §4.1.2.
TITLE: Final = -1
ACE_GROUPCOMM_ERROR: Final = 0
ERROR_ID: Final = 0


@dataclass(frozen=True, slots=True)
class CodePoints:
    """The numbers that KGO only suggests so far.

    `gkty`: value of key 7 for Group_OSCORE_Input_Material. `profile`: value of key 10 for coap_group_oscore_app.
    The others are map keys of Content-Format 261."""

    gkty: int = 1
    profile: int = 1
    group_sender_id: int = 21
    ecdh_info: int = 31
    kdc_dh_creds: int = 32
    sign_enc_key: int = 33
    stale_node_ids: int = 34


DEFAULT_CODE_POINTS: Final = CodePoints()
