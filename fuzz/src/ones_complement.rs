//! The Internet checksum as RFC 1071 defines it, word by word.

/// The one's complement sum of 16-bit words. A last odd byte is padded with a zero.
pub fn sum(parts: &[&[u8]]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    let mut total: u32 = parts.iter().flat_map(|part| part.chunks(2)).map(word).sum();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).expect("folded")
}

/// Returns true if the checksum among these bytes is right: the sum of all of them is 0xffff.
pub fn verifies(parts: &[&[u8]]) -> bool {
    sum(parts) == 0xffff
}
