//! A TLS connection as bytes: records go in and come out, and no socket is touched.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, ReadTraffic, UnbufferedStatus, WriteTraffic};
use rustls::{ClientConfig, Error, ServerConfig};
use tuntap_wire::trunk::PublicKey;

use crate::key::from_spki;

/// Bytes that are read at once.
pub const READ_LEN: usize = 128 * 1024;

/// Bytes that a record is longer than what it carries, at most (RFC 8446, section 5.2).
const RECORD_OVERHEAD: usize = 5 + 1 + 256;

/// Most bytes in a record.
const RECORD_LEN: usize = 16_384;

/// The rustls connection.
enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The handshake needs more bytes from the other end.
    Handshaking,
    /// The handshake is over: bytes can be sealed.
    Open,
    /// The other end has closed the connection.
    Closed,
}

/// What is left to do after a step.
enum Step {
    More,
    Stop(Progress),
}

/// Bytes that are written at the end and used up at the front. Its memory is kept.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    /// `bytes` is filled from `start` to `end`.
    start: usize,
    end: usize,
}

impl Buffer {
    /// What is there.
    pub fn filled(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// Returns true if nothing is there.
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Number of bytes that are there.
    pub const fn len(&self) -> usize {
        self.end - self.start
    }

    /// Takes bytes away from the front.
    pub const fn consume(&mut self, len: usize) {
        self.start += len;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Room behind what is there. The caller moves `end`.
    fn room(&mut self, len: usize) -> &mut [u8] {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.bytes.len() < self.end + len {
            self.bytes.resize(self.end + len, 0);
        }
        &mut self.bytes[self.end..self.end + len]
    }
}

/// A connection.
pub struct Stream {
    side: Side,
    incoming: Buffer,
    is_closed: bool,
    /// The first error. After it nothing more is read.
    failed: Option<Error>,
    /// Records for the other end.
    pub outgoing: Buffer,
    /// What came from the other end.
    pub received: Vec<u8>,
}

impl Stream {
    /// Dials. The neighbour is known by its key, its address says nothing.
    pub fn client(config: Arc<ClientConfig>, address: IpAddr) -> Result<Self, Error> {
        let name = ServerName::IpAddress(address.into());
        UnbufferedClientConnection::new(config, name).map(|side| Self::new(Side::Client(side)))
    }

    /// Is dialled.
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        UnbufferedServerConnection::new(config).map(|side| Self::new(Side::Server(side)))
    }

    fn new(side: Side) -> Self {
        Self {
            side,
            incoming: Buffer::default(),
            is_closed: false,
            failed: None,
            outgoing: Buffer::default(),
            received: Vec::new(),
        }
    }

    /// The key of the other end, once the handshake is over.
    pub fn neighbour(&self) -> Option<PublicKey> {
        let keys = match &self.side {
            Side::Client(side) => side.peer_certificates(),
            Side::Server(side) => side.peer_certificates(),
        };
        keys.and_then(|keys| keys.first()).and_then(|spki| from_spki(spki))
    }

    /// The protocol within TLS that both sides speak.
    pub fn protocol(&self) -> Option<&[u8]> {
        match &self.side {
            Side::Client(side) => side.alpn_protocol(),
            Side::Server(side) => side.alpn_protocol(),
        }
    }

    /// Room for [`READ_LEN`] bytes from the other end. What was read is told by [`Self::read`].
    pub fn room(&mut self) -> &mut [u8] {
        self.incoming.room(READ_LEN)
    }

    /// As many bytes are in the room.
    pub const fn read(&mut self, len: usize) {
        self.incoming.end += len;
    }

    /// Opens the records that are there. After an error, an alert for the other end may be in `outgoing`, and the connection
    /// is of no use.
    pub fn process(&mut self) -> Result<Progress, Error> {
        self.steps(&[])
    }

    /// Seals bytes into records. Only for an open connection.
    pub fn seal(&mut self, bytes: &[u8]) -> Result<Progress, Error> {
        self.steps(bytes)
    }

    /// Tells the other end that nothing more comes.
    pub fn close(&mut self) {
        if self.failed.is_some() {
            return;
        }
        match &mut self.side {
            Side::Client(side) => close(side.process_tls_records(&mut []), &mut self.outgoing),
            Side::Server(side) => close(side.process_tls_records(&mut []), &mut self.outgoing),
        }
    }

    fn steps(&mut self, mut plain: &[u8]) -> Result<Progress, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        loop {
            match self.step(&mut plain) {
                Ok(Step::More) => {}
                Ok(Step::Stop(progress)) => {
                    self.is_closed |= progress == Progress::Closed;
                    return Ok(if self.is_closed { Progress::Closed } else { progress });
                }
                Err(error) => {
                    self.failed = Some(error.clone());
                    // rustls has an alert ready, unless the other end has sent one. One more step gives it out. A second one
                    // would read the records again that it has failed at, which rustls takes for a fault of its own.
                    if !matches!(error, Error::AlertReceived(_)) {
                        let _ = self.step(&mut plain);
                    }
                    return Err(error);
                }
            }
        }
    }

