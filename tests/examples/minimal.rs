use crate::common::probe::is_reachable;
use crate::example::{Example, addresses_of, net_of, wait_for_answer};
use crate::world::{INTERNET, INTERNET_V6, World};

#[test]
fn vassal_serves_and_reaches_the_internet_over_both_versions() {
    let (world, example) = (World::new(), Example::copy("minimal"));
    let emperor = example.start(&world.host, "emperor.ini");
    let addresses = addresses_of(&emperor, "app.ini");
    assert!(matches!(addresses[..], [v4, v6] if v4.is_ipv4() && v6.is_ipv6()), "{addresses:?}");
    for address in addresses {
        wait_for_answer(&world.host, address, 20001);
    }
    emperor.assert_all_mapped(&example.plugin());
    let net = net_of(&emperor, "app.ini");
    assert!(is_reachable(&net, INTERNET) && is_reachable(&net, INTERNET_V6));
}
