"""`groupcoap manager`: a Group Manager, from its making to its restoring."""

from __future__ import annotations

import asyncio
import os
import shlex
import time
from contextlib import suppress
from pathlib import Path

import click

from ..endpoint.network import Address, choose_interface
from ..endpoint.proxy import HostAndPort
from ..errors import FileFault, MisuseError, StoreFault
from ..files.atomic import describe, sync_directory
from ..manager.control import ask, is_running
from ..manager.decisions import first_writes, new_incarnation
from ..manager.home import (
    CONFIGURATION,
    SEALING_KEY,
    SEALING_VARIABLE,
    ManagerConfiguration,
    ManagerHome,
    endpoint_text,
    parse_endpoint,
)
from ..manager.settings import check_name
from ..manager.store.restore import restore_database
from ..manager.store.store import Snapshot, Store
from ..membership import COAP_PORT
from .network import AddressType, resolve
from .operator import VARIABLE
from .text import plural, printable
from .via import Place, place

METRICS_PORT = 9685
"""TCP port of the metrics, if none is given."""

_SQLITE = "sqlite:///"

_SEALING = {
    "file": f"secrets in it are sealed; the key is {{directory}}/{SEALING_KEY}: back it up apart from the database",
    "environment": f"secrets in it are sealed; the key is in ${SEALING_VARIABLE}, and in no file here",
    "none": "NOT SEALED, as you chose: whoever reads a copy of the database has all keys and all devices' secrets",
}


@click.group()
def manager() -> None:
    """A Group Manager: who may join which group, and fresh keys for all who are in it. It lives in a directory of
    its own, DIR."""


def _endpoint(text: str) -> tuple[str, int]:
    try:
        return parse_endpoint(text)
    except MisuseError as problem:
        raise click.BadParameter(str(problem)) from None


@manager.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--bind", required=True, type=AddressType(), metavar="ADDRESS", help="Where it serves.")
@click.option(
    "--interface",
    metavar="NAME",
    help="Where new keys go out by multicast.  [default: the one that --bind belongs to]",
)
@click.option(
    "--port", type=click.IntRange(1, 65535), default=COAP_PORT, show_default=True, metavar="N", help="Its UDP port."
)
@click.option(
    "--address",
    "addresses",
    multiple=True,
    type=_endpoint,
    metavar="HOST[:PORT]",
    help="Where devices find it, if not there: behind address translation, say. Repeated, they try one after the "
    "other. Enrolment files name it.  [default: --bind and --port]",
)
@click.option("--name", metavar="NAME", help="What people call it.  [default: the name of DIR]")
@click.option(
    "--sealing",
    type=click.Choice(list(_SEALING)),
    default="file",
    show_default=True,
    help="How secrets in the database are sealed: with a key in a file of DIR; with one in the environment "
    f"({SEALING_VARIABLE}, 64 hex digits), so that it is not on the same disk; or not at all.",
)
@click.option(
    "--database",
    metavar="URL",
    help="sqlite:////absolute/path.  [default: a file in DIR]",
)
@click.option(
    "--hop-limit",
    type=click.IntRange(0, 255),
    default=1,
    show_default=True,
    metavar="N",
    help="Of new keys by multicast: 1 keeps them on this link, 0 on this machine.",
)
def init(
    directory: Path,
    bind: Address,
    interface: str | None,
    port: int,
    addresses: tuple[tuple[str, int], ...],
    name: str | None,
    sealing: str,
    database: str | None,
    hop_limit: int,
) -> None:
    """Make a Group Manager in DIR: its configuration, its keys, and an empty database.

    \b
      groupcoap manager init hall --bind 192.0.2.10 --interface eth0
    """
    if bind.is_unspecified and not addresses:
        raise MisuseError(f"--bind {bind} does not say where devices find the manager; add --address HOST")
    configuration = ManagerConfiguration(
        name=check_name(directory.resolve().name if name is None else name, "manager"),
        bind=bind,
        interface=_interface(interface, bind, hop_limit),
        port=port,
        hop_limit=hop_limit,
        addresses=tuple(dict.fromkeys(addresses)),
        database=database,
        sealing=sealing,
    )
    home = _made(directory, configuration)
    click.echo(f"manager     {configuration.name}, in {directory}")
    click.echo(
        f"serves at   {endpoint_text((str(bind), port))}, new keys by multicast on {configuration.interface}"
    )
    click.echo(f"devices     find it at {', '.join(endpoint_text(one) for one in configuration.reached_at)}")
    click.echo(f"database    {printable(home.url)}")
    click.echo(f"sealing     {_SEALING[sealing].format(directory=directory)}")
    click.echo("\nNext, the manager in one terminal, the others in a second one:")
    loopback = bind.is_loopback
    there = "--interface lo --bind 127.0.0.2" if loopback else f"--interface {configuration.interface}"
    for command in (
        f"groupcoap manager serve {shlex.quote(str(directory))}",
        f"export {VARIABLE}={shlex.quote(str(directory.resolve()))}",
        "groupcoap group create room --address 224.0.1.187",
        "groupcoap enroll lamp-1 --group room=listener --out devices",
        f"groupcoap listen devices/lamp-1 {there}",
        "groupcoap status",
    ):
        click.echo(click.style(f"  {command}", bold=True))


def _interface(interface: str | None, bind: Address, hop_limit: int) -> str:
    """`NetworkFault` if none is named, and none is safe to infer."""
    return choose_interface(resolve(interface, bind, hop_limit))


