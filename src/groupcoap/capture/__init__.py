"""Capture files: from the bytes of a pcap or pcapng file to UDP datagrams. Knows nothing of CoAP.

frames ◄─ datagrams      the file's records; what is inside their link, IP and UDP headers
"""
