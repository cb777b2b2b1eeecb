use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

struct Relayed {
    app: TcpStream,
    mesh: TcpStream,
    end: tokio::task::JoinHandle<(End, u64, u64)>,
}

#[allow(clippy::disallowed_methods, reason = "a test waits for its own task")]
async fn relayed(limits: Limits) -> Relayed {
    let ((app, app_far), (mesh, mesh_far)) = (pair().await, pair().await);
    let end = tokio::spawn(async move {
        let meter = Arc::default();
        let mut far = tcp::TcpRemote::new(mesh_far);
        let end = run(&mut App::new(app_far), &mut far, &meter, &limits).await;
        (end, meter.up.load(Relaxed), meter.down.load(Relaxed))
    });
    Relayed { app, mesh, end }
}

#[tokio::test]
async fn a_half_close_lets_the_answer_through() {
    let Relayed { mut app, mut mesh, end } = relayed(Limits::default()).await;
    app.write_all(b"question").await.unwrap();
    app.shutdown().await.unwrap();
    let mut question = String::new();
    mesh.read_to_string(&mut question).await.unwrap();
    mesh.write_all(b"a longer answer").await.unwrap();
    drop(mesh);
    let mut answer = String::new();
    app.read_to_string(&mut answer).await.unwrap();
    assert_eq!((question.as_str(), answer.as_str()), ("question", "a longer answer"));
    assert!(matches!(end.await.unwrap(), (End::Completed, 8, 15)));
}

