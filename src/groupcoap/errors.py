"""The exception tree. Kinds by whose fault it is; each boundary lets only its own kind out.

* `MisuseError`: the calling code asked for something that may not be done.
* `Rejected`: a peer sent something that is not accepted; it carries a `Reason`.
* `Refused`: a Group Manager's answer to a request that it does not carry out.
* `EnvironmentFault`: a file, a lock or the network is not as it must be; its text says what to do.
"""

from __future__ import annotations

from enum import Enum
from os import PathLike


class GroupcoapError(Exception):
    """Root of everything that groupcoap raises on purpose."""


class MisuseError(GroupcoapError):
    """The caller's mistake: wrong arguments, or an operation that this endpoint may not perform."""


class UnsupportedAlgorithm(MisuseError):
    """An algorithm number or name that is not implemented."""


class SequenceNumbersExhausted(MisuseError):
    """The Sender Sequence Number has reached its maximum (OSCORE-06 §5.2): nothing may be sent any more
    under this Sender Context; the group needs a new Gid or the endpoint a new Endpoint ID."""


class Reason(Enum):
    """Why a message was refused. The value is the text shown to people and used as counter name."""

    MALFORMED = "malformed"
    NOT_PROTECTED = "not a protected group message"
    NOT_FOR_MULTICAST = "confirmable or empty message by multicast"
    UNKNOWN_GROUP = "unknown group"
    CONTEXT_RETIRED = "security context is no longer current"
    CONTEXT_EXPIRED = "security context is past its lifetime"
    UNKNOWN_SENDER = "unknown sender"
    NO_PUBLIC_KEY = "no public key"
    OWN_MESSAGE = "own sender id (reflection)"
    REPLAY = "replay"
    DECRYPTION_FAILED = "decryption failed"
    SIGNATURE_FAILED = "signature failed"
    NOT_SYNCHRONIZED = "not synchronized yet (baseline)"
    CHALLENGE_PENDING = "challenge pending"
    REPEAT_UNKNOWN = "Repeat or Echo value never asked for or out of time"
    REPEAT_BY_MULTICAST = "Repeat or Echo option in a multicast request"
    NOT_THE_ORIGINAL = "echo of another request (synchronized by it, not delivered)"
    UNICAST_METHOD = "only GET and FETCH may come by unicast without Repeat or Echo"
    NO_PAIRWISE_MODE = "pairwise mode is not used here"
    NO_COUNTERSIGNATURE = "in pairwise mode, which has no countersignature"
    OTHER_RESPONDER = "not from who was asked"
    UNKNOWN_EXCHANGE = "no such request"
    BOUND_TO_OTHER_REQUEST = "does not fit the request"
    NOTIFICATION_ORDER = "notification out of order"
    NOT_OBSERVED = "notification without an observation"
    TOO_LARGE = "larger than MAX_UNFRAGMENTED_SIZE"
    BUSY = "too many pending"

    __hash__ = object.__hash__  # one is counted for every drop, and Enum's own costs more than the counting


class Limit(Enum):
    """A bound that traffic can reach; the value is the name of the field of `endpoint.limits.Limits` that sets it.

    Where there are two, one is for all peers together and one for each."""

    RECIPIENTS = "recipients"
    REQUESTS = "requests"
    REQUESTS_PER_PEER = "requests_per_peer"
    RESPONSES = "responses"
    RESPONSES_PER_PEER = "responses_per_peer"
    OBSERVATIONS = "observations"
    OBSERVATIONS_PER_PEER = "observations_per_peer"
    CONFIRMABLE = "confirmable"
    CONFIRMABLE_PER_PEER = "confirmable_per_peer"
    REMEMBERED = "remembered"
    REMEMBERED_PER_PEER = "remembered_per_peer"
    BODIES = "bodies"
    BODIES_PER_PEER = "bodies_per_peer"
    TRANSFERS = "transfers"
    TRANSFERS_PER_PEER = "transfers_per_peer"
    ASSEMBLIES = "assemblies"
    ASSEMBLIES_PER_PEER = "assemblies_per_peer"
    OUTGOING = "outgoing"
    FETCHES = "fetches"
    UNREAD = "unread"
    DEFERRED = "deferred"
    LOOKUPS = "lookups"
    WAITING_PER_LOOKUP = "waiting_per_lookup"
    LOOKUP_RATE = "lookup_rate"
    LOOKUP_RATE_PER_PEER = "lookup_rate_per_peer"
    CHALLENGE_RATE = "challenge_rate"
    CHALLENGE_RATE_PER_PEER = "challenge_rate_per_peer"
    ERROR_RATE = "error_rate"
    ERROR_RATE_PER_PEER = "error_rate_per_peer"
    SEND_QUEUE = "send_queue"
    RECEIVE_BUFFER = "receive_buffer"

    __hash__ = object.__hash__


class Rejected(GroupcoapError):
    """A received message is refused. `reason` says why; nothing was delivered and no state changed.

    `detail` is for people (logs, `decode`), never for the wire."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}" if self.detail else self.reason.value


class Busy(Rejected):
    """Refused because a limit is reached; `limit` says which."""

    def __init__(self, limit: Limit) -> None:
        super().__init__(Reason.BUSY, limit.value)
        self.limit = limit


class Refused(GroupcoapError):
    """A Group Manager refuses a request, or has refused ours. `code`: the CoAP response code, as an integer.
    `error`: the number of an ace-groupcomm-error (RFC 9594 §4.1.2), None if there is none. `title`: for people, one
    line; it goes over the wire. `retry_after`: seconds after which the same may be asked again, None if that is of
    no use."""

    def __init__(self, code: int, title: str, error: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(code, title, error)
        self.code = code
        self.title = title
        self.error = error
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.code >> 5}.{self.code & 31:02} {self.title}"


class EnvironmentFault(GroupcoapError):
    """Something outside the program is not as it must be. The text is one line that says what to do."""


class FileFault(EnvironmentFault):
    """A file that is missing, damaged, of a newer version, or readable by others."""

    def __init__(self, path: str | PathLike[str], problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class StateLost(FileFault):
    """Run-time state that must exist does not, or not as it was: sending would repeat sequence numbers."""


class StateCopied(StateLost):
    """Run-time state is there, but it is a copy, or older than what was there before: it must not be trusted."""


class StateLocked(EnvironmentFault):
    """Another process holds the run-time state."""


class StoreFault(EnvironmentFault):
    """The Group Manager's database cannot be used, or not with this key."""


class ContextExpired(EnvironmentFault):
    """A group's Security Context is past its lifetime: nothing is sent under it before the Group Manager has
    confirmed it."""


class NetworkFault(EnvironmentFault):
    """An interface, address or port that cannot be used."""
