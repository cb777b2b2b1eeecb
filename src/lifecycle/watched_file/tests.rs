use std::{
    fs,
    os::unix::fs::symlink,
    sync::mpsc,
    time::{Duration, SystemTime},
};

use futures_util::FutureExt as _;

use super::*;

/// The three looks after a change: first it is seen, then it has settled, then it was read.
#[track_caller]
fn settles(watched: &mut WatchedFile) {
    assert_eq!(watched.look(), Look::Changing);
    assert_eq!(watched.look(), Look::Settled);
    assert_eq!(watched.read(|| 7), Some(7));
    assert_eq!(watched.look(), Look::Same);
    assert!(!watched.has_changed());
}

/// A write that moves the time of the last one, as one a moment later would.
fn write(path: &Path, text: &str, second: u64) {
    fs::write(path, text).unwrap();
    let file = fs::File::options().append(true).open(path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(second)).unwrap();
}

#[test]
fn every_way_to_change_a_file_is_seen_and_settles() {
    let dir = tempfile::tempdir().unwrap();
    let (file, other) = (dir.path().join("f"), dir.path().join("g"));
    write(&file, "one", 1);
    let mut watched = WatchedFile::new(&file);
    assert_eq!((watched.look(), watched.look()), (Look::Same, Look::Same));
    write(&file, "two", 2); // in place, as long
    settles(&mut watched);
    write(&file, "longer", 2); // at the same time
    settles(&mut watched);
    write(&other, "longer", 2); // another file of the same length and time
    fs::rename(&other, &file).unwrap();
    settles(&mut watched);
    fs::remove_file(&file).unwrap();
    settles(&mut watched);
    write(&file, "longer", 2);
    settles(&mut watched);
}

#[test]
fn what_is_being_written_has_not_settled() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f");
    write(&file, "", 1);
    let mut watched = WatchedFile::new(&file);
    for second in 2..6 {
        write(&file, "half", second);
        assert_eq!(watched.look(), Look::Changing);
    }
    fs::remove_file(&file).unwrap(); // by an editor that puts another in its place
    assert_eq!(watched.look(), Look::Changing);
    write(&file, "whole", 6);
    settles(&mut watched);
    // Back to what was read: nothing to do.
    write(&file, "other", 7);
    assert_eq!(watched.look(), Look::Changing);
    write(&file, "whole", 6);
    assert_eq!(watched.look(), Look::Same);
}

#[test]
fn what_is_written_while_it_is_read_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f");
    write(&file, "one", 1);
    let mut watched = WatchedFile::new(&file);
    assert_eq!(watched.read(|| write(&file, "two", 2)), None);
    assert!(watched.has_changed());
    assert_eq!(watched.look(), Look::Settled);
    assert_eq!(watched.read(|| ()), Some(()));
    assert_eq!(watched.look(), Look::Same);
}

#[tokio::test]
async fn what_cannot_be_read_is_given_up_and_read_again_once_that_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f");
    write(&file, "one", 1);
    let mut watched = WatchedFile::new(&file);
    write(&file, "two", 2);
    let go_on = hangs(&mut watched).await;
    assert_eq!((watched.look(), watched.look()), (Look::Changing, Look::Changing));
    assert_eq!(watched.read_beside(|| 7).await, Err(ReadTimeout), "one at a time");
    // Another version is another matter.
    write(&file, "three", 3);
    settles_beside(&mut watched).await;
    write(&file, "two", 2);
    assert_eq!((watched.look(), watched.look()), (Look::Changing, Look::Changing));
    drop(go_on);
    while watched.look() == Look::Changing {
        std::thread::yield_now();
    }
    assert_eq!(watched.read_beside(|| 7).await, Ok(Some(7)));
    assert_eq!(watched.look(), Look::Same);
    // So many threads are lost at most.
    let mut hold = Vec::new();
    for second in 10..14 {
        write(&file, "hangs", second);
        hold.push(hangs(&mut watched).await);
    }
    write(&file, "one too many", 20);
    assert_eq!(watched.read_beside(|| 7).await, Err(ReadTimeout));
}

/// A read that does not end before what is returned is dropped, and is given up.
async fn hangs(watched: &mut WatchedFile) -> mpsc::Sender<()> {
    let ((begins, begun), (go_on, wait)) = (mpsc::channel(), mpsc::channel());
    let mut read = watched.begin(move || {
        begins.send(()).unwrap();
        wait.recv().is_ok()
    });
    assert!(read.as_mut().now_or_never().is_none());
    begun.recv().unwrap();
    tokio::time::pause();
    assert!(read.await.is_err());
    tokio::time::resume();
    go_on
}

/// [`settles`], read beside everything else.
async fn settles_beside(watched: &mut WatchedFile) {
    assert_eq!((watched.look(), watched.look()), (Look::Changing, Look::Settled));
    assert_eq!(watched.read_beside(|| 7).await, Ok(Some(7)));
    assert_eq!(watched.look(), Look::Same);
}

/// As Kubernetes mounts a secret: files are links into `..data`, itself a link that is
/// exchanged.
#[test]
fn a_folder_that_is_exchanged_by_a_link_is_one_change_of_all_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for version in ["..1", "..2"] {
        fs::create_dir(at(version)).unwrap();
        for name in ["crt", "key"] {
            write(&at(version).join(name), "same", 1);
        }
    }
    symlink("..1", at("..data")).unwrap();
    for name in ["crt", "key"] {
        symlink(Path::new("..data").join(name), at(name)).unwrap();
    }
    let mut watched = WatchedFile::unread(vec![at("crt"), at("key")]);
    assert_eq!(watched.look(), Look::Settled, "nothing was read so far");
    assert_eq!(watched.read(|| ()), Some(()));
    symlink("..2", at("..tmp")).unwrap();
    fs::rename(at("..tmp"), at("..data")).unwrap();
    fs::remove_dir_all(at("..1")).unwrap();
    settles(&mut watched);
}

#[test]
fn the_files_that_have_changed_are_known_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (crt, key) = (dir.path().join("crt"), dir.path().join("key"));
    write(&crt, "same", 1);
    write(&key, "same", 1);
    let both = vec![crt.clone(), key.clone()];
    assert_eq!(WatchedFile::unread(both.clone()).changed(), both);
    let mut watched = WatchedFile::of_all(both);
    assert!(watched.changed().is_empty());
    write(&key, "other", 2);
    assert_eq!(watched.changed(), [key]);
    assert_eq!(watched.read(|| ()), Some(()));
    assert!(watched.changed().is_empty());
}
