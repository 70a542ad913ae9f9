"""The protocol core: bytes and values in, bytes and values out.

No I/O, no asyncio, no CoAP stack; time and randomness are arguments. `tests/test_architecture.py` holds it to that.

    bytes ─ coap.decode ─► Message ─ registry ─► DecryptedRequest ─ check_signature ─► AuthenticRequest
                                                       (nobody may look inside yet)         │ admit
                                     application ◄─ DeliveredRequest ◄──────────────────────┘
"""
