"""Secure group communication for CoAP: multicast OSCORE (draft-tiloca-core-multicast-oscoap-04)."""

__version__ = "0.1.0"