#[tokio::test]
async fn a_reset_of_the_app_resets_the_mesh_side() {
    let Relayed { app, mut mesh, end } = relayed(Limits::default()).await;
    socket2::SockRef::from(&app).set_linger(Some(Duration::ZERO)).unwrap();
    drop(app);
    assert!(matches!(end.await.unwrap().0, End::AppReset(_)));
    assert_eq!(mesh.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_reset_after_a_half_close_is_noticed_too() {
    let Relayed { mut app, mut mesh, end } = relayed(Limits::default()).await;
    app.shutdown().await.unwrap();
    assert_eq!(mesh.read(&mut [0]).await.unwrap(), 0);
    socket2::SockRef::from(&app).set_linger(Some(Duration::ZERO)).unwrap();
    drop(app);
    assert!(matches!(end.await.unwrap().0, End::AppReset(_)));
}

#[tokio::test]
async fn a_reset_is_noticed_while_the_other_side_takes_nothing() {
    for app_resets in [true, false] {
        let Relayed { app, mesh, end } = relayed(Limits::default()).await;
        let (ends, stalled) = if app_resets { (app, mesh) } else { (mesh, app) };
        let fill = async {
            loop {
                ends.writable().await.unwrap();
                let _ = ends.try_write(&[7; 65_536]);
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(300), fill).await;
        socket2::SockRef::from(&ends).set_linger(Some(Duration::ZERO)).unwrap();
        drop(ends);
        let ended = tokio::time::timeout(Duration::from_secs(5), end).await;
        match ended.expect("the reset is noticed").unwrap().0 {
            End::AppReset(_) => assert!(app_resets),
            End::RemoteReset(_) => assert!(!app_resets),
            other => panic!("{other:?}"),
        }
        drop(stalled);
    }
}

#[tokio::test]
async fn a_relay_that_is_cut_resets_both_sides() {
    let Relayed { mut app, mut mesh, end } = relayed(Limits::default()).await;
    app.write_all(b"half an ans").await.unwrap();
    mesh.read_exact(&mut [0; 11]).await.unwrap();
    end.abort();
    for socket in [&mut app, &mut mesh] {
        let error = socket.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn a_cut_resets_a_side_that_had_its_end_already() {
    let Relayed { mut app, mut mesh, end } = relayed(Limits::default()).await;
    app.shutdown().await.unwrap();
    assert_eq!(mesh.read(&mut [0]).await.unwrap(), 0);
    end.abort();
    for socket in [&mut app, &mut mesh] {
        // The end that was in order stays one; the socket is gone for writes and reads behind it.
        let _ = end_of(socket).await;
    }
}

async fn end_of(socket: &mut TcpStream) {
    let gone = async {
        loop {
            if let Ok(Some(_)) = socket.take_error() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("a reset");
}

/// Half-closed relays with a limit of 300 ms.
async fn closing() -> Relayed {
    relayed(Limits { half_closed: Some(Duration::from_millis(300)), ..Limits::default() }).await
}

#[tokio::test]
async fn a_half_closed_relay_lasts_while_bytes_move() {
    let Relayed { mut app, mut mesh, end } = closing().await;
    app.shutdown().await.unwrap();
    for _ in 0..12 {
        mesh.write_all(b"part").await.unwrap();
        app.read_exact(&mut [0; 4]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(mesh);
    assert_eq!(app.read(&mut [0]).await.unwrap(), 0);
    assert!(matches!(end.await.unwrap(), (End::Completed, 0, 48)));
}

#[tokio::test]
async fn a_half_closed_relay_that_is_silent_ends_in_a_reset() {
    let Relayed { mut app, mut mesh, end } = closing().await;
    app.shutdown().await.unwrap();
    mesh.write_all(b"half an ans").await.unwrap();
    app.read_exact(&mut [0; 11]).await.unwrap();
    let error = app.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(matches!(end.await.unwrap().0, End::HalfClosed(_)));
    end_of(&mut mesh).await;
}

#[tokio::test]
async fn megabytes_arrive_whole_both_ways_at_once() {
    let Relayed { mut app, mut mesh, end } = relayed(Limits::default()).await;
    let data: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let (mut app_r, mut app_w) = app.split();
    let (mut mesh_r, mut mesh_w) = mesh.split();
    let (mut got_app, mut got_mesh) = (Vec::new(), Vec::new());
    let (a, b, c, d) = tokio::join!(
        async {
            app_w.write_all(&data).await.unwrap();
            app_w.shutdown().await
        },
        async {
            mesh_w.write_all(&data).await.unwrap();
            mesh_w.shutdown().await
        },
        app_r.read_to_end(&mut got_app),
        mesh_r.read_to_end(&mut got_mesh),
    );
    a.and(b).unwrap();
    c.and(d).unwrap();
    assert!(got_app == data && got_mesh == data);
    assert!(matches!(end.await.unwrap(), (End::Completed, 3_000_000, 3_000_000)));
}

/// A relay that may be silent for so long.
async fn idling(limit: Duration) -> Relayed {
    relayed(Limits { idle: Some(limit), ..Limits::default() }).await
}

#[tokio::test(start_paused = true)]
async fn an_idle_limit_ends_a_silent_relay() {
    let Relayed { app: _app, mesh: _mesh, end } = idling(Duration::from_secs(50)).await;
    assert!(matches!(end.await.unwrap().0, End::Idle(_)));
}

#[tokio::test(start_paused = true)]
async fn whichever_limit_of_a_half_closed_relay_comes_first_ends_it() {
    for (idle, by_idle) in [(25, true), (600, false)] {
        let idle = Some(Duration::from_secs(idle));
        let half_closed = Some(Duration::from_secs(60));
        let both = Limits { idle, half_closed };
        let Relayed { mut app, mesh: _mesh, end } = relayed(both).await;
        app.shutdown().await.unwrap();
        let end = end.await.unwrap().0;
        assert_eq!(matches!(end, End::Idle(_)), by_idle, "{end:?}");
        assert_eq!(matches!(end, End::HalfClosed(_)), !by_idle, "{end:?}");
    }
}

#[tokio::test]
async fn an_idle_limit_lets_live_what_moves_now_and_then() {
    let Relayed { mut app, mut mesh, end } = idling(Duration::from_secs(2)).await;
    for _ in 0..6 {
        mesh.write_all(b"part").await.unwrap();
        app.read_exact(&mut [0; 4]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    drop(mesh);
    drop(app);
    assert!(matches!(end.await.unwrap(), (End::Completed, 0, 24)));
}

/// A far side that has closed its socket after an alert. The alert is not read yet when a write meets
/// the closed socket.
struct Refusing {
    looked: u32,
    said: Option<Broken>,
}

impl Remote for Refusing {
    fn poll_up(
        &mut self,
        _: &mut Context<'_>,
        _: &mut App,
        _: &Arc<Meter>,
    ) -> Poll<Result<(), Broken>> {
        Poll::Ready(Err(Broken::Remote(io::Error::from_raw_os_error(libc::EPIPE))))
    }

    fn poll_down(
        &mut self,
        cx: &mut Context<'_>,
        _: &mut App,
        _: &Arc<Meter>,
    ) -> Poll<Result<(), Broken>> {
        self.looked += 1;
        if self.looked < 4 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.said.take().map_or(Poll::Pending, |said| Poll::Ready(Err(said)))
    }

    fn abort(&mut self) {}
}

#[tokio::test(start_paused = true)]
async fn what_the_far_side_said_before_it_closed_is_the_reason() {
    let alert = || io::Error::new(io::ErrorKind::InvalidData, "alert: certificate required");
    for (said, reason) in [
        (Some(Broken::Remote(alert())), "certificate required"),
        (Some(Broken::Remote(io::ErrorKind::ConnectionReset.into())), "Broken pipe"),
        (None, "Broken pipe"),
    ] {
        let End::RemoteReset(error) = refused(said).await else { panic!("{reason}") };
        assert!(error.to_string().contains(reason), "{error}");
    }
    let reset = Broken::App(io::ErrorKind::ConnectionReset.into());
    assert!(matches!(refused(Some(reset)).await, End::AppReset(_)));
}

async fn refused(said: Option<Broken>) -> End {
    let (_app, app_far) = pair().await;
    let mut far = Refusing { looked: 0, said };
    run(&mut App::new(app_far), &mut far, &Arc::default(), &Limits::default()).await
}
