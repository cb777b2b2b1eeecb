//! Callers, with time that comes in.

use super::{cut_off::FORGIVEN, *};

fn id(name: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap()
}

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

fn limited(change: impl FnOnce(&mut CallerLimits)) -> Callers {
    let mut limits = CallerLimits::default();
    change(&mut limits);
    Callers::new(limits)
}

#[test]
fn a_caller_has_so_much_over_all_its_tunnels() {
    let callers = limited(|l| (l.tunnels, l.streams, l.held) = (2, 3, 1_000));
    let now = Instant::now();
    let tunnels = [HERE, THERE].map(|from| callers.enter(&id("web"), from, now).unwrap());
    let why = callers.enter(&id("web"), HERE, now).unwrap_err();
    assert_eq!(why, CallerRefused::TooMany { tunnels: 2 });
    assert_eq!(why.to_string(), "this caller already has 2 open tunnels to this pod");
    let other = callers.enter(&id("cart"), HERE, now).unwrap();
    let places: Vec<_> = [0, 1, 0].map(|n| tunnels[n].stream().unwrap()).into();
    assert!(tunnels[1].stream().unwrap_err().contains("too many streams"));
    assert!(other.stream().is_ok());
    assert_eq!(callers.streams(), 3);
    drop(places);
    assert_eq!(callers.streams(), 0);
    let (mut one, mut two) = (tunnels[0].share(), tunnels[1].share());
    assert!(one.hold(500) && !one.is_tight() && two.hold(200) && one.is_tight());
    assert!(tunnels[1].stream().is_ok());
    assert!(two.hold(100) && tunnels[0].stream().unwrap_err().contains("memory"));
    assert!(!one.hold(201) && other.share().hold(1_000));
    one.release(300);
    assert!(tunnels[0].stream().is_ok());
    drop((one, two, tunnels));
    assert!(callers.lock().known.values().all(|known| {
        let Has { tunnels, streams, held, unread } = &*known.has;
        [tunnels, streams, held, unread].iter().all(|n| n.load(Relaxed) <= 1)
    }));
    drop(callers.enter(&id("web"), HERE, now).unwrap());
    assert_eq!(callers.lock().known[&id("web")].has.tunnels.load(Relaxed), 0);
}

#[test]
fn who_floods_waits_longer_each_time_and_is_forgiven() {
    let (callers, mut now) = (Callers::default(), Instant::now());
    let second = Duration::from_secs(1);
    let web = callers.enter(&id("web"), HERE, now).unwrap();
    for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
        web.cut_off(now);
        web.cut_off(now); // another tunnel, cut off together with the first
        let pause = pause * second;
        for soon in [Duration::ZERO, pause - second / 10] {
            assert!(callers.enter(&id("web"), HERE, now + soon).is_err());
        }
        assert!(callers.enter(&id("web"), THERE, now).is_ok(), "another replica of it");
        assert!(callers.enter(&id("cart"), HERE, now).is_ok(), "others behind that address");
        now += pause;
        assert!(callers.enter(&id("web"), HERE, now).is_ok());
    }
    now += FORGIVEN;
    web.cut_off(now);
    let why = callers.enter(&id("web"), HERE, now).unwrap_err();
    assert_eq!(why.to_string(), "this caller was cut off for a flood and may connect again in 1 s");
    assert!(callers.enter(&id("web"), HERE, now + second).is_ok());
}

#[test]
fn new_tunnels_come_at_a_rate() {
    let (callers, now) = (limited(|l| l.new_tunnels = 10), Instant::now());
    let mut taken = 0;
    while callers.enter(&id("web"), HERE, now).is_ok() {
        taken += 1;
    }
    assert_eq!(taken, 40);
    assert!(callers.enter(&id("cart"), HERE, now).is_ok());
    let later = now + Duration::from_secs(2);
    assert!((0..20).all(|_| callers.enter(&id("web"), HERE, later).is_ok()));
    assert!(callers.enter(&id("web"), HERE, later).is_err());
}

#[test]
fn what_is_remembered_is_bounded() {
    let (callers, now) = (Callers::default(), Instant::now());
    for n in 0..2 * MOST_KNOWN as u32 {
        let caller = callers.enter(&id(&n.to_string()), IpAddr::from(n.to_be_bytes()), now);
        caller.unwrap().cut_off(now + Duration::from_millis(n.into()));
    }
    let books = callers.lock();
    let known = [books.cut_off.0.len(), books.known.len()];
    assert!(known.iter().all(|known| *known <= MOST_KNOWN), "{known:?}");
    let last = (id("8191"), IpAddr::from(8_191_u32.to_be_bytes()));
    assert!(books.cut_off.0.contains_key(&last));
}
