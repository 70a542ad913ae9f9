"""Endpoints over UDP, on aiocoap: multicasters, listeners and pure listeners.

Verification stands below aiocoap's message layer: nothing that is not authentic reaches its duplicate detection,
token tables or acknowledgements.
"""
