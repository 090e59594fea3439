//! The table of options in uWSGI's form, and the values that uWSGI hands over one by one.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use parking_lot::Mutex;

use super::bindings::{UWSGI_OPT_MASTER, uwsgi_option};
use super::doctor;
use super::guard::{die, guarded};
use super::uwsgi;
use tuntap_config::{Config, OptionName, OptionSpec, Scope, TABLE};
use tuntap_sys::log::{self, Event};

/// `has_arg` of getopt_long(3).
#[derive(Clone, Copy)]
enum Argument {
    Required = 1,
    Optional = 2,
}

const OPTION_COUNT: usize = TABLE.len();

/// Room for a name, and for a text of `--help`, with their NULs. A longer one doesn't compile.
const MAX_NAME_LEN: usize = 64;
const MAX_HELP_LEN: usize = 512;

/// A C string that is put together while the plugin is compiled.
#[derive(Debug, Clone, Copy)]
struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Text<N> {
    const EMPTY: Self = Self { bytes: [0; N], len: 0 };

    const fn with(mut self, text: &str) -> Self {
        let text = text.as_bytes();
        assert!(self.len + text.len() < N, "there is room for a NUL");
        let mut index = 0;
        while index < text.len() {
            assert!(text[index] != 0, "a C string has no NUL within");
            self.bytes[self.len + index] = text[index];
            index += 1;
        }
        self.len += text.len();
        self
    }

    /// Adds a part of a list.
    const fn with_part(self, part: &str) -> Self {
        let is_first = self.len == 0 || self.bytes[self.len - 1] == b'(';
        if part.is_empty() {
            self
        } else if is_first {
            self.with(part)
        } else {
            self.with(", ").with(part)
        }
    }

    const fn as_c_str(&self) -> &CStr {
        match CStr::from_bytes_until_nul(&self.bytes) {
            Ok(text) => text,
            Err(_) => panic!("there is a NUL behind the text"),
        }
    }
}

/// The line of `--help`: what the option is for, and in parentheses what its value may be.
const fn help(option: &OptionSpec) -> Text<MAX_HELP_LEN> {
    let mut text = Text::EMPTY.with(option.help).with(" (");
    if option.has_own_syntax() {
        text = text.with("syntax: ").with(option.syntax);
    }
    text = text.with_part(option.range).with_part(option.note);
    if let Some(default) = option.default {
        text = text.with_part("default ").with(default);
    }
    text.with(")")
}

static NAMES: [Text<MAX_NAME_LEN>; OPTION_COUNT] = {
    let mut names = [Text::EMPTY; OPTION_COUNT];
    let mut index = 0;
    while index < OPTION_COUNT {
        names[index] = names[index].with(TABLE[index].name);
        index += 1;
    }
    names
};

static HELP: [Text<MAX_HELP_LEN>; OPTION_COUNT] = {
    let mut texts = [Text::EMPTY; OPTION_COUNT];
    let mut index = 0;
    while index < OPTION_COUNT {
        texts[index] = help(&TABLE[index]);
        index += 1;
    }
    texts
};

/// What the one callback gets, so that it knows which option it was called for.
static OPTION_NAMES: [OptionName; OPTION_COUNT] = OptionName::ALL;

/// uWSGI's table: an element for each option, and one of zeros.
#[derive(Debug)]
pub struct OptionTable([uwsgi_option; OPTION_COUNT + 1]);

// SAFETY: the pointers in the table go to constants and functions, and only uWSGI's main thread reads it.
unsafe impl Sync for OptionTable {}

/// What the plugin table points to.
pub static OPTIONS: OptionTable = OptionTable::build();

static VALUES: Mutex<Vec<(OptionName, String)>> = Mutex::new(Vec::new());
static CONFIG: OnceLock<Config> = OnceLock::new();

impl OptionTable {
    const fn build() -> Self {
        const END: uwsgi_option = uwsgi_option {
            name: std::ptr::null_mut(),
            type_: 0,
            shortcut: 0,
            help: std::ptr::null_mut(),
            func: None,
            data: std::ptr::null_mut(),
            flags: 0,
        };
        let mut table = [END; OPTION_COUNT + 1];
        let mut index = 0;
        while index < OPTION_COUNT {
            let option = &TABLE[index];
            let argument = if option.may_stand_alone() { Argument::Optional } else { Argument::Required };
            table[index].name = NAMES[index].as_c_str().as_ptr().cast_mut();
            table[index].type_ = argument as c_int;
            table[index].help = HELP[index].as_c_str().as_ptr().cast_mut();
            table[index].func =
                Some(if matches!(option.scope, Scope::Action) { doctor::examine_file } else { collect_value });
            table[index].data = std::ptr::from_ref(&OPTION_NAMES[index]).cast_mut().cast();
            table[index].flags = if option.needs_master { UWSGI_OPT_MASTER as u64 } else { 0 };
            index += 1;
        }
        Self(table)
    }

    /// The first element, as uWSGI wants it. It doesn't write to the table, although its prototype says so.
    pub const fn as_mut_ptr(&'static self) -> *mut uwsgi_option {
        self.0.as_ptr().cast_mut()
    }
}

/// An option's name, as uWSGI's table has it.
pub const fn c_name(option: OptionName) -> &'static CStr {
    NAMES[option as usize].as_c_str()
}

/// The checked options. The first call reads all values, and ends the process if one of them is wrong.
pub fn config() -> &'static Config {
    CONFIG.get_or_init(|| {
        for (name, option) in OptionName::misspelt(uwsgi::options().filter_map(|(name, _)| name.to_str().ok())) {
            let begin = if name.starts_with("tuntap-router") { "[tuntap-router]" } else { "[uwsgi-tuntap]" };
            uwsgi::log(
                Event::UnknownOption,
                &format!("{begin} {name}: there is no such option, and nobody reads it; is {option} meant?"),
            );
        }
        let values = VALUES.lock();
        let config = Config::from_options(values.iter().map(|(option, value)| (*option, value.as_str())))
            .unwrap_or_else(|errors| die(errors));
        let routers = config.routers.iter().map(|router| router.device.clone());
        log::set_devices(routers.chain(config.devices.iter().map(|device| device.name.clone())));
        config
    })
}

/// The values that uWSGI has handed over so far, unchecked.
pub fn values() -> Vec<(OptionName, String)> {
    VALUES.lock().clone()
}

unsafe extern "C" fn collect_value(_name: *mut c_char, value: *mut c_char, data: *mut c_void) {
    guarded("option", || {
        // SAFETY: `data` is what the table says: an element of `OPTION_NAMES`.
        let option = unsafe { *data.cast::<OptionName>() };
        let text = if value.is_null() {
            ""
        } else {
            // SAFETY: not NULL, so that it is the NUL-terminated value of the option.
            let value = unsafe { CStr::from_ptr(value) };
            value.to_str().unwrap_or_else(|_| die(format_args!("{} = {value:?}: expected UTF-8", option.as_str())))
        };
        // What follows may be lines already. A wrong value ends the start when all are read.
        if option == OptionName::LogFormat {
            log::set_json(text.trim() == "json");
        }
        VALUES.lock().push((option, text.to_owned()));
    });
}
