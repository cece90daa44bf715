"""A Plone site to try the package in: instance, admin user, site and server. `make start`, demo and tests use it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import argparse
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

#: The interface that the server listens on. Its pages are opened as http://localhost: for 127.0.0.1 Plone switches its
#: theme off.
HOST = "127.0.0.1"
USER = "admin"
SITE = "Plone"
#: waitress' request threads hold a connection each beside the job threads, and claims and pings need a few.
OTHER_CONNECTIONS = 12

ZOPE_CONF = """\
%define INSTANCE {folder}
instancehome $INSTANCE

<zodb_db main>
  mount-point /
  cache-size 30000
  pool-size {pool}
  <blobstorage>
    blob-dir $INSTANCE/var/blobstorage
    <filestorage>
      path $INSTANCE/var/Data.fs
    </filestorage>
  </blobstorage>
</zodb_db>

<environment>
  CHAMELEON_CACHE $INSTANCE/var/cache
  # Of a checkout, which has none; wheels have them.
  zope_i18n_compile_mo_files true
</environment>

<product-config collective.zcasync>
  dispatcher on
  threads {threads}
</product-config>
"""


@dataclass(frozen=True)
class Instance:
    """A folder with etc/ and var/, as mkwsgiinstance lays them out."""

    folder: Path

    @property
    def zope_conf(self) -> Path:
        return self.folder / "etc" / "zope.conf"

    @property
    def zope_ini(self) -> Path:
        return self.folder / "etc" / "zope.ini"

    @property
    def log(self) -> Path:
        return self.folder / "var" / "log" / "event.log"

    @property
    def password(self) -> str:
        return self._password_file.read_text().strip()

    @property
    def port(self) -> int:
        match = re.search(r"^port = (\d+)$", self.zope_ini.read_text(), re.MULTILINE)
        if match is None:
            raise SystemExit(f"No line 'port = NUMBER' in {self.zope_ini}: put it into [server:main].")
        return int(match[1])

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}/{SITE}"

    @property
    def has_site(self) -> bool:
        return self._site_mark.exists() and (self.folder / "var" / "Data.fs").exists()

    @property
    def _password_file(self) -> Path:
        return self.folder / "etc" / "admin-password"

    @property
    def _site_mark(self) -> Path:
        # Written once the site is committed: a start need not open the database to know.
        return self.folder / "var" / f"site-{SITE}"


def free_port(wanted: int = 8080) -> int:
    """The wanted port if nobody listens there, else one that the system says is free."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            # As waitress does: a port whose last connections are still closing can be had.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise SystemExit(f"No free port on {HOST}.")


