//! Claims become routes of BIRD, and of the kernel.

use tuntap_core::routes::bird_config::{BirdConfig, Feed, bird_config};

use super::daemon::{Bird, config};
use super::netns::Netns;
use super::shell::{Router, nth, until, until_established};

/// A namespace with the device behind which vassals are.
pub fn host() -> Netns {
    let netns = Netns::new().with_ipv6();
    netns.sh("ip tuntap add emperor0 mode tun");
    netns.sh("ip link set emperor0 up");
    netns
}

#[test]
fn claims_are_routes() {
    let netns = host();
    netns.run(|| {
        let mut router = Router::listen(0x1111_2222_3333_4444, "127.0.0.1", Some("pass word"));
        router.claim(nth(1), 1_700_000_000_123);
        router.claim(nth(3), 1_700_000_001_456);
        let config = config(router.address());
        let feed = Feed { password: Some("pass word".to_owned()), ..config.feed };
        let bird = Bird::start(&bird_config(&BirdConfig { feed, ..config }).expect("valid"));
        until_established(&mut [&mut router]);
        until("two routes", &mut [&mut router], |_| bird.routes("tuntap") == 2);
        let all = bird.ask("show route for 10.77.0.1 all");
        for line in [
            "BGP.med: 1700000000",
            "BGP.local_pref: 1700000000",
            "BGP.large_community: (64513, 1, 286335522) (64513, 2, 858997828) (64513, 3, 395) (64513, 4, 3487918203)",
        ] {
            assert!(all.contains(line), "{line}\n{all}");
        }
        until("a route of the kernel", &mut [&mut router], |_| {
            netns.sh("ip route show 10.77.0.1").contains("dev emperor0")
                && netns.sh("ip -6 route show fd00:77::3").contains("dev emperor0")
        });
        assert!(netns.sh("ip route show type blackhole").contains("10.77.0.0/16"), "packets for nobody end here");
        assert!(netns.sh("ip -6 route show type blackhole").contains("fd00:77::/64"));

        router.claim(nth(1), 1_800_000_000_000);
        until("a newer claim", &mut [&mut router], |_| {
            bird.ask("show route for 10.77.0.1 all").contains("med: 1800000000")
        });
        assert_eq!(bird.routes("tuntap"), 2);
        router.speaker.released(nth(1));
        router.speaker.released(nth(3));
        until("no routes", &mut [&mut router], |_| bird.routes("tuntap") == 0);
        until("none of the kernel", &mut [&mut router], |_| !netns.sh("ip route show 10.77.0.1").contains("emperor0"));
    });
}

/// BIRD asks for all routes when an operator wants them to be filtered anew.
#[test]
fn bird_is_told_once_more() {
    host().run(|| {
        let mut router = Router::listen(1, "127.0.0.1", None);
        (0..1_000).for_each(|number| router.claim(nth(number), 1_700_000_000_000 + u64::from(number)));
        let bird = Bird::start(&bird_config(&config(router.address())).expect("valid"));
        until_established(&mut [&mut router]);
        until("all routes", &mut [&mut router], |_| bird.routes("tuntap") == 1_000);
        let dumps = router.speaker.status(std::time::Instant::now()).sent.dumps;
        let answer = bird.ask("reload in tuntap");
        assert!(answer.contains("tuntap: reloading"), "{answer}");
        until("two answers", &mut [&mut router], |routers| {
            routers[0].speaker.status(std::time::Instant::now()).sent.dumps == dumps + 2
        });
        assert_eq!(bird.routes("tuntap"), 1_000);
    });
}

/// BIRD is killed and started again; the router is told by nobody else.
#[test]
fn bird_is_started_again() {
    host().run(|| {
        let mut router = Router::listen(1, "127.0.0.1", None);
        (0..100).for_each(|number| router.claim(nth(number), 1_700_000_000_000));
        let text = bird_config(&config(router.address())).expect("valid");
        let mut bird = Bird::start(&text);
        until_established(&mut [&mut router]);
        bird.restart(&text);
        until("a second session", &mut [&mut router], |routers| {
            routers[0].speaker.status(std::time::Instant::now()).sessions == 2
        });
        until("all routes", &mut [&mut router], |_| bird.routes("tuntap") == 100);
    });
}
