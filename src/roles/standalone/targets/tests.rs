use super::*;

fn targets(balance: Balance) -> Targets {
    let addresses: Vec<Address> =
        ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"].map(|a| a.parse().unwrap()).into();
    Targets::new("db", &addresses, balance, Arc::new(Metrics::new().unwrap()))
}

fn order(targets: &Targets) -> Vec<usize> {
    targets.order().iter().map(|choice| choice.target).collect()
}

#[test]
fn what_was_known_of_a_target_decides_when_it_is_tried() {
    use Standing::{LeftOut, Unhealthy, Up};
    for (known, first, order) in [
        (&[Up, Up, Up][..], 0, &[0, 1, 2][..]),
        (&[Up, Up, Up], 4, &[1, 2, 0]),
        (&[Unhealthy, Up, LeftOut], 0, &[1, 0, 2]),
        (&[Unhealthy, Up, LeftOut], 2, &[1, 2, 0]),
        (&[LeftOut, Unhealthy], 1, &[1, 0]),
        (&[], 3, &[]),
    ] {
        let chosen = decide(known.iter().copied(), first);
        let targets: Vec<usize> = chosen.iter().map(|choice| choice.target).collect();
        assert_eq!(targets, order, "{known:?} from {first}");
        assert!(chosen.iter().all(|choice| choice.standing == known[choice.target]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_failed_is_left_out_for_a_while_and_longer_each_time() {
    let targets = targets(Balance::First);
    assert_eq!(order(&targets), [0, 1, 2]);
    targets.failed(&targets.all[0], "refused");
    assert_eq!(order(&targets), [1, 2, 0]);
    tokio::time::advance(LEFT_OUT + SPARE).await;
    assert_eq!(order(&targets), [0, 1, 2]);
    targets.failed(&targets.all[0], "refused");
    tokio::time::advance(LEFT_OUT + SPARE).await;
    assert_eq!(order(&targets), [1, 2, 0]);
    targets.worked(&targets.all[0]);
    assert_eq!(order(&targets), [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn in_turn_and_those_that_are_up_first() {
    let targets = targets(Balance::RoundRobin);
    assert_eq!([order(&targets), order(&targets)], [[0, 1, 2], [1, 2, 0]]);
    targets.checked(&targets.all[2], Err("503".into()));
    assert_eq!([order(&targets), order(&targets)], [[0, 1, 2], [0, 1, 2]]);
    targets.checked(&targets.all[2], Ok(()));
    assert_eq!(order(&targets), [1, 2, 0]);
    targets.failed(&targets.all[0], "whom we do not want");
    targets.checked(&targets.all[0], Ok(()));
    assert!(
        targets.standing(&targets.all[0]) != Standing::Up,
        "that it answers does not make it whom we want"
    );
    targets.all.iter().for_each(|target| targets.failed(target, "refused"));
    assert_eq!(order(&targets), [2, 0, 1], "all left out: all are tried");
}

#[tokio::test(start_paused = true)]
async fn each_attempt_has_its_share_of_the_time() {
    let targets = targets(Balance::First);
    let mut tries = targets.tries(Instant::now() + Duration::from_secs(9));
    let (first, share) = tries.next().unwrap();
    assert_eq!(share.as_secs_f32().round(), 3.0);
    tries.failed(first, CloseReason::ConnectTimeout, "no answer");
    let (_, share) = tries.next().unwrap();
    assert_eq!(share.as_secs_f32().round(), 4.0, "what the first has left");
    tries.next().unwrap();
    assert!(tries.next().is_none());
    assert_eq!(tries.outcome().1.as_deref(), Some("no answer"));
}
