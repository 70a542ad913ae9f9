"""Why nothing comes: a look at a device's files, its state, the network and the host, and what to do.

    async for finding in diagnose(Path("home/lamp"), NetworkOptions(interface="eth0")):
        print(finding.level.value, finding.check, finding.found, finding.advice, finding.command)

Each check is a function of its own that gives findings. `scope`, `rules`, `iptables` and `nftables` are pure.
"""

from .checkup import diagnose
from .finding import Finding, Level

__all__ = ["Finding", "Level", "diagnose"]
