//! A netlink socket, its requests and their answers, whatever they are about (RFC 3549, netlink(7)).

use std::io;
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::time::{Duration, Instant};

use netlink_packet_core::{
    DecodeError, NLA_ALIGNTO, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NetlinkBuffer, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    NlasIterator,
};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;

use super::error::NetlinkError;
use crate::socket::{set_send_buffer, wait_readable};

/// How long the kernel may take. It answers before send(2) returns, mostly.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a list is read anew that changes while it is read.
const MAX_DUMPS: usize = 5;

/// Most datagrams that are thrown away before a request: more than a receive buffer holds.
const MAX_LEFTOVERS: usize = 10_000;

/// NLMSGERR_ATTR_MSG of linux/netlink.h: words about an error.
const ATTRIBUTE_MESSAGE: u16 = 1;

/// struct nlmsghdr of linux/netlink.h, in bytes.
const HEADER_LEN: usize = 16;

/// An open socket for one protocol, whose messages are `M`.
#[derive(Debug)]
pub struct Connection<M> {
    socket: Socket,
    last_sequence: u32,
    messages: PhantomData<M>,
}

impl<M: NetlinkSerializable + NetlinkDeserializable> Connection<M> {
    /// Opens a socket, closed on exec, in the network namespace of the calling thread.
    pub fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        // Answers without a copy of the request, but with words.
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        Ok(Self { socket, last_sequence: 0, messages: PhantomData })
    }

    /// Goes on with a socket of the same protocol that [`Self::open`] has made in an earlier image of this process.
    pub fn adopt(socket: OwnedFd) -> Self {
        // SAFETY: an open descriptor that nothing else owns from here on.
        let socket = unsafe { Socket::from_raw_fd(socket.into_raw_fd()) };
        Self { socket, last_sequence: 0, messages: PhantomData }
    }

    /// The socket's own address, by which the kernel knows it as the owner of what it made.
    pub fn port(&self) -> io::Result<u32> {
        let mut address = SocketAddr::new(0, 0);
        self.socket.get_address(&mut address)?;
        Ok(address.port_number())
    }

    /// Asks for a change. `attempt` is what the error says was tried.
    pub fn change(&mut self, message: M, flags: u16, attempt: impl Fn() -> String) -> Result<(), NetlinkError> {
        self.exchange(message, NLM_F_ACK | flags).map(drop).map_err(|failure| failure.of(attempt()))
    }

    /// Asks for one object.
    pub fn get(&mut self, message: M, attempt: impl Fn() -> String) -> Result<M, NetlinkError> {
        let answers = self.exchange(message, NLM_F_ACK).map_err(|failure| failure.of(attempt()))?;
        answers.into_iter().next().ok_or_else(|| NetlinkError::new(attempt(), Errno::ENODATA))
    }

    /// Asks for all objects of a kind.
    pub fn list(&mut self, message: M, attempt: impl Fn() -> String) -> Result<Vec<M>, NetlinkError>
    where
        M: Clone,
    {
        for _ in 1..MAX_DUMPS {
            match self.exchange(message.clone(), NLM_F_DUMP) {
                Err(Failure { cause, .. }) if cause.raw_os_error() == Some(libc::EINTR) => {}
                result => return result.map_err(|failure| failure.of(attempt())),
            }
        }
        self.exchange(message, NLM_F_DUMP).map_err(|failure| failure.of(attempt()))
    }

    /// Asks for several changes in one datagram, each with its flags. The kernel's answer to the one that comes before
    /// the last is waited for: the last one ends the batch.
    pub fn batch(&mut self, messages: Vec<(M, u16)>, attempt: impl Fn() -> String) -> Result<(), NetlinkError> {
        let first = self.last_sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        let last_but_one = messages.len().saturating_sub(2);
        for (index, (message, flags)) in messages.into_iter().enumerate() {
            self.append(&mut datagram, message, if index == last_but_one { flags | NLM_F_ACK } else { flags });
        }
        set_send_buffer(self.socket.as_fd(), datagram.len().saturating_mul(2));
        let awaited = self.last_sequence.wrapping_sub(1);
        let answers = self.send(&datagram).map_err(Failure::from).and_then(|()| self.answers(first..=awaited));
        answers.map(drop).map_err(|failure| failure.of(attempt()))
    }

    fn exchange(&mut self, message: M, flags: u16) -> Result<Vec<M>, Failure> {
        let mut datagram = Vec::new();
        self.append(&mut datagram, message, flags);
        self.send(&datagram)?;
        self.answers(self.last_sequence..=self.last_sequence)
    }

    fn append(&mut self, datagram: &mut Vec<u8>, message: M, flags: u16) {
        let mut request = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(message));
        self.last_sequence = self.last_sequence.wrapping_add(1);
        request.header.sequence_number = self.last_sequence;
        request.header.flags = NLM_F_REQUEST | flags;
        request.finalize();
        let start = datagram.len();
        datagram.resize(start + request.buffer_len(), 0);
        request.serialize(&mut datagram[start..]);
        datagram.resize(datagram.len().next_multiple_of(NLA_ALIGNTO), 0);
    }

    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        self.drop_leftovers();
        let sent = self.socket.send_to(datagram, &SocketAddr::new(0, 0), libc::MSG_DONTWAIT)?;
        if sent == datagram.len() { Ok(()) } else { Err(Errno::EMSGSIZE.into()) }
    }

    /// Throws away what is left of the answers to a request that failed: they would take the place of the next answers,
    /// and a list of which the end wasn't read keeps the next one from being read.
    fn drop_leftovers(&self) {
        for _ in 0..MAX_LEFTOVERS {
            if !wait_readable(self.socket.as_fd(), Duration::ZERO) {
                break;
            }
            // An error is a leftover, too: it is told once.
            let _ = self.socket.recv_from_full();
        }
    }

    /// What the kernel answers to requests with these numbers, up to the acknowledgement of the last one, or the end of
    /// its list. EINTR if the list changed while it was read.
    fn answers(&self, sequences: RangeInclusive<u32>) -> Result<Vec<M>, Failure> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let mut found = Vec::new();
        let mut is_interrupted = false;
        let mut has_lost_some = false;
        loop {
            if !wait_readable(self.socket.as_fd(), deadline.saturating_duration_since(Instant::now())) {
                return Err(if has_lost_some { Errno::ENOBUFS } else { Errno::ETIMEDOUT }.into());
            }
            let (datagram, sender) = match self.socket.recv_from_full() {
                // A request that fails in many places has more answers than there is room for. The first ones, which
                // say why, are there.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) && !has_lost_some => {
                    has_lost_some = true;
                    continue;
                }
                result => result?,
            };
            // Other processes may send to this socket, too.
            if sender.port_number() != 0 {
                continue;
            }
            for message in Messages(&datagram) {
                let header = NetlinkBuffer::new_checked(message)?;
                // A late answer to a request that was given up.
                if !sequences.contains(&header.sequence_number()) {
                    continue;
                }
                let flags = header.flags();
                let is_last = header.sequence_number() == *sequences.end();
                // Of any message, the last one included. What comes behind it belongs to this list still.
                is_interrupted |= flags & NLM_F_DUMP_INTR != 0;
                match NetlinkMessage::<M>::deserialize(message)?.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(Failure { cause: error.to_io(), detail: words(&error.header, flags) });
                    }
                    NetlinkPayload::Error(_) if is_last => return Ok(found),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code).into());
                    }
                    NetlinkPayload::Done(_) if is_interrupted => return Err(Errno::EINTR.into()),
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Overrun(_) => return Err(Errno::ENOBUFS.into()),
                    NetlinkPayload::InnerMessage(answer) => found.push(answer),
                    _ => {}
                }
            }
        }
    }
}

