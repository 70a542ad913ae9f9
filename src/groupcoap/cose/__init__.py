"""COSE algorithms, keys and credentials: what multicast OSCORE takes from RFC 8152."""
