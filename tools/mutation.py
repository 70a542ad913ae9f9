"""Mutation testing of `core/` and `cose/` with Cosmic Ray: each module against its own tests.

    python tools/mutation.py                 all modules (hours); with names, those only
    python tools/mutation.py --again window  only what survived the last time
    python tools/mutation.py --sample 50 …   so many of a module's mutants, drawn by lot, the same each time
    python tools/mutation.py --report        what the last runs found, without running anything

Mutants are made in a copy of the tree, never in the tree itself; results are kept under `build/mutation/`. A
survivor must be explained in `docs/mutation.md`, in the form in which it is printed here; the program fails on one
that is not, and on an explanation that nothing needs any more. What is mutated and what not: the same document.
"""

from __future__ import annotations

import argparse
import os
import resource
import select
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import cryptography.x509  # noqa: F401
import hypothesis.extra
import hypothesis.internal.conjecture.engine
import hypothesis.strategies  # noqa: F401
import nacl.bindings  # noqa: F401
import parso
import pytest
from check_coverage import ROOT, chosen_modules, tests_of
from cosmic_ray.ast import get_ast_from_path
from cosmic_ray.commands import init
from cosmic_ray.mutating import use_mutation
from cosmic_ray.operators.exception_replacer import ExceptionReplacer
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.plugins import OPERATOR_PROVIDERS, get_operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, WorkerOutcome, WorkItem, WorkResult

from groupcoap.core.policy import Verification
from groupcoap.core.profile import Mode
from groupcoap.core.reassembly import Progress
from groupcoap.core.requests import SignatureState
from groupcoap.core.synchronization import Freshness, Method
from groupcoap.cose.algorithms import Kdf
from groupcoap.cose.credentials import CredentialKind
from groupcoap.errors import Limit, Reason

WORK = ROOT / "build" / "mutation"
RECORD = ROOT / "docs" / "mutation.md"

MEMORY = 3 << 30
"""Bytes of address space for a mutant's tests: a shift that has become a power would take all there is."""

PYTEST = [
    "-n0",
    "-x",
    "-q",
    "--tb=no",
    "-pno:cacheprovider",
    "-pno:asyncio",
    "-pno:cov",
    "--hypothesis-profile=quick",
]

# ---- operators beside Cosmic Ray's own


class RemoveStatement(Operator):  # type: ignore[misc]
    """Leaves out a call, an assignment to an attribute or an element, a deletion, a `raise` or a `return`."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        if node.type == "simple_stmt" and self._matters(node.children[0]):
            yield node.children[0].start_pos, node.children[0].end_pos

    @staticmethod
    def _matters(statement: Any) -> bool:
        if statement.type in ("atom_expr", "power", "del_stmt", "raise_stmt", "return_stmt"):
            return bool(statement.get_code().strip() != "return None")
        if statement.type != "expr_stmt" or statement.children[1].type == "annassign":
            return False
        return statement.children[1].value != "=" or any(
            target.type in ("atom_expr", "power") for target in statement.children[:-1:2]
        )

    def mutate(self, node: Any, index: int) -> Any:
        prefix = node.get_first_leaf().prefix
        node.children[0] = parso.python.tree.Name("pass", node.start_pos, prefix)
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("self.a = 1\n", "pass\n"), Example("f(x)\n", "pass\n"), Example("raise E\n", "pass\n"))


ENUMS = {
    enum.__name__: enum
    for enum in (
        CredentialKind,
        Freshness,
        Kdf,
        Limit,
        Method,
        Mode,
        Progress,
        Reason,
        SignatureState,
        Verification,
    )
}


class ReplaceEnumMember(Operator):  # type: ignore[misc]
    """Takes the next member of an enumeration, such as another `Reason` for a rejection."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        if node.type == "name" and self._enum_of(node) is not None:
            yield node.start_pos, node.end_pos

    @staticmethod
    def _enum_of(node: Any) -> Any:
        dot = node.get_previous_leaf()
        enum = dot.get_previous_leaf() if dot is not None and dot.value == "." else None
        found = ENUMS.get(enum.value) if enum is not None else None
        return found if found is not None and len(found) > 1 and node.value in found.__members__ else None

    def mutate(self, node: Any, index: int) -> Any:
        names = list(self._enum_of(node).__members__)
        node.value = names[(names.index(node.value) + 1) % len(names)]
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("Reason.REPLAY", "Reason.DECRYPTION_FAILED"),)


