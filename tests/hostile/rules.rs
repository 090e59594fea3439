//! Frames whose rules are invalid.

use crate::common::emperor::EMPEROR;
use crate::common::wait;
use crate::common::wire::{self, ANY, Action, Direction, MAX_PAYLOAD, RULE_LEN, Rule};
use crate::watch::{A1, MANY_LINES, Watch};

const ALLOW: Rule = Rule { direction: Direction::Out, source: ANY, destination: ANY, action: Action::Allow };

#[test]
fn blocks_of_every_wrong_size() {
    let mut watch = Watch::start().allowing_lines(MANY_LINES);
    watch.endure("rules of a wrong size", |watch| {
        let emperor = &watch.emperor;
        let block = wire::rules(&[ALLOW; MAX_PAYLOAD / RULE_LEN + 1]);
        for size in (1..=MAX_PAYLOAD).filter(|size| size % RULE_LEN != 0) {
            let mut peer = emperor.connect();
            peer.send_bytes(&wire::frame(wire::RULES, &block[..size]));
            assert!(peer.is_closed(wait::SHORT), "{size} bytes of rules");
        }
    });
}

#[test]
fn blocks_with_unknown_words() {
    let mut watch = Watch::start().allowing_lines(MANY_LINES);
    watch.endure("unknown rules", |watch| {
        let emperor = &watch.emperor;
        for (at, first_unknown) in [(0, 2), (17, 3)] {
            for value in first_unknown..=u8::MAX {
                let mut block = wire::rules(&[ALLOW; 10]);
                block[9 * RULE_LEN + at] = value;
                let mut peer = emperor.connect();
                peer.send_bytes(&wire::frame(wire::RULES, &block));
                assert!(peer.is_closed(wait::SHORT), "{value} in byte {at} of a rule");
            }
        }
    });
}

/// A peer sends as many rules as it may have, in each frame anew.
#[test]
fn rules_without_end() {
    let mut watch = Watch::start();
    watch.endure("rules without end", |watch| {
        let emperor = &watch.emperor;
        let mut peer = emperor.connect();
        let frame = wire::frame(wire::RULES, &wire::rules(&[ALLOW; 256]));
        for _ in 0..3000 {
            peer.send_bytes(&frame);
        }
        assert!(peer.echo(A1, EMPEROR, wait::SHORT));
        assert_eq!(emperor.stats().of_peer(A1, "rules"), 256);
    });
}
