"""Rekey messages (RFC 9594 §6, KGO §11): a renewal as a member learns it, by unicast or inside an envelope.

    {7, 8: {2 ms, 5 salt (absent: empty), 6 Gid}, 9: num, 10, (11 exp), 12 exi, 34: stale ids,
     (13, 14, 15, peer_names), (27), roster}

peer_names and roster are [LOCAL].
"""

from __future__ import annotations

from dataclasses import dataclass

import cbor2

from ..secret import Secret
from . import labels, reading
from .admin import AdminKeys
from .labels import DEFAULT_CODE_POINTS, CodePoints
from .material import min_gid, parse_secrets, secret_entries
from .reading import rejecting
from .report import check_type, parse_admin, parse_expiry
from .roster import MAX_ID, MemberEntry, put_members, take_members


@dataclass(frozen=True, slots=True)
class RekeyMessage:
    """A new Security Context of a group whose other parameters stay.

    `stale`: Endpoint IDs that are no longer members'. `joined`: who is new, None if this is not said. `admin`:
    keys that are new for those who can read this. `roster`: how many members have a credential now. `seed`: the
    profile is multicast-oscore-04, whose `master_salt` is empty here and the Gid on the wire. `reload` [LOCAL]: the
    group's parameters changed too; they are to be asked for. The others: see `KeyReport`."""

    gid: bytes
    master_secret: Secret
    master_salt: bytes
    num: int
    expires_in: int
    expires_at: int | None
    stale: frozenset[bytes]
    joined: tuple[MemberEntry, ...] | None
    admin: AdminKeys | None
    roster: int
    seed: bool
    reload: bool = False

    def encode(self, points: CodePoints = DEFAULT_CODE_POINTS) -> bytes:
        """The payload (Content-Format 261) or plaintext of an envelope, secrets in clear. The same value always
        gives the same bytes."""
        content: dict[int, object] = {
            labels.GKTY: points.gkty,
            labels.KEY: secret_entries(self.gid, self.master_secret, self.master_salt, seed=self.seed),
            labels.NUM: self.num,
            labels.ACE_GROUPCOMM_PROFILE: points.profile,
            **({} if self.expires_at is None else {labels.EXP: self.expires_at}),
            labels.EXI: self.expires_in,
            points.stale_node_ids: sorted(self.stale),
            labels.ROSTER: self.roster,
            **({labels.RELOAD: True} if self.reload else {}),
        }
        if self.joined is not None:
            put_members(content, self.joined)
        if self.admin is not None:
            content[labels.MGT_KEY_MATERIAL] = self.admin.encode()
        return cbor2.dumps(content)

    @classmethod
    @rejecting
    def parse(cls, payload: bytes, points: CodePoints = DEFAULT_CODE_POINTS, seed: bool = False) -> RekeyMessage:
        """What `encode` has made, in a group of this kind. `Rejected` (malformed) if it is not that."""
        content = reading.fields(reading.decode(payload), "the rekey message")
        check_type(content, points)
        key = reading.fields(reading.needed(content, labels.KEY, "key"), "key")
        gid, secret, salt = parse_secrets(key, min_gid(seed=seed), seed=seed)
        stale = reading.array(reading.needed(content, points.stale_node_ids, "stale_node_ids"), "stale_node_ids")
        return cls(
            gid=gid,
            master_secret=secret,
            master_salt=salt,
            num=reading.integer(reading.needed(content, labels.NUM, "num"), "num"),
            expires_in=reading.integer(reading.needed(content, labels.EXI, "exi"), "exi"),
            expires_at=parse_expiry(content),
            stale=frozenset(reading.octets(item, "Endpoint ID", 0, MAX_ID) for item in stale),
            joined=take_members(content),
            admin=parse_admin(content),
            roster=reading.integer(content.get(labels.ROSTER, 0), "roster"),
            seed=seed,
            reload=reading.boolean(content.get(labels.RELOAD, False), "reload"),
        )
