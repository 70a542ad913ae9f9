"""How a group's administrative keys follow its members: three schemes behind one interface. No I/O and no clock;
randomness is an argument.

model ◄─ point_to_point ◄─┐                   no administrative keys
model ◄─ gkmp ◄───────────┼─ scheme           one key-encryption key for the group
model ◄─ tree ◄─ draft ◄─ lkh                 a tree of keys: as it is; a batch worked out beside it; the keyring

What is used from outside is in `scheme`.
"""