    fn step(&mut self, plain: &mut &[u8]) -> Result<Step, Error> {
        let incoming = self.incoming.filled();
        let (outgoing, received) = (&mut self.outgoing, &mut self.received);
        let (discard, result) = match &mut self.side {
            Side::Client(side) => step(side.process_tls_records(incoming), plain, outgoing, received),
            Side::Server(side) => step(side.process_tls_records(incoming), plain, outgoing, received),
        };
        self.incoming.consume(discard);
        result
    }
}

/// Does what rustls asks for. Returns how many bytes of records were used up.
fn step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    plain: &mut &[u8],
    outgoing: &mut Buffer,
    received: &mut Vec<u8>,
) -> (usize, Result<Step, Error>) {
    let mut discard = status.discard;
    let state = match status.state {
        Ok(state) => state,
        Err(error) => return (discard, Err(error)),
    };
    let step = match state {
        ConnectionState::ReadTraffic(mut traffic) => open(&mut traffic, received).map(|more| {
            discard += more;
            Step::More
        }),
        ConnectionState::EncodeTlsData(mut data) => {
            append(outgoing, RECORD_LEN + RECORD_OVERHEAD, |room| {
                data.encode(room).map_err(|error| match error {
                    EncodeError::InsufficientSize(needed) => Some(needed.required_size),
                    EncodeError::AlreadyEncoded => None,
                })
            });
            Ok(Step::More)
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(Step::More)
        }
        ConnectionState::BlockedHandshake => Ok(Step::Stop(Progress::Handshaking)),
        ConnectionState::WriteTraffic(mut traffic) => {
            let is_sealed = seal(&mut traffic, std::mem::take(plain), outgoing);
            if is_sealed { Ok(Step::Stop(Progress::Open)) } else { Err(Error::EncryptError) }
        }
        ConnectionState::PeerClosed | ConnectionState::Closed => Ok(Step::Stop(Progress::Closed)),
        // Neither side is configured for early data, nor for anything that is new in rustls.
        _ => Err(Error::HandshakeNotComplete),
    };
    (discard, step)
}

/// Takes what came. Returns how many more bytes of records were used up.
fn open<Data>(traffic: &mut ReadTraffic<'_, '_, Data>, received: &mut Vec<u8>) -> Result<usize, Error> {
    let mut discard = 0;
    while let Some(record) = traffic.next_record() {
        let record = record?;
        discard += record.discard;
        received.extend_from_slice(record.payload);
    }
    Ok(discard)
}

/// Seals bytes. Returns false if that can't be done any longer.
fn seal<Data>(traffic: &mut WriteTraffic<'_, Data>, bytes: &[u8], outgoing: &mut Buffer) -> bool {
    let most = bytes.len() + (bytes.len() / RECORD_LEN + 2) * RECORD_OVERHEAD;
    bytes.is_empty()
        || append(outgoing, most, |room| {
            traffic.encrypt(bytes, room).map_err(|error| match error {
                EncryptError::InsufficientSize(needed) => Some(needed.required_size),
                EncryptError::EncryptExhausted => None,
            })
        })
}

/// Lets rustls write behind what is there. It says how much room it needs if there is too little. Returns false if it can't.
fn append(out: &mut Buffer, room: usize, mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>) -> bool {
    let mut result = write(out.room(room));
    if let Err(Some(needed)) = result {
        result = write(out.room(needed));
    }
    out.end += result.unwrap_or(0);
    result.is_ok()
}

