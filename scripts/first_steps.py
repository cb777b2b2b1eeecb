#!/usr/bin/env python3
"""Types what README.md, the guides and the runbooks tell a reader to type, and checks what they promise.

    scripts/first_steps.py --binary target/release/adit    # in namespaces of this machine
    scripts/first_steps.py --root /srv/machine             # in a chroot: its /usr/bin/adit, curl, nft …
    scripts/first_steps.py … README.md:mesh                # only sections whose name has this word

Needs root. Each section is one shell in new mount, network and process namespaces, with an empty
/run, /var/lib and /tmp: what it starts ends with it, and what it writes is gone afterwards (a
machine of --root gets an /etc/hosts if it has none, as debootstrap leaves it). Every
fenced block says what it is by the words after its three backticks:

    sh                  commands, typed one after another in the section's shell
    sh install, sh hosts, sh cluster, sh checkout
                        not typed: for the reader's machine as a whole, other machines, a Kubernetes
                        cluster, or a build. Their syntax and each option of adit are checked
    yaml NAME, ini NAME a file, written where the shell is; YAML also by `adit check`
    yaml                a whole file, by `adit check`
    yaml part           keys of a mesh file; a key that is there twice is an alternative
    text                a picture, or output; nothing is checked

Anything else is an error.
"""

import argparse
import ctypes
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
PAGES = ["README.md", *(f"src/guide/{name}.md" for name in (
    "mesh", "standalone", "identity", "observability", "security", "performance", "architecture")),
    *sorted(str(path.relative_to(REPO)) for path in REPO.glob("deploy/runbooks/*.md")),
    ".github/CONTRIBUTING.md", "tests/README.md"]
# Read before anything is mounted over the directory that this checkout may be in.
SCRIPTS = {str(path.relative_to(REPO)) for path in REPO.glob("scripts/**/*")}
NOT_TYPED = {"install", "hosts", "cluster", "checkout"}
COMMAND_LIMIT = 60
SECTION_LIMIT = 180
BASE = {
    "trustDomain": "trustDomain: cluster.local\n",
    "ca": "ca: { embedded: { dir: /var/lib/adit/ca } }\n",
    "capture": "capture: { rules: nft }\n",
    "workloads": "workloads:\n- { name: web, namespace: shop, serviceAccount: web, uid: a1b2c3d4-e5f6-7890-abcd-ef1234567890, "
                 "addresses: [10.77.0.1], netns: shop-web }\n",
}
# What must be seen: by page and section, a piece of a command and what its output contains. All
# other commands must succeed, which is also how `|| echo refused` shows that a call was refused.
WEB, DB = "spiffe://cluster.local/ns/shop/sa/web", "spiffe://cluster.local/ns/shop/sa/db"
EXPECTED = {
    ("README.md", "One service"): [
        ("--cert certs/client.crt", "Directory listing"),
        ("|| echo refused", "\nrefused"),
    ],
    ("README.md", "A mesh in one file"): [
        ("curl -s http://10.96.0.10/", "Directory listing"),
        ("/certs", WEB),
        ("/certs", DB),
        ("; echo refused", "\nrefused"),
    ],
    ("src/guide/mesh.md", "A mesh in one file"): [("curl -s http://10.96.0.10/", "Directory listing")],
    ("src/guide/standalone.md", "In front of one service"): [("localhost:8081", "Directory listing")],
    ("src/guide/standalone.md", "With a CA of your own"): [
        ("https://localhost:8443/; do", "Directory listing"),
        ("https://localhost:8444/; do", "Directory listing"),
        ("|| echo refused", "refused"),
    ],
    ("src/guide/identity.md", "A CA for several nodes"): [
        ("/metrics", "adit_ca_issued_total"), ("ca show", "active")],
    ("src/guide/identity.md", "An intermediate for each node"): [
        ("curl -s http://10.77.0.2:8080/", "Directory listing"), ("|| echo refused", "\nrefused")],
    ("src/guide/observability.md", "Where to look"): [
        ("/_status", '"ok":'), ("https://localhost:8443/", "Directory listing"), ("/_metrics", "adit_target_up")],
}
# Sections that remove what they made, and touch no state of an adit that is installed.
LEAVE_NOTHING = {("README.md", "A mesh in one file")}


