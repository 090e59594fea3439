"""Archives that are the same, byte for byte, whoever makes them of the same files, and wherever."""

import hashlib
import lzma
import subprocess
import tarfile

# What a user's own settings of git would change in files: ends of lines, and which files are left out.
PLAIN = ["-c", "core.autocrlf=false", "-c", "core.eol=lf", "-c", "core.attributesFile=/dev/null"]


def unpack(repository, commit, folder):
    """Puts the files of a commit into a folder, as they are in the repository."""
    made = subprocess.run(["git", *PLAIN, "archive", "--format=tar", commit], cwd=repository, stdout=subprocess.PIPE, check=True)
    subprocess.run(["tar", "--extract", "--directory", folder], input=made.stdout, check=True)


def pack(folder, to, seconds):
    """Packs a folder as .tar.xz. All times are `seconds`, all owners root; names are sorted."""
    def plain(entry):
        entry.mtime = seconds
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        executable = entry.isdir() or entry.mode & 0o100
        entry.mode = 0o755 if executable else 0o644
        return entry

    with lzma.open(to, "wb", preset=6) as compressed:
        with tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as tar:
            # Folders are walked in the order of their names.
            tar.add(folder, arcname=folder.name, filter=plain)


def sums(files):
    """Lines for `sha256sum --check`."""
    return "".join(f"{hashlib.sha256(it.read_bytes()).hexdigest()}  {it.name}\n" for it in files)
