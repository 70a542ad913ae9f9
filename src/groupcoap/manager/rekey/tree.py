"""The key tree as it is (RFC 2627 §5.4): members are leaves, and each knows the keys from its own to the root.

Every inner node but the root has at least two children. The root always exists; it may have no child, or a single
one. Nodes are numbers, so that a change copies what it touches and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field

from ...errors import MisuseError
from ...secret import Secret
from .model import ROOT, KeyRecord


@dataclass(slots=True)
class Node:
    """A node: the fields of its record, the numbers of its children, how many leaves are below (1 for a leaf), and
    the number of steps down to the deepest of them."""

    number: int
    parent: int | None
    generation: int
    key: Secret
    member: str | None
    children: list[int] = field(default_factory=list)
    leaves: int = 0
    height: int = 0

    @classmethod
    def of(cls, record: KeyRecord) -> Node:
        """A node that nothing is below of yet."""
        leaves = 0 if record.member is None else 1
        return cls(record.node, record.parent, record.generation, record.key, record.member, leaves=leaves)

    @property
    def record(self) -> KeyRecord:
        """As it is stored."""
        return KeyRecord(self.number, self.parent, self.generation, self.key, self.member)

    def copy(self) -> Node:
        """One that can be changed without changing this."""
        return Node(
            self.number,
            self.parent,
            self.generation,
            self.key,
            self.member,
            list(self.children),
            self.leaves,
            self.height,
        )

    def measure(self, children: Iterable[Node]) -> None:
        """Take `leaves` and `height` of an inner node from its children, which must be right."""
        leaves, height = 0, -1
        for child in children:
            leaves += child.leaves
            height = max(height, child.height)
        self.leaves, self.height = leaves, height + 1


class Tree:
    """Nodes by number and leaves by member. Read by `Draft`, changed only by `apply`."""

    def __init__(self, root: KeyRecord) -> None:
        self._nodes: dict[int, Node] = {}
        self._leaf_of: dict[str, int] = {}
        self.next_number = ROOT
        """Above every number that was seen here. After `load`, above every number that is left: one may come back,
        but never with the same generation (`model.next_generation`)."""
        self.apply((root,), ())

    @classmethod
    def load(cls, records: Iterable[KeyRecord], arity: int) -> Tree:
        """From what was stored. `MisuseError` if these are not all the nodes of one tree of this arity."""
        by_node = {}
        for record in records:
            if record.node in by_node:
                raise MisuseError(f"node {record.node} is stored twice")
            by_node[record.node] = record
        _check_links(by_node)
        tree = cls(by_node.pop(ROOT))
        tree.apply(by_node.values(), ())
        tree._check_shape(arity)
        return tree

    def __getitem__(self, number: int) -> Node:
        return self._nodes[number]

    def __contains__(self, number: int) -> bool:
        return number in self._nodes

    @property
    def members(self) -> Set[str]:
        """The names at the leaves, as a view."""
        return self._leaf_of.keys()

    def leaf(self, member: str) -> int:
        """The node of this member. `MisuseError` if there is none."""
        if member not in self._leaf_of:
            raise MisuseError(f"{member} is not a member")
        return self._leaf_of[member]

    def upwards(self, number: int) -> Iterator[Node]:
        """The node itself, and every one above it as far as the root."""
        at: int | None = number
        while at is not None:
            node = self._nodes[at]
            yield node
            at = node.parent

    def records(self) -> Iterator[KeyRecord]:
        """All nodes, as they are stored."""
        return (node.record for node in self._nodes.values())

    def apply(self, puts: Iterable[KeyRecord], removes: Iterable[int]) -> None:
        """Change these records and nothing else: the work is that of the changed nodes. With a node, all above it
        must be among the changed ones, as in every plan."""
        changed = {put.node: put for put in puts}
        for number in removes:
            self._remove(number)
        for put in changed.values():
            self._put(put)
        for put in changed.values():
            self._link(put)
        self._measure(changed.keys())

    def _remove(self, number: int) -> None:
        node = self._nodes.pop(number)
        self._unlink(number, node.parent)
        if node.member is not None:
            del self._leaf_of[node.member]

    def _put(self, put: KeyRecord) -> None:
        node = self._nodes.get(put.node)
        if node is None:
            self._nodes[put.node] = Node.of(put)
            self.next_number = max(self.next_number, put.node + 1)
            if put.member is not None:
                self._leaf_of[put.member] = put.node
            return
        if node.parent != put.parent:
            self._unlink(put.node, node.parent)
        node.generation, node.key = put.generation, put.key

    def _link(self, put: KeyRecord) -> None:
        node = self._nodes[put.node]
        node.parent = put.parent
        if put.parent is not None:
            siblings = self._nodes[put.parent].children
            if put.node not in siblings:
                siblings.append(put.node)

    def _unlink(self, number: int, parent: int | None) -> None:
        if parent in self._nodes:
            siblings = self._nodes[parent].children
            if number in siblings:
                siblings.remove(number)

    def _measure(self, changed: Set[int]) -> None:
        # from the root down to what is changed, then back up: children are right before their parents
        order = [ROOT]
        for number in order:
            order.extend(child for child in self._nodes[number].children if child in changed)
        for number in reversed(order):
            node = self._nodes[number]
            if node.member is None:
                node.measure(self._nodes[child] for child in node.children)

    def _check_shape(self, arity: int) -> None:
        # a node that cannot be reached from the root has been counted nowhere
        reached = [ROOT]
        for number in reached:
            reached.extend(self._nodes[number].children)
        if len(reached) != len(self._nodes):
            raise MisuseError("the stored key tree is in several pieces")
        for number in reached:
            node = self._nodes[number]
            least = 0 if number == ROOT or node.member is not None else 2
            most = arity if node.member is None else 0
            if not least <= len(node.children) <= most:
                raise MisuseError(f"node {number} of the stored key tree has {len(node.children)} children")


def _check_links(by_node: dict[int, KeyRecord]) -> None:
    if ROOT not in by_node or by_node[ROOT].member is not None:
        raise MisuseError("the stored key tree has no root")
    names = set()
    for record in by_node.values():
        if record.node < ROOT:
            raise MisuseError(f"{record.node} is not a node's number")
        if (record.parent is None) != (record.node == ROOT) or not (
            record.parent is None or record.parent in by_node
        ):
            raise MisuseError(f"node {record.node} of the stored key tree has no parent")
        if record.generation > by_node[ROOT].generation:
            raise MisuseError(f"node {record.node} of the stored key tree is newer than the root")
        if record.member is not None:
            if record.member in names:
                raise MisuseError(f"{record.member} has two places in the stored key tree")
            names.add(record.member)