def _made(directory: Path, configuration: ManagerConfiguration) -> ManagerHome:
    """All of it, or nothing."""
    if configuration.sealing == "environment":
        ManagerHome(directory, configuration).sealing_key()  # before anything is made, if it is not there
    existed = directory.exists()
    home = ManagerHome.create(directory, configuration)
    try:
        store = Store.create(home.url, home.sealing_key())
        try:
            store.commit(first_writes(configuration.name, os.urandom, time.time()))
        finally:
            store.close()
    except BaseException:
        for path in (directory / CONFIGURATION, directory / SEALING_KEY):
            path.unlink(missing_ok=True)
        if not existed:
            with suppress(OSError):
                directory.rmdir()
        raise
    return home


@manager.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: one object a line.",
)
@click.option(
    "--metrics",
    type=place,
    metavar="ADDRESS[:PORT]",
    help=f"Serve metrics for Prometheus there, by HTTP; port {METRICS_PORT} if none is given.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
@click.option("--with-parent", is_flag=True, hidden=True, help="Stop when standard input is closed.")
@click.pass_context
def serve(
    ctx: click.Context,
    /,
    directory: Path,
    log_format: str,
    metrics: Place | None,
    verbose: bool,
    with_parent: bool,
) -> None:
    """Run the manager in DIR until Ctrl-C or SIGTERM. One line says that it is ready; the log goes to standard
    error. Under systemd it says so as well (contrib/systemd).

    Stopped or killed and started again, it goes on where it was; its members need not notice.
    """
    from .serving import Settings
    from .serving import serve as run

    where: HostAndPort | None = None
    if metrics is not None:
        where = metrics[0], METRICS_PORT if metrics[1] is None else metrics[1]
    home = ManagerHome.load(directory)
    ctx.exit(asyncio.run(run(home, Settings(log_format == "json", where, verbose, with_parent))))


@manager.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
def backup(directory: Path, file: Path) -> None:
    """Copy the database of the manager in DIR, which may be running, to a new FILE. Secrets in it are sealed as
    they are in the database.

    Keep manager.json and the sealing key too, once, and elsewhere: FILE is of no use without them.
    """
    home = ManagerHome.load(directory)
    if is_running(home):
        ask(home, "backup", path=str(file.resolve()))
    else:
        store = home.open_store()
        try:
            store.backup(file)
        finally:
            store.close()
    click.echo(f"backup      {file}, of the database alone")
    key = {
        "file": f" and {directory / SEALING_KEY}",
        "environment": f" and the value of ${SEALING_VARIABLE}",
        "none": "",
    }[home.configuration.sealing]
    click.echo(f"to restore  it takes {directory / CONFIGURATION}{key} too: keep copies of them, not beside it")
    if home.configuration.sealing == "none":
        click.echo("NOT SEALED  whoever reads it has all keys and all devices' secrets")


@manager.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
def restore(file: Path, directory: Path) -> None:
    """Make the database of the manager in DIR from a backup FILE. DIR is the manager's own, or a new one, with its
    manager.json and its sealing key, but without a database. Nothing is overwritten.

    The manager that comes of it begins anew: all members have to join again, which they do by themselves. What was
    decided after the backup is not known to it.
    """
    if not os.path.exists(directory / CONFIGURATION):
        raise FileFault(
            directory,
            f"has no {CONFIGURATION}: a backup is the database alone; bring the manager's {CONFIGURATION} and "
            f"{SEALING_KEY} there first",
        )
    home = ManagerHome.load(directory)
    if is_running(home):
        raise MisuseError(
            f"the manager in {directory} runs, and has its database; stop it and move that away first"
        )
    snapshot = _restored(file, home)
    members = len(snapshot.rows("members"))
    groups = [row["grp"] for row in snapshot.rows("groups")]
    newest = max((row["time"] for row in snapshot.rows("audit")), default=None)
    when = "" if newest is None else time.strftime(", last used %Y-%m-%d %H:%M:%S", time.localtime(newest))
    click.echo(f"restored    {home.configuration.name}, from {file}{when}")
    click.echo(f"groups      {', '.join(groups) or 'none'}; all have new keys")
    click.echo(
        f"devices     {plural(len(snapshot.rows('devices')), 'device')} enrolled, as they were at the backup"
    )
    click.echo(
        f"members     none: the {plural(members, 'member')} of then join again by themselves, once it serves"
    )
    click.echo(
        "\nWhat happened after the backup is not known any more:\n"
        "  who was evicted or withdrawn since may join again: evict and withdraw them before you start it;\n"
        "  who was enrolled since is a stranger: enroll them again, under other names if theirs are taken.\n"
        "The manager that this one replaces must never run again."
    )
    click.echo(click.style(f"  groupcoap manager serve {shlex.quote(str(directory))}", bold=True))


def _restored(file: Path, home: ManagerHome) -> Snapshot:
    """What was in the backup. The database has another name until it is a new incarnation's: whatever happens
    meanwhile, nobody serves what is from the past."""
    target = Path(home.url.removeprefix(_SQLITE))
    if not home.url.startswith(_SQLITE) or os.path.lexists(target):
        raise StoreFault(f"{target}: exists already, and nothing is overwritten; move it away first")
    staging = target.with_name(f"{target.name}.restoring")
    _remove(staging)
    try:
        store = restore_database(file, f"{_SQLITE}{staging}", home.sealing_key())
        try:
            snapshot = store.load()
            store.commit(new_incarnation(snapshot, os.urandom, time.time()))
            store.erase()
        finally:
            store.close()
        try:
            os.link(staging, target)  # unlike rename this fails where there is something already
        except OSError as error:
            raise StoreFault(f"{target}: cannot be made ({describe(error)}); nothing was restored") from None
    finally:
        _remove(staging)
    sync_directory(target.parent)
    return snapshot


def _remove(database: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal", ".lock"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
