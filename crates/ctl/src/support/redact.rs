//! What may be a secret, and text without it. Of an ini file's options, only the values of those are kept that are known to have
//! no secrets: who writes an application's settings may have named them in any way.

use serde_json::Value;

/// What stands in place of something that is left out.
pub const LEFT_OUT: &str = "(left out)";

/// How the names begin of options whose values are kept: all of this plugin's.
const OWN: &str = "tuntap-";

/// uWSGI's options that matter to the plugin, and whose values are no secrets.
const HARMLESS: [&str; 75] = [
    "abstract-socket",
    "auto-procname",
    "buffer-size",
    "cap",
    "cgroup",
    "chdir",
    "cheap",
    "cheaper",
    "chmod-socket",
    "chown-socket",
    "chroot",
    "cpu-affinity",
    "daemonize",
    "daemonize2",
    "die-on-term",
    "drop-after-apps",
    "drop-after-init",
    "emperor",
    "emperor-cap",
    "emperor-freq",
    "emperor-nofollow",
    "emperor-on-demand-extension",
    "emperor-stats",
    "emperor-tyrant",
    "emperor-use-clone",
    "enable-metrics",
    "enable-threads",
    "exit-on-reload",
    "gid",
    "harakiri",
    "http",
    "http-socket",
    "idle",
    "include",
    "ini",
    "jailed",
    "lazy",
    "lazy-apps",
    "listen",
    "log-date",
    "log-master",
    "log-master-bufsize",
    "logdate",
    "logto",
    "logto2",
    "master",
    "master-as-root",
    "max-fd",
    "max-requests",
    "need-app",
    "need-plugin",
    "need-plugins",
    "no-orphans",
    "pidfile",
    "pidfile2",
    "plugin",
    "plugins",
    "plugins-dir",
    "processes",
    "reload-mercy",
    "reload-on-rss",
    "safe-pidfile",
    "socket",
    "socket-timeout",
    "stats",
    "stats-http",
    "stats-minified",
    "strict",
    "threads",
    "uid",
    "unshare",
    "vacuum",
    "wait-for-interface",
    "worker-reload-mercy",
    "workers",
];

/// How the names of options begin whose values are commands: of these, the program is kept.
const COMMANDS: [&str; 2] = ["exec-", "hook-"];

/// What the names of secrets have in them.
const SECRET_NAMES: [&str; 14] = [
    "pass",
    "pwd",
    "secret",
    "token",
    "apikey",
    "api-key",
    "api_key",
    "private",
    "credential",
    "authorization",
    "bearer",
    "cookie",
    "salt",
    "dsn",
];

/// Shortest secret that is looked for in other text, in bytes. What is shorter is part of many words.
const SHORTEST: usize = 4;

/// Secrets that were found, which are then left out everywhere.
#[derive(Debug, Default)]
pub struct Secrets {
    known: Vec<String>,
}

impl Secrets {
    /// An ini file without comments, and without values that may be secret.
    pub fn ini(&mut self, text: &str) -> String {
        // All secrets of a file come first: another line may have one, too.
        text.lines().for_each(|line| self.learn(line));
        text.lines().map(|line| self.ini_line(line) + "\n").collect()
    }

    fn ini_line(&self, line: &str) -> String {
        let line = line.trim();
        if line.is_empty() || (line.starts_with('[') && line.ends_with(']')) {
            return self.text(line);
        }
        if line.starts_with([';', '#']) {
            return format!("; {LEFT_OUT}");
        }
        let Some((name, value)) = line.split_once('=') else { return LEFT_OUT.to_owned() };
        let (name, value) = (name.trim(), value.trim());
        let shown = if name.starts_with(OWN) || HARMLESS.contains(&name) {
            self.text(value)
        } else if COMMANDS.iter().any(|start| name.starts_with(start)) {
            format!("{} {LEFT_OUT}", self.text(value.split_whitespace().next().unwrap_or_default()))
        } else {
            LEFT_OUT.to_owned()
        };
        // A line of a key in base64 may end with =.
        let is_shown = name.starts_with(OWN) || (is_name(name) && !value.is_empty() && !has_secret_name(name));
        format!("{} = {shown}", if is_shown { self.text(name) } else { LEFT_OUT.to_owned() })
    }

