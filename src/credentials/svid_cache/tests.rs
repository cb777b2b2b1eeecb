use std::time::SystemTime;

use super::*;

fn svid(serial: &str) -> X509Svid {
    X509Svid {
        id: "spiffe://td/ns/shop/sa/web".parse().unwrap(),
        chain: vec![serial.as_bytes().to_vec().into()],
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
    let cache = SvidCache::new("files in /x".into());
    let web = wanted("shop/web", "spiffe://td/ns/shop/sa/web");
    let nothing = cache.fetch(&web).await.unwrap_err();
    assert_eq!(nothing.to_string(), "files in /x does not answer: no answer within 5s");
    cache.publish(vec![svid("1")], BundleSet::default());
    assert_eq!(cache.fetch(&web).await.unwrap().serial, "1");
    assert!(timeout(Duration::from_secs(60), cache.changed(&web)).await.is_err(), "no news");
    cache.failed("half a pair".into());
    cache.changed(&web).await;
    assert!(cache.fetch(&web).await.unwrap_err().to_string().contains("half a pair"));
    assert!(timeout(Duration::from_secs(60), cache.changed(&web)).await.is_err(), "no news");
    cache.publish(vec![svid("2")], BundleSet::default());
    cache.changed(&web).await;
    assert_eq!(cache.fetch(&web).await.unwrap().serial, "2");
    cache.withdrawn("no identity".into());
    cache.changed(&web).await;
    assert!(matches!(cache.fetch(&web).await, Err(SourceError::Withdrawn { .. })));
    assert!(timeout(Duration::from_secs(60), cache.changed(&web)).await.is_err(), "no news");
    cache.failed("no answer".into());
    let still = cache.fetch(&web).await;
    assert!(matches!(still, Err(SourceError::Withdrawn { .. })), "who comes late hears of it too");
}

#[tokio::test(start_paused = true)]
async fn an_identity_has_one_workload_until_that_is_gone() {
    let cache = SvidCache::new("files in /x".into());
    cache.publish(vec![svid("1")], BundleSet::default());
    let id = "spiffe://td/ns/shop/sa/web";
    assert!(cache.fetch(&wanted("shop/web-1", id)).await.is_ok());
    let second = cache.fetch(&wanted("shop/web-2", id)).await.unwrap_err().to_string();
    assert!(second.contains("workload shop/web-1 already has this key"), "{second}");
    let second = wanted("shop/web-2", id);
    let hour = Duration::from_secs(3600);
    assert!(timeout(hour, cache.changed(&second)).await.is_err(), "no news");
    cache.forget("shop/web-1");
    timeout(hour, cache.changed(&second)).await.expect("free again");
    assert!(cache.fetch(&second).await.is_ok());
    assert!(timeout(hour, cache.changed(&second)).await.is_err(), "no news");
    let other = cache.fetch(&wanted("shop/db", "spiffe://td/ns/shop/sa/db")).await;
    let other = other.unwrap_err().to_string();
    assert!(other.contains("it has only spiffe://td/ns/shop/sa/web"), "{other}");
}

#[tokio::test(start_paused = true)]
async fn who_gets_nothing_is_not_told_again_and_again() {
    let cache = SvidCache::new("files in /x".into());
    let web = wanted("shop/web", "spiffe://td/ns/shop/sa/web");
    let other = wanted("shop/web-2", "spiffe://td/ns/shop/sa/web");
    cache.failed("no file".into());
    assert!(cache.fetch(&web).await.is_err());
    assert!(timeout(Duration::from_secs(60), cache.changed(&web)).await.is_err(), "no news");
    cache.publish(vec![svid("1")], BundleSet::default());
    cache.changed(&web).await;
    assert!(cache.fetch(&web).await.is_ok());
    assert!(cache.fetch(&other).await.is_err());
    assert!(timeout(Duration::from_secs(60), cache.changed(&other)).await.is_err(), "no news");
}

#[tokio::test(start_paused = true)]
async fn no_answer_is_news_twice() {
    let web = wanted("shop/web", "spiffe://td/ns/shop/sa/web");
    let told_once = async |cache: &SvidCache, web: &Wanted| {
        cache.changed(web).await;
        let _ = cache.fetch(web).await;
        timeout(Duration::from_secs(60), cache.changed(web)).await.is_err()
    };
    // Whatever comes first: nothing for anybody, a failure, nothing for this one, another's.
    let cache = SvidCache::new("agent".into());
    cache.withdrawn("no identity issued".into());
    assert!(told_once(&cache, &web).await, "withdrawn before anything came");
    cache.failed("no such file".into());
    assert!(told_once(&cache, &web).await, "a failure before anything came");
    cache.publish(vec![svid("1")], BundleSet::default());
    let db = wanted("shop/db", "spiffe://td/ns/shop/sa/db");
    assert!(told_once(&cache, &db).await, "the set has nothing for it");
    assert!(told_once(&cache, &web).await, "an SVID");
    let second = wanted("shop/web-2", "spiffe://td/ns/shop/sa/web");
    assert!(told_once(&cache, &second).await, "another workload has it");
    cache.withdrawn("no identity issued".into());
    assert!(told_once(&cache, &web).await, "withdrawn");
    cache.publish(vec![svid("1")], BundleSet::default());
    assert!(told_once(&cache, &web).await, "and given again");
}

#[tokio::test(start_paused = true)]
async fn a_set_with_the_same_svid_is_no_news_to_its_workload() {
    let cache = SvidCache::new("agent".into());
    let web = wanted("shop/web", "spiffe://td/ns/shop/sa/web");
    let db = X509Svid { id: "spiffe://td/ns/shop/sa/db".parse().unwrap(), ..svid("7") };
    cache.publish(vec![svid("1")], BundleSet::default());
    assert_eq!(cache.fetch(&web).await.unwrap().serial, "1");
    cache.publish(vec![svid("1"), db], BundleSet::default());
    assert!(timeout(Duration::from_secs(60), cache.changed(&web)).await.is_err(), "no news");
    // But the end of a failure is.
    cache.failed("the agent is away".into());
    cache.changed(&web).await;
    assert!(cache.fetch(&web).await.is_err());
    cache.publish(vec![svid("1")], BundleSet::default());
    cache.changed(&web).await;
    assert_eq!(cache.fetch(&web).await.unwrap().serial, "1");
}

#[tokio::test]
async fn what_a_whole_state_leaves_out_is_withdrawn() {
    let web = wanted("shop/web", "spiffe://td/ns/shop/sa/web");
    let db = || X509Svid { id: "spiffe://td/ns/shop/sa/db".parse().unwrap(), ..svid("7") };
    let left_out = async |cache: SvidCache| {
        cache.publish(vec![svid("1"), db()], BundleSet::default());
        assert!(cache.fetch(&web).await.is_ok());
        cache.publish(vec![db()], BundleSet::default());
        cache.changed(&web).await;
        cache.fetch(&web).await.unwrap_err()
    };
    let of_api = left_out(SvidCache::of_whole_states("agent".into())).await;
    assert!(matches!(of_api, SourceError::Withdrawn { .. }), "{of_api}");
    // Somebody's slip with a file takes nothing away.
    let of_files = left_out(SvidCache::new("files in /x".into())).await;
    assert!(matches!(of_files, SourceError::Refused { .. }), "{of_files}");
}