def pieces(text):
    """Each fenced block of a page: its section, its words, its text and its line."""
    section, block, at = "", None, 0
    for number, line in enumerate(text.splitlines(), 1):
        fence = line.strip()
        if block is None and re.match(r"#{1,3} ", line):
            section = line.lstrip("#").strip()
        elif block is None and fence.startswith("```"):
            block, at, indent = [fence[3:].split()], number, len(line) - len(line.lstrip())
        elif block is not None and fence == "```":
            yield section, block[0], "".join(block[1:]), at
            block = None
        elif block is not None:
            block.append(line[indent:] + "\n")
    if block is not None:
        yield section, ["unfinished"], "", at


def commands(text):
    """Whole commands: lines are taken together until a shell takes them for one."""
    so_far = ""
    for line in text.splitlines():
        so_far += line + "\n"
        if line.rstrip().endswith("\\") or bash_refuses(so_far):
            continue
        if so_far.strip() and not so_far.strip().startswith("#"):
            yield so_far
        so_far = ""
    if so_far.strip():
        yield so_far


def bash_refuses(text):
    return subprocess.run(["bash", "-n"], input=text.encode(), stderr=subprocess.DEVNULL).returncode != 0


class Shell:
    """One shell, in which commands are typed; what it and its jobs print is one stream."""

    def __init__(self, root, directory):
        self.output, self.lines = b"", 0
        change = ["chroot", root] if root else []
        env = {"PATH": "/run/adit-bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
               "HOME": directory, "TERM": "dumb", "LC_ALL": "C.UTF-8"}
        self.process = subprocess.Popen([*change, "bash", "--norc", "--noprofile"], env=env,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT)
        self.type(f"cd {directory}")

    def type(self, command, limit=COMMAND_LIMIT):
        """The exit code and what was printed until then; None for a command that does not end."""
        self.lines += 1
        mark = f"--typed-{self.lines}--"
        background = command.rstrip().endswith("&")
        ask = f"{command.rstrip()}\ncode=$?; echo; echo {mark} $code ${{!:-0}} --\n"
        self.process.stdin.write(ask.encode())
        self.process.stdin.flush()
        ended = self.until(re.compile(re.escape(mark.encode()) + rb" (\d+) (\d+) --\n"), limit)
        if ended is None:
            return None, self.take()
        said = self.take()
        if background and not listens(int(ended[2]), limit):
            return 1, said + "\nit ended, or does not listen\n" + self.rest()
        return int(ended[1]), said

    def until(self, wanted, limit):
        until = time.monotonic() + limit
        while not (found := wanted.search(self.output)):
            left = until - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                return None
            some = os.read(self.process.stdout.fileno(), 65536)
            if not some:
                return None
            self.output += some
        self.shown, self.output = self.output[:found.start()], self.output[found.end():]
        return found

    def take(self):
        shown, self.shown = getattr(self, "shown", b"") or self.output, b""
        return shown.decode(errors="replace")

    def rest(self):
        time.sleep(0.2)
        while select.select([self.process.stdout], [], [], 0)[0]:
            some = os.read(self.process.stdout.fileno(), 65536)
            if not some:
                break
            self.output += some
        return self.output.decode(errors="replace")


def listens(pid, limit):
    """Waits until a process has a socket that listens; False if it ends before, or never has one."""
    until = time.monotonic() + limit
    while time.monotonic() < until:
        try:
            held = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
            for table in ("tcp", "tcp6"):
                for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                    field = line.split()
                    if field[3] == "0A" and f"socket:[{field[9]}]" in held:
                        return True
        except (FileNotFoundError, ProcessLookupError):
            if not os.path.exists(f"/proc/{pid}"):
                return False
        time.sleep(0.05)
    return False


