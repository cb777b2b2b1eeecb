use std::time::SystemTime;

use super::*;

fn svid(serial: &str) -> X509Svid {
    X509Svid {
        id: "spiffe://td/ns/shop/sa/web".parse().unwrap(),
        chain: Vec::new(),
        key: PrivateKey::from_pkcs8(vec![1]),
        not_before: SystemTime::UNIX_EPOCH,
        not_after: SystemTime::now() + Duration::from_secs(60),
        serial: serial.into(),
    }
}

fn wanted(uid: &str, id: &str) -> Wanted {
    Wanted { uid: uid.into(), id: id.parse().unwrap() }
}

#[tokio::test(start_paused = true)]
async fn a_set_is_given_once_and_a_failure_leaves_it_where_it_is() {
    let pushed = Pushed::new("files in /x".into());
    let web = wanted("shop/web", "spiffe://td/ns/shop/sa/web");
    let nothing = pushed.fetch(&web).await.unwrap_err();
    assert_eq!(nothing.to_string(), "files in /x does not answer: nothing came in 5s");
    pushed.publish(vec![svid("1")], BundleSet::default());
    assert_eq!(pushed.fetch(&web).await.unwrap().serial, "1");
    assert!(timeout(Duration::from_secs(60), pushed.changed(&web)).await.is_err(), "no news");
    pushed.failed("half a pair".into());
    pushed.changed(&web).await;
    assert!(pushed.fetch(&web).await.unwrap_err().to_string().contains("half a pair"));
    assert!(timeout(Duration::from_secs(60), pushed.changed(&web)).await.is_err(), "no news");
    pushed.publish(vec![svid("2")], BundleSet::default());
    pushed.changed(&web).await;
    assert_eq!(pushed.fetch(&web).await.unwrap().serial, "2");
    pushed.withdrawn("no identity".into());
    pushed.changed(&web).await;
    assert!(matches!(pushed.fetch(&web).await, Err(SourceError::Withdrawn { .. })));
    assert!(timeout(Duration::from_secs(60), pushed.changed(&web)).await.is_err(), "no news");
    pushed.failed("no answer".into());
    let still = pushed.fetch(&web).await;
    assert!(matches!(still, Err(SourceError::Withdrawn { .. })), "who comes late hears of it too");
}

#[tokio::test]
async fn an_identity_has_one_workload_until_that_is_gone() {
    let pushed = Pushed::new("files in /x".into());
    pushed.publish(vec![svid("1")], BundleSet::default());
    let id = "spiffe://td/ns/shop/sa/web";
    assert!(pushed.fetch(&wanted("shop/web-1", id)).await.is_ok());
    let second = pushed.fetch(&wanted("shop/web-2", id)).await.unwrap_err().to_string();
    assert!(second.contains("workload shop/web-1 has its key already"), "{second}");
    pushed.forget("shop/web-1");
    assert!(pushed.fetch(&wanted("shop/web-2", id)).await.is_ok());
    let other = pushed.fetch(&wanted("shop/db", "spiffe://td/ns/shop/sa/db")).await;
    let other = other.unwrap_err().to_string();
    assert!(other.contains("it has spiffe://td/ns/shop/sa/web only"), "{other}");
}

#[tokio::test(start_paused = true)]
async fn who_gets_nothing_is_not_told_again_and_again() {
    let pushed = Pushed::new("files in /x".into());
    let web = wanted("shop/web", "spiffe://td/ns/shop/sa/web");
    let other = wanted("shop/web-2", "spiffe://td/ns/shop/sa/web");
    pushed.failed("no file".into());
    assert!(pushed.fetch(&web).await.is_err());
    assert!(timeout(Duration::from_secs(60), pushed.changed(&web)).await.is_err(), "no news");
    pushed.publish(vec![svid("1")], BundleSet::default());
    pushed.changed(&web).await;
    assert!(pushed.fetch(&web).await.is_ok());
    assert!(pushed.fetch(&other).await.is_err());
    assert!(timeout(Duration::from_secs(60), pushed.changed(&other)).await.is_err(), "no news");
}
