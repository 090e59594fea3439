//! The live policy, as it outlives the router's process: a document that is written whole with each change, to two files in
//! memory in turn. A router that dies while it writes one leaves the other one, which is complete.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use tuntap_sys::memory::MemoryFile;

/// The beginning of a file with a document.
const MAGIC: [u8; 8] = *b"uwsgi-tt";

/// Length of what stands before the document: magic, number, length and checksum.
const HEADER_LEN: usize = 28;

/// Longest document in bytes.
const MAX_LEN: usize = 256 * 1024 * 1024;

/// The files. They are made before the fork, and the master's copies keep them.
#[derive(Debug)]
pub struct Documents([MemoryFile; 2]);

/// A document that was found.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    number: u64,
    text: Vec<u8>,
}

impl Documents {
    /// Two empty files.
    pub fn new() -> nix::Result<Self> {
        let file = || MemoryFile::new(c"uwsgi-tuntap-policy");
        Ok(Self([file()?, file()?]))
    }

    /// The files that an image before this one has made.
    pub fn adopt(files: [OwnedFd; 2]) -> Self {
        Self(files.map(MemoryFile::adopt))
    }

    /// The descriptors that have to stay open.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        self.0.each_ref().map(MemoryFile::descriptor)
    }

    /// Reads the document that was written last. `None` if none was written whole.
    pub fn latest(&self) -> Option<Vec<u8>> {
        self.newest().map(|(_, found)| found.text)
    }

    fn newest(&self) -> Option<(usize, Found)> {
        let found = self.0.iter().enumerate().filter_map(|(index, file)| Some((index, read(file)?)));
        found.max_by_key(|(_, found)| found.number)
    }

    /// Begins to write. Gives back the memory of what is out of date.
    pub fn writer(&self) -> io::Result<DocumentWriter> {
        let copies = self.descriptors().map(|descriptor| descriptor.try_clone_to_owned());
        let [first, second] = copies;
        let documents = Self::adopt([first?, second?]);
        let (number, next) = documents.newest().map_or((0, 0), |(index, found)| (found.number, 1 - index));
        documents.0[next].clear()?;
        Ok(DocumentWriter { documents, number, next })
    }
}

/// Writes documents.
#[derive(Debug)]
pub struct DocumentWriter {
    documents: Documents,
    /// The number of the last document.
    number: u64,
    /// The file that the next one goes to.
    next: usize,
}

impl DocumentWriter {
    /// Writes a document. If this fails, the one before it stays.
    pub fn write(&mut self, text: &[u8]) -> io::Result<()> {
        if text.len() > MAX_LEN {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let number = self.number + 1;
        let file = &self.documents.0[self.next];
        // While the document is written, the header is that of another one, whose checksum doesn't fit any more.
        file.write_at(text, HEADER_LEN as u64)?;
        file.write_at(&header(number, text), 0)?;
        self.number = number;
        self.next = 1 - self.next;
        Ok(())
    }

    /// Reads the document that was written last.
    pub fn latest(&self) -> Option<Vec<u8>> {
        self.documents.latest()
    }
}

/// What stands before a document. Its number and length are a part of the checksum.
fn header(number: u64, text: &[u8]) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    let (magic, rest) = header.split_at_mut(MAGIC.len());
    magic.copy_from_slice(&MAGIC);
    rest[..8].copy_from_slice(&number.to_ne_bytes());
    rest[8..16].copy_from_slice(&(text.len() as u64).to_ne_bytes());
    let mut sum = crc32fast::Hasher::new();
    sum.update(&rest[..16]);
    sum.update(text);
    rest[16..].copy_from_slice(&sum.finalize().to_ne_bytes());
    header
}

/// Reads a file. `None` if there is no whole document in it.
fn read(file: &MemoryFile) -> Option<Found> {
    let mut found = [0; HEADER_LEN];
    file.read_at(&mut found, 0).ok()?;
    let word = |at: usize| found.get(at..)?.first_chunk().copied().map(u64::from_ne_bytes);
    let (number, len) = (word(MAGIC.len())?, usize::try_from(word(MAGIC.len() + 8)?).ok()?);
    if found[..MAGIC.len()] != MAGIC || len > MAX_LEN {
        return None;
    }
    let mut text = vec![0; len];
    file.read_at(&mut text, HEADER_LEN as u64).ok()?;
    (header(number, &text) == found).then_some(Found { number, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(documents: &Documents) -> Option<String> {
        documents.latest().map(|bytes| String::from_utf8(bytes).expect("UTF-8"))
    }

    #[test]
    fn last_document_is_found_by_whoever_comes_next() {
        let documents = Documents::new().expect("memory");
        assert_eq!(text(&documents), None);
        for word in ["one", "the second one is longer", "3", ""] {
            // Each word is written by another process.
            documents.writer().and_then(|mut writer| writer.write(word.as_bytes())).expect("memory");
            assert_eq!(text(&documents).as_deref(), Some(word));
        }
        let mut writer = documents.writer().expect("memory");
        for word in ["a", "bb", "ccc"] {
            writer.write(word.as_bytes()).expect("memory");
            assert_eq!(writer.latest().as_deref(), Some(word.as_bytes()));
        }
    }

    /// A writer that ends at any place leaves the document before.
    #[test]
    fn torn_document_is_not_taken() {
        let old = b"old and rather long";
        let new = b"the new document";
        for written in 0..HEADER_LEN + new.len() {
            let documents = Documents::new().expect("memory");
            let mut writer = documents.writer().expect("memory");
            writer.write(b"oldest").and_then(|()| writer.write(old)).expect("memory");
            // The same steps as of `write`, of which the last ones are missing: first the text, then the header.
            let file = &documents.0[writer.next];
            file.write_at(&new[..written.min(new.len())], HEADER_LEN as u64).expect("memory");
            let of_header = written.saturating_sub(new.len());
            file.write_at(&header(3, new)[..of_header], 0).expect("memory");
            assert_eq!(documents.latest().as_deref(), Some(&old[..]), "after {written} bytes");
            file.write_at(new, HEADER_LEN as u64).and_then(|()| file.write_at(&header(3, new), 0)).expect("memory");
            assert_eq!(documents.latest().as_deref(), Some(&new[..]));
        }
    }

    #[test]
    fn each_changed_bit_is_noticed() {
        let documents = Documents::new().expect("memory");
        documents.writer().and_then(|mut writer| writer.write(b"text")).expect("memory");
        let file = &documents.0[0];
        for at in 0..HEADER_LEN as u64 + 4 {
            for bit in 0..8 {
                let mut byte = [0];
                file.read_at(&mut byte, at).expect("it is there");
                file.write_at(&[byte[0] ^ 1 << bit], at).expect("memory");
                assert_eq!(documents.latest(), None, "bit {bit} of byte {at}");
                file.write_at(&byte, at).expect("memory");
            }
        }
        assert_eq!(documents.latest().as_deref(), Some(&b"text"[..]));
    }

    #[test]
    fn document_that_is_too_long_leaves_the_one_before() {
        let documents = Documents::new().expect("memory");
        let mut writer = documents.writer().expect("memory");
        writer.write(b"text").expect("memory");
        assert!(writer.write(&vec![0; MAX_LEN + 1]).is_err());
        assert_eq!(documents.latest().as_deref(), Some(&b"text"[..]));
    }
}
