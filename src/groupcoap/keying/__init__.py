"""What a Group Manager and the members of its groups say to each other, as bytes (docs/group-manager.md).

The encoding is RFC 9594's with the parameters of key-groupcomm-oscore ("KGO"); what is **[LOCAL]** there is
marked so. Nothing here does I/O, reads a clock or draws randomness: times, nonces and challenges are arguments.
Parsers of requests raise `Refused` (4.00), those of what a Group Manager sends raise `Rejected` (malformed);
nothing else, whatever the bytes are."""
