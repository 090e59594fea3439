//! What BIRD knows of other holders.

use tuntap_core::routes::bird_config::bird_config;

use super::claims::host;
use super::daemon::{Bird, config};
use super::shell::{Router, holding, nth, until, until_established};

/// Two routers of other hosts, each as a neighbour of the same BIRD, and a third holder that is none of ours.
#[test]
fn holders_elsewhere_are_known() {
    host().run(|| {
        let mut ours = Router::listen(1, "127.0.0.1", None);
        let mut second = Router::listen(2, "127.0.0.2", None);
        let mut third = Router::listen(3, "127.0.0.3", None);
        let mut text = bird_config(&config(ours.address())).expect("valid");
        for (name, router) in [("second", &second), ("third", &third)] {
            let (address, port) = (router.address().ip(), router.address().port());
            text += &format!(
                "protocol bgp {name} {{ local 127.0.0.1 as 64512; neighbor {address} port {port} as 64513; multihop; \
                 connect delay time 1; \
                 ipv4 {{ import filter {{ bgp_local_pref = bgp_med; ifname = \"lo\"; accept; }}; export none; }}; \
                 ipv6 {{ import filter {{ bgp_local_pref = bgp_med; ifname = \"lo\"; accept; }}; export none; }}; }}\n"
            );
        }
        let bird = Bird::start(&text);
        second.claim(nth(1), 1_700_000_000_001);
        second.claim(nth(3), 1_700_000_000_001);
        third.claim(nth(1), 1_700_000_000_002);
        ours.claim(nth(2), 1_700_000_000_000);
        let mut all = [&mut ours, &mut second, &mut third];
        until("sessions", &mut all, |routers| {
            routers.iter().all(|router| router.speaker.status(std::time::Instant::now()).sessions == 1)
        });
        // The same second: MED doesn't tell them apart, the exact time does.
        let held = |routers: &[&mut Router], number| routers[0].heard.elsewhere.get(&nth(number)).copied();
        until("both holders", &mut all, |routers| {
            held(routers, 1) == Some(holding(3, 1_700_000_000_002))
                && held(routers, 3) == Some(holding(2, 1_700_000_000_001))
        });
        assert_eq!(all[0].speaker.status(std::time::Instant::now()).routes, 3, "all paths come along");
        assert_eq!(held(&all, 2), None, "its own claim doesn't come back");
        assert!(bird.ask("show route export tuntap").contains("10.77.0.1/32"));
        all[2].speaker.released(nth(1));
        until("the other holder", &mut all, |routers| held(routers, 1) == Some(holding(2, 1_700_000_000_001)));
        all[1].speaker.released(nth(1));
        all[1].speaker.released(nth(3));
        until("no holder", &mut all, |routers| routers[0].heard.elsewhere.is_empty());

        // A claim here while another one holds it there: both know of each other.
        all[1].claim(nth(5), 1_700_000_000_005);
        all[0].claim(nth(5), 1_700_000_005_000);
        until("the holder that is older", &mut all, |routers| held(routers, 5) == Some(holding(2, 1_700_000_000_005)));
        until("the newest is the best", &mut all, |_| {
            bird.ask("show route for 10.77.0.5").lines().any(|line| line.contains("[tuntap") && line.contains(" * "))
        });
        until_established(&mut all[..1]);
    });
}
