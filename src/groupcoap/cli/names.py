"""Roles, algorithms and modes by the names that people type."""

from __future__ import annotations

from ..core.profile import Mode
from ..cose.algorithms import AEAD_ALGORITHMS, COUNTER_ALGORITHMS, AeadAlgorithm, EncryptionAlgorithm
from ..cose.keys import SIGNATURE_ALGORITHMS, SignatureAlgorithm
from ..membership import Role

ROLES: dict[str, frozenset[Role]] = {
    "multicaster": frozenset({Role.MULTICASTER}),
    "listener": frozenset({Role.LISTENER}),
    "both": frozenset({Role.MULTICASTER, Role.LISTENER}),
    "pure-listener": frozenset({Role.PURE_LISTENER}),
}

SIGNATURES: dict[str, SignatureAlgorithm] = {
    "eddsa": SIGNATURE_ALGORITHMS[-8],
    "es256": SIGNATURE_ALGORITHMS[-7],
    "es384": SIGNATURE_ALGORITHMS[-35],
}

AEADS: dict[str, AeadAlgorithm] = {algorithm.name: algorithm for _, algorithm in sorted(AEAD_ALGORITHMS.items())}

GROUP_ENCRYPTIONS: dict[str, EncryptionAlgorithm] = {
    **AEADS,
    **{algorithm.name: algorithm for algorithm in COUNTER_ALGORITHMS.values()},
}

RESPONSE_MODES: dict[str, Mode | None] = {"as-requested": None, "group": Mode.GROUP, "pairwise": Mode.PAIRWISE}
"""Of answers; None: that of the request."""