class Machine:
    """Where commands are typed: this machine with a binary, or one in a directory."""

    def __init__(self, root, binary):
        self.root = root or ""
        self.binary = binary
        base = self.root or "/"
        # The binary may be in one of the directories that are about to be empty.
        keep = os.open(binary, os.O_RDONLY) if binary else None
        run("mount", "--make-rprivate", "/")
        run("mount", "-t", "proc", "proc", "/proc")
        if self.root:
            # `ip netns` wants its root to be a mount.
            run("mount", "--rbind", base, base)
            run("mount", "--rbind", "/dev", f"{base}/dev")
            run("mount", "-t", "proc", "proc", f"{base}/proc")
        run("mount", "-t", "sysfs", "sysfs", f"{base}/sys")
        for directory in ("run", "var/lib", "tmp"):
            os.makedirs(f"{base}/{directory}", exist_ok=True)
            run("mount", "-t", "tmpfs", "tmpfs", f"{base}/{directory}")
        os.makedirs(f"{base}/run/netns")
        if self.root and not Path(f"{base}/etc/hosts").exists():
            Path(f"{base}/etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
        if binary:
            os.makedirs(f"{base}/run/adit-bin")
            Path(f"{base}/run/adit-bin/adit").touch()
            run("mount", "--bind", f"/proc/{os.getpid()}/fd/{keep}", f"{base}/run/adit-bin/adit")
        run("ip", "link", "set", "lo", "up")
        os.makedirs(f"{base}/tmp/here")
        self.directory = Path(f"{base}/tmp/here")
        self.shell = Shell(self.root, "/tmp/here")

    def adit(self, arguments, text=None):
        change = ["chroot", self.root] if self.root else []
        program = "/run/adit-bin/adit" if self.binary else "/usr/bin/adit"
        done = subprocess.run([*change, program, *arguments], input=text, text=True, timeout=COMMAND_LIMIT,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.returncode, done.stdout


def run(*command):
    subprocess.run(command, check=True, timeout=COMMAND_LIMIT)


def section_errors(page, name, blocks, machine):
    """Types and checks the blocks of one section; yields what is wrong, with the line."""
    expected = dict.fromkeys(EXPECTED.get((page, name), []), False)
    for words, text, line in blocks:
        kind, *more = words or [""]
        what = more[0] if more else ""
        named = "." in what
        if named:
            (machine.directory / what).write_text(text)
        if kind == "text" or kind == "ini" and named:
            continue
        if kind == "yaml":
            yield from yaml_errors(machine, line, what, text)
        elif kind == "sh" and what in NOT_TYPED:
            yield from syntax_errors(machine, line, text)
        elif kind == "sh" and not what:
            wrong = yield from typed(machine, line, text, expected)
            if wrong:
                return
        else:
            yield line, f"a block of `{' '.join(words)}`: {__file__} says which there are"
    for (command, output), seen in expected.items():
        if not seen:
            yield 0, f"no command with `{command}` has shown `{output.strip()}`"
    if (page, name) in LEAVE_NOTHING:
        left = [str(path) for place in (machine.directory, Path(f"{machine.root}/var/lib")) for path in place.iterdir()]
        if left:
            yield 0, f"it has left {', '.join(left)}"


def typed(machine, line, text, expected):
    for command in commands(text):
        code, said = machine.shell.type(command)
        for of, output in expected:
            if of in command and output in "\n" + said:
                expected[of, output] = True
        if code != 0:
            how = "did not end in time" if code is None else f"ended with {code}"
            yield line, f"`{command.strip()}` {how}:\n{said.strip()}"
            return True
    return False


def yaml_errors(machine, line, what, text):
    texts = list(parts(text)) if what == "part" else [text]
    if what and what != "part" and "." not in what:
        yield line, f"yaml {what}: a file has a name with a dot"
    for text in texts:
        code, said = machine.adit(["check", "--no-files", "-"], text)
        if code != 0:
            yield line, f"adit check: {said.strip()}\n{text}"


def parts(text):
    """A mesh file for each of the keys' alternatives, with what else a mesh file needs."""
    keys = []
    for chunk in re.split(r"(?m)^(?=[A-Za-z])", text):
        if chunk.strip() and not chunk.startswith("#"):
            keys.append((chunk.split(":")[0], chunk))
    rounds = max(sum(1 for other, _ in keys if other == key) for key, _ in keys)
    for number in range(rounds):
        chosen = {}
        for key in dict.fromkeys(key for key, _ in keys):
            of = [chunk for other, chunk in keys if other == key]
            chosen[key] = of[min(number, len(of) - 1)]
        yield "".join({**BASE, **chosen}.values())


def syntax_errors(machine, line, text):
    """What can be said of commands without typing them: their syntax, and each option of adit."""
    if bash_refuses(text):
        yield line, "bash does not take it"
        return
    for command in commands(text):
        command = re.sub(r"(^|\s)#.*", "", command).replace("\\\n", " ")
        for call in re.split(r"&&|\|\||[;|&\n]", command):
            words = re.sub(r"[<>].*", "", call).split()
            while words and re.fullmatch(r"sudo|[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words and words[0] == "adit":
                words = [word.strip("'\"") for word in words[1:]]
                code, said = machine.adit([*words, "--help"])
                if code != 0:
                    yield line, f"`{call.strip()}`: {said.strip()}"
            elif words and words[0].startswith("scripts/") and words[0] not in SCRIPTS:
                yield line, f"there is no {words[0]}"


def sections(wanted):
    for page in PAGES:
        by_name = {}
        for section, words, text, line in pieces((REPO / page).read_text()):
            by_name.setdefault(section, []).append((words, text, line))
        for name, blocks in by_name.items():
            if not wanted or any(word.lower() in f"{page}:{name}".lower() for word in wanted):
                yield page, name, blocks
    for page, name in EXPECTED:
        if not any(section == name for section, *_ in pieces((REPO / page).read_text())):
            raise SystemExit(f"{page} has no section \"{name}\" any more: see EXPECTED in {__file__}")


def one(page, name, blocks, arguments):
    """Inside the namespaces: one section."""
    machine = Machine(arguments.root, arguments.binary)
    wrong = 0
    for line, error in section_errors(page, name, blocks, machine):
        print(f"{page}:{line}: {name}: {error}", flush=True)
        wrong += 1
    if wrong:
        print(f"what the shell has printed since:\n{machine.shell.rest()[-3000:]}", flush=True)
    return wrong


def apart(work):
    """Whether `work` finds nothing wrong, in namespaces of its own that end with it, or in time."""
    libc = ctypes.CDLL(None, use_errno=True)
    first = os.fork()
    if first == 0:
        os._exit(0 if in_namespaces(libc, work) else 1)
    until, ended = time.monotonic() + SECTION_LIMIT, (0, 0)
    try:
        while (ended := os.waitpid(first, os.WNOHANG)) == (0, 0):
            if time.monotonic() > until:
                print(f"not done within {SECTION_LIMIT} s", flush=True)
                break
            time.sleep(0.02)
        return ended != (0, 0) and ended[1] == 0
    finally:
        if ended == (0, 0):
            os.kill(first, signal.SIGKILL)
            os.waitpid(first, 0)


def in_namespaces(libc, work):
    new = 0x0002_0000 | 0x4000_0000 | 0x2000_0000  # mount, network and process namespaces
    if libc.unshare(new) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    init = os.fork()
    if init == 0:
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; with this process all of them end
        found = 1
        try:
            found = work()
        except BaseException as error:  # also a limit, or Ctrl-C: the process must end here
            print(f"{type(error).__name__}: {error}", flush=True)
        finally:
            os._exit(1 if found else 0)
    return os.waitpid(init, 0)[1] == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--binary", type=os.path.abspath, help="the adit to try, on this machine")
    where.add_argument("--root", type=os.path.abspath, help="a machine, as debootstrap makes it, with adit installed")
    parser.add_argument("wanted", nargs="*", help="part of PAGE:SECTION")
    arguments = parser.parse_args()
    chosen = list(sections(arguments.wanted))
    if os.geteuid() != 0:
        raise SystemExit("needs root: it makes network namespaces, as a reader does")
    if not chosen:
        raise SystemExit("no section has that in its name")
    failed, began = 0, time.monotonic()
    for page, name, blocks in chosen:
        since = time.monotonic()
        right = apart(lambda: one(page, name, blocks, arguments))
        kinds = [" ".join(words) for words, *_ in blocks]
        what = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        print(f"{'ok' if right else 'FAILED'}  {page}: {name} ({what}; {time.monotonic() - since:.1f} s)", flush=True)
        failed += not right
    print(f"{len(chosen)} sections, {failed} failed, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
