//! The instructions in src/generated.rs are those that clang makes of programs/path.bpf.c. `TUNTAP_REGENERATE=1` writes the file anew.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget};

/// The programs, and the prefix of the section that each of them is in.
const PROGRAMS: [(&str, &str); 5] =
    [("tc", "peer_out"), ("tc", "host_in"), ("tc", "host_out"), ("tc", "peer_in"), ("socket", "clerk")];

fn package(file: &str) -> String {
    format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))
}

/// The first line of `clang --version`.
fn clang_version() -> String {
    let output = Command::new("clang").arg("--version").output();
    let output = output.expect("clang makes the BPF programs: scripts/setup test installs it");
    String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
}

/// Compiles the programs, and returns the bytes of the object.
fn compile(folder: &Path) -> Vec<u8> {
    let object = folder.join("path.o");
    // Debian has the headers of the machine's own architecture in a folder of its name.
    let include = format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    let status = Command::new("clang")
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-target", "bpf", "-mcpu=v3", &include, "-c"])
        .arg(package("programs/path.bpf.c"))
        .arg("-o")
        .arg(&object)
        .status()
        .expect("clang starts");
    assert!(status.success(), "clang: {status} (are the packages clang and libbpf-dev installed?)");
    std::fs::read(object).expect("the object")
}

/// Makes the Rust source of an object.
fn source(object: &[u8], version: &str) -> String {
    let file = object::File::parse(object).expect("an ELF file");
    let mut source = format!(
        "//! Made of programs/path.bpf.c by tests/generated.rs. Don't edit.\n//!\n//! Compiler: {version}\n\nuse super::code::{{Code, Part}};\n"
    );
    for (kind, name) in PROGRAMS {
        let section = file.section_by_name(&format!("{kind}/{name}")).expect("a section for each program");
        let references: Vec<_> = section
            .relocations()
            .map(|(at, relocation)| {
                let RelocationTarget::Symbol(symbol) = relocation.target() else {
                    panic!("a relocation without a name")
                };
                let symbol = file.symbol_by_index(symbol).expect("a symbol").name().expect("a name").to_owned();
                assert!(PROGRAMS.iter().all(|(_, other)| *other != symbol), "{name} calls {symbol}");
                (at / 8, symbol)
            })
            .collect();
        let constant = name.to_uppercase();
        writeln!(source, "\n/// The program `{name}`.\n#[rustfmt::skip]\npub static {constant}: Code = Code {{\n    name: c\"tuntap_{name}\",\n    instructions: &[").expect("memory");
        for words in section.data().expect("data").chunks(8 * 6) {
            let words = words.chunks(8).map(|word| u64::from_le_bytes(word.try_into().expect("whole instructions")));
            let line: Vec<_> = words.map(|word| format!("{word:#x}")).collect();
            writeln!(source, "        {},", line.join(", ")).expect("memory");
        }
        writeln!(source, "    ],\n    references: &[").expect("memory");
        for (at, symbol) in references {
            let part = format!("{}{}", symbol[..1].to_uppercase(), &symbol[1..]);
            writeln!(source, "        ({at}, Part::{part}),").expect("memory");
        }
        writeln!(source, "    ],\n}};").expect("memory");
    }
    source
}

/// Another clang may make other instructions, which tests/path.rs can't try. So there it is only shown that the source compiles, and
/// has the same programs.
#[test]
fn instructions_are_those_of_the_source() {
    let folder = tempfile::tempdir().expect("a folder");
    let version = clang_version();
    let made = source(&compile(folder.path()), &version);
    let path = package("src/generated.rs");
    if std::env::var_os("TUNTAP_REGENERATE").is_some() {
        std::fs::write(&path, &made).expect("a file");
    }
    let kept = std::fs::read_to_string(&path).expect("a file");
    if kept.contains(&format!("//! Compiler: {version}\n")) {
        assert!(made == kept, "run: TUNTAP_REGENERATE=1 cargo test -p tuntap-offload --test generated");
    } else {
        let programs = |source: &str| source.lines().filter(|line| line.starts_with("pub static ")).count();
        assert_eq!(programs(&made), programs(&kept));
    }
}
