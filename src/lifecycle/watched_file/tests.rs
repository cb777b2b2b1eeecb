use std::{
    fs,
    os::unix::fs::symlink,
    time::{Duration, SystemTime},
};

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
