"""The OSCORE associations (RFC 8613) of devices and their Group Manager, both ends: docs/group-manager.md §2."""
