//! `uwsgi-tuntap capture`: packets with what becomes of them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;
use tuntap_api::control::{CapturedPacket, Direction, Event, MAX_SNAP_LEN, Request, SNAP_LEN, Status};

use crate::client::{Client, read};
use crate::ending::Ending;
use crate::failure::{Done, Failed};
use crate::flows::Filter;
use crate::pcap::{Format, Writer, comment};
use crate::session::{STANDARD as STANDARD_OUTPUT, Session, usage_error};
use crate::text::{Printable, counted, escaped, protocol, time_of_day};
use crate::watch::endpoint;

/// The rights of a file of captured packets: they are nobody else's business.
const FILE_MODE: u32 = 0o600;

/// Which packets, and where they go.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Packets that a rule with this selector would match, and answers to them: SRC DST [PROTOCOL [PORT[-PORT]]]; or one address or
    /// network at either end. All packets without it
    #[arg(value_name = "SELECTOR")]
    selector: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    /// Write a file for Wireshark, or with "-" to standard output; without it, packets are shown as lines
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// The form of what is written; alone it means --write -
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Take so many bytes of each packet at most; headers are in the first 128
    #[arg(
        short, long, value_name = "BYTES", default_value_t = SNAP_LEN,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SNAP_LEN))
    )]
    snaplen: u32,
    /// End after so many packets
    #[arg(short, long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

impl Arguments {
    /// Does it until the number of packets is reached, the router goes, the output is closed, or Ctrl-C ends the command.
    ///
    /// # Errors
    /// See [`Failed`].
    pub fn run(self, session: &mut Session<'_>) -> Result<Done, Failed> {
        let file = self.write.or_else(|| self.format.map(|_| STANDARD_OUTPUT.into()));
        if file.is_some() && session.common.json {
            usage_error("the argument '--json' cannot be used with '--write' or '--format'");
        }
        let mut filter = tuntap_api::control::FlowFilter::from(self.filter);
        let selector = match self.selector.join(" ").split_whitespace().collect::<Vec<_>>().as_slice() {
            [] => None,
            [end] if *end != "any" => {
                if filter.address.replace((*end).to_owned()).is_some() {
                    usage_error("the argument '--address' cannot be used with a selector of one address");
                }
                None
            }
            words => Some(words.join(" ")),
        };
        let request = Request::Capture { selector, filter, snap_len: Some(self.snaplen) };
        // Until somebody reads a named pipe, there is nobody to capture for, and Ctrl-C ends the command at once.
        let pipe = file.as_deref().filter(|file| is_pipe(file)).map(open).transpose()?;
        let mut client = session.connect()?;
        let status: Status = read(&client.ask(&Request::Status {})?)?;
        let ending = Ending::new(&client)?;
        ending.with_signals()?;
        // A refusal comes before a file of that name is overwritten.
        client.ask(&request)?;
        let limit = self.count.unwrap_or(u64::MAX);
        match file {
            Some(file) if file.as_os_str() == STANDARD_OUTPUT => {
                if io::stdout().is_terminal() {
                    return Err(Failed::Local(
                        "a capture is no text for a terminal: --write FILE, or a pipe".to_owned(),
                    ));
                }
                ending.with_output(&io::stdout())?;
                let output = BufWriter::new(&mut *session.output);
                let writer = Writer::begin(output, self.format.unwrap_or_default(), &status.device, self.snaplen)?;
                write_file(&mut client, writer, limit, &ending)
            }
            Some(file) => {
                let opened = pipe.map_or_else(|| open(&file), Ok)?;
                ending.with_output(&opened)?;
                let output = BufWriter::new(opened);
                Writer::begin(output, self.format.unwrap_or_default(), &status.device, self.snaplen)
                    .map_err(Failed::Output)
                    .and_then(|writer| write_file(&mut client, writer, limit, &ending))
                    .map_err(|error| match error {
                        // The reader of a named pipe has seen enough, as that of standard output.
                        Failed::Output(error) if error.kind() != io::ErrorKind::BrokenPipe => failed(&file, &error),
                        error => error,
                    })
            }
            None => {
                ending.with_output(&io::stdout())?;
                show(&mut client, session, limit, &ending)
            }
        }
    }
}

