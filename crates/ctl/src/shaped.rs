//! What limits have done, as text for people.

use tuntap_api::{ShapeStats, Shaped};
use tuntap_config::Rate;

use crate::text::{Bytes, Count, counted};

/// A line for each direction that is limited.
pub fn lines(shaped: &Shaped) -> Vec<String> {
    let directions = [("out", &shaped.out), ("in", &shaped.inn)];
    directions.iter().filter_map(|(word, stats)| Some(line(word, stats.as_ref()?))).collect()
}

fn line(direction: &str, stats: &ShapeStats) -> String {
    let ShapeStats { rate, ceil, waiting_packets, waiting_bytes, delay_us, sent_bytes, borrowed_bytes, .. } = *stats;
    let limit = match (rate, ceil) {
        (0, 0) => "limited with others".to_owned(),
        (rate, ceil) if rate == ceil => format!("{}bit/s", Rate(rate)),
        (rate, ceil) => format!("{}bit/s, up to {}bit/s", Rate(rate), Rate(ceil)),
    };
    let waiting = match waiting_packets {
        0 => "nothing waits".to_owned(),
        packets => format!("{} wait ({})", counted(packets, "packet", "packets"), Bytes(waiting_bytes)),
    };
    let borrowed =
        if borrowed_bytes > 0 { format!(", {} of it borrowed", Bytes(borrowed_bytes)) } else { String::new() };
    format!(
        "{direction} {limit}: {waiting}, delay {}.{} ms; sent {}{borrowed}; {}",
        delay_us / 1_000,
        delay_us % 1_000 / 100,
        Bytes(sent_bytes),
        losses(stats)
    )
}

/// What has become of packets because of the limit.
fn losses(stats: &ShapeStats) -> String {
    let ShapeStats { dropped_full, dropped_late, marked, held, .. } = *stats;
    let drops = match dropped_full.saturating_add(dropped_late) {
        0 => "no drops".to_owned(),
        drops => {
            let reasons = format!("{} full, {} late", Count(dropped_full), Count(dropped_late));
            format!("{} ({reasons})", counted(drops, "drop", "drops"))
        }
    };
    let marks = if marked > 0 { format!(", {}", counted(marked, "mark", "marks")) } else { String::new() };
    format!("{drops}{marks}, held {}", counted(held, "time", "times"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_direction_has_a_line() {
        let out = ShapeStats {
            rate: 20_000_000,
            ceil: 50_000_000,
            waiting_packets: 12,
            waiting_bytes: 18 * 1024,
            delay_us: 3_149,
            sent_bytes: 5 << 20,
            borrowed_bytes: 1 << 20,
            dropped_full: 4,
            dropped_late: 1_000,
            marked: 1,
            held: 99,
        };
        let inn = ShapeStats { rate: 1_500_000, ceil: 1_500_000, ..ShapeStats::default() };
        assert_eq!(
            lines(&Shaped { out: Some(out), inn: Some(inn) }),
            [
                "out 20Mbit/s, up to 50Mbit/s: 12 packets wait (18.0 KiB), delay 3.1 ms; sent 5.0 MiB, 1.0 MiB of it \
                 borrowed; 1,004 drops (4 full, 1,000 late), 1 mark, held 99 times",
                "in 1.5Mbit/s: nothing waits, delay 0.0 ms; sent 0 B; no drops, held 0 times",
            ]
        );
        let most = ShapeStats { dropped_full: u64::MAX, dropped_late: 1, delay_us: u64::MAX, ..ShapeStats::default() };
        let shaped = Shaped { out: None, inn: Some(most) };
        assert!(lines(&shaped)[0].starts_with("in limited with others: nothing waits, delay "));
        assert!(lines(&Shaped::default()).is_empty());
    }
}
