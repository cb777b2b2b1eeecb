//! What a finished handshake leaves: traffic secrets. The records and their keys are ours from here
//! on ([`super::record`], [`super::key_schedule`]); of rustls nothing stays.

use rustls::{
    ConnectionTrafficSecrets, ExtractedSecrets, client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::{
    Peer, TlsError,
    driver::{Finished, Handshake},
    key_schedule::{Aead, Agreed, TrafficKey, TrafficSecret},
    peer::peer_of,
    tunnel_port::TunnelPort,
};

impl TrafficKey {
    /// What rustls has of one direction.
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

/// Both directions of a connection.
pub struct Keys {
    /// What we send.
    pub send: TrafficSecret,
    /// What we receive.
    pub receive: TrafficSecret,
}

impl Keys {
    /// From the secrets that were agreed on, and what rustls has made of them.
    fn new(agreed: &Agreed, client: bool, rustls: ExtractedSecrets) -> Result<Self, TlsError> {
        let unheard = || TlsError::Other("own configuration: no traffic secrets".into());
        let (of_client, of_server) = agreed.secrets().ok_or_else(unheard)?;
        let (send, receive) = if client { (of_client, of_server) } else { (of_server, of_client) };
        Ok(Self { send: direction(send, rustls.tx)?, receive: direction(receive, rustls.rx)? })
    }
}

/// A direction that goes on where rustls ends: with the same key, or not at all.
fn direction(
    secret: &[u8],
    rustls: (u64, ConnectionTrafficSecrets),
) -> Result<TrafficSecret, TlsError> {
    let theirs = TrafficKey::new(rustls)?;
    let secret = TrafficSecret::new(theirs.aead, secret, theirs.sequence)?;
    let ours = secret.key()?;
    if ours.key != theirs.key || ours.iv != theirs.iv {
        return Err(TlsError::Other("the key schedule has come to another key than rustls".into()));
    }
    Ok(secret)
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
    /// What a finished handshake between two SVIDs leaves. At an application's port the other end
    /// may be that application, which knows nothing of tunnels: who is to take one says so.
    pub(super) fn of<H: Handshake + IntoKeys>(
        finished: Finished<H>,
        port: TunnelPort,
    ) -> Result<Self, TlsError> {
        let Finished { tcp, tls, early, agreed } = finished;
        if port == TunnelPort::Original && tls.state().alpn_protocol() != Some(port.alpn()) {
            return Err(TlsError::NotAtOriginalPort);
        }
        let peer = peer_of(tls.state())?;
        Ok(Self { tcp, keys: tls.into_keys(&agreed)?, early, peer })
    }
}

/// An end of a handshake whose records become ours.
pub(super) trait IntoKeys {
    /// The keys; `agreed` is what was heard during the handshake.
    fn into_keys(self, agreed: &Agreed) -> Result<Keys, TlsError>;
}

macro_rules! into_keys {
    ($side:ty, $client:literal) => {
        impl IntoKeys for $side {
            fn into_keys(self, agreed: &Agreed) -> Result<Keys, TlsError> {
                let extracted = self.dangerous_into_kernel_connection();
                // What rustls would go on with is left: the key schedule is ours.
                let (secrets, _) = extracted.map_err(TlsError::from_rustls)?;
                Keys::new(agreed, $client, secrets)
            }
        }
    };
}
into_keys!(UnbufferedClientConnection, true);
into_keys!(UnbufferedServerConnection, false);