OPERATORS = {operator.__name__: operator for operator in (RemoveStatement, ReplaceEnumMember)}
OPERATOR_PROVIDERS["groupcoap"] = OPERATORS


# ---- a session for each module


def enter(tree: Path) -> None:
    """Go on in this directory, with a copy of sources, tests and their configuration, and within bounds."""
    os.nice(19)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    WORK.mkdir(parents=True, exist_ok=True)
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    os.chdir(tree)
    sys.path.insert(0, str(tree / "src"))


def is_never_run(ast: Any, start: tuple[int, int]) -> bool:
    """Whether what stands here is a type annotation, something else that is for type checkers only, or the bare
    star of a signature."""
    node = ast.get_leaf_for_position(start, include_prefixes=True)
    if node.value == "*" and node.parent.type in ("parameters", "param"):
        return True
    while (parent := node.parent) is not None:
        before = node.get_previous_leaf()
        if parent.type in ("tfpdef", "annassign") and before is not None and before.value == ":":
            return True
        if parent.type == "funcdef" and before is not None and before.value == "->":
            return True
        bases = parent.get_super_arglist() if parent.type == "classdef" else None
        if bases is not None and bases.get_code().strip() == "Protocol":
            return True
        if parent.type == "if_stmt" and parent.children[1].get_code().strip() == "TYPE_CHECKING":
            return True
        node = parent
    return False


def session_of(module: Path) -> Path:
    return WORK / f"{module.parent.name}.{module.stem}.sqlite"


def begin(database: WorkDB, path: Path) -> None:
    """Fill the session with all mutants; those of annotations are marked as skipped."""
    init([path], database, {})
    ast = get_ast_from_path(path)
    skipped = [item.job_id for item in database.work_items if is_never_run(ast, item.mutations[0].start_pos)]
    database.set_multiple_results(skipped, WorkResult(WorkerOutcome.SKIPPED, "never run"))


def test(module: Path, timeout: float) -> str:
    """Run this module's tests in a process of their own: "survived", "killed" or "timeout". The process is forked
    from this one, which has all libraries loaded already: that takes a third of the time."""
    child = os.fork()
    if not child:
        os.setsid()
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        for name in [name for name in sys.modules if name.startswith("groupcoap")]:
            del sys.modules[name]
        os._exit(int(pytest.main([*PYTEST, tests_of(module)])))
    process = os.pidfd_open(child)
    ended, _, _ = select.select([process], [], [], timeout)
    os.close(process)
    if not ended:
        os.killpg(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return "timeout" if not ended else "killed" if status else "survived"


def draw(database: WorkDB, sample: int) -> None:
    """Leave out all mutants but so many."""
    done = {job for job, _ in database.results}
    items = sorted(
        (item for item in database.work_items if item.job_id not in done),
        key=lambda item: (
            item.mutations[0].start_pos,
            item.mutations[0].operator_name,
            item.mutations[0].occurrence,
        ),
    )
    drawn = set(Random(1).sample(range(len(items)), min(sample, len(items))))  # noqa: S311 — the same each time
    left_out = [item.job_id for place, item in enumerate(items) if place not in drawn]
    database.set_multiple_results(left_out, WorkResult(WorkerOutcome.SKIPPED, "not drawn"))


def run(module: Path, again: bool, sample: int | None) -> None:
    """Run all mutants of this module, or a sample of them, or only those that survived the last time, if it has not
    changed since."""
    begun = time.monotonic()
    sys.dont_write_bytecode = False
    if test(module, 600.0) != "survived":
        raise SystemExit(f"the tests of {module} do not pass without any mutant")
    sys.dont_write_bytecode = True
    timeout = 10.0 + 5 * (time.monotonic() - begun)  # an endless loop counts as killed

    session, source = session_of(module), session_of(module).with_suffix(".py")
    if not again or not source.exists() or source.read_bytes() != module.read_bytes():
        session.unlink(missing_ok=True)
        again = False
    with use_db(session) as database:
        if not again:
            begin(database, module)
            shutil.copy(module, source)
            if sample is not None:
                draw(database, sample)
        done = {job for job, result in database.results if result.output != "survived"}
        for item in database.work_items:
            if item.job_id not in done:
                database.set_result(item.job_id, result_of(module, item.mutations[0], timeout))


def result_of(module: Path, mutation: MutationSpec, timeout: float) -> WorkResult:
    operator = get_operator(mutation.operator_name)()
    try:
        with use_mutation(module, operator, mutation.occurrence) as (before, after):
            diff = "\n".join(unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0))
            return WorkResult(WorkerOutcome.NORMAL, test(module, timeout), diff=diff)
    except AttributeError:
        if not isinstance(operator, ExceptionReplacer):
            raise
        return WorkResult(WorkerOutcome.EXCEPTION, "never run")  # it cannot replace a dotted name