    /// Notes the value of a line whose name is that of a secret: `db-password = x`, `env = API_TOKEN=x`.
    fn learn(&mut self, line: &str) {
        let line = line.trim_start_matches([';', '#', ' ', '\t']);
        let mut rest = line;
        while let Some((name, value)) = rest.split_once('=') {
            let value = value.trim().trim_matches(['"', '\'']);
            if has_secret_name(name) && !name.trim().starts_with(OWN) && value.len() >= SHORTEST {
                self.known.push(value.to_owned());
            }
            rest = value;
        }
        // The longest first, so that none is left in part.
        self.known.sort_unstable_by(|one, other| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
        self.known.dedup();
    }

    /// Text of several lines without what may be secret.
    pub fn lines(&self, text: &str) -> String {
        let mut is_key = false;
        let mut result = String::new();
        for line in text.lines() {
            // The lines of a key in PEM (RFC 7468).
            let begins = line.contains("-----BEGIN ");
            let ends = line.contains("-----END ");
            if begins || is_key {
                if begins {
                    result += LEFT_OUT;
                    result.push('\n');
                }
                is_key = !ends;
                continue;
            }
            result += &self.text(line);
            result.push('\n');
        }
        result
    }

    /// Text in one line without what may be secret: known secrets, what follows the name of one, and passwords in URLs.
    pub fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.known {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), LEFT_OUT);
            }
        }
        without_named(&without_userinfo(&text))
    }

    /// The same for all strings of a JSON document, and for values whose keys are names of secrets.
    pub fn json(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(values) => values.iter_mut().for_each(|value| self.json(value)),
            Value::Object(members) => members.iter_mut().for_each(|(name, value)| {
                if has_secret_name(name) && value.is_string() {
                    *value = LEFT_OUT.into();
                } else {
                    self.json(value);
                }
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// Returns true for what looks like the name of an option.
fn is_name(text: &str) -> bool {
    const LONGEST: usize = 40;
    let is_usual = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    text.len() <= LONGEST && text.starts_with(|char: char| char.is_ascii_lowercase()) && text.bytes().all(is_usual)
}

/// Names of settings of uWSGI and of this project that aren't secrets, but have the name of one in them.
const NO_SECRETS: [&str; 3] = ["bypass", "password file", "passed"];

fn has_secret_name(name: &str) -> bool {
    let mut name = name.to_lowercase();
    NO_SECRETS.iter().for_each(|harmless| name = name.replace(harmless, ""));
    SECRET_NAMES.iter().any(|secret| name.contains(secret))
}

/// Cuts a line behind `password=`, `token: ` and the like. Nothing tells where such a value ends.
fn without_named(text: &str) -> String {
    for (place, _) in text.match_indices(['=', ':']) {
        let before = text[..place].trim_end_matches(['"', '\'', ' ']);
        let start = before.rfind([' ', '\t', '"', '\'', '?', '&', ',', ';', '(', '{']).map_or(0, |place| place + 1);
        let is_empty = text[place + 1..].trim().is_empty();
        if !is_empty && has_secret_name(&before[start..]) && !text[place + 1..].starts_with(LEFT_OUT) {
            return format!("{}{LEFT_OUT}", &text[..=place]);
        }
    }
    text.to_owned()
}

/// Takes out what stands before the @ in URLs (RFC 3986, 3.2.1).
fn without_userinfo(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        result += before;
        result += "://";
        let end = after.find(|char: char| char.is_whitespace() || "/?#\"'".contains(char)).unwrap_or(after.len());
        // A password may have a / that should have been escaped: the last @ of the word counts.
        let word = after.find(char::is_whitespace).unwrap_or(after.len());
        match after[..word].rfind('@') {
            Some(at) => {
                result += LEFT_OUT;
                rest = &after[at..];
            }
            None => {
                result += &after[..end];
                rest = &after[end..];
            }
        }
    }
    result + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmless_options_alone_keep_their_values() {
        let ini = "\
[uwsgi]
; old password: hunter2
tuntap-router = emperor0 /run/tuntap.socket
  plugins-dir=/usr/local/lib/uwsgi/plugins
emperor = pg://host=db user=u password=hunter2;SELECT 1
emperor = amqp://guest:hunter3@localhost
env = DJANGO_SECRET_KEY=topsecret
set-placeholder = anything=hunter4
hook-post-jail = exec:curl -H hunter5
exec-as-root = /sbin/ip link set lo up
hunter6
stripe_token = sk_live_1
my-value = hunter7
socket = /run/topsecret.sock
";
        let wanted = "\
[uwsgi]
; (left out)
tuntap-router = emperor0 /run/tuntap.socket
plugins-dir = /usr/local/lib/uwsgi/plugins
emperor = pg://host=db user=u password=(left out)
emperor = amqp://(left out)@localhost
env = (left out)
set-placeholder = (left out)
hook-post-jail = exec:curl (left out)
exec-as-root = /sbin/ip (left out)
(left out)
(left out) = (left out)
my-value = (left out)
socket = /run/(left out).sock
";
        assert_eq!(Secrets::default().ini(ini), wanted);
    }

    /// Somebody may name the file of a key by mistake.
    #[test]
    fn lines_of_keys_are_no_options() {
        let key = "MC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF\nc2VjcmV0c2VjcmV0c2VjcmU=\nsecretsecret==\n\
                   lower=\n";
        assert_eq!(
            Secrets::default().ini(key),
            "(left out)\n(left out) = (left out)\n(left out) = (left out)\n(left out) = (left out)\n"
        );
    }

    #[test]
    fn secrets_of_files_are_left_out_everywhere() {
        let mut secrets = Secrets::default();
        secrets.ini("db-password = \"correct horse\"\nenv = TOKEN=abcd\nshort-pass = abc\n# secret = old-one\n");
        let text = secrets.lines("a correct horse, xabcdx, abc, old-one\n");
        assert_eq!(text, "a (left out), x(left out)x, abc, (left out)\n");
    }

    #[test]
    fn secrets_are_known_by_their_names_and_forms() {
        let secrets = Secrets::default();
        for (text, wanted) in [
            ("login with password=x y z", "login with password=(left out)"),
            ("{\"Token\": \"x\"}", "{\"Token\":(left out)"),
            ("GET /?page=1&api_key=abc HTTP", "GET /?page=1&api_key=(left out)"),
            ("Authorization: Basic eHg=", "Authorization:(left out)"),
            ("see https://u:p/w@host/x and http://host/y", "see https://(left out)@host/x and http://host/y"),
            ("the password file /etc/x: its mode is 0644", "the password file /etc/x: its mode is 0644"),
            ("20 packets passed: all", "20 packets passed: all"),
            ("what is your password?", "what is your password?"),
        ] {
            assert_eq!(secrets.text(text), wanted);
        }
        let key = "before\n-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----\nafter\n";
        assert_eq!(secrets.lines(key), "before\n(left out)\nafter\n");
        assert_eq!(secrets.lines("-----BEGIN X-----\nMC4CAQ\n"), "(left out)\n", "cut off");
    }

    #[test]
    fn documents_stay_documents() {
        let mut document = serde_json::json!({
            "password": "x", "nested": [{ "text": "token=x" }], "dropped": 1, "passwords": 2, "url": "a://u:p@h"
        });
        Secrets::default().json(&mut document);
        let wanted = serde_json::json!({
            "password": "(left out)", "nested": [{ "text": "token=(left out)" }], "dropped": 1, "passwords": 2,
            "url": "a://(left out)@h"
        });
        assert_eq!(document, wanted);
    }
}
