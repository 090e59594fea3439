//! The cost of large sets and of many rules: reading, compiling, changing and storing them. `cargo bench -p tuntap-live` prints
//! times.
#![allow(missing_docs)] // criterion's macros make public functions

use std::hint::black_box;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use tuntap_api::control::{Change, Level, Request};
use tuntap_config::{Config, OptionName};
use tuntap_core::policy::counters::RuleCounters;
use tuntap_core::policy::set::AddressSet;
use tuntap_live::{Base, Caller, Document, Live, Machine, Now, RulesFile, compile, read_members};

const MEMBERS: u32 = 100_000;
const RULES: u32 = 10_000;

/// A number that looks random, and differs for each of these.
const fn mixed(number: u32) -> u32 {
    number.wrapping_mul(0x9e37_79b1)
}

fn members() -> String {
    (1..=MEMBERS).map(|number| format!("{}\n", Ipv4Addr::from_bits(mixed(number)))).collect()
}

fn rules() -> String {
    let rule = |number: u32| format!("deny 10.{}.{}.0/24 any tcp 80-90\n", number >> 8, number & 255);
    format!("chain in\n{}", (0..RULES).map(rule).collect::<String>())
}

fn read(text: &str) -> RulesFile {
    let nothing = |_: &str| Err(io::Error::from(io::ErrorKind::NotFound));
    let nobody = |_: &str| Ok(None);
    RulesFile::read(text, &Machine { read: &nothing, user: &nobody, group: &nobody }).expect("a good file")
}

fn base() -> Base {
    let config = Config::from_options([(OptionName::Router, "tun0 /run/t.sock")]).expect("good options");
    let (router, grants) = (config.routers[0].clone(), config.compile_grants(Vec::new()));
    Base { config, router, grants, late_shapes: Vec::new() }
}

fn sets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("set of 100,000 addresses");
    let text = members();
    let nets = read_members(&text).expect("good");
    group.bench_function("read", |bencher| bencher.iter(|| read_members(black_box(&text))));
    group.bench_function("build", |bencher| bencher.iter(|| nets.iter().copied().collect::<AddressSet>()));
    let set: AddressSet = nets.iter().copied().collect();
    let mut next = 0;
    group.bench_function("look up", |bencher| {
        bencher.iter(|| {
            next += 1;
            set.contains_v4(black_box(mixed(next) ^ (next & 1)))
        });
    });
    group.finish();
}

fn documents(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("10,000 rules");
    let (text, base) = (rules(), base());
    let document = Document::initial(&base.config, &[], &read(&text));
    group.bench_function("read", |bencher| bencher.iter(|| read(black_box(&text))));
    group.bench_function("compile", |bencher| bencher.iter(|| compile(&base, black_box(&document))));
    let mut live = Live::new(base, document, None, None, RuleCounters::default());
    let (admin, now) = (Caller { uid: 0, pid: 1, level: Level::Admin }, Now { monotonic: Duration::ZERO, unix: 0 });
    let mut number = 0;
    group.bench_function("change one", |bencher| {
        bencher.iter(|| {
            number += 1;
            let rule = format!("deny {} any", Ipv4Addr::from_bits(mixed(number)));
            let changes = vec![Change::RuleReplace { id: 1, rule }];
            let commit = Request::Commit { changes, expected_generation: None, confirm_seconds: None, dry_run: false };
            live.handle(admin, &commit, now).expect("done")
        });
    });
    group.bench_function("store", |bencher| {
        bencher.iter(|| serde_json::to_vec(&live.stored()).expect("it can be written"))
    });
    group.finish();
}

criterion_group!(benches, sets, documents);
criterion_main!(benches);
