"""Puts the crates of others into a source tree, so that it builds without a network (cargo-vendor(1))."""

import json
import shutil
from pathlib import Path

from cargo import cargo, needed

FOLDER = "vendor"
SETTINGS = f"""# The crates of others are in {FOLDER}/: nothing is fetched.
[source.crates-io]
replace-with = "vendored-sources"

[source.vendored-sources]
directory = "{FOLDER}"
"""
# What crates have beside their source, for other systems or as the output of some tool.
NO_SOURCE = {".a", ".dll", ".exe", ".html", ".lib", ".so"}


def vendor(tree):
    """Makes `vendor/`, and the settings by which cargo takes crates from there."""
    cargo("vendor", "--locked", "--quiet", "--versioned-dirs", FOLDER, folder=tree)
    (tree / ".cargo").mkdir()
    (tree / ".cargo/config.toml").write_text(SETTINGS, encoding="utf-8")
    wanted = {f"{name}-{version}" for name, version in needed(tree)}
    for crate in sorted((tree / FOLDER).iterdir()):
        if crate.name in wanted:
            leave_out(crate, [it for it in crate.rglob("*") if it.is_file() and it.suffix in NO_SOURCE])
        else:
            empty(crate)


def leave_out(crate: Path, files):
    """Takes files out of a crate, and out of what cargo compares them with."""
    if not files:
        return
    checksum = json.loads((crate / ".cargo-checksum.json").read_text(encoding="utf-8"))
    for file in files:
        file.unlink()
        del checksum["files"][str(file.relative_to(crate))]
    (crate / ".cargo-checksum.json").write_text(json.dumps(checksum), encoding="utf-8")


def empty(crate: Path):
    """Takes everything out of a crate of other systems but what cargo has to read of it."""
    checksum = json.loads((crate / ".cargo-checksum.json").read_text(encoding="utf-8"))
    for entry in crate.iterdir():
        if entry.name != "Cargo.toml":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    (crate / "src").mkdir()
    (crate / "src/lib.rs").write_text("// Left out: only other systems than Linux need it.\n", encoding="utf-8")
    checksum["files"] = {}
    (crate / ".cargo-checksum.json").write_text(json.dumps(checksum), encoding="utf-8")
