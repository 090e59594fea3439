//! The one netlink client: a socket, numbered requests, and the kernel's answers to them (RFC 3549, netlink(7)). What the
//! messages are about is the business of the modules beside this one.

use std::io;
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::time::{Duration, Instant};

use netlink_packet_core::{
    DecodeError, NLA_ALIGNTO, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NetlinkBuffer, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use super::attributes;
use super::error::NetlinkError;
use crate::socket::{set_send_buffer, wait_readable};

/// How long the kernel may be silent before it has answered completely. It mostly answers before send(2) returns.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a list is requested if it changes while it is read.
const MAX_DUMPS: usize = 5;

/// Most datagrams that are discarded at once: more than a receive buffer holds.
const MAX_DISCARDED: usize = 10_000;

/// NLMSGERR_ATTR_MSG of linux/netlink.h: the attribute with the kernel's explanation of an error.
const ERROR_MESSAGE: u16 = 1;

/// struct nlmsghdr of linux/netlink.h, in bytes.
const HEADER_LEN: usize = 16;

/// Bytes behind the header that [`Connection::take`] shows.
const SHOWN_LEN: usize = 8;

/// An open socket of one netlink protocol, whose messages are `M`.
#[derive(Debug)]
pub struct Connection<M> {
    socket: Socket,
    last_sequence: u32,
    messages: PhantomData<M>,
}

impl<M> Connection<M> {
    /// Opens a socket, closed on exec, in the network namespace of the calling thread.
    pub fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        // Answers don't repeat the request, but explain errors in words.
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        Ok(Self { socket, last_sequence: 0, messages: PhantomData })
    }

    /// Takes over a socket of the same protocol that [`Self::open`] has made in an earlier image of this process.
    pub fn adopt(socket: OwnedFd) -> Self {
        // SAFETY: an open descriptor that nothing else owns from here on.
        let socket = unsafe { Socket::from_raw_fd(socket.into_raw_fd()) };
        Self { socket, last_sequence: 0, messages: PhantomData }
    }

    /// The port of the socket, by which the kernel knows the owner of what was made through it.
    pub fn port(&self) -> io::Result<u32> {
        let mut address = SocketAddr::new(0, 0);
        self.socket.get_address(&mut address)?;
        Ok(address.port_number())
    }

    /// Makes the socket receive what the kernel sends to these multicast groups. The descriptor becomes non-blocking.
    pub fn subscribe(&mut self, groups: &[u32]) -> io::Result<()> {
        self.socket.set_non_blocking(true)?;
        groups.iter().try_for_each(|group| self.socket.add_membership(*group))
    }

    /// Discards everything that has arrived, without waiting. Returns true if there was something, or more than the
    /// socket's buffer holds (ENOBUFS).
    pub fn discard(&self) -> bool {
        let mut any = false;
        for _ in 0..MAX_DISCARDED {
            // The kernel discards what doesn't fit the buffer.
            match recv(self.socket.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT) {
                Ok(_) | Err(Errno::ENOBUFS) => any = true,
                Err(Errno::EAGAIN) => break,
                // The kernel reports an error of the socket once.
                Err(_) => {}
            }
        }
        any
    }

    /// Takes what has arrived, without waiting, and shows the start of each message behind its header. Returns false if there was more than
    /// the socket's buffer holds (ENOBUFS), or than is taken at once.
    pub fn take(&self, mut show: impl FnMut(&[u8])) -> bool {
        let mut is_complete = true;
        for _ in 0..MAX_DISCARDED {
            let mut start = [0; HEADER_LEN + SHOWN_LEN];
            match recv(self.socket.as_raw_fd(), &mut start, MsgFlags::MSG_DONTWAIT) {
                Ok(len) => show(start[..len].get(HEADER_LEN..).unwrap_or_default()),
                Err(Errno::EAGAIN) => return is_complete,
                Err(Errno::EINTR) => {}
                // The kernel reports an error of the socket once.
                Err(_) => is_complete = false,
            }
        }
        false
    }

    /// The socket.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<M: NetlinkSerializable + NetlinkDeserializable> Connection<M> {
    /// Requests a change, and waits until it is made. `attempt` is what an error says was tried.
    pub fn change(&mut self, message: M, flags: u16, attempt: impl Fn() -> String) -> Result<(), NetlinkError> {
        self.exchange(message, NLM_F_ACK | flags, |_| ()).map_err(|failure| failure.of(attempt()))
    }

    /// Requests one object. ENODATA if the kernel acknowledges the request without an object.
    pub fn get(&mut self, message: M, attempt: impl Fn() -> String) -> Result<M, NetlinkError> {
        let mut found = None;
        let result = self.exchange(message, NLM_F_ACK, |answer| _ = found.get_or_insert(answer));
        result.map_err(|failure| failure.of(attempt()))?;
        found.ok_or_else(|| NetlinkError::new(attempt(), Errno::ENODATA))
    }

    /// Requests all objects of a kind. A list that changes while it is read is requested anew; EINTR if it changes every
    /// time.
    pub fn list(&mut self, message: M, attempt: impl Fn() -> String) -> Result<Vec<M>, NetlinkError>
    where
        M: Clone,
    {
        for _ in 1..MAX_DUMPS {
            match self.list_once(message.clone(), &attempt) {
                Err(error) if error.errno() == Some(Errno::EINTR) => {}
                result => return result,
            }
        }
        self.list_once(message, &attempt)
    }

    fn list_once(&mut self, message: M, attempt: &impl Fn() -> String) -> Result<Vec<M>, NetlinkError> {
        let mut found = Vec::new();
        self.visit(message, attempt, |answer| found.push(answer))?;
        Ok(found)
    }

    /// Requests all objects of a kind and shows them one by one, so that a list may be longer than what should be in memory.
    /// EINTR if the list has changed while it was read.
    pub fn visit(
        &mut self,
        message: M,
        attempt: impl Fn() -> String,
        visit: impl FnMut(M),
    ) -> Result<(), NetlinkError> {
        self.exchange(message, NLM_F_DUMP, visit).map_err(|failure| failure.of(attempt()))
    }

    /// Requests several changes in one datagram, each with its flags. Waits for the acknowledgement of the last but one: the
    /// last message ends the batch, and has no answer.
    pub fn batch(&mut self, messages: Vec<(M, u16)>, attempt: impl Fn() -> String) -> Result<(), NetlinkError> {
        let first = self.last_sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        let last_but_one = messages.len().saturating_sub(2);
        for (index, (message, flags)) in messages.into_iter().enumerate() {
            self.append(&mut datagram, message, if index == last_but_one { flags | NLM_F_ACK } else { flags });
        }
        set_send_buffer(self.socket.as_fd(), datagram.len().saturating_mul(2));
        let awaited = self.last_sequence.wrapping_sub(1);
        let result = self.send(&datagram).map_err(Failure::from);
        result.and_then(|()| self.receive(first..=awaited, |_| ())).map_err(|failure| failure.of(attempt()))
    }

    fn exchange(&mut self, message: M, flags: u16, visit: impl FnMut(M)) -> Result<(), Failure> {
        let mut datagram = Vec::new();
        self.append(&mut datagram, message, flags);
        self.send(&datagram)?;
        self.receive(self.last_sequence..=self.last_sequence, visit)
    }

    /// Appends a request with the next sequence number.
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
        // What is left of the answers to a failed request would take the room of the next answers, and a list that wasn't
        // read to its end keeps the kernel from beginning the next one.
        self.discard();
        let sent = self.socket.send_to(datagram, &SocketAddr::new(0, 0), libc::MSG_DONTWAIT)?;
        if sent == datagram.len() { Ok(()) } else { Err(Errno::EMSGSIZE.into()) }
    }

    /// Receives the answers to requests with these sequence numbers, up to the acknowledgement of the last one, or the end
    /// of its list.
    fn receive(&self, sequences: RangeInclusive<u32>, mut visit: impl FnMut(M)) -> Result<(), Failure> {
        let mut progress = Progress::default();
        let mut deadline = Instant::now() + ANSWER_TIMEOUT;
        let mut has_lost_some = false;
        loop {
            if !wait_readable(self.socket.as_fd(), deadline.saturating_duration_since(Instant::now())) {
                return Err(if has_lost_some { Errno::ENOBUFS } else { Errno::ETIMEDOUT }.into());
            }
            let (datagram, sender) = match self.socket.recv_from_full() {
                // A batch that fails in many places has more answers than the buffer holds. The first ones, which explain
                // the failure, are still there.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) && !has_lost_some => {
                    has_lost_some = true;
                    continue;
                }
                result => result?,
            };
            // Other processes can send to this socket, too.
            if sender.port_number() != 0 {
                continue;
            }
            for message in Messages(&datagram) {
                let sequence = NetlinkBuffer::new_checked(message)?.sequence_number();
                // Others are late answers to requests that were given up.
                if sequences.contains(&sequence) {
                    deadline = Instant::now() + ANSWER_TIMEOUT;
                    if progress.take(message, sequence == *sequences.end(), &mut visit)? {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// How far the answer to a request was received.
#[derive(Default)]
struct Progress {
    /// The list has changed while it was read.
    is_interrupted: bool,
}

impl Progress {
    /// Takes one message of the answer. Returns true if it ends the answer. `is_last`: it answers the last request.
    fn take<M: NetlinkDeserializable>(
        &mut self,
        message: &[u8],
        is_last: bool,
        visit: &mut impl FnMut(M),
    ) -> Result<bool, Failure> {
        let flags = NetlinkBuffer::new_checked(message)?.flags();
        // Any message of a list can say so, also the one that ends it. All of them have to be read before the next request.
        self.is_interrupted |= flags & NLM_F_DUMP_INTR != 0;
        match NetlinkMessage::<M>::deserialize(message)?.payload {
            NetlinkPayload::Error(error) if error.code.is_some() => {
                Err(Failure { cause: error.to_io(), detail: explanation(&error.header, flags) })
            }
            NetlinkPayload::Error(_) => Ok(is_last),
            NetlinkPayload::Done(done) if done.code < 0 => Err(io::Error::from_raw_os_error(-done.code).into()),
            NetlinkPayload::Done(_) if self.is_interrupted => Err(Errno::EINTR.into()),
            NetlinkPayload::Done(_) => Ok(true),
            NetlinkPayload::Overrun(_) => Err(Errno::ENOBUFS.into()),
            NetlinkPayload::InnerMessage(answer) => {
                visit(answer);
                Ok(false)
            }
            _ => Ok(false),
        }
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

/// The kernel's explanation in the answer to a failed request. It stands behind the request, or behind the request's header.
fn explanation(answer: &[u8], flags: u16) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let request_len = if flags & NLM_F_CAPPED != 0 {
        HEADER_LEN
    } else {
        usize::try_from(NetlinkBuffer::new_checked(answer).ok()?.length()).ok()?.next_multiple_of(NLA_ALIGNTO)
    };
    let attributes = answer.get(request_len..)?;
    attributes::find(attributes, ERROR_MESSAGE)?;
    Some(attributes::text(attributes, ERROR_MESSAGE))
}

/// An error without the description of what was tried.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// One message as it stands in a datagram: length, type, flags, sequence number, port.
    fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(HEADER_LEN + body.len()).expect("short");
        let mut bytes = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8], body].concat();
        bytes.resize(bytes.len().next_multiple_of(NLA_ALIGNTO), 0);
        bytes
    }

    const ERROR: u16 = 2;
    const DONE: u16 = 3;
    const NEW_ROUTE: u16 = 24;

    fn taken(messages: &[Vec<u8>], is_last: bool) -> (Result<bool, String>, usize) {
        let (mut progress, mut count) = (Progress::default(), 0);
        let datagram = messages.concat();
        let mut visit = |_: netlink_packet_route::RouteNetlinkMessage| count += 1;
        let mut result = Ok(false);
        for message in Messages(&datagram) {
            result =
                progress.take(message, is_last, &mut visit).map_err(|failure| failure.of("x".to_owned()).to_string());
        }
        (result, count)
    }

    #[test]
    fn list_ends_with_its_last_message_and_tells_of_changes() {
        let route = |flags| message(NEW_ROUTE, flags, &[0; 12]);
        let done = |code: i32| message(DONE, 0, &code.to_ne_bytes());
        assert_eq!(taken(&[route(0), route(0)], true), (Ok(false), 2));
        assert_eq!(taken(&[route(0), route(0), done(0)], true), (Ok(true), 2));
        let (interrupted, count) = taken(&[route(0), route(NLM_F_DUMP_INTR), route(0), done(0)], true);
        assert!(interrupted.is_err_and(|error| error.contains("Interrupted")) && count == 3);
        let (failed, _) = taken(&[done(-libc::ENOENT)], true);
        assert!(failed.is_err_and(|error| error.contains("No such file")));
    }

    #[test]
    fn batch_ends_with_the_acknowledgement_of_its_last_request() {
        let acknowledgement = message(ERROR, NLM_F_CAPPED, &[0; 4 + HEADER_LEN]);
        assert_eq!(taken(std::slice::from_ref(&acknowledgement), false), (Ok(false), 0));
        assert_eq!(taken(&[acknowledgement], true), (Ok(true), 0));
    }

    #[test]
    fn message_that_is_cut_ends_the_datagram() {
        let whole = message(DONE, 0, &[0; 4]);
        assert_eq!(Messages(&[whole.clone(), whole.clone()].concat()).count(), 2);
        assert_eq!(Messages(&[&whole[..], &whole[..8]].concat()).count(), 1);
        assert_eq!(Messages(&[&whole[..], &[0; 16]].concat()).count(), 1, "a length of nothing");
    }
}