def make_instance(folder: Path | str, port: int = 8080, threads: int | None = None) -> Instance:
    """Lay out an instance, or take the one that is there as its owner left it.

    :param port: of a new instance. An old one keeps its own, see :func:`claim_port`.
    :param threads: job threads of the embedded dispatcher; None leaves what is configured (1 in a new instance).
    """
    instance = Instance(Path(folder).absolute())
    for name in ("etc", "var/blobstorage", "var/cache", "var/log"):
        (instance.folder / name).mkdir(parents=True, exist_ok=True)
    # Blobs are for the server's eyes only, and the storage warns if they are not.
    (instance.folder / "var" / "blobstorage").chmod(0o700)
    if not instance._password_file.exists():
        with open(os.open(instance._password_file, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w") as password:
            password.write(secrets.token_urlsafe(12) + "\n")
    if not instance.zope_conf.exists():
        jobs = threads or 1
        conf = ZOPE_CONF.format(folder=instance.folder, threads=jobs, pool=jobs + OTHER_CONNECTIONS)
        instance.zope_conf.write_text(conf)
    elif threads is not None:
        _replace(instance.zope_conf, r"^( *threads) \d+$", rf"\1 {threads}")
        _replace(instance.zope_conf, r"^( *pool-size) \d+$", rf"\1 {threads + OTHER_CONNECTIONS}")
    if not instance.zope_ini.exists():
        _copy_skeleton(instance)
        _replace(instance.zope_ini, r"^port = \d+$", f"port = {port}")
    return instance


def claim_port(instance: Instance, wanted: int | None = None) -> int:
    """Write a free port into zope.ini: the wanted one, or the one it had, or another if that is taken."""
    port = free_port(wanted or instance.port)
    _replace(instance.zope_ini, r"^port = \d+$", f"port = {port}")
    return port


def create_site(instance: Instance, profiles: Sequence[str] = ("collective.zcasync:default",)) -> None:
    """Make the admin user and a Classic UI site with these profiles, if they are not there; in a process of its own.

    Zope can be started only once in a process, so the caller's stays free of it.
    """
    if instance.has_site:
        return
    command = [sys.executable, "-W", "ignore", __file__, "--folder", str(instance.folder), "--create-site", *profiles]
    if subprocess.run(command).returncode:
        raise SystemExit(f"The site could not be created: see above, and {instance.log}.")
    instance._site_mark.touch()


def holder(instance: Instance) -> int | None:
    """The process that holds the instance's database open, if there is one."""
    from zc.lockfile import LockError
    from zc.lockfile import LockFile

    path = instance.folder / "var" / "Data.fs.lock"
    try:
        LockFile(str(path)).close()
    except LockError:
        return int(re.search(r"\d+", path.read_text() or "0")[0])
    return None


def command_to_serve(instance: Instance) -> list[str]:
    """What serves the instance in the foreground; SIGINT and SIGTERM stop it."""
    return [str(Path(sys.executable).parent / "runwsgi"), str(instance.zope_ini)]


def start(instance: Instance, output: Path | None = None, seconds: float = 90, **environ: str) -> subprocess.Popen:
    """Serve the instance in the background, and return when its site answers.

    :param output: file for what the server prints; None for the instance's var/log/console.log.
    :param environ: more environment variables for the server.
    """
    with open(output or instance.folder / "var" / "log" / "console.log", "ab") as console:
        process = subprocess.Popen(
            command_to_serve(instance), stdout=console, stderr=subprocess.STDOUT, env={**os.environ, **environ}
        )
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{instance.port}/{SITE}", timeout=seconds):
                return process
        except urllib.error.HTTPError:
            return process
        except OSError:
            time.sleep(0.1)
    stop(process)
    raise SystemExit(f"The server did not answer within {seconds:.0f} s: see {console.name} and {instance.log}.")


def stop(process: subprocess.Popen, seconds: float = 30) -> int:
    """Stop a server cleanly, and by force if that takes too long; its exit code."""
    process.terminate()
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def serve(instance: Instance) -> None:
    """Become the server: this process ends with it."""
    sys.stdout.flush()
    command = command_to_serve(instance)
    os.execv(command[0], command)


def describe(instance: Instance) -> str:
    """What one needs to know to look at the site."""
    return (
        f"\n  {instance.url}\n\n"
        f"  user      {USER}\n"
        f"  password  {instance.password}   (kept in {os.path.relpath(instance._password_file)})\n\n"
        "  Site Setup, Background jobs shows what runs. Ctrl-C stops the server.\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Serve a Plone site with the package; make it at the first run.")
    parser.add_argument("--folder", default="instance", help="where it lies (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="the port it should have (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="job threads of its dispatcher (default: 1 at first)")
    parser.add_argument("--no-serve", action="store_true", help="make everything, but do not serve it")
    parser.add_argument("--create-site", nargs="*", metavar="PROFILE", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.create_site is not None:
        _create_site_here(Instance(Path(options.folder)), options.create_site)
        return
    instance = make_instance(options.folder, options.port, options.threads)
    if (pid := holder(instance)) is not None:
        sys.exit(f"Process {pid} already uses {options.folder}: look at {instance.url}, or stop it first (kill {pid}).")
    if not instance.has_site:
        print("Making a Plone site: some seconds, once.", flush=True)
    create_site(instance)
    if options.no_serve:
        return
    if claim_port(instance, options.port) != options.port:
        print(f"Port {options.port} is taken by another program: {instance.port} is used instead.")
    print(describe(instance))
    serve(instance)


def _create_site_here(instance: Instance, profiles: Sequence[str]) -> None:
    from Zope2.Startup.run import configure_wsgi

    import logging

    # Plone's chatter about its own profiles goes to the log, where whoever needs it will look.
    logging.basicConfig(filename=instance.log, level=logging.WARNING)
    # Not by make_wsgi_app: no server is announced, so no dispatcher starts here.
    configure_wsgi(str(instance.zope_conf))
    import Zope2

    Zope2.startup_wsgi()
    from AccessControl.SecurityManagement import newSecurityManager
    from Products.CMFPlone.factory import addPloneSite
    from Testing.makerequest import makerequest
    from zope.globalrequest import setRequest

    import transaction

    app = makerequest(Zope2.app())
    setRequest(app.REQUEST)
    users = app.acl_users
    if users.getUser(USER) is None:
        users.userFolderAddUser(USER, instance.password, ["Manager"], [])
    newSecurityManager(None, users.getUser(USER).__of__(users))
    if SITE not in app.objectIds():
        site = addPloneSite(
            app,
            SITE,
            title="Background jobs",
            distribution_name="classic",
            setup_content=False,
            default_language="en",
            portal_timezone="UTC",
        )
        for profile in profiles:
            site.portal_setup.runAllImportStepsFromProfile(f"profile-{profile}")
    transaction.commit()
    for database in Zope2.opened:
        database.close()


def _copy_skeleton(instance: Instance) -> None:
    from Zope2.utilities import copyzopeskel

    # What mkwsgiinstance does, but it would ask for a user, and leave the password in a second file.
    skeleton = Path(copyzopeskel.__file__).parent / "skel"
    replacements = {"INSTANCE_HOME": str(instance.folder)}
    copyzopeskel.copyskel(str(skeleton), str(instance.folder), None, None, **replacements)


def _replace(path: Path, pattern: str, replacement: str) -> None:
    old = path.read_text()
    new = re.sub(pattern, replacement, old, flags=re.MULTILINE)
    if new != old:
        path.write_text(new)


if __name__ == "__main__":
    main()
