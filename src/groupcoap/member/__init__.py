"""The device's side of a Group Manager (docs/group-manager.md): enrolment, what is kept of each group, and a
`MembershipSource` that is kept current over the network."""
