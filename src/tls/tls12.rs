//! TLS 1.2 after the handshake: rustls reads and writes the records (RFC 5246 §6).

use rustls::{
    client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncryptError, UnbufferedStatus},
};

use super::{TlsError, TrafficKey};

/// The records of one TLS 1.2 connection, without I/O.
pub trait Tls12: Send {
    /// Opens the whole records in `input` and appends their plaintext to `plain`, as long as that
    /// has less than `most` bytes; says how many bytes of `input` were used and whether the peer
    /// has said close_notify.
    ///
    /// # Errors
    /// The connection must end.
    fn open(
        &mut self,
        input: &mut [u8],
        plain: &mut Vec<u8>,
        most: usize,
    ) -> Result<(usize, bool), TlsError>;

    /// Appends records that hold `plain` to `out`.
    ///
    /// # Errors
    /// If the keys are used up.
    fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError>;

    /// Appends close_notify to `out`.
    ///
    /// # Errors
    /// If it was said already.
    fn close(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError>;

    /// The keys to send and to receive, with the numbers of their next records: for a record layer
    /// that goes on where this one ends.
    ///
    /// # Errors
    /// If rustls does not give them.
    fn into_secrets(self: Box<Self>) -> Result<(TrafficKey, TrafficKey), TlsError>;
}

/// What a record adds to its plaintext at most: header, explicit nonce, tag.
const OVERHEAD: usize = 5 + 8 + 16;
const MAX_PLAINTEXT: usize = 1 << 14;

/// What one look at the connection came to.
enum Looked {
    Data,
    More,
    Nothing,
    Closed,
}

fn look<D>(
    status: UnbufferedStatus<'_, '_, D>,
    plain: &mut Vec<u8>,
) -> Result<(usize, Looked), TlsError> {
    let mut used = status.discard;
    let looked = match status.state.map_err(TlsError::from_rustls)? {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                let record = record.map_err(TlsError::from_rustls)?;
                used += record.discard;
                plain.extend_from_slice(record.payload);
            }
            Looked::Data
        }
        ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake => Looked::Nothing,
        ConnectionState::PeerClosed | ConnectionState::Closed => Looked::Closed,
        // A refusal to negotiate anew; the peer may go without it.
        ConnectionState::EncodeTlsData(mut data) => {
            let mut room = vec![0; 512];
            data.encode(&mut room).map_err(|e| TlsError::Other(e.to_string()))?;
            Looked::More
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Looked::More
        }
        _ => return Err(TlsError::Other("early data in TLS 1.2".into())),
    };
    Ok((used, looked))
}

fn write<D>(
    status: UnbufferedStatus<'_, '_, D>,
    out: &mut Vec<u8>,
    room: usize,
    put: impl FnOnce(
        &mut rustls::unbuffered::WriteTraffic<'_, D>,
        &mut [u8],
    ) -> Result<usize, EncryptError>,
) -> Result<(), TlsError> {
    match status.state.map_err(TlsError::from_rustls)? {
        ConnectionState::WriteTraffic(mut traffic) => {
            let begin = out.len();
            out.resize(begin + room, 0);
            let put = put(&mut traffic, &mut out[begin..]);
            let put = put.map_err(|e| TlsError::Other(e.to_string()))?;
            out.truncate(begin + put);
            Ok(())
        }
        ConnectionState::PeerClosed | ConnectionState::Closed => {
            Err(TlsError::Other("rustls takes nothing more".into()))
        }
        _ => Err(TlsError::Other("TLS 1.2 is in the middle of something".into())),
    }
}

macro_rules! tls12 {
    ($side:ty) => {
        impl Tls12 for $side {
            fn open(
                &mut self,
                input: &mut [u8],
                plain: &mut Vec<u8>,
                most: usize,
            ) -> Result<(usize, bool), TlsError> {
                let mut used = 0;
                loop {
                    let (more, looked) = look(self.process_tls_records(&mut input[used..]), plain)?;
                    used += more;
                    match looked {
                        Looked::Closed => return Ok((used, true)),
                        Looked::Nothing => return Ok((used, false)),
                        Looked::Data if plain.len() >= most => return Ok((used, false)),
                        Looked::Data | Looked::More => {}
                    }
                }
            }

            fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
                for part in plain.chunks(MAX_PLAINTEXT) {
                    let room = part.len() + OVERHEAD;
                    write(self.process_tls_records(&mut []), out, room, |traffic, room| {
                        traffic.encrypt(part, room)
                    })?;
                }
                Ok(())
            }

            fn into_secrets(self: Box<Self>) -> Result<(TrafficKey, TrafficKey), TlsError> {
                let extracted = self.dangerous_into_kernel_connection();
                let (secrets, _) = extracted.map_err(TlsError::from_rustls)?;
                Ok((TrafficKey::new(secrets.tx)?, TrafficKey::new(secrets.rx)?))
            }

            fn close(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
                write(self.process_tls_records(&mut []), out, 64, |traffic, room| {
                    traffic.queue_close_notify(room)
                })
            }
        }
    };
}
tls12!(UnbufferedClientConnection);
tls12!(UnbufferedServerConnection);
