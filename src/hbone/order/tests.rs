use futures_util::FutureExt;

use super::*;

fn tunnels() -> [Way; 2] {
    [(); 2].map(|()| Way::Tunnel(Arc::default()))
}

fn lane(tickets: usize) -> (Arc<Lane>, Vec<Option<Ticket>>) {
    let lane = Arc::<Lane>::default();
    let all = (0..tickets).map(|_| Some(lane.enter())).collect();
    (lane, all)
}

fn goes(ticket: &Option<Ticket>, way: &Way) -> bool {
    let ticket = ticket.as_ref().unwrap();
    let goes = ticket.turn(way).now_or_never().is_some();
    if goes {
        ticket.sent(way.clone());
    }
    goes
}

#[tokio::test]
async fn on_one_way_nobody_waits_for_an_answer() {
    let ([way, _], (_lane, tickets)) = (tunnels(), lane(3));
    assert!(!goes(&tickets[1], &way), "the first has not been sent");
    assert!(tickets.iter().all(|ticket| goes(ticket, &way)));
}

#[tokio::test]
async fn another_way_is_taken_once_all_before_have_been_answered() {
    let ([way, other], (_lane, mut tickets)) = (tunnels(), lane(4));
    assert!(goes(&tickets[0], &way) && goes(&tickets[1], &way));
    tickets[1] = None;
    assert!(!goes(&tickets[2], &other));
    tickets[0] = None;
    assert!(goes(&tickets[2], &other) && !goes(&tickets[3], &way) && goes(&tickets[3], &other));
}

#[tokio::test]
async fn who_gives_up_holds_nobody_back() {
    let ([way, _], (_lane, mut tickets)) = (tunnels(), lane(2));
    let second = tickets.pop().unwrap().unwrap();
    let mut turn = std::pin::pin!(second.turn(&way));
    assert!(turn.as_mut().now_or_never().is_none());
    drop(tickets);
    timeout(Duration::from_secs(1), turn).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_is_never_answered_holds_nobody_back_for_long() {
    let ([way, other], (_lane, tickets)) = (tunnels(), lane(2));
    assert!(goes(&tickets[0], &way) && !goes(&tickets[1], &other));
    // The tickets go by the clock of the machine.
    std::thread::sleep(PATIENCE);
    assert!(goes(&tickets[1], &other));
}

#[tokio::test]
async fn what_comes_back_goes_ahead_of_what_is_behind_it() {
    let ([way, other], (_lane, tickets)) = (tunnels(), lane(3));
    assert!(goes(&tickets[0], &way) && goes(&tickets[1], &way));
    for n in [1, 0] {
        tickets[n].as_ref().unwrap().back();
    }
    assert!(!goes(&tickets[1], &other) && !goes(&tickets[2], &other));
    assert!(tickets.iter().all(|ticket| goes(ticket, &other)));
}

#[tokio::test]
async fn a_connection_is_tied_to_those_that_have_not_arrived() {
    let ([way, _], (lane, mut tickets)) = (tunnels(), lane(1));
    assert_eq!(tickets[0].as_ref().unwrap().tie(), Tie::None);
    tickets[0].as_ref().unwrap().goes_to(3);
    let second = lane.enter();
    assert_eq!(second.tie(), Tie::Loose(3));
    assert!(goes(&tickets[0], &way));
    assert_eq!(second.tie(), Tie::Loose(3));
    std::thread::sleep(QUICK);
    assert_eq!(second.tie(), Tie::Tight(3));
    tickets[0] = None;
    assert_eq!(second.tie(), Tie::None);
}
