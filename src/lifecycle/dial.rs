//! Connecting to a name that has several addresses (RFC 8305): the families take turns, the next
//! address begins when one has failed or not answered for a moment, the first that answers is
//! taken, and the next connection to that name begins with it.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::net::TcpStream;

use super::blocking;

/// Connection Attempt Delay (§5).
const DELAY: Duration = Duration::from_millis(250);
/// How many attempts are open at once.
const AT_ONCE: usize = 16;
/// Of how many names it is kept which address worked.
const KEPT: usize = 1024;

type Worked = HashMap<(String, u16), IpAddr>;

static WORKED: LazyLock<Mutex<Worked>> = LazyLock::new(Mutex::default);

fn worked() -> MutexGuard<'static, Worked> {
    WORKED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The addresses of a name, in the order of trying, or the one address that it is.
///
/// # Errors
/// What the resolver said.
///
/// # Cancel safety
/// Nothing is lost.
pub async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip.to_canonical(), port)]);
    }
    let name = host.to_owned();
    let found =
        blocking(move || (name.as_str(), port).to_socket_addrs().map(Iterator::collect)).await;
    let found: Vec<SocketAddr> = found.map_err(io::Error::other)??;
    let first = worked().get(&(host.to_owned(), port)).copied();
    match found.is_empty() {
        true => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
        false => Ok(ordered(&found, first)),
    }
}

/// Each address once: the one that worked, then the families in turn (§4).
fn ordered(found: &[SocketAddr], worked: Option<IpAddr>) -> Vec<SocketAddr> {
    let found = found.iter().map(|addr| SocketAddr::new(addr.ip().to_canonical(), addr.port()));
    let mut all: Vec<SocketAddr> = Vec::new();
    for addr in found {
        if !all.contains(&addr) {
            all.push(addr);
        }
    }
    let six_first = all.first().is_some_and(SocketAddr::is_ipv6);
    let (mut ours, mut others) = (0, 0);
    // How many of its own family stand before it decides the place of each.
    let mut placed: Vec<(usize, SocketAddr)> = Vec::new();
    for addr in all {
        let same = addr.is_ipv6() == six_first;
        let count = if same { &mut ours } else { &mut others };
        placed.push((2 * *count + usize::from(!same), addr));
        *count += 1;
    }
    placed.sort_by_key(|(place, addr)| (Some(addr.ip()) != worked, *place));
    placed.into_iter().map(|(_, addr)| addr).collect()
}

/// Connects to the first of a name's addresses that answers.
///
/// # Errors
/// What the last of them said.
///
/// # Cancel safety
/// Dropping the future closes the sockets.
pub async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let addrs = resolve(host, port).await?;
    if let [only] = addrs[..] {
        return TcpStream::connect(only).await;
    }
    let (addr, stream) = race(addrs, TcpStream::connect).await?;
    remember(host, port, addr.ip());
    Ok(stream)
}

/// The address of a name that answers, for those who connect by themselves.
///
/// # Errors
/// What the last of them said.
///
/// # Cancel safety
/// Dropping the future closes the sockets.
pub async fn reachable(host: &str, port: u16) -> io::Result<SocketAddr> {
    let addrs = resolve(host, port).await?;
    let known = worked().get(&(host.to_owned(), port)).copied();
    let first = addrs.first().copied();
    match first {
        Some(first) if addrs.len() == 1 || known == Some(first.ip()) => Ok(first),
        _ => {
            let (addr, _) = race(addrs, TcpStream::connect).await?;
            remember(host, port, addr.ip());
            Ok(addr)
        }
    }
}

/// What worked for this name does no more.
pub fn forget(host: &str, port: u16) {
    worked().remove(&(host.to_owned(), port));
}

fn remember(host: &str, port: u16, ip: IpAddr) {
    let mut worked = worked();
    if worked.len() >= KEPT {
        worked.clear();
    }
    worked.insert((host.to_owned(), port), ip);
}

async fn race<T, F: Future<Output = io::Result<T>>>(
    addrs: Vec<SocketAddr>,
    attempt: impl Fn(SocketAddr) -> F,
) -> io::Result<(SocketAddr, T)> {
    let mut waiting = addrs.into_iter();
    let mut running = FuturesUnordered::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        if running.len() < AT_ONCE
            && let Some(addr) = waiting.next()
        {
            let attempt = attempt(addr);
            running.push(async move { (addr, attempt.await) });
        }
        if running.is_empty() {
            return Err(last);
        }
        let more = waiting.len() > 0 && running.len() < AT_ONCE;
        tokio::select! {
            biased;
            Some((addr, result)) = running.next() => match result {
                Ok(connected) => return Ok((addr, connected)),
                Err(error) => last = error,
            },
            () = tokio::time::sleep(DELAY), if more => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addrs(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns_behind_what_worked() {
        let found = addrs(&[
            "[2001:db8::1]:1",
            "[2001:db8::2]:1",
            "[::ffff:10.0.0.1]:1",
            "10.0.0.1:1",
            "10.0.0.2:1",
        ]);
        let turns = ["[2001:db8::1]:1", "10.0.0.1:1", "[2001:db8::2]:1", "10.0.0.2:1"];
        assert_eq!(ordered(&found, None), addrs(&turns));
        let turns = ["10.0.0.2:1", "[2001:db8::1]:1", "10.0.0.1:1", "[2001:db8::2]:1"];
        assert_eq!(ordered(&found, Some([10, 0, 0, 2].into())), addrs(&turns));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_does_not_answer_holds_nobody_up() {
        let all = addrs(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]);
        let begun = tokio::time::Instant::now();
        let (addr, ()) = race(all.clone(), |addr| async move {
            match addr.to_string().as_str() {
                "10.0.0.1:1" => std::future::pending().await,
                "10.0.0.2:1" => Err(io::ErrorKind::ConnectionRefused.into()),
                _ => Ok(()),
            }
        })
        .await
        .unwrap();
        assert_eq!(addr, all[2]);
        assert_eq!(begun.elapsed().as_millis(), DELAY.as_millis(), "a refusal is not waited for");
        let error = race(all, |_| async { io::Result::<()>::Err(io::ErrorKind::Other.into()) });
        assert_eq!(error.await.unwrap_err().kind(), io::ErrorKind::Other);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        for n in 0..=u16::try_from(KEPT).unwrap() {
            remember("many.test", n, [10, 0, 0, 1].into());
        }
        assert!(worked().len() <= KEPT);
        remember("one.test", 1, [10, 0, 0, 1].into());
        forget("one.test", 1);
        assert!(!worked().contains_key(&("one.test".to_owned(), 1)));
    }
}
