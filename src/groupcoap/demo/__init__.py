"""The demonstration: a room of lamps, each a process of its own, a switch, and somebody who attacks them."""
