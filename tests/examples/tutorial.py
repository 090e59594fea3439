#!/usr/bin/python3
"""Types docs/TUTORIAL.md, from its beginning to its end, on hosts that are made for it: network, mount and pid namespaces, in
which /etc, /srv, /usr and /var are as on this machine and can be written to without a trace.

    tutorial.py TUTORIAL.md --plugin tuntap_plugin.so --command uwsgi-tuntap    with these in the packages' places
    tutorial.py TUTORIAL.md                                                      with what is installed here
    tutorial.py TUTORIAL.md --install                                            only the blocks that install packages, right here

Of the document it understands:

- a block of `sh` is typed on the host one; `sh two` and `sh outside` elsewhere; `sh install` only with --install;
- a block of `text` is what the block before it prints: its lines in this order, … standing for anything. What prints is typed
  again until it prints that, because things take a moment to happen, so it must do nothing but print;
- any other block is a file: `<path>`: stands before it, or "Add to `<path>`:", either maybe with "on the host two";
- what is in a comment of HTML, which readers don't see, doesn't count;
- KEY-OF-ONE and KEY-OF-TWO are what `uwsgi-tuntap keys` has printed on these hosts.

Everything else that looks like a block is an error: nothing in the document goes untried.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Seconds for a block to print what the document says, and for one try.
PATIENCE, ONE_TRY = 90, 60
ADDRESSES = {"one": "203.0.113.11/24", "two": "203.0.113.12/24"}
OUTSIDE, GATEWAY = "203.0.113.50/24", "203.0.113.1"
WRITABLE = ["etc", "srv", "usr", "var"]
FENCE = re.compile(r"^```(.*)$")
TITLE = re.compile(r"^(Add to )?`(/[^`]+)`( on the host two)?:$")
KEY = re.compile(r"[A-Za-z0-9+/]{43}=")


def fail(text):
    sys.exit(f"tutorial.py: {text}")


def blocks(text):
    """The blocks of a document: (line, words behind the fence, content, the line of text before it)."""
    # Lines keep their numbers.
    lines = re.sub(r"<!--.*?-->", lambda it: "\n" * it[0].count("\n"), text, flags=re.DOTALL).splitlines()
    found, before, number = [], "", 0
    while number < len(lines):
        if fence := FENCE.match(lines[number]):
            end = next((it for it in range(number + 1, len(lines)) if lines[it] == "```"), None)
            if end is None:
                fail(f"line {number + 1}: the block has no end")
            found.append((number + 1, fence[1].split(), "\n".join(lines[number + 1:end]) + "\n", before))
            number, before = end, ""
        elif lines[number].strip():
            before = lines[number]
        number += 1
    return found


def steps(text):
    """What is to be done, in order: ("file", line, host, path, content, is added) or ("type", line, place, content, output)."""
    made = []
    for line, words, content, before in blocks(text):
        if words[:1] == ["sh"] and words[1:] in ([], ["two"], ["outside"], ["install"]):
            made.append(["type", line, (words[1:] or ["one"])[0], content, None])
        elif words == ["text"]:
            if not made or made[-1][0] != "type" or made[-1][4] is not None:
                fail(f"line {line}: there is no command whose output this is")
            made[-1][4] = content
        elif title := TITLE.match(before):
            made.append(["file", line, "two" if title[3] else "one", title[2], content, bool(title[1])])
        else:
            fail(f"line {line}: what is this block?")
    return made


def is_printed(wanted, output):
    """Whether the lines of a text are among those of an output, in order."""
    lines = iter(output.splitlines())
    patterns = [".*".join(map(re.escape, line.split("…"))) for line in wanted.splitlines()]
    return all(any(re.fullmatch(pattern, line.rstrip()) for line in lines) for pattern in patterns)


class Host:
    """A process that keeps namespaces, and ends with this one."""

    def __init__(self, is_writable):
        mounts = [f"mkdir -p {work}/{it}/up {work}/{it}/work && mount -t overlay overlay -o "
                  f"lowerdir=/{it},upperdir={work}/{it}/up,workdir={work}/{it}/work /{it}"
                  for work in ["$layers"] for it in WRITABLE]
        script = ["layers=$(mktemp -d)", "mount -t tmpfs layers $layers", *mounts, "mount -t tmpfs -o mode=755 run /run",
                  "mkdir /run/lock"] if is_writable else []
        # The first process of the namespace has to wait for what others leave behind.
        script += ["ip link set lo up", "echo 0 >/proc/sys/net/ipv4/ip_forward", "echo ready",
                   "trap : CHLD", "while :; do sleep 3600 & wait $!; done"]
        self.holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--propagation", "private", "--pid", "--fork",
             "--kill-child=KILL", "--mount-proc", "bash", "-euc", "\n".join(script)], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, text=True)
        if self.holder.stdout.readline() != "ready\n":
            fail("a host can't be made (see above)")
        children = f"/proc/{self.holder.pid}/task/{self.holder.pid}/children"
        self.pid = Path(children).read_text(encoding="ascii").split()[0]

    def command(self, *words):
        return ["nsenter", "--target", self.pid, "--net", "--mount", "--pid", "--root", *words]

    def run(self, script, limit=ONE_TRY):
        """What a script does: (its exit code, what it prints)."""
        done = subprocess.run(self.command("timeout", "-k", "5", str(limit), "bash", "-euo", "pipefail", "-c", script),
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/",
                              env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"})
        return done.returncode, done.stdout.decode(errors="replace")

    def must(self, script):
        code, output = self.run(script)
        if code:
            fail(f"{script}: exit code {code}\n{output}")

    def write(self, path, content, is_added):
        """Writes a file of the host, or adds to it."""
        shell = f'mkdir -p "{os.path.dirname(path)}" && cat {">>" if is_added else ">"}"{path}"'
        if is_added:
            shell = f'[ -e "{path}" ] && ' + shell
        subprocess.run(self.command("sh", "-c", shell), input=content.encode(), check=True)

    def end(self):
        self.holder.kill()
        self.holder.wait()


def connect(outside, hosts):
    """Puts all of them into one network."""
    outside.must("ip link add br0 type bridge && ip link set br0 up && "
                 f"ip address add {OUTSIDE} dev br0 && ip address add {GATEWAY}/24 dev br0")
    for name, host in hosts.items():
        # Its process is named as this machine knows it.
        subprocess.run(["nsenter", "--target", outside.pid, "--net", "ip", "link", "add", name, "type", "veth", "peer", "name",
                        "eth0", "netns", host.pid], check=True)
        outside.must(f"ip link set {name} master br0 up")
        host.must(f"ip address add {ADDRESSES[name]} dev eth0 && ip link set eth0 up && ip route add default via {GATEWAY}")


def put_in_place(host, plugin, command):
    """What the packages bring."""
    for file, to in ((plugin, "/usr/lib/uwsgi/tuntap-rs/tuntap_plugin.so"), (command, "/usr/bin/uwsgi-tuntap")):
        host.must(f'install -D -m 755 "{file}" {to}')
    host.must("ln -s ../tuntap-rs/tuntap_plugin.so /usr/lib/uwsgi/plugins/tuntap_rs_plugin.so")


def type_in(places, keys, line, place, content, wanted):
    """Types a block, until it prints what it should if that is told."""
    end = time.monotonic() + PATIENCE
    while True:
        code, output = places[place].run(content)
        is_fine = code == 0 and (wanted is None or is_printed(wanted, output))
        if is_fine or wanted is None or time.monotonic() > end:
            break
        time.sleep(0.2)
    print(f"--- line {line}, {place}:\n{content}{output}", flush=True)
    if not is_fine:
        should = f"and should print:\n{wanted}" if wanted else ""
        for name in ("one", "two"):
            print(f"--- the log of {name}:\n{places[name].run('tail -n 60 /var/log/emperor.log')[1]}")
        fail(f"line {line}: the block ends with {code} {should}")
    if "uwsgi-tuntap keys" in content:
        keys[f"KEY-OF-{place.upper()}"] = KEY.search(output)[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("document", type=Path)
    parser.add_argument("--plugin", type=os.path.abspath)
    parser.add_argument("--command", type=os.path.abspath)
    parser.add_argument("--install", action="store_true")
    arguments = parser.parse_args()
    plan = steps(arguments.document.read_text(encoding="utf-8"))
    installing = [it for it in plan if it[2] == "install"]
    if arguments.install:
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as answers:
            answers.write('APT::Get::Assume-Yes "true";\nAPT::Install-Recommends "false";\n')
            answers.flush()
            for _, _, _, content, _ in installing:
                subprocess.run(["bash", "-euo", "pipefail", "-c", content], check=True, stdin=subprocess.DEVNULL,
                               env=os.environ | {"APT_CONFIG": answers.name, "DEBIAN_FRONTEND": "noninteractive"})
        return
    places = {name: Host(True) for name in ADDRESSES}
    places["outside"] = Host(False)
    keys = {}
    try:
        connect(places["outside"], {name: places[name] for name in ADDRESSES})
        for name in ADDRESSES:
            if arguments.plugin:
                put_in_place(places[name], arguments.plugin, arguments.command)
        for kind, line, place, *rest in (it for it in plan if it not in installing):
            if kind == "type":
                type_in(places, keys, line, place, *rest)
            else:
                path, content, is_added = rest
                for word, key in keys.items():
                    content = content.replace(word, key)
                if left := re.search("KEY-OF-[A-Z]+", content):
                    fail(f"line {line}: nobody has made {left[0]}")
                places[place].write(path, content, is_added)
    finally:
        for host in places.values():
            host.end()
    typed = sum(it[0] == "type" for it in plan) - len(installing)
    print(f"typed {typed} blocks and wrote {sum(it[0] == 'file' for it in plan)} files")


main()
