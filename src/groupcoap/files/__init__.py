"""What an endpoint keeps in files: its identity, its groups, and its run-time state.

documents ◄─ identity ◄─ group ◄─ provisioned      versioned JSON documents, replaced as a whole
               group ◄─ keylog                     a line for each Security Context, for who decodes captures
journal   ◄─ state                                 an append-only journal under an exclusive lock
"""
