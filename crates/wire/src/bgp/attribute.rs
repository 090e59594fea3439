//! Path attributes (RFC 4271, section 4.3), one after the other.

/// Attributes that are looked into (IANA, "BGP Path Attributes").
pub(super) mod kind {
    pub const ORIGIN: u8 = 1;
    pub const AS_PATH: u8 = 2;
    pub const NEXT_HOP: u8 = 3;
    pub const MULTI_EXIT_DISC: u8 = 4;
    pub const LOCAL_PREF: u8 = 5;
    pub const ATOMIC_AGGREGATE: u8 = 6;
    pub const ORIGINATOR_ID: u8 = 9;
    pub const MP_REACH_NLRI: u8 = 14;
    pub const MP_UNREACH_NLRI: u8 = 15;
    pub const LARGE_COMMUNITY: u8 = 32;
}

/// Flags of an attribute.
pub(super) mod flag {
    pub const OPTIONAL: u8 = 0x80;
    pub const TRANSITIVE: u8 = 0x40;
    pub const EXTENDED_LENGTH: u8 = 0x10;
}

/// An attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attribute<'a> {
    pub flags: u8,
    pub kind: u8,
    pub value: &'a [u8],
    /// All of it, with flags, type and length.
    pub whole: &'a [u8],
}

impl Attribute<'_> {
    /// Returns true if the flags are those that an attribute of this kind has to have. Those of kinds that aren't looked
    /// into are right.
    pub fn has_right_flags(&self) -> bool {
        let wanted = match self.kind {
            kind::ORIGIN | kind::AS_PATH | kind::NEXT_HOP | kind::LOCAL_PREF | kind::ATOMIC_AGGREGATE => {
                flag::TRANSITIVE
            }
            kind::MULTI_EXIT_DISC | kind::ORIGINATOR_ID | kind::MP_REACH_NLRI | kind::MP_UNREACH_NLRI => flag::OPTIONAL,
            kind::LARGE_COMMUNITY => flag::OPTIONAL | flag::TRANSITIVE,
            _ => return true,
        };
        self.flags & (flag::OPTIONAL | flag::TRANSITIVE) == wanted
    }

    /// Returns true if every speaker has to know this attribute, and this one doesn't (RFC 4271, section 5).
    pub const fn is_unknown_well_known(&self) -> bool {
        self.flags & flag::OPTIONAL == 0
            && (self.kind == 0 || self.kind > kind::ATOMIC_AGGREGATE)
            && !self.is_optional_kind()
    }

    const fn is_optional_kind(&self) -> bool {
        matches!(self.kind, kind::ORIGINATOR_ID | kind::MP_REACH_NLRI | kind::MP_UNREACH_NLRI | kind::LARGE_COMMUNITY)
    }
}

/// The attributes of an UPDATE, up to the first one that is cut off.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Returns true if bytes are left that are no attribute.
    pub const fn is_cut_off(&self) -> bool {
        !self.rest.is_empty()
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let (&[flags, kind], behind) = self.rest.split_first_chunk()?;
        let (len, behind) = if flags & flag::EXTENDED_LENGTH == 0 {
            let (&len, behind) = behind.split_first()?;
            (usize::from(len), behind)
        } else {
            let (len, behind) = super::take_u16(behind)?;
            (usize::from(len), behind)
        };
        let (value, behind) = behind.split_at_checked(len)?;
        let whole = &self.rest[..self.rest.len() - behind.len()];
        self.rest = behind;
        Some(Attribute { flags, kind, value, whole })
    }
}
