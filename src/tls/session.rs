//! What a finished handshake leaves: traffic secrets, and the schedule that yields the next
//! ones. The record layer is ours from here on ([`super::record`]); rustls keeps the rest.

use rustls::{
    ConnectionTrafficSecrets, SupportedCipherSuite,
    client::{ClientConnectionData, UnbufferedClientConnection},
    kernel::KernelConnection,
    server::{ServerConnectionData, UnbufferedServerConnection},
};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::{
    Peer, TlsError,
    driver::{Finished, Handshake},
    handshake::peer_of,
};

/// The AEADs of TLS 1.3 (RFC 8446 §B.4).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Aead {
    /// `TLS_AES_128_GCM_SHA256`
    Aes128Gcm,
    /// `TLS_AES_256_GCM_SHA384`
    Aes256Gcm,
    /// `TLS_CHACHA20_POLY1305_SHA256`
    ChaCha20Poly1305,
}

impl Aead {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Aes128Gcm, Self::Aes256Gcm, Self::ChaCha20Poly1305];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "AES-128-GCM",
            Self::Aes256Gcm => "AES-256-GCM",
            Self::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        }
    }

    /// The bytes of its key.
    #[must_use]
    pub fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }
}

/// One direction's write key and IV (RFC 8446 §7.3), with the number of its next record.
/// Neither `Debug` nor `Clone`: there is one owner of a key and its sequence.
pub struct TrafficSecrets {
    /// Which cipher.
    pub aead: Aead,
    /// The key: 16 or 32 bytes.
    pub key: Zeroizing<Vec<u8>>,
    /// The static IV.
    pub iv: [u8; 12],
    /// The sequence number of the next record (0 after a key update).
    pub sequence: u64,
}

impl TrafficSecrets {
    /// For the one place that may hand a key on to the kernel: its own end of it is gone then.
    pub(crate) fn copied(&self) -> Self {
        Self { aead: self.aead, key: self.key.clone(), iv: self.iv, sequence: self.sequence }
    }

    pub(super) fn new(
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<Self, TlsError> {
        use ConnectionTrafficSecrets as S;
        let (aead, key, iv) = match secrets {
            S::Aes128Gcm { key, iv } => (Aead::Aes128Gcm, key, iv),
            S::Aes256Gcm { key, iv } => (Aead::Aes256Gcm, key, iv),
            S::Chacha20Poly1305 { key, iv } => (Aead::ChaCha20Poly1305, key, iv),
            _ => return Err(TlsError::Other("a cipher suite without a record layer".into())),
        };
        let iv = iv.as_ref().try_into().map_err(|_| TlsError::Other("IV of TLS 1.2".into()))?;
        Ok(Self { aead, key: Zeroizing::new(key.as_ref().to_vec()), iv, sequence })
    }
}

/// Where the next traffic secrets come from (RFC 8446 §7.2).
pub trait KeySchedule: Send {
    /// The next keys for sending.
    ///
    /// # Errors
    /// If the schedule is exhausted or broken; the connection must end.
    fn next_sending(&mut self) -> Result<TrafficSecrets, TlsError>;
    /// The next keys for receiving.
    ///
    /// # Errors
    /// As [`KeySchedule::next_sending`].
    fn next_receiving(&mut self) -> Result<TrafficSecrets, TlsError>;
}

impl KeySchedule for KernelConnection<ClientConnectionData> {
    fn next_sending(&mut self) -> Result<TrafficSecrets, TlsError> {
        TrafficSecrets::new(self.update_tx_secret().map_err(TlsError::from_rustls)?)
    }

    fn next_receiving(&mut self) -> Result<TrafficSecrets, TlsError> {
        TrafficSecrets::new(self.update_rx_secret().map_err(TlsError::from_rustls)?)
    }
}

impl KeySchedule for KernelConnection<ServerConnectionData> {
    fn next_sending(&mut self) -> Result<TrafficSecrets, TlsError> {
        TrafficSecrets::new(self.update_tx_secret().map_err(TlsError::from_rustls)?)
    }

    fn next_receiving(&mut self) -> Result<TrafficSecrets, TlsError> {
        TrafficSecrets::new(self.update_rx_secret().map_err(TlsError::from_rustls)?)
    }
}

/// Both directions' keys, and where the next come from.
pub struct Keys {
    /// For what we send.
    pub send: TrafficSecrets,
    /// For what we receive.
    pub receive: TrafficSecrets,
    /// For key updates.
    pub schedule: Box<dyn KeySchedule>,
}

/// A connection whose two ends are proven and whose records are ours to read and write.
pub struct Session {
    /// The socket, at the first byte after `early`.
    pub tcp: TcpStream,
    /// The keys.
    pub keys: Keys,
    /// Records that were read together with the end of the handshake, still sealed.
    pub early: Vec<u8>,
    /// Who is there.
    pub peer: Peer,
}

impl Session {
    /// What a finished handshake between two SVIDs leaves.
    pub(super) fn of<H: Handshake + IntoKeys>(finished: Finished<H>) -> Result<Self, TlsError> {
        let Finished { tcp, tls, early } = finished;
        let peer = peer_of(tls.state())?;
        Ok(Self { tcp, keys: tls.into_keys()?, early, peer })
    }
}

/// An end of a handshake whose records become ours.
pub(super) trait IntoKeys {
    fn into_keys(self) -> Result<Keys, TlsError>;
}

macro_rules! into_keys {
    ($side:ty) => {
        impl IntoKeys for $side {
            fn into_keys(self) -> Result<Keys, TlsError> {
                let converted = self.dangerous_into_kernel_connection();
                let (secrets, kernel) = converted.map_err(TlsError::from_rustls)?;
                debug_assert!(matches!(
                    kernel.negotiated_cipher_suite(),
                    SupportedCipherSuite::Tls13(_)
                ));
                Ok(Keys {
                    send: TrafficSecrets::new(secrets.tx)?,
                    receive: TrafficSecrets::new(secrets.rx)?,
                    schedule: Box::new(kernel),
                })
            }
        }
    };
}
into_keys!(UnbufferedClientConnection);
into_keys!(UnbufferedServerConnection);