fn close<Data>(status: UnbufferedStatus<'_, '_, Data>, outgoing: &mut Buffer) {
    if let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state {
        append(outgoing, RECORD_OVERHEAD, |room| {
            traffic.queue_close_notify(room).map_err(|error| match error {
                EncryptError::InsufficientSize(needed) => Some(needed.required_size),
                EncryptError::EncryptExhausted => None,
            })
        });
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::{CipherSuiteCommon, CryptoProvider, ring};
    use rustls::{SupportedCipherSuite, Tls13CipherSuite};

    use super::*;
    use crate::key::PrivateKey;
    use crate::tls;

    /// Numbers that are the same in each run (Knuth's MMIX generator).
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(self.0 >> 33).expect("31 bits") % limit
        }
    }

    struct Pair {
        ends: [Stream; 2],
        keys: [PrivateKey; 2],
    }

    fn pair(keys: [PrivateKey; 2]) -> Pair {
        let client = tls::client(&keys[0], keys[1].public()).expect("a configuration");
        let server = tls::server(&keys[1], vec![keys[0].public()]).expect("a configuration");
        pair_of(keys, client, server)
    }

    fn pair_of(keys: [PrivateKey; 2], client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Pair {
        let client = Stream::client(client, IpAddr::from([127, 0, 0, 1])).expect("a connection");
        Pair { ends: [client, Stream::server(server).expect("a connection")], keys }
    }

    /// Moves what an end has written to the other one, in pieces, and lets it work.
    fn carry(
        ends: &mut [Stream; 2],
        from: usize,
        random: &mut Random,
        spoil: Option<usize>,
    ) -> Result<Progress, Error> {
        let [first, second] = ends;
        let (from, to) = if from == 0 { (first, second) } else { (second, first) };
        if let Some(at) = spoil {
            let bytes = from.outgoing.filled();
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        let mut result = to.process();
        while !from.outgoing.is_empty() && result.is_ok() {
            let len = (1 + random.below(2000)).min(from.outgoing.filled().len());
            to.room()[..len].copy_from_slice(&from.outgoing.filled()[..len]);
            to.read(len);
            from.outgoing.consume(len);
            result = to.process();
        }
        result
    }

    #[test]
    fn both_ends_know_each_other_and_carry_bytes() {
        let key = || PrivateKey::generate().expect("random bytes");
        let Pair { mut ends, keys } = pair([key(), key()]);
        let mut random = Random(1);
        assert_eq!(ends[0].process(), Ok(Progress::Handshaking));
        for from in [0, 1, 0] {
            carry(&mut ends, from, &mut random, None).expect("good records");
        }
        assert_eq!((ends[0].process(), ends[1].process()), (Ok(Progress::Open), Ok(Progress::Open)));
        assert_eq!(ends[0].neighbour(), Some(keys[1].public()));
        assert_eq!(ends[1].neighbour(), Some(keys[0].public()));
        assert_eq!((ends[0].protocol(), ends[1].protocol()), (Some(tls::PROTOCOL), Some(tls::PROTOCOL)));
        for len in [1, 16_384, 16_385, 200_000] {
            let bytes: Vec<u8> = (0..len).map(|at| u8::try_from(at % 253).expect("small")).collect();
            for from in [0, 1] {
                ends[from].seal(&bytes).expect("it is open");
                carry(&mut ends, from, &mut random, None).expect("good records");
                assert!(std::mem::take(&mut ends[1 - from].received) == bytes);
            }
        }
        ends[0].close();
        assert_eq!(carry(&mut ends, 0, &mut random, None), Ok(Progress::Closed));
        assert_eq!(ends[1].process(), Ok(Progress::Closed));
    }

    impl Pair {
        /// Two ends after the handshake. A key is good for so many records.
        fn open(records: u64, random: &mut Random) -> Self {
            let keys = [(), ()].map(|()| PrivateKey::generate().expect("random bytes"));
            let client = tls::client_by(provider(records), &keys[0], keys[1].public()).expect("a configuration");
            let server = tls::server_by(provider(records), &keys[1], vec![keys[0].public()]).expect("a configuration");
            let mut pair = pair_of(keys, client, server);
            assert_eq!(pair.ends[0].process(), Ok(Progress::Handshaking));
            for from in [0, 1, 0] {
                carry(&mut pair.ends, from, random, None).expect("good records");
            }
            pair
        }

        /// Bytes go from an end to the other one, and arrive.
        fn exchange(&mut self, from: usize, len: usize, random: &mut Random) {
            let bytes: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).expect("small")).collect();
            assert_eq!(self.ends[from].seal(&bytes), Ok(Progress::Open));
            assert_eq!(carry(&mut self.ends, from, random, None), Ok(Progress::Open));
            assert!(std::mem::take(&mut self.ends[1 - from].received) == bytes, "{len} bytes from {from}");
        }
    }

    /// AES-128-GCM with keys that are good for so many records.
    fn provider(records: u64) -> Arc<CryptoProvider> {
        let SupportedCipherSuite::Tls13(suite) = ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
        let common = CipherSuiteCommon {
            suite: suite.common.suite,
            hash_provider: suite.common.hash_provider,
            confidentiality_limit: records,
        };
        let Tls13CipherSuite { hkdf_provider, aead_alg, .. } = *suite;
        let suite = Tls13CipherSuite { common, hkdf_provider, aead_alg, quic: None };
        let cipher_suites = vec![SupportedCipherSuite::Tls13(Box::leak(Box::new(suite)))];
        Arc::new(CryptoProvider { cipher_suites, ..ring::default_provider() })
    }

    /// The next records of an end have another key (RFC 8446, section 4.6.3).
    fn refresh(stream: &mut Stream) {
        fn refresh<Data>(status: UnbufferedStatus<'_, '_, Data>) {
            let Ok(ConnectionState::WriteTraffic(traffic)) = status.state else { panic!("it is open") };
            traffic.refresh_traffic_keys().expect("TLS 1.3");
        }
        match &mut stream.side {
            Side::Client(side) => refresh(side.process_tls_records(&mut [])),
            Side::Server(side) => refresh(side.process_tls_records(&mut [])),
        }
    }

    /// Either end may ask for new keys at any time, while bytes are on their way in both directions, and while it is asked.
    #[test]
    fn keys_are_renewed_in_mid_stream() {
        let mut random = Random(7);
        let mut pair = Pair::open(u64::MAX, &mut random);
        for round in 0..100_usize {
            let (from, len) = (round % 2, 1 + random.below(100_000));
            if random.below(3) == 0 {
                // Some are on their way with the keys before.
                pair.ends[1 - from].seal(b"before").expect("it is open");
            }
            refresh(&mut pair.ends[from]);
            if random.below(3) == 0 {
                refresh(&mut pair.ends[1 - from]);
            }
            pair.exchange(from, len, &mut random);
            carry(&mut pair.ends, 1 - from, &mut random, None).expect("good records");
            let late = std::mem::take(&mut pair.ends[from].received);
            assert!(late.is_empty() || late == b"before", "{round}: {late:02x?}");
            pair.exchange(1 - from, len, &mut random);
        }
    }

    /// A trunk that carries much needs new keys by itself.
    #[test]
    fn keys_that_have_sealed_enough_are_renewed() {
        let mut random = Random(8);
        let mut pair = Pair::open(32, &mut random);
        for round in 0..200_usize {
            let len = 1 + random.below(400_000);
            pair.exchange(round % 2, len, &mut random);
        }
        // One direction alone, too.
        for _ in 0..200 {
            pair.exchange(0, 200_000, &mut random);
        }
    }

    /// One bit that is wrong anywhere is an error at one end, never bytes that weren't sent, and never a panic, not even if
    /// everything is read again.
    #[test]
    fn wrong_bit_is_an_error() {
        let key = || PrivateKey::generate().expect("random bytes");
        let keys = [key(), key()];
        let mut failures = 0;
        for case in 0..600 {
            let Pair { mut ends, .. } = pair(keys.clone());
            let mut random = Random(case);
            let (turn, at) = (random.below(5), random.below(if case % 2 == 0 { 60 } else { 900 }));
            let mut results = vec![ends[0].process()];
            for now in 0..8 {
                let from = usize::from(now % 2 == 1);
                if now >= 3 && ends[from].process() == Ok(Progress::Open) {
                    ends[from].seal(b"what was sent").expect("it is open");
                }
                results.push(carry(&mut ends, from, &mut random, (now == turn).then_some(at)));
                results.push(ends[from].process());
                let received = std::mem::take(&mut ends[1 - from].received);
                assert!(received.chunks(13).all(|chunk| chunk == b"what was sent"), "{case}");
            }
            failures += u32::from(results.iter().any(Result::is_err));
        }
        assert!(failures > 200, "only {failures}: the bits were beside what is sent");
    }
}
