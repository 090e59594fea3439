//! Attributes inside of messages, where the kernel's structures have to be read that no crate has types for (netlink(7)).

use netlink_packet_core::{DefaultNla, Emitable, NLA_HEADER_SIZE, NlasIterator};

/// The attributes, each with its type and its payload, up to the first that is cut. Types are without their flags
/// (NLA_F_NESTED, NLA_F_NET_BYTEORDER).
pub fn iterate(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(|attribute| {
        let attribute = attribute.ok()?;
        let (kind, len) = (attribute.kind(), usize::from(attribute.length()));
        Some((kind, attribute.into_inner().get(NLA_HEADER_SIZE..len)?))
    })
}

/// The payload of the first attribute of a type.
pub fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    iterate(bytes).find_map(|(kind, payload)| (kind == wanted).then_some(payload))
}

/// The value of an attribute that is a big-endian number, as those of netfilter are.
pub fn big_endian(bytes: &[u8], wanted: u16) -> Option<u32> {
    Some(u32::from_be_bytes(find(bytes, wanted)?.try_into().ok()?))
}

/// The value of an attribute that is a text; empty if there is no such attribute.
pub fn text(bytes: &[u8], wanted: u16) -> String {
    let text = find(bytes, wanted).unwrap_or_default();
    String::from_utf8_lossy(text).trim_end_matches('\0').to_owned()
}

/// Attributes with these texts, one behind the other.
pub fn of_texts(texts: &[(u16, &str)]) -> Vec<u8> {
    let with_nul = |text: &str| [text.as_bytes(), &[0]].concat();
    let attributes: Vec<_> = texts.iter().map(|(kind, text)| DefaultNla::new(*kind, with_nul(text))).collect();
    let mut bytes = vec![0; attributes.as_slice().buffer_len()];
    attributes.as_slice().emit(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_behind_others_and_never_past_the_end() {
        let bytes = [5, 0, 1, 0, 9, 0, 0, 0, 8, 0, 3, 0x80, 1, 2, 3, 4];
        assert_eq!(find(&bytes, 1), Some(&[9][..]));
        assert_eq!(find(&bytes, 3), Some(&[1, 2, 3, 4][..]), "flags don't count");
        assert_eq!(find(&bytes, 2), None);
        assert_eq!(find(&bytes[..12], 3), None, "cut");
        assert_eq!(find(&[0, 0, 1, 0], 1), None, "shorter than its header");
    }

    #[test]
    fn text_is_read_as_it_is_written() {
        let bytes = of_texts(&[(1, "filter"), (2, "__set0")]);
        assert_eq!(text(&bytes, 1), "filter");
        assert_eq!(text(&bytes, 2), "__set0");
    }
}
