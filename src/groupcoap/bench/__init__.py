"""Measurements that `groupcoap bench` runs. Each module has `run() -> dict`, which is what `--json` prints."""
