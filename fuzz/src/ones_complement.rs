//! The internet checksum as RFC 1071 defines it, word by word.

/// The sum of 16-bit words in one's complement; a last odd byte is followed by a zero.
pub fn sum(parts: &[&[u8]]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    let mut total: u32 = parts.iter().flat_map(|part| part.chunks(2)).map(word).sum();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).expect("folded")
}

/// Whether a checksum among these bytes is right: the sum of everything is all ones.
pub fn verifies(parts: &[&[u8]]) -> bool {
    sum(parts) == 0xffff
}
