//! Generates the bindings for the uWSGI binary that will load the plugin and compiles the shim with its flags.
//!
//! That uWSGI is `$UWSGI_BIN`, else `uwsgi` on the PATH. A build that uWSGI itself drives (uwsgiplugin.py) names header
//! and flags instead, in `UWSGI_TUNTAP_HEADER` and `UWSGI_TUNTAP_CFLAGS`.

use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::{env, fs};

#[path = "src/ffi/abi.rs"]
mod abi;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=include");
    println!("cargo:rerun-if-changed=src/ffi/abi.rs");
    for name in ["UWSGI_BIN", "UWSGI_TUNTAP_HEADER", "UWSGI_TUNTAP_CFLAGS"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    if env::var_os("CARGO_FEATURE_PLUGIN").is_none() {
        return;
    }
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let uwsgi = Uwsgi::find();
    fs::write(out_dir.join("uwsgi.h"), &uwsgi.header).unwrap_or_else(|error| fail(&format!("uwsgi.h: {error}")));

    let flags = uwsgi.compiler_flags(&out_dir);
    generate_bindings(&flags, &out_dir);
    if env::var_os("CARGO_FEATURE_EMBEDDED").is_none() {
        compile_shim(&flags);
        link_cxx_library(&out_dir);
    }
    println!("cargo:rustc-env=TUNTAP_ABI_DIGEST={}", abi::digest(&uwsgi.header, &uwsgi.cflags));
    println!("cargo:rustc-env=TUNTAP_UWSGI_VERSION={}", abi::version(&uwsgi.cflags).unwrap_or_default());
}

/// What the build needs of the uWSGI that will load the plugin.
struct Uwsgi {
    header: String,
    cflags: String,
}

impl Uwsgi {
    fn find() -> Self {
        if let Some(header) = env::var_os("UWSGI_TUNTAP_HEADER") {
            println!("cargo:rerun-if-changed={}", Path::new(&header).display());
            let cflags = env::var("UWSGI_TUNTAP_CFLAGS")
                .unwrap_or_else(|_| fail("UWSGI_TUNTAP_HEADER is set, but UWSGI_TUNTAP_CFLAGS isn't"));
            let header = fs::read_to_string(&header)
                .unwrap_or_else(|error| fail(&format!("{}: {error}", Path::new(&header).display())));
            return Self { header, cflags };
        }
        let binary = env::var("UWSGI_BIN").unwrap_or_else(|_| "uwsgi".to_owned());
        if binary.contains('/') {
            println!("cargo:rerun-if-changed={binary}");
        }
        let uwsgi = Self { header: ask(&binary, "--dot-h"), cflags: ask(&binary, "--cflags") };
        if !uwsgi.header.contains("struct uwsgi_plugin") || abi::version(&uwsgi.cflags).is_none() {
            fail(&format!("`{binary}` is not a uWSGI binary that carries its header (--dot-h) and flags (--cflags)"));
        }
        uwsgi
    }

    /// Defines and include folders, the one with this uWSGI's `uwsgi.h` first.
    fn compiler_flags(&self, out_dir: &Path) -> Vec<String> {
        let mut flags = vec![format!("-I{}", out_dir.display()), "-Iinclude".to_owned()];
        let of_uwsgi = abi::words(&self.cflags).into_iter().filter(|flag| flag != "-I.");
        flags.extend(of_uwsgi.filter(|flag| flag.starts_with("-D") || flag.starts_with("-I")));
        flags
    }
}

/// The output of a uWSGI option that prints and exits.
fn ask(binary: &str, option: &str) -> String {
    let output = Command::new(binary).arg(option).output().unwrap_or_else(|error| {
        fail(&format!(
            "can't run `{binary} {option}`: {error}\n\
             the plugin is built against the uWSGI that will load it: install it (Debian: apt-get install uwsgi-core) \
             or name it with UWSGI_BIN=/path/to/uwsgi"
        ))
    });
    if !output.status.success() {
        fail(&format!("`{binary} {option}` ended with {}", output.status));
    }
    String::from_utf8(output.stdout).unwrap_or_else(|_| fail(&format!("`{binary} {option}` printed no UTF-8")))
}

fn generate_bindings(flags: &[String], out_dir: &Path) {
    let bindings = bindgen::Builder::default()
        .header("include/bindings.h")
        .clang_args(flags)
        .allowlist_type("uwsgi_plugin")
        .allowlist_type("uwsgi_option")
        .allowlist_type("tuntap_uwsgi")
        .allowlist_function("register_gateway")
        .allowlist_function("tuntap_uwsgi_.*")
        .allowlist_function("uwsgi_add_safe_fd")
        .allowlist_function("uwsgi_get_cflags")
        .allowlist_function("uwsgi_get_dot_h")
        .allowlist_function("uwsgi_log")
        .allowlist_function("uwsgi_log_verbose")
        .allowlist_var("UWSGI_OPT_MASTER")
        .opaque_type("uwsgi_buffer")
        .opaque_type("uwsgi_gateway")
        .opaque_type("uwsgi_instance")
        .opaque_type("wsgi_request")
        .derive_default(true)
        .generate()
        .unwrap_or_else(|error| {
            fail(&format!(
                "uwsgi.h can't be read: {error}\n\
                 a missing header is a missing development package of a library that this uWSGI was built with \
                 (`scripts/setup build` installs them on Debian)"
            ))
        });
    bindings.write_to_file(out_dir.join("bindings.rs")).unwrap_or_else(|error| fail(&format!("bindings.rs: {error}")));
}

fn compile_shim(flags: &[String]) {
    let mut build = cc::Build::new();
    build.file("include/shim.c").warnings(true).extra_warnings(true).flag("-Wno-unused-parameter");
    for flag in flags {
        build.flag(flag);
    }
    build.compile("tuntap_uwsgi");
}

/// Makes the linker take the C++ library that Luau needs from an archive, if there is one, so that the plugin has it inside and
/// needs no further package. The linker takes the first library that it finds: the archive alone is in a folder that it looks
/// into before the compiler's own.
fn link_cxx_library(out_dir: &Path) {
    const ARCHIVE: &str = "libstdc++.a";
    let mut compiler = cc::Build::new().cpp(true).get_compiler().to_command();
    let Ok(output) = compiler.arg(format!("-print-file-name={ARCHIVE}")).output() else { return };
    let found = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if !found.is_absolute() {
        return;
    }
    let folder = out_dir.join("cxx");
    let copied = fs::create_dir_all(&folder).and_then(|()| fs::copy(&found, folder.join(ARCHIVE)));
    copied.unwrap_or_else(|error| fail(&format!("{}: {error}", found.display())));
    println!("cargo:rustc-link-search=native={}", folder.display());
}

#[allow(clippy::print_stderr)] // cargo shows it
fn fail(message: &str) -> ! {
    eprintln!("error: {message}");
    exit(1);
}
