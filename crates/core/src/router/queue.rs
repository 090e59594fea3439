//! Frames that wait to be written to a peer.

use tuntap_wire::frame::{self, FrameKind};

use super::shell::{Fault, SendError};
use crate::policy::drops::DropReason;

/// Spare buffers, from peers whose queues have become empty, for the next peers.
#[derive(Debug, Default)]
pub struct SpareBuffers(Vec<Vec<u8>>);

impl SpareBuffers {
    const MAX: usize = 16;

    /// Buffers with a larger capacity are freed.
    const MAX_CAPACITY: usize = 512 * 1024;

    fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }

    fn put(&mut self, mut buffer: Vec<u8>) {
        if self.0.len() < Self::MAX && buffer.capacity() <= Self::MAX_CAPACITY {
            buffer.clear();
            self.0.push(buffer);
        }
    }
}

/// What is left in a queue after a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing.
    All,
    /// Some bytes: the peer's socket is full.
    Partly,
}

/// A bounded queue of whole frames, of which the first may be written in part.
#[derive(Debug, Default)]
pub struct FrameQueue {
    bytes: Vec<u8>,
    written: usize,
}

impl FrameQueue {
    /// Returns the number of bytes in the queue.
    pub const fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Returns true if the queue has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes that wait.
    pub fn waiting(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// Appends a frame, unless the queue would then have more than `limit` bytes. If it returns an error, the queue is
    /// unchanged.
    pub fn push(
        &mut self,
        kind: FrameKind,
        payload: &[u8],
        limit: usize,
        spares: &mut SpareBuffers,
    ) -> Result<(), DropReason> {
        if self.len() + frame::HEADER_LEN + payload.len() > limit {
            return Err(DropReason::QueueFull);
        }
        if self.bytes.capacity() == 0 {
            self.bytes = spares.take();
        } else if self.written > limit / 2 {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
        if frame::append(&mut self.bytes, kind, payload) { Ok(()) } else { Err(DropReason::TooBig) }
    }

    /// Sends as much as `send` takes. Returns the number of bytes sent, and what is left.
    pub fn flush(
        &mut self,
        mut send: impl FnMut(&[u8]) -> Result<usize, SendError>,
        spares: &mut SpareBuffers,
    ) -> Result<(usize, Flushed), FlushError> {
        let mut count = 0;
        while self.written < self.bytes.len() {
            match send(self.waiting()) {
                Ok(written) => {
                    self.written += written;
                    count += written;
                }
                Err(SendError::Full) => return Ok((count, Flushed::Partly)),
                Err(SendError::Closed) => return Err(FlushError::Closed),
                Err(SendError::Failed(fault)) => return Err(FlushError::Failed(fault)),
            }
        }
        spares.put(std::mem::take(&mut self.bytes));
        self.written = 0;
        Ok((count, Flushed::All))
    }
}

/// Why sending a queue failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlushError {
    /// The peer has closed its end.
    Closed,
    /// Sending failed for another reason.
    Failed(Fault),
}

#[cfg(test)]
mod tests {
    use super::*;
    use tuntap_wire::frame::Frames;

    const LIMIT: usize = 256 * 1024;

    /// The number of bytes that the peer's socket takes before the peer reads.
    const SOCKET: usize = 100_000;

    /// A reader that pauses still receives every accepted frame, whole and in order.
    #[test]
    fn slow_reader_gets_whole_frames_and_the_bound_holds() {
        let mut spares = SpareBuffers::default();
        let mut queue = FrameQueue::default();
        let mut accepted = Vec::new();
        let (mut socket, mut stream) = (Vec::new(), Vec::new());
        let mut refused = 0;
        let mut flush = |queue: &mut FrameQueue, socket: &mut Vec<u8>| {
            let send = |bytes: &[u8]| match bytes.len().min(SOCKET - socket.len()) {
                0 => Err(SendError::Full),
                count => {
                    socket.extend_from_slice(&bytes[..count]);
                    Ok(count)
                }
            };
            queue.flush(send, &mut spares).expect("the reader lives")
        };
        let mut others = SpareBuffers::default();
        for serial in 0..3000u32 {
            let packet = vec![serial.to_le_bytes()[0]; 100 + (serial as usize * 37) % 1400];
            if queue.push(FrameKind::Packet, &packet, LIMIT, &mut others).is_ok() {
                accepted.push(packet);
            } else {
                refused += 1;
            }
            assert!(queue.len() <= LIMIT);
            flush(&mut queue, &mut socket);
            if serial % 7 == 0 {
                let count = socket.len().min(2000);
                stream.extend(socket.drain(..count));
            }
        }
        assert!(refused > 0, "the reader was too quick to fill the queue");
        while !queue.is_empty() {
            stream.append(&mut socket);
            flush(&mut queue, &mut socket);
        }
        stream.append(&mut socket);
        let seen: Vec<_> = Frames::new(&stream).map(|frame| frame.expect("valid").payload.to_vec()).collect();
        assert!(seen == accepted, "{} frames seen, {} accepted", seen.len(), accepted.len());
    }
}