# ---- the result


class Mutant(NamedTuple):
    """A change of one line; a statement of several lines is joined to one."""

    module: str
    where: str
    old: str
    new: str


def mutant_of(module: Path, item: WorkItem, result: WorkResult) -> Mutant:
    lines = (result.diff or "").splitlines()
    old = " ".join(line[1:].strip() for line in lines if line.startswith("-") and not line.startswith("---"))
    new = " ".join(line[1:].strip() for line in lines if line.startswith("+") and not line.startswith("+++"))
    return Mutant(f"{module.parent.name}/{module.name}", item.mutations[0].definition_name or "", old, new)


def explanations() -> set[Mutant]:
    """The survivors that the record explains: its blocks of kind `diff`."""
    found: set[Mutant] = set()
    module = where = old = ""
    inside = False
    for line in RECORD.read_text("utf-8").splitlines() if RECORD.exists() else ():
        if line.startswith("```"):
            inside = line == "```diff"
        elif inside and line.startswith("@@ "):
            module, _, where = line.strip("@ ").partition(" ")
        elif inside and line.startswith("- "):
            old = line[2:]
        elif inside and line.startswith("+ "):
            found.add(Mutant(module, where, old, line[2:]))
    return found


def report(module: Path, known: set[Mutant]) -> bool:
    """Print this module's result; whether all is as the record says."""
    name = f"{module.parent.name}/{module.name}"
    with use_db(session_of(module)) as database:
        counts = Counter(result.output for _, result in database.results)
        survivors = [
            mutant_of(module, *both) for both in database.completed_work_items if both[1].output == "survived"
        ]
    killed = counts["killed"] + counts["timeout"]
    total = killed + len(survivors)
    explained = [mutant for mutant in survivors if mutant in known]
    unknown = sorted(set(survivors) - known)
    needless = sorted({mutant for mutant in known if mutant.module == name} - set(survivors))
    if counts["not drawn"]:
        needless = []
    print(
        f"{name}: {killed} of {total} killed ({killed / max(total, 1):.1%}), {counts['timeout']} of them by time; "
        f"{len(explained)} of {len(survivors)} survivors explained; {counts['never run']} never run"
        + (f"; {counts['not drawn']} not drawn" if counts["not drawn"] else "")
    )
    for title, mutants in (("not explained", unknown), ("explained, but does not survive", needless)):
        for mutant in mutants:
            print(f"  {title}:\n@@ {mutant.module} {mutant.where} @@\n- {mutant.old}\n+ {mutant.new}")
    return not unknown and not needless


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="modules, such as window; all if there is none")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--again", action="store_true", help="run only those mutants that survived the last time")
    mode.add_argument("--sample", type=int, metavar="NUMBER", help="run so many mutants of each module, by lot")
    mode.add_argument("--report", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    known = explanations()
    fine = True
    with TemporaryDirectory() as tree:
        if not arguments.report:
            enter(Path(tree))
        for module in chosen_modules(arguments.names):
            if not arguments.report:
                run(module, arguments.again, arguments.sample)
            fine &= report(module, known)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