/// Returns true for a named pipe.
fn is_pipe(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|it| it.file_type().is_fifo())
}

/// Opens what packets are written to. For a named pipe, this waits until somebody reads it.
fn open(file: &Path) -> Result<File, Failed> {
    let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(file);
    opened.map_err(|error| failed(file, &error))
}

fn failed(file: &Path, error: &io::Error) -> Failed {
    Failed::Local(format!("{}: {error}", Printable(&file.to_string_lossy())))
}

/// Writes packets until the limit or the end, and tells how many.
fn write_file<W: Write>(
    client: &mut Client,
    mut writer: Writer<W>,
    limit: u64,
    ending: &Ending,
) -> Result<Done, Failed> {
    let mut packets = 0;
    let result = write_packets(client, &mut writer, limit, ending, &mut packets);
    let is_finished = writer.finish();
    let told = format!("{} captured, {} left out", counted(packets, "packet", "packets"), writer.left_out());
    // If standard error can't be written to, nobody wants to know.
    let _ = writeln!(io::stderr(), "uwsgi-tuntap: {told}");
    result.and_then(|done| Ok(is_finished.map(|()| done)?))
}

fn write_packets<W: Write>(
    client: &mut Client,
    writer: &mut Writer<W>,
    limit: u64,
    ending: &Ending,
    packets: &mut u64,
) -> Result<Done, Failed> {
    // Whoever reads it shall know at once that it has begun.
    writer.flush()?;
    while *packets < limit {
        let Some(event) = ending.next_event(client)? else { break };
        match serde_json::from_str(event.get()) {
            Ok(Event::Packet(packet)) => {
                let bytes = STANDARD.decode(&packet.data).map_err(|error| {
                    Failed::Unreachable(format!("the router has sent bytes that are no Base64: {error}"))
                })?;
                writer.packet(&packet, &bytes)?;
                *packets += 1;
            }
            Ok(Event::LeftOut { count }) => writer.leave_out(count),
            // Of a later version.
            Ok(Event::Drop(_)) | Err(_) => {}
        }
        if !client.has_event() {
            writer.flush()?;
        }
    }
    Ok(Done::Well)
}

/// Shows packets as lines until the limit or the end.
fn show(client: &mut Client, session: &mut Session<'_>, limit: u64, ending: &Ending) -> Result<Done, Failed> {
    let mut packets = 0;
    while packets < limit {
        let Some(event) = ending.next_event(client)? else { break };
        let known = serde_json::from_str(event.get());
        packets += u64::from(matches!(known, Ok(Event::Packet(_))));
        let line = if session.common.json { event.get().to_owned() } else { line(known.ok(), &event) };
        writeln!(session.output, "{line}")?;
        if !client.has_event() {
            session.output.flush()?;
        }
    }
    Ok(Done::Well)
}

/// An event in a line. One of a kind that is unknown is shown as it came.
fn line(event: Option<Event>, raw: &RawValue) -> String {
    match event {
        Some(Event::Packet(packet)) => packet_line(&packet),
        Some(Event::LeftOut { count }) => format!("({} left out)", counted(count, "packet", "packets")),
        Some(Event::Drop(_)) | None => format!("(an event that this version doesn't know: {})", escaped(raw.get())),
    }
}

fn packet_line(packet: &CapturedPacket) -> String {
    let CapturedPacket { time, nanos, direction, peer, src, src_port, dst, dst_port, protocol: number, len, .. } =
        packet;
    let way = match direction {
        Direction::In => "in ",
        Direction::Out => "out",
    };
    let headers = match (src, dst, number) {
        (Some(src), Some(dst), Some(number)) => {
            format!("{} {} -> {}", protocol(*number), endpoint(*src, *src_port), endpoint(*dst, *dst_port))
        }
        _ => "no packet".to_owned(),
    };
    let mut line =
        format!("{}.{:06}  {way}  {headers}, {len} B: {}", time_of_day(*time), nanos / 1000, comment(packet));
    line.extend(peer.iter().map(|peer| format!(" peer={} uid={}", peer.pid, peer.uid)));
    line
}
