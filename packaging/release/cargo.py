"""What cargo knows about the workspace and the crates of others, in a folder that has them beside it."""

import json
import os
import subprocess

# What runs Linux and has a uWSGI in Debian. Crates that none of these needs stay out of an archive.
TARGETS = [
    "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "armv7-unknown-linux-gnueabihf", "i686-unknown-linux-gnu",
    "powerpc64le-unknown-linux-gnu", "riscv64gc-unknown-linux-gnu", "s390x-unknown-linux-gnu",
]
# The packages whose programs are installed.
INSTALLED = ["uwsgi-tuntap", "tuntap-ctl"]


def cargo(*words, folder, **variables):
    """The output of cargo; its messages are shown."""
    program = os.environ.get("CARGO", "cargo")
    done = subprocess.run([program, *words], cwd=folder, stdout=subprocess.PIPE, check=True, text=True,
                          env=os.environ | variables)
    return done.stdout


def metadata(folder, target):
    """The dependencies for one target (`cargo metadata`, format 1)."""
    return json.loads(cargo("metadata", "--format-version=1", "--locked", "--offline", f"--filter-platform={target}",
                            folder=folder))


def needed(folder):
    """The crates of others that the workspace, its tests included, needs on any of the targets: {(name, version)}."""
    found = set()
    for target in TARGETS:
        facts = metadata(folder, target)
        reached = {node["id"] for node in facts["resolve"]["nodes"]}
        found |= {(it["name"], it["version"]) for it in facts["packages"] if it["source"] and it["id"] in reached}
    return found


def installed(folder):
    """The crates of others that become part of the plugin or the command, on any of the targets, sorted."""
    found = {}
    for target in TARGETS:
        facts = metadata(folder, target)
        packages = {it["id"]: it for it in facts["packages"]}
        nodes = {it["id"]: it for it in facts["resolve"]["nodes"]}
        waiting = [id_ for id_, it in packages.items() if it["name"] in INSTALLED and not it["source"]]
        seen = set()
        while waiting:
            id_ = waiting.pop()
            if id_ in seen:
                continue
            seen.add(id_)
            # A kind of none is a dependency at run time; others build or test.
            waiting += [it["pkg"] for it in nodes[id_]["deps"] if any(kind["kind"] is None for kind in it["dep_kinds"])]
        found |= {id_: packages[id_] for id_ in seen if packages[id_]["source"]}
    return sorted(found.values(), key=lambda it: (it["name"], it["version"]))
