"""A batch of joins and leaves worked out beside the key tree, which stays as it is (RFC 2627 §5.4).

A draft copies the nodes that it touches. A node is *marked* if its key is new: every one above a joiner or a
leaver. *Residents* are the members who were there before and remain.

Where joiners go: first into the places that leavers vacate, whose nodes are marked anyway; the rest together, as
one subtree, into a free place, or beside a node that is neither larger nor higher than they are together. A single
joiner so takes a free place, or splits a leaf."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...errors import MisuseError
from ...keying.admin import AdminKey
from .model import LARGEST, ROOT, KeyRecord, Random, Wrap, new_key, next_generation
from .tree import Node, Tree


class Draft:
    """The tree after a batch. `encryptions`: the cost of telling the residents at one key per encryption, exactly
    as rekeying at a batch is counted: for each marked node with residents the number of its children with
    residents, or 1 if nobody below has left and its old key will do."""

    def __init__(
        self, tree: Tree, arity: int, key_length: int, joined: Sequence[str], left: Sequence[str], random: Random
    ) -> None:
        self._tree = tree
        self._arity = arity
        self._key_length = key_length
        self._random = random
        self._generation = next_generation(tree[ROOT].record)
        self._next = tree.next_number
        self._nodes: dict[int, Node] = {}  # copies of touched nodes, and new ones
        self._gone: set[int] = set()
        self._marked: set[int] = set()
        self._exposed: set[int] = set()  # their old keys were held by somebody who leaves
        self._joiners: set[int] = set()  # leaves
        self._old_key_of: dict[int, int] = {}  # new node: the node whose old key all residents below hold
        self._renew(ROOT)
        for member in left:
            self._take_out(tree.leaf(member))
        self._put_in(joined)
        self._residents = self._count_residents()
        self.encryptions = sum(map(self._cost, self._marked))
        self._simplify()

    def puts(self) -> tuple[KeyRecord, ...]:
        """Records that are new or not as they were, by node. What was touched has a new key or another parent."""
        return tuple(self._nodes[number].record for number in sorted(self._nodes))

    def removes(self) -> tuple[int, ...]:
        """Nodes of the tree that are no more."""
        return tuple(sorted(number for number in self._gone if number in self._tree))

    def wraps(self, tag: bytes) -> tuple[Wrap, ...]:
        """The messages that tell every resident its new keys, each resident with exactly one."""
        return tuple(self._wraps_below(ROOT, (), tag)) if self._residents[ROOT] else ()

    # --- nodes ---

    def _at(self, number: int) -> Node:
        return self._nodes.get(number) or self._tree[number]

    def _edit(self, number: int) -> Node:
        if number not in self._nodes:
            self._nodes[number] = self._tree[number].copy()
        return self._nodes[number]

    def _mark(self, number: int) -> Node:
        node = self._edit(number)
        if number not in self._marked:
            self._marked.add(number)
            node.key, node.generation = new_key(self._key_length, self._random), self._generation
        return node

    def _renew(self, number: int) -> None:
        """Mark this node and all above it, and measure them."""
        at: int | None = number
        while at is not None:
            node = self._mark(at)
            self._measure(node)
            at = node.parent

    def _measure(self, node: Node) -> None:
        node.measure(self._at(child) for child in node.children)

    def _new(self, parent: int, member: str | None) -> Node:
        if self._next > LARGEST:
            raise MisuseError("the numbers of nodes are used up: the group needs a new tree")
        key = new_key(self._key_length, self._random)
        node = Node(self._next, parent, self._generation, key, member, leaves=0 if member is None else 1)
        self._next += 1
        self._nodes[node.number] = node
        (self._marked if member is None else self._joiners).add(node.number)
        return node

    def _drop(self, number: int) -> None:
        self._nodes.pop(number, None)
        self._marked.discard(number)
        self._gone.add(number)

    # --- leavers ---

    def _take_out(self, leaf: int) -> None:
        self._expose(leaf)
        number = leaf
        while True:
            parent = self._at(number).parent
            assert parent is not None  # the root is no member
            self._edit(parent).children.remove(number)
            self._drop(number)
            if parent == ROOT or self._at(parent).children:
                break
            number = parent
        self._renew(parent)

    def _expose(self, leaf: int) -> None:
        for node in self._tree.upwards(leaf):
            if node.number in self._exposed:
                return
            self._exposed.add(node.number)

    # --- joiners ---

    def _put_in(self, joined: Sequence[str]) -> None:
        names = list(joined)
        for parent, room in self._vacated() if names else ():
            taken, names = names[:room], names[room:]
            if taken:
                self._hang(self._mark(parent), taken, 1)
                self._renew(parent)
        if names:
            self._insert(names)

    def _vacated(self) -> list[tuple[int, int]]:
        """Where a whole subtree went: what it hung under, and how many leaves it had. The shallowest first, which
        keeps paths short."""
        places = []
        for number in self._gone:
            parent = self._tree[number].parent
            if parent is not None and parent not in self._gone:
                depth = sum(1 for _ in self._tree.upwards(parent))
                places.append((depth, number, parent, self._tree[number].leaves))
        return [(parent, leaves) for _, _, parent, leaves in sorted(places)]

    def _insert(self, names: Sequence[str]) -> None:
        """Put these in as one subtree. Descending to the smaller side bounds the depth by the logarithm of the
        group's size, whatever shape leavers gave to the tree."""
        height = _height(len(names), self._arity)
        number = ROOT
        while True:
            node = self._at(number)
            free = self._arity - len(node.children)
            if node.member is None and free:
                self._hang(self._mark(number), names, free)
                return self._renew(number)
            if node.member is not None or (node.leaves <= len(names) and node.height <= height):
                return self._pair(number, names)
            number = min(node.children, key=lambda child: (self._at(child).leaves, child))

    def _hang(self, node: Node, names: Sequence[str], places: int) -> None:
        """Build near-equal subtrees of these joiners below an inner node that has so many free places."""
        for part in _split(names, min(places, len(names))):
            child = self._new(node.number, part[0] if len(part) == 1 else None)
            node.children.append(child.number)
            if child.member is None:
                self._hang(child, part, self._arity)
                self._measure(child)

    def _pair(self, number: int, names: Sequence[str]) -> None:
        """Put the joiners beside a node, both below a new one. The root stays on top: what is below it moves
        down."""
        if number == ROOT:
            root = self._mark(ROOT)
            beside = self._new(ROOT, None)
            self._old_key_of[beside.number] = ROOT
            self._adopt(beside, root.children)
            self._measure(beside)
            root.children = [beside.number]
            self._hang(root, names, self._arity - 1)
            return self._renew(ROOT)
        parent = self._at(number).parent
        assert parent is not None  # only the root has none
        above = self._new(parent, None)
        siblings = self._mark(parent).children
        siblings[siblings.index(number)] = above.number
        self._adopt(above, [number])
        self._hang(above, names, self._arity - 1)
        return self._renew(above.number)

    def _adopt(self, node: Node, children: Sequence[int]) -> None:
        node.children = list(children)
        for child in children:
            self._edit(child).parent = node.number

    # --- cost ---

    def _count_residents(self) -> dict[int, int]:
        """Residents below marked nodes and their children."""
        order = [ROOT]
        for number in order:
            order.extend(self._at(number).children if number in self._marked else ())
        residents: dict[int, int] = {}
        for number in reversed(order):
            if number in self._marked:
                residents[number] = sum(residents[child] for child in self._at(number).children)
            else:
                residents[number] = 0 if number in self._joiners else self._at(number).leaves
        return residents

    def _readable(self, number: int) -> list[int]:
        return [child for child in self._at(number).children if self._residents[child]]

    def _old_key(self, number: int, tag: bytes) -> AdminKey | None:
        """The key that all residents below this marked node have held, and no leaver."""
        holder = self._old_key_of.get(number, number)
        if holder in self._exposed or holder not in self._tree:
            return None
        return self._tree[holder].record.admin(tag)

    def _cost(self, number: int) -> int:
        holder = self._old_key_of.get(number, number)
        trusted = holder in self._tree and holder not in self._exposed
        return min(1, self._residents[number]) if trusted else len(self._readable(number))

    # --- what is left ---

    def _simplify(self) -> None:
        """Splice out what is left with a single child. The root stays; it takes over the children of a single inner
        child if that gets a new key anyway. Otherwise the one message under that child's key is cheaper, and the
        root has a place for the next joiner."""
        for number in sorted(self._marked - {ROOT}):
            node = self._nodes[number]
            if len(node.children) == 1:
                self._replace(node, node.children)
        root = self._nodes[ROOT]
        while len(root.children) == 1 and root.children[0] in self._marked:
            below = self._nodes[root.children[0]]
            self._replace(below, below.children)

    def _replace(self, node: Node, children: Sequence[int]) -> None:
        assert node.parent is not None  # the root is never replaced
        siblings = self._nodes[node.parent].children
        at = siblings.index(node.number)
        siblings[at : at + 1] = children
        for child in children:
            self._edit(child).parent = node.parent
        self._drop(node.number)

    # --- messages ---

    def _wraps_below(self, number: int, above: tuple[AdminKey, ...], tag: bytes) -> Iterator[Wrap]:
        """Messages for the residents below a marked node, whose parents' new keys are `above`.

        A subtree without a marked node reads under its own key. Where a marked node has none below it with
        residents and nobody left, its old key reaches all of them at once. Old keys of nodes further up are not
        used: their readers need different keys, and who reads two messages would take the first for all there
        is."""
        keys = (self._nodes[number].record.admin(tag), *above)
        children = self._readable(number)
        old = self._old_key(number, tag)
        if old is not None and not any(child in self._marked for child in children):
            yield Wrap(old, keys, self._residents[number])
            return
        for child in children:
            if child in self._marked:
                yield from self._wraps_below(child, keys, tag)
            else:
                yield Wrap(self._at(child).record.admin(tag), keys, self._residents[child])


def _split(names: Sequence[str], parts: int) -> Iterator[Sequence[str]]:
    """So many parts, of which none has more than one name more than another; the larger ones first."""
    size, larger = divmod(len(names), parts)
    start = 0
    for part in range(parts):
        end = start + size + (part < larger)
        yield names[start:end]
        start = end


def _height(leaves: int, arity: int) -> int:
    """Of a near-equal tree."""
    height, room = 0, 1
    while room < leaves:
        height, room = height + 1, room * arity
    return height
