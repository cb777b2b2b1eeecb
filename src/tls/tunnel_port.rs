//! What the two ends of a tunnel agree on, by where it arrives.

/// At which port a tunnel arrives, which the handshake agrees on by ALPN. Inside it is HTTP/2.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum TunnelPort {
    /// HBONE's own, where nothing else is offered or accepted.
    #[default]
    Hbone,
    /// The application's, where its own clients may offer `h2`: the name is one that they do not
    /// have, and without it there is no tunnel.
    Original,
}

impl TunnelPort {
    /// The protocol that ALPN agrees on.
    #[must_use]
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Hbone => b"h2",
            Self::Original => b"adit-hbone/1",
        }
    }
}
