"""The licences of the crates of others: for people who get the programs, and for Debian."""

import json
import re
import textwrap
from pathlib import Path

from cargo import cargo, installed

# What a file with a licence or a notice is called.
NAMES = re.compile(r"(^|[_.-])(licen[cs]es?|copying|copyright|notice|unlicense)([_.-]|$)", re.IGNORECASE)
CODE = {".rs", ".py", ".sh", ".h", ".c", ".cpp", ".toml", ".json", ".yml", ".yaml"}
MOST_BYTES = 200_000
RULE = "=" * 80

# SPDX's names that Debian's format of copyright files has others for.
DEBIAN_NAMES = {"MIT": "Expat", "LGPL-2.1-or-later": "LGPL-2.1+",
                "Apache-2.0 WITH LLVM-exception": "Apache-2.0 with LLVM exception"}
# Where Debian has the text (Debian Policy, 12.5).
COMMON = {"Apache-2.0": "Apache-2.0", "LGPL-2.1+": "LGPL-2.1"}
# Where the text of an exception begins, behind that of the licence.
EXCEPTION = "--- LLVM Exceptions"
# Words in the names of the files with the others' texts.
FILES = {"Expat": "LICENSE-MIT", "ISC": "LICENSE", "BSD-2-Clause": "LICENSE-BSD", "BSD-3-Clause": "LICENSE",
         "0BSD": "LICENSE-0BSD", "BSL-1.0": "LICENSE-BOOST", "Zlib": "LICENSE-ZLIB",
         "Unlicense": "UNLICENSE", "Unicode-3.0": "LICENSE-UNICODE",
         "Apache-2.0 with LLVM exception": "LICENSE-Apache-2.0_WITH_LLVM-exception"}


def texts(folder):
    """The texts in a crate's folder, by file."""
    files = [it for it in sorted(folder.rglob("*")) if it.is_file() and NAMES.search(it.name)]
    files = [it for it in files if it.suffix not in CODE and it.stat().st_size <= MOST_BYTES]
    return {it: it.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n").strip() for it in files}


def third_party(tree):
    """Whose work is in plugin and command, and under which conditions, as text."""
    crates = installed(tree)
    users = {}
    for crate in crates:
        for text in texts(Path(crate["manifest_path"]).parent).values():
            users.setdefault(text, []).append(f"{crate['name']} {crate['version']}")
    lines = ["The plugin tuntap_plugin.so and the command uwsgi-tuntap have in them, beside the work of their authors:", ""]
    lines += [f"{it['name']} {it['version']} ({it['license']})" for it in crates]
    parts = ["\n".join(lines)]
    for text, names in users.items():
        names = list(dict.fromkeys(names))
        parts.append(f"{RULE}\n{textwrap.fill('Of ' + ', '.join(names) + ':', 80)}\n\n{text}")
    return "\n\n".join(parts) + "\n"


def debian_expression(spdx):
    """A licence as Debian writes it, with the names in it."""
    spdx = spdx.replace("/", " OR ")
    names = []
    words = []
    for word in re.split(r"( OR | AND |[()])", spdx):
        if word in (" OR ", " AND ") or word in "()":
            words.append(word.lower())
            continue
        name = DEBIAN_NAMES.get(word.strip(), word.strip())
        names.append(name)
        words.append(name)
    # The format has no parentheses: a comma sets off what "and" has to wait for.
    text = "".join(words)
    return re.sub(r"\((.*)\) and ", r"\1, and ", text).replace("(", "").replace(")", ""), names


def debian_copyright(head, licence, tree):
    """Debian's copyright file: `head`, the crates in vendor/, and the texts. `licence` is this project's."""
    facts = json.loads(cargo("metadata", "--format-version=1", "--locked", "--offline", folder=tree))
    crates = sorted((it for it in facts["packages"] if it["source"]), key=lambda it: (it["name"], it["version"]))
    used = {"Expat"}
    stanzas = [head.strip()]
    for crate in crates:
        expression, names = debian_expression(crate["license"])
        used.update(names)
        authors = [re.sub(r"\s+", " ", it) for it in crate["authors"]] or [f"the authors of {crate['name']}"]
        stanzas.append(f"Files: vendor/{crate['name']}-{crate['version']}/*\n"
                       f"Copyright: {(chr(10) + '           ').join(authors)}\nLicense: {expression}")
    stanzas += [f"License: {name}\n{indented(text_of(name, licence, crates))}" for name in sorted(used)]
    return "\n\n".join(stanzas) + "\n"


def text_of(name, licence, crates):
    """The text of a licence."""
    if name in COMMON:
        return common(COMMON[name])
    if name == "Expat":
        return licence
    if name not in FILES:
        raise SystemExit(f"notices: FILES doesn't say which files have the text of {name}")
    for crate in crates:
        if name not in debian_expression(crate["license"])[1]:
            continue
        found = texts(Path(crate["manifest_path"]).parent)
        for file, text in found.items():
            if file.stem == FILES[name] or file.name == FILES[name] or f"{FILES[name]}-" in file.name:
                licence, mark, exception = text.partition(EXCEPTION)
                return f"{common('Apache-2.0')}\n\n{mark}{exception}" if mark else text
    raise SystemExit(f"notices: no crate has the text of {name}")


def common(name):
    """Where Debian has the text of a licence."""
    return f"On Debian systems, the text is in /usr/share/common-licenses/{name}."


def indented(text):
    """A text as the value of a field: an empty line is a dot."""
    return "\n".join(f" {line}".rstrip() if line.strip() else " ." for line in text.splitlines())
