//! The far end: takes what the load sends, checks it, and answers.

use std::{
    io::{Write as _, stderr},
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
};

use super::{
    io::{BUFFER, Failed, half_close, patiently, read_exact, read_some, write_all, write_some},
    wire::{HELLO, Hello, Kind, Pattern, Trailer},
};
use crate::lifecycle::Tasks;

/// Serves connections until the process is told to end. Streams run on a thread of their own,
/// so that messages are not measured behind them.
pub(super) async fn accept_loop(listener: TcpListener, tasks: Tasks, streams: Handle) {
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                tasks.spawn(serve(socket, peer, tasks.clone(), streams.clone()));
            }
            Err(error) => {
                let _ = writeln!(stderr(), "accept: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(socket: TcpStream, peer: SocketAddr, tasks: Tasks, streams: Handle) {
    let tell = move |ended: Result<(), Failed>| match ended {
        Err(failed) if failed.kind == "corrupt" => {
            let _ = writeln!(stderr(), "{peer}: {}", failed.text);
        }
        _ => {}
    };
    let hello = match hello(&socket).await {
        Ok(hello) => hello,
        Err(failed) => return tell(Err(failed)),
    };
    if hello.kind == Kind::Echo {
        return tell(echo(&socket, hello.size as usize).await);
    }
    let Ok(socket) = socket.into_std() else { return };
    tasks.spawn_on(&streams, async move {
        let Ok(socket) = TcpStream::from_std(socket) else { return };
        tell(stream(&socket, hello).await);
    });
}

async fn hello(socket: &TcpStream) -> Result<Hello, Failed> {
    socket.set_nodelay(true)?;
    let mut hello = [0; HELLO];
    patiently("hello", read_exact(socket, &mut hello)).await?;
    Hello::decode(&hello).map_err(|why| Failed::corrupt(why.to_owned()))
}

/// Each message back, until the load has had enough. An idle one may stay as long as it likes.
async fn echo(socket: &TcpStream, size: usize) -> Result<(), Failed> {
    let mut message = vec![0; size];
    loop {
        let n = read_some(socket, &mut message).await?;
        if n == 0 {
            return Ok(());
        }
        read_exact(socket, &mut message[n..]).await?;
        write_all(socket, &message).await?;
    }
}

async fn stream(socket: &TcpStream, hello: Hello) -> Result<(), Failed> {
    let ended = AtomicBool::new(false);
    let up = async {
        let (mut buffer, mut pattern) = (vec![0; BUFFER], Pattern::new(hello.seed));
        let (mut taken, mut wrong_at) = (0, None);
        loop {
            let n = read_some(socket, &mut buffer).await?;
            if n == 0 {
                ended.store(true, Relaxed);
                return Ok::<_, Failed>((taken, wrong_at));
            }
            taken += n as u64;
            if hello.verify && wrong_at.is_none() {
                wrong_at = pattern.check(&buffer[..n]).err();
            }
        }
    };
    let down = async {
        let (mut buffer, mut pattern) = (vec![0; BUFFER], Pattern::new(hello.seed));
        let mut sent = 0;
        while hello.kind.has_down() && !ended.load(Relaxed) {
            if hello.verify {
                pattern.fill(&mut buffer);
            }
            let mut rest = &buffer[..];
            // What is begun is sent to its end: the load checks every byte.
            while !rest.is_empty() {
                let n = match ended.load(Relaxed) {
                    true => patiently("write", write_some(socket, rest)).await?,
                    false => write_some(socket, rest).await?,
                };
                sent += n as u64;
                rest = &rest[n..];
            }
        }
        Ok(sent)
    };
    let ((up, wrong_at), down) = tokio::try_join!(up, down)?;
    write_all(socket, &Trailer { up, wrong_at, down }.encode()).await?;
    half_close(socket)
}
