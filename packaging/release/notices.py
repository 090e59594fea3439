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
# A line that names a holder of rights, and what stands around the name. The licences themselves have "copyright notice" and the like.
HOLDER = re.compile(r"\W*(?:\(c\)\s*)?copyright\s*(?:(?:\(c\)|©|:)\s*|(?=[\[(]?\d{4}))(.+)", re.IGNORECASE)
AROUND = re.compile(r"\s*(all rights reserved\.?|\bor)\s*$|[\s.,*/]+$", re.IGNORECASE)
# A name, in what may be years alone, or a place that nobody has filled in.
NAME = re.compile(r"(?!year |yyyy ).*[^\W\d_]{2}")
# A clause that only one of the licences has, which a crate may have for parts of it without saying so in its Cargo.toml.
CLAUSE = {"BSD-3-Clause": re.compile(r"Neither\s+the\s+name\s+of")}
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


def holders(texts_of_it):
    """Who holds rights, as files with licences say, with the years."""
    found = {}
    for text in texts_of_it:
        for line in map(HOLDER.match, text.splitlines()):
            name = line[1].replace("[", "").replace("]", "").strip() if line else ""
            while name != (name := AROUND.sub("", name)):
                pass
            if NAME.match(name):
                found.setdefault(name.casefold(), name)
    return list(found.values())


def stanzas_of(crate):
    """What Debian's copyright file says of a crate: of all of it, and of its folders with licences of their own."""
    folder = Path(crate["manifest_path"]).parent
    files = f"vendor/{crate['name']}-{crate['version']}"
    expression, names = debian_expression(crate["license"])
    by_folder = {}
    for file, text in texts(folder).items():
        by_folder.setdefault(file.parent, []).append(text)
    own = by_folder.pop(folder, [])
    authors = [re.sub(r"\s+", " ", it) for it in crate["authors"]] or [f"the authors of {crate['name']}"]
    who = holders(own) or authors
    for name, clause in CLAUSE.items():
        if name not in names and any(clause.search(text) for text in own):
            expression = f"{expression}, and {name}" if " or " in expression else f"{expression} and {name}"
            names.append(name)
            # The holders that are named may be those of that part alone.
            who += [it for it in authors if it not in who]
    yield stanza(f"{files}/*", who, expression), names
    for below, own in by_folder.items():
        path = below.relative_to(folder).as_posix()
        # A name of its own: the text may be any.
        name = f"{crate['name']}-{path.replace('/', '-')}"
        text = "\n\n".join(own)
        yield f"{stanza(f'{files}/{path}/*', holders(own) or authors, name)}\n{indented(text)}", []


def stanza(files, who, licence):
    """A paragraph of Debian's copyright file."""
    return f"Files: {files}\nCopyright: {(chr(10) + '           ').join(who)}\nLicense: {licence}"


def debian_copyright(head, licence, tree):
    """Debian's copyright file: `head`, the crates in vendor/, and the texts. `licence` is this project's."""
    facts = json.loads(cargo("metadata", "--format-version=1", "--locked", "--offline", folder=tree))
    crates = sorted((it for it in facts["packages"] if it["source"]), key=lambda it: (it["name"], it["version"]))
    used = {"Expat"}
    stanzas = [head.strip()]
    for text, names in (it for crate in crates for it in stanzas_of(crate)):
        used.update(names)
        stanzas.append(text)
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
                return f"{common('Apache-2.0')}\n\n{mark}{exception}" if mark else without_holders(text)
    raise SystemExit(f"notices: no crate has the text of {name}")


def without_holders(text):
    """A licence for all that have it, whoever holds the rights."""
    return "\n".join(line for line in text.splitlines() if not HOLDER.match(line)).strip()


def common(name):
    """Where Debian has the text of a licence."""
    return f"On Debian systems, the text is in /usr/share/common-licenses/{name}."


def indented(text):
    """A text as the value of a field: an empty line is a dot."""
    return "\n".join(f" {line}".rstrip() if line.strip() else " ." for line in text.splitlines())
