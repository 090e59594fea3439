//! What can be changed while a router runs, and who may change it: `tuntap-router-rules`, `-control`, `-control-access` and
//! `-script`.

use super::control::AccessSpec;

/// Files and sockets of a router's live policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LiveSpec {
    /// The rules file.
    pub rules: Option<String>,
    /// The control socket.
    pub control: ControlSocket,
    /// Who may use the control socket besides root and the router's own user.
    pub access: Vec<AccessSpec>,
    /// The script.
    pub script: Option<String>,
}

/// Where a router listens for requests about its policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ControlSocket {
    /// Beside the router's own socket: the same path with `.control` behind it. There is none if the router's socket has no
    /// path.
    #[default]
    Beside,
    /// At this path.
    Path(String),
    /// Nowhere.
    Off,
}

impl LiveSpec {
    /// Returns the path of the control socket of a router whose socket is `socket`.
    pub fn control_path(&self, socket: Option<&str>) -> Option<String> {
        match &self.control {
            ControlSocket::Beside => {
                socket.filter(|socket| !socket.starts_with('@')).map(|socket| format!("{socket}.control"))
            }
            ControlSocket::Path(path) => Some(path.clone()),
            ControlSocket::Off => None,
        }
    }
}
