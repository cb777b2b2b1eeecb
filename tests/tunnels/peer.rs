//! The other implementation: CONNECT with the h2 crate, bridged to an application's socket. As
//! ztunnel does, it takes CANCEL for an end in order.

use std::{future::poll_fn, pin::pin, time::Duration};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Carries an application's bytes until both directions have ended; a reset of either side is
/// passed on to the other.
pub(crate) async fn bridge(tcp: TcpStream, mut send: SendStream<Bytes>, mut recv: RecvStream) {
    let (mut read, mut write) = tcp.into_split();
    let ended = {
        let up = pin!(async {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let read = tokio::select! {
                    read = read.read(&mut buffer) => read,
                    reset = poll_fn(|cx| send.poll_reset(cx)) => match reset {
                        Ok(Reason::NO_ERROR | Reason::CANCEL) => return Ok(()),
                        _ => return Err(()),
                    }
                };
                match read.map_err(drop)? {
                    0 => {
                        send.send_data(Bytes::new(), true).map_err(drop)?;
                        // The app may still be reset.
                        return Ok(());
                    }
                    n => send_all(&mut send, &buffer[..n]).await?,
                }
            }
        });
        let down = pin!(async {
            while let Some(data) = recv.data().await {
                let data = match data {
                    Ok(data) => data,
                    Err(error) if error.reason() == Some(Reason::CANCEL) => break,
                    Err(_) => return Err(()),
                };
                write.write_all(&data).await.map_err(drop)?;
                let _ = recv.flow_control().release_capacity(data.len());
            }
            write.shutdown().await.map_err(drop)
        });
        tokio::try_join!(up, down)
    };
    if ended.is_err() {
        send.send_reset(Reason::CONNECT_ERROR);
        let tcp = read.reunite(write).unwrap();
        let _ = SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
    }
}

async fn send_all(send: &mut SendStream<Bytes>, mut bytes: &[u8]) -> Result<(), ()> {
    while !bytes.is_empty() {
        send.reserve_capacity(bytes.len());
        let room = poll_fn(|cx| send.poll_capacity(cx)).await.ok_or(())?.map_err(drop)?;
        let part = room.min(bytes.len());
        send.send_data(Bytes::copy_from_slice(&bytes[..part]), false).map_err(drop)?;
        bytes = &bytes[part..];
    }
    Ok(())
}
