//! Which plugin the router runs and which the vassals.

use std::net::Ipv4Addr;

use crate::common::emperor::{EMPEROR, EmperorIni};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;

#[derive(Clone, Copy, Debug)]
pub struct Pair {
    pub uwsgi: Uwsgi,
    pub router: Subject,
    pub vassal: Subject,
}

impl Pair {
    pub fn c_c(uwsgi: Uwsgi) -> Self {
        Self { uwsgi, router: Subject::C, vassal: Subject::C }
    }

    pub fn c_ours(uwsgi: Uwsgi) -> Self {
        Self { uwsgi, router: Subject::C, vassal: Subject::Ours }
    }

    pub fn ours_c(uwsgi: Uwsgi) -> Self {
        Self { uwsgi, router: Subject::Ours, vassal: Subject::C }
    }

    pub fn ours_ours(uwsgi: Uwsgi) -> Self {
        Self { uwsgi, router: Subject::Ours, vassal: Subject::Ours }
    }

    pub fn emperor(self) -> EmperorIni {
        EmperorIni::new(self.uwsgi, self.router)
    }

    pub fn vassal(self, name: &str, address: Ipv4Addr) -> VassalIni {
        VassalIni::new(self.uwsgi, self.vassal, name, address, EMPEROR)
    }
}

/// A router alone; the test itself is its peers.
#[derive(Clone, Copy, Debug)]
pub struct Router {
    pub uwsgi: Uwsgi,
    pub subject: Subject,
}

impl Router {
    pub fn c(uwsgi: Uwsgi) -> Self {
        Self { uwsgi, subject: Subject::C }
    }

    pub fn ours(uwsgi: Uwsgi) -> Self {
        Self { uwsgi, subject: Subject::Ours }
    }

    pub fn emperor(self) -> EmperorIni {
        EmperorIni::new(self.uwsgi, self.subject)
    }

    /// An Emperor with a line that only our plugin knows.
    pub fn emperor_with(self, line: &str) -> EmperorIni {
        if self.is_ours() { self.emperor().line(line) } else { self.emperor() }
    }

    pub fn is_ours(self) -> bool {
        self.subject == Subject::Ours
    }
}

/// `cases!(body, Pair: c_c ours_ours)` makes a test of `body` for each pair that is named, router first; `cases!(body,
/// Router: c ours)` for each router. `also` makes them once more for the other uWSGI, under a name of their own.
macro_rules! cases {
    ($body:ident, $kind:ident: $($subject:ident)+) => {
        cases!($body with usual_uwsgi as $body, $kind: $($subject)+);
    };
    ($body:ident also $name:ident, $kind:ident: $($subject:ident)+) => {
        cases!($body with usual_uwsgi as $body, $kind: $($subject)+);
        cases!($body with other_uwsgi as $name, $kind: $($subject)+);
    };
    ($body:ident with $uwsgi:ident as $name:ident, $kind:ident: $($subject:ident)+) => {
        mod $name {
            $(
                #[test]
                fn $subject() {
                    super::$body(crate::pairs::$kind::$subject(crate::pairs::$uwsgi()));
                }
            )+
        }
    };
}
pub(crate) use cases;

pub fn usual_uwsgi() -> Uwsgi {
    Uwsgi::usual()
}

pub fn other_uwsgi() -> Uwsgi {
    Uwsgi::usual().other()
}
