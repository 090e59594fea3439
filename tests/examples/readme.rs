use std::fs;
use std::path::Path;

use crate::common::probe::is_reachable;
use crate::doctor::warnings;
use crate::example::{Example, addresses_of, net_of, wait_for_answer};
use crate::world::{INTERNET, INTERNET_V6, World};

/// The block of a language behind a line of the README.
fn block<'a>(readme: &'a str, title: &str, language: &str) -> &'a str {
    let (_, rest) = readme.split_once(title).expect("the README has this line");
    let (_, rest) = rest.split_once(&format!("```{language}\n")).expect("and a block behind it");
    rest.split("```").next().expect("which ends")
}

/// The files that a newcomer copies from the README are a set-up that works.
#[test]
fn minimal_set_up_of_the_readme_works() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("there is one");
    let (world, example) = (World::new(), Example::copy("minimal"));
    let run = example.root().join("run/tuntap.socket");
    let folders = [
        ("/usr/local/lib/uwsgi/plugins", example.plugins()),
        ("/run/tuntap.socket", run),
        ("/etc/uwsgi/vassals", example.root().join("vassals")),
        ("/srv/www/app.py", example.path("app.py")),
    ];
    let mut files = Vec::new();
    for (title, file) in
        [("`/etc/uwsgi/emperor.ini`:", "emperor.ini"), ("`/etc/uwsgi/vassals/app.ini`:", "vassals/app.ini")]
    {
        let text = folders.iter().fold(block(&readme, title, "ini").to_owned(), |text, (there, here)| {
            text.replace(there, &here.to_string_lossy())
        });
        files.push(example.root().join(file));
        fs::write(example.root().join(file), example.without_needless_plugins(&text)).expect("own folder");
    }
    assert!(block(&readme, "`/etc/uwsgi/vassals/app.ini`:", "sh").contains("uwsgi --ini /etc/uwsgi/emperor.ini"));
    world.host.sh("ip route add default via 203.0.113.10");
    world.host.sh("ip -6 route add default via 2001:db8:1::10");
    assert_eq!(warnings(&example, &world.host, &files), Vec::<String>::new());
    let emperor = example.start(&world.host, "emperor.ini");
    let addresses = addresses_of(&emperor, "app.ini");
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    for address in addresses {
        wait_for_answer(&world.host, address, 20001);
    }
    let net = net_of(&emperor, "app.ini");
    assert!(is_reachable(&net, INTERNET) && is_reachable(&net, INTERNET_V6));
}