impl<M> Connection<M> {
    /// The socket.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The messages of a datagram, each with its header.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(NetlinkBuffer::new_checked(self.0).ok()?.length()).ok()?;
        let (message, rest) = self.0.split_at_checked(len)?;
        self.0 = rest.get(len.next_multiple_of(NLA_ALIGNTO) - len..).unwrap_or_default();
        Some(message)
    }
}

/// The kernel's words in the answer to a failed request, behind the request's header.
fn words(answer: &[u8], flags: u16) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let request_len = if flags & NLM_F_CAPPED != 0 {
        HEADER_LEN
    } else {
        usize::try_from(NetlinkBuffer::new_checked(answer).ok()?.length()).ok()?.next_multiple_of(NLA_ALIGNTO)
    };
    let attributes = NlasIterator::new(answer.get(request_len..)?);
    let message = attributes.filter_map(Result::ok).find(|attribute| attribute.kind() == ATTRIBUTE_MESSAGE)?;
    let words = String::from_utf8_lossy(message.value());
    Some(words.trim_end_matches('\0').to_owned())
}

/// An error that doesn't know yet what was tried.
struct Failure {
    cause: io::Error,
    detail: Option<String>,
}

impl Failure {
    fn of(self, attempt: String) -> NetlinkError {
        NetlinkError::new(attempt, self.cause).with_detail(self.detail)
    }
}

impl From<io::Error> for Failure {
    fn from(cause: io::Error) -> Self {
        Self { cause, detail: None }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error.to_string()).into()
    }
}
