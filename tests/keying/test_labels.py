from __future__ import annotations

from dataclasses import astuple

from groupcoap.keying import labels


def test_the_suggested_numbers_are_those_of_kgo() -> None:
    assert astuple(labels.DEFAULT_CODE_POINTS) == (1, 1, 21, 31, 32, 33, 34)


def test_content_formats() -> None:
    assert (labels.COSE_ENCRYPT0, labels.CBOR, labels.PROBLEM_DETAILS, labels.GROUPCOMM_CBOR) == (16, 60, 257, 261)


def test_what_is_private_is_in_the_private_range() -> None:
    private = (
        labels.HELD,
        labels.ROSTER,
        labels.PEER_NAMES,
        labels.ADDRESSES,
        labels.POLICY,
        labels.INCARNATION,
        labels.PROFILE_NAME,
    )
    assert private == (-65540, -65541, -65542, -65543, -65544, -65546, -65547)
    assert (labels.BEST_EFFORT, labels.BASELINE, labels.CHALLENGE_RESPONSE) == (-65537, -65538, -65539)
