//! Deaths, and what is done to pairs.
