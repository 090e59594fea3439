//! Who may do what on the control socket: by the credentials that the kernel vouches for (SO_PEERCRED), and by the network
//! namespace that the client's socket was made in.

use std::os::fd::BorrowedFd;

use tuntap_api::control::{Failure, Level};
use tuntap_config::ControlAccess;
use tuntap_core::policy::grant::Holder;
use tuntap_live::Caller;
use tuntap_sys::net::{NamespaceCookie, namespace_of};
use tuntap_sys::socket;
use tuntap_wire::credentials::PeerCredentials;

/// The rules of access.
#[derive(Debug)]
pub struct Access {
    /// What the options say.
    pub rules: Vec<ControlAccess>,
    /// The router's own user.
    pub own_uid: u32,
    /// The router's network namespace.
    pub namespace: Option<NamespaceCookie>,
}

impl Access {
    /// Returns who a client is; an error if it may do nothing.
    pub fn caller(&self, client: BorrowedFd<'_>) -> Result<Caller, Failure> {
        let credentials = socket::peer_credentials(client).map_err(|errno| refused(errno.to_string()))?;
        // A vassal's root is no operator, although its uid is 0, too.
        match (namespace_of(client), self.namespace) {
            (Some(theirs), Some(own)) if theirs == own => {}
            (None, _) | (_, None) => {
                return Err(refused("this kernel can't tell if you are a vassal (SO_NETNS_COOKIE, Linux 5.14)"));
            }
            _ => return Err(refused("you are in another network namespace than the router")),
        }
        let groups = if self.names_groups() { socket::peer_groups(client).unwrap_or_default() } else { Vec::new() };
        let level = self.level(credentials, &groups).ok_or_else(|| {
            refused(format!("uid {} may not use this socket (tuntap-router-control-access)", credentials.uid))
        })?;
        Ok(Caller { uid: credentials.uid, pid: credentials.pid, level })
    }

    fn names_groups(&self) -> bool {
        self.rules.iter().any(|rule| matches!(rule.holder, Holder::Group(_)))
    }

    /// The highest level that anything gives.
    fn level(&self, PeerCredentials { uid, gid, .. }: PeerCredentials, groups: &[u32]) -> Option<Level> {
        if uid == 0 || uid == self.own_uid {
            return Some(Level::Admin);
        }
        let is_for = |holder: Holder| match holder {
            Holder::User(id) => id == uid,
            Holder::Group(id) => id == gid || groups.contains(&id),
            Holder::Nobody => false,
        };
        self.rules.iter().filter(|rule| is_for(rule.holder)).map(|rule| rule.level).max()
    }
}

fn refused(message: impl Into<String>) -> Failure {
    Failure::denied(message.into())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use tuntap_api::control::Code;
    use tuntap_sys::net::current_namespace;

    fn access() -> Access {
        let rule = |level, holder| ControlAccess { level, holder };
        let rules = vec![
            rule(Level::View, Holder::Group(7)),
            rule(Level::Operate, Holder::User(1000)),
            rule(Level::View, Holder::User(1000)),
            rule(Level::Admin, Holder::Group(8)),
            rule(Level::Admin, Holder::Nobody),
        ];
        Access { rules, own_uid: 33, namespace: current_namespace() }
    }

    #[test]
    fn highest_level_counts() {
        let level = |uid, gid, groups: &[u32]| access().level(PeerCredentials { pid: 1, uid, gid }, groups);
        assert_eq!(level(0, 0, &[]), Some(Level::Admin));
        assert_eq!(level(33, 33, &[]), Some(Level::Admin), "the router's own user");
        assert_eq!(level(1000, 1000, &[7]), Some(Level::Operate));
        assert_eq!(level(1001, 7, &[]), Some(Level::View), "by its first group");
        assert_eq!(level(1001, 1, &[2, 7, 8]), Some(Level::Admin), "by its other groups");
        assert_eq!(level(1001, 1001, &[1000]), None);
        assert_eq!(level(65534, 65534, &[]), None);
    }

    #[test]
    fn clients_of_other_namespaces_are_refused() {
        let (client, _other) = UnixStream::pair().expect("a pair");
        let here = Access { own_uid: nix::unistd::getuid().as_raw(), ..access() };
        let caller = here.caller(client.as_fd()).expect("the test's own user");
        assert_eq!((caller.level, caller.pid), (Level::Admin, nix::unistd::getpid().as_raw()));
        let unknown = Access { namespace: None, ..here };
        let error = unknown.caller(client.as_fd()).expect_err("nobody knows");
        assert_eq!(error.code, Code::Denied);
    }
}
