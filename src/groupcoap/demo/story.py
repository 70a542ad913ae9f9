"""What the demonstration says of a wire format: the sentences in which the two differ."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.profile import Profile


@dataclass(frozen=True, slots=True)
class Story:
    """`joined`: what every device has once it has joined. `datagram`: what it takes to read or make a request.
    `first_contact`: how a listener that does not know the sender yet makes sure of it. `echoed`: how a lamp knows
    who has made a request that came again to it alone. `answers`: what is behind the last sentence about the
    answers."""

    joined: str
    datagram: str
    first_contact: str
    echoed: str
    answers: str = ""


_IN_OPTION = Story(
    joined="Each has made a private key to sign with, has shown that it has it, and got the secret that all of the "
    "group share, and the public keys of the others.",
    datagram="It takes the group's keys to read or make the ciphertext and its tag; it takes the switch's own "
    "private key to make the countersignature.",
    first_contact="First contact: to a lamp that knows nothing of the switch yet this might be a recording. So "
    "each lamp answered 4.03 with a random value of its own, and the switch sent the request again, to that lamp "
    "alone, with the value inside.",
    echoed="signature verified",
)

_ENCRYPTED = Story(
    joined="Each has made a private key, has shown that it has it, and got the secret that all of the group share, "
    "the credentials of the others, with their public keys in them, and that of the group's manager, to which all "
    "messages are bound.",
    datagram="It takes the group's keys to read or make the ciphertext and its tag, and to see the "
    "countersignature, which is encrypted too: outsiders cannot even check who has signed. It takes the switch's "
    "own private key to make it.",
    first_contact="First contact: to a lamp that knows nothing of the switch yet this might be a recording. So "
    "each lamp answered 4.01 with a random value of its own (Echo), and the switch sent the request again, to that "
    "lamp alone, with the value inside. It did that in pairwise mode: encrypted with a key that comes from the "
    "switch's private key and the lamp's public one, or the other way round, so that nobody else has it. That "
    "needs no signature.",
    echoed="pairwise",
    answers=" These came in pairwise mode, as the requests that they answer: each is for the switch alone.",
)


def story_of(profile: Profile) -> Story:
    """What is to be said where messages go by this profile."""
    return _ENCRYPTED if profile.rules.pairwise else _IN_OPTION
