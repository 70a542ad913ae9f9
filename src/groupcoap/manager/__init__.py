"""The Group Manager: who may join which group, and the keys that follow from it. See docs/group-manager.md."""
