//! Which plugin a file loads.

use std::path::Path;

use crate::finding::Finding;
use crate::reading::Reading;

/// The end of the names of plugins' files, behind what a `plugin` line says.
const FILE_END: &str = "_plugin.so";

/// The C plugin's name, and ours unless a package has given its file another one.
const NAME: &str = "tuntap";

/// Checks that the file loads this plugin. uWSGI looks into the folders of the `plugins-dir` lines before the `plugin` line,
/// then into its own, where Debian has the C plugin of the same name.
pub fn plugin(reading: &Reading, own: &Path) -> Finding {
    if !reading.is_stand_in {
        return Finding::fine(format!("plugin {}", reading.plugin.display()));
    }
    let name = own.file_name().and_then(|name| name.to_str()?.strip_suffix(FILE_END)).unwrap_or(NAME);
    let position = |names: &[&str]| reading.options.iter().position(|(key, _)| names.contains(&key.as_str()));
    let is_plugin_line = |key: &str| ["plugin", "plugins", "need-plugin", "need-plugins"].contains(&key);
    let line = reading
        .options
        .iter()
        .rposition(|(key, value)| is_plugin_line(key) && value.split(',').any(|name| name.trim() == NAME));
    let order = position(&["plugins-dir", "plugin-dir"]).zip(line);
    let folder = format!("plugins-dir = {}", own.parent().unwrap_or(own).display());
    let remedy = match order {
        // In uWSGI's own folder, beside the C plugin.
        _ if name != NAME => format!("write plugin = {name} in place of plugin = tuntap"),
        Some((dir, line)) if dir > line => "move the line plugins-dir up, before plugin = tuntap".to_owned(),
        _ => format!("put this before plugin = tuntap: {folder}"),
    };
    match (&reading.other_plugin, line) {
        (Some(other), _) => {
            Finding::wrong(format!("plugin = tuntap loads another plugin: {}", other.display()), remedy)
        }
        (None, Some(_)) => Finding::wrong("plugin = tuntap loads nothing", remedy),
        (None, None) if name != NAME => Finding::wrong("no line loads the plugin", format!("plugin = {name}")),
        (None, None) => Finding::wrong("no line loads the plugin", format!("{folder}\nplugin = {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remedy(other: Option<&str>, lines: &[(&str, &str)]) -> (String, String) {
        remedy_of("/ours/tuntap_plugin.so", other, lines)
    }

    fn remedy_of(own: &str, other: Option<&str>, lines: &[(&str, &str)]) -> (String, String) {
        let reading = Reading {
            is_stand_in: true,
            other_plugin: other.map(Into::into),
            options: lines.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ..Reading::default()
        };
        let finding = plugin(&reading, Path::new(own));
        (finding.what, finding.remedy.join("\n"))
    }

    #[test]
    fn remedy_fits_the_lines() {
        let c = Some("/usr/lib/uwsgi/plugins/tuntap_plugin.so");
        // The file loads no plugin of this name; the command line has loaded this one.
        let stand_in = ("plugin", "/ours/tuntap_plugin.so");
        let (what, mend) = remedy(c, &[stand_in, ("plugin", "python3,tuntap"), ("plugins-dir", "/ours")]);
        assert_eq!(what, "plugin = tuntap loads another plugin: /usr/lib/uwsgi/plugins/tuntap_plugin.so");
        assert!(mend.starts_with("move the line"), "{mend}");
        let (_, mend) = remedy(c, &[stand_in, ("plugins-dir", "/nowhere"), ("need-plugin", "tuntap")]);
        assert_eq!(mend, "put this before plugin = tuntap: plugins-dir = /ours");
        assert_eq!(remedy(None, &[stand_in, ("plugin", "tuntap")]).0, "plugin = tuntap loads nothing");
        assert_eq!(remedy(None, &[stand_in]).1, "plugins-dir = /ours\nplugin = tuntap");
    }

    /// As Debian's package has it: a file of another name in uWSGI's own folder.
    #[test]
    fn remedy_names_a_plugin_with_another_name() {
        let own = "/usr/lib/uwsgi/plugins/tuntap_rs_plugin.so";
        let stand_in = ("plugin", own);
        let c = Some("/usr/lib/uwsgi/plugins/tuntap_plugin.so");
        for (other, lines) in [(c, &[stand_in, ("plugin", "tuntap")][..]), (None, &[stand_in, ("plugins", "tuntap")])] {
            assert_eq!(remedy_of(own, other, lines).1, "write plugin = tuntap_rs in place of plugin = tuntap");
        }
        assert_eq!(remedy_of(own, None, &[stand_in]).1, "plugin = tuntap_rs");
    }
}
