//! What the router's process and the process that makes pairs say to each other: messages of one length, on a SOCK_SEQPACKET socket of
//! which the master keeps both ends. What one router's process has sent, the next one may get the answer to; so each names itself.

/// Bytes of a message.
pub const MESSAGE_LEN: usize = 24;

/// A router's process: another number for each.
pub type Run = u64;

/// What the router's process calls a peer.
pub type Token = u64;

/// What the router's process asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// It has begun. All pairs are to go.
    Begin(Run),
    /// To make a pair for a peer. The message comes with the descriptor of its TUN device.
    Make(Run, Token),
    /// To remove a peer's pair, or not to make it.
    Remove(Run, Token),
}

/// What it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The process that makes pairs has begun, or has to begin anew. It waits for [`Request::Begin`].
    Started,
    /// All pairs are gone, and pairs can be made.
    Ready(Run),
    /// There can be no pairs: the line in the log says why.
    Unable(Run),
    /// There is a pair, with this index.
    Made(Run, Token, u32),
    /// There is none, or none any more.
    Lost(Run, Token, Loss),
}

/// Why there is no pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// It could not be made.
    Refused,
    /// Something was done to it in the peer's namespace or at the host, or the device is gone from there.
    Damaged,
    /// There are as many pairs as there may be.
    Full,
}

impl Loss {
    /// All of them.
    const ALL: [Self; 3] = [Self::Refused, Self::Damaged, Self::Full];

    /// For the log.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Refused => "no pair of devices could be made for it",
            Self::Damaged => "its device, or its pair of devices, was changed or removed",
            Self::Full => "there are as many pairs of devices as there may be",
        }
    }
}

/// A message: what it is, three bytes that are 0, an index; the router's process; a token or another detail.
fn message(kind: u8, detail: u8, index: u32, run: Run, token: Token) -> [u8; MESSAGE_LEN] {
    let mut bytes = [0; MESSAGE_LEN];
    (bytes[0], bytes[1]) = (kind, detail);
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..16].copy_from_slice(&run.to_ne_bytes());
    bytes[16..].copy_from_slice(&token.to_ne_bytes());
    bytes
}

/// Kind, detail, index, router's process and token of a message.
fn parts(bytes: &[u8]) -> Option<(u8, u8, u32, Run, Token)> {
    let [kind, detail, 0, 0, rest @ ..]: [u8; MESSAGE_LEN] = bytes.try_into().ok()? else { return None };
    let number = |at: usize| rest[at..].first_chunk().copied().map(u64::from_ne_bytes);
    Some((kind, detail, rest.first_chunk().copied().map(u32::from_ne_bytes)?, number(4)?, number(12)?))
}

impl Request {
    /// The message.
    pub fn encode(self) -> [u8; MESSAGE_LEN] {
        match self {
            Self::Begin(run) => message(1, 0, 0, run, 0),
            Self::Make(run, token) => message(2, 0, 0, run, token),
            Self::Remove(run, token) => message(3, 0, 0, run, token),
        }
    }

    /// Reads a message. `None` if it is none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match parts(bytes)? {
            (1, 0, 0, run, 0) => Some(Self::Begin(run)),
            (2, 0, 0, run, token) => Some(Self::Make(run, token)),
            (3, 0, 0, run, token) => Some(Self::Remove(run, token)),
            _ => None,
        }
    }
}

impl Reply {
    /// The message.
    pub fn encode(self) -> [u8; MESSAGE_LEN] {
        match self {
            Self::Started => message(17, 0, 0, 0, 0),
            Self::Ready(run) => message(18, 0, 0, run, 0),
            Self::Unable(run) => message(19, 0, 0, run, 0),
            Self::Made(run, token, index) => message(20, 0, index, run, token),
            Self::Lost(run, token, loss) => message(21, loss as u8, 0, run, token),
        }
    }

    /// Reads a message. `None` if it is none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match parts(bytes)? {
            (17, 0, 0, 0, 0) => Some(Self::Started),
            (18, 0, 0, run, 0) => Some(Self::Ready(run)),
            (19, 0, 0, run, 0) => Some(Self::Unable(run)),
            // No interface has the index 0.
            (20, 0, index, run, token) if index != 0 => Some(Self::Made(run, token, index)),
            (21, loss, 0, run, token) => {
                let loss = Loss::ALL.into_iter().find(|known| *known as u8 == loss)?;
                Some(Self::Lost(run, token, loss))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written_and_nothing_else_is() {
        let (run, token) = (0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210);
        for request in [Request::Begin(run), Request::Make(run, token), Request::Remove(run, token)] {
            assert_eq!(Request::decode(&request.encode()), Some(request));
            assert_eq!(Reply::decode(&request.encode()), None);
        }
        let losses = Loss::ALL.map(|loss| Reply::Lost(run, token, loss));
        for reply in [Reply::Started, Reply::Ready(run), Reply::Unable(run), Reply::Made(run, token, 7)]
            .into_iter()
            .chain(losses)
        {
            let bytes = reply.encode();
            assert_eq!(Reply::decode(&bytes), Some(reply));
            assert_eq!(Request::decode(&bytes), None);
            assert_eq!(Reply::decode(&bytes[1..]), None);
            for at in [0, 2, 3] {
                let mut broken = bytes;
                broken[at] ^= 0x80;
                assert_eq!(Reply::decode(&broken), None, "{at}");
            }
        }
        assert_eq!(Reply::decode(&Reply::Made(run, token, 0).encode()), None);
        assert_eq!(Reply::decode(&message(21, 99, 0, run, token)), None);
        assert_eq!(Request::decode(&[]), None);
    }
}
