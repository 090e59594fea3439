//! What asking a script about a flow costs.
#![allow(missing_docs, reason = "criterion's macros make functions")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;

use common::{Flow, ip, policy, runtime};
use criterion::{Criterion, criterion_group, criterion_main};
use tuntap_core::policy::pattern::Action;
use tuntap_wire::rule::Direction;

/// Nine checks, of which the flow passes all.
const NINE_CHECKS: &str = r#"
function policy(flow)
    if flow.direction ~= "out" then return nil end
    if flow.protocol == "icmp" then return "allow" end
    if flow.dst_port == 25 then return "reject" end
    if flow.peer.uid == 0 then return "allow" end
    if flow.peer.uid < 1000 then return "deny" end
    if flow.src_port ~= nil and flow.src_port < 1024 then return "deny" end
    if flow.dst == "169.254.169.254" then return "deny" end
    if flow.protocol == "udp" and flow.dst_port ~= 53 then return "deny" end
    if flow.src == flow.dst then return "deny" end
    return "allow", 60
end"#;

/// A set and the state.
const SET_AND_STATE: &str = r#"
local customers = set("customers")
function policy(flow)
    state.n = (state.n or 0) + 1
    return if customers:has(flow.dst) then "allow" else "deny"
end"#;

fn decide(criterion: &mut Criterion) {
    let v4 = Flow { policy: policy(), ..Flow::default() };
    let v6 = Flow { src: ip("fd00::2"), dst: ip("fd00:1::abcd:1"), policy: policy(), ..Flow::default() };
    let mut group = criterion.benchmark_group("script");
    for (name, source, flow) in [
        ("no opinion", "function policy(flow) end", &v4),
        ("nine checks", NINE_CHECKS, &v4),
        ("nine checks, IPv6", NINE_CHECKS, &v6),
        ("set and state", SET_AND_STATE, &v4),
    ] {
        let mut runtime = runtime(source);
        assert_eq!((flow.action(&mut runtime), runtime.status().failures), (Action::Allow, 0));
        group.bench_function(name, |bencher| bencher.iter(|| black_box(flow).ask(&mut runtime)));
    }
    let mut runtime = runtime("function policy(flow) if flow.direction == 'in' then error('x') end end");
    let failing = Flow { direction: Direction::In, ..Flow::default() };
    group.bench_function("error", |bencher| bencher.iter(|| black_box(&failing).ask(&mut runtime)));
    group.finish();
}

fn load(criterion: &mut Criterion) {
    criterion.bench_function("script/load", |bencher| {
        let compiled = tuntap_script::check(NINE_CHECKS, "nine").expect("a good script");
        let mut runtime = runtime(NINE_CHECKS);
        bencher.iter(|| runtime.load(Some(&compiled), None).expect("it loads"));
    });
    criterion.bench_function("script/check", |bencher| {
        bencher.iter(|| tuntap_script::check(black_box(NINE_CHECKS), "nine").expect("a good script"));
    });
}

criterion_group!(benches, decide, load);
criterion_main!(benches);
