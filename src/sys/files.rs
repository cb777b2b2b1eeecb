//! Files that we write in folders which somebody else may write too: as root in the directory of
//! a service's user, say. No link is followed on the way to them, what is there must be ours or
//! the folder's owner's, and what is made belongs to whom the folder belongs.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, ErrorKind, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::fs::{
            FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
        },
    },
    path::{Path, PathBuf},
};

use nix::fcntl::OFlag;

/// What a file is called until it is whole.
const UNFINISHED: &str = ".adit-tmp";

/// Opens a file that stays (a lock, a record), making it for its owner alone where there is none.
/// `options` say what for; creating is done here.
///
/// # Errors
/// [`own`] names them; or it cannot be made.
pub fn open_or_make(path: &Path, options: &OpenOptions) -> io::Result<File> {
    loop {
        match make(path, options, 0o600) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            made => return made,
        }
        match own(path, options) {
            // Gone in between.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            opened => return opened,
        }
    }
}

/// Opens a file that one of us made: no link, one name, a regular file of ours or of the owner of
/// its folder.
///
/// # Errors
/// It is none, or the kernel's.
pub fn own(path: &Path, options: &OpenOptions) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let opened = options.clone().custom_flags(flags.bits()).open(path);
    let file = match opened {
        Err(e) if e.raw_os_error() == Some(nix::libc::ELOOP) => {
            return Err(foreign("it is a link, and adit does not follow links here"));
        }
        opened => opened?,
    };
    let (is, folder) = (file.metadata()?, fs::metadata(folder(path))?);
    let ours = [nix::unistd::geteuid().as_raw(), folder.uid(), 0].contains(&is.uid());
    match (is.is_file(), is.nlink() <= 1, ours) {
        (true, true, true) => Ok(file),
        (false, ..) => Err(foreign("it is not a regular file")),
        (_, false, _) => Err(foreign("it has more than one name (hard link)")),
        (.., false) => Err(foreign("its owner is not the owner of its directory")),
    }
}

/// Another content for a file: the old or the new, whenever the machine stops.
///
/// # Errors
/// The kernel's; the old one stays.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let temp = unfinished(path);
    let mut file = make_unfinished(path, mode)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(temp, path)?;
    File::open(folder(path))?.sync_all()
}

/// What will be `path` when it is renamed: empty, and in nobody's way.
///
/// # Errors
/// The kernel's.
pub fn make_unfinished(path: &Path, mode: u32) -> io::Result<File> {
    let temp = unfinished(path);
    let _ = fs::remove_file(&temp);
    make(&temp, OpenOptions::new().write(true), mode)
}

/// What `path` is called until it is whole.
#[must_use]
pub fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(UNFINISHED);
    name.into()
}

/// Lets `mode` of people use the socket that we bound at `path`; its device and inode.
///
/// # Errors
/// Something else is there by now, or the kernel's.
pub fn share_socket(path: &Path, mode: u32) -> io::Result<(u64, u64)> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let there = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    let is = there.metadata()?;
    if !is.file_type().is_socket() || is.uid() != nix::unistd::geteuid().as_raw() {
        return Err(foreign("something other than our socket exists there"));
    }
    // By the descriptor: the name may be another's by now.
    let held = format!("/proc/self/fd/{}", there.as_raw_fd());
    fs::set_permissions(held, Permissions::from_mode(mode))?;
    Ok((is.dev(), is.ino()))
}

/// A new file, which belongs to whom the folder belongs where we may give it away.
fn make(path: &Path, options: &OpenOptions, mode: u32) -> io::Result<File> {
    let file = options.clone().create_new(true).mode(mode).open(path)?;
    if nix::unistd::geteuid().is_root() {
        let folder = fs::metadata(folder(path))?;
        if folder.uid() != 0 {
            fchown(&file, Some(folder.uid()), Some(folder.gid()))?;
        }
    }
    Ok(file)
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn foreign(why: &str) -> io::Error {
    io::Error::new(ErrorKind::PermissionDenied, why)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    #[test]
    fn no_link_is_followed_and_nothing_that_was_there_is_given_away() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let theirs = other.path().join("secret");
        fs::write(&theirs, "text").unwrap();
        let root = nix::unistd::geteuid().is_root();
        if root {
            chown(dir.path(), Some(1234), Some(1234)).unwrap();
        }
        let path = dir.path().join("file");
        let write = || {
            let mut options = OpenOptions::new();
            options.write(true);
            options
        };
        let open = || open_or_make(&path, &write());
        symlink(&theirs, &path).unwrap();
        assert!(open().unwrap_err().to_string().contains("it is a link"));
        symlink(other.path().join("new"), unfinished(&path)).unwrap();
        replace(&path, b"new", 0o600).unwrap();
        assert!(!other.path().join("new").exists());
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        open().unwrap();
        fs::hard_link(&path, dir.path().join("second")).unwrap();
        assert!(open().unwrap_err().to_string().contains("more than one name"));
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(
            own(&path, OpenOptions::new().read(true)).unwrap_err().to_string().contains("regular")
        );
        fs::remove_file(&path).unwrap();
        open().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&theirs).unwrap().uid(), nix::unistd::geteuid().as_raw());
        if root {
            assert_eq!(fs::metadata(&path).unwrap().uid(), 1234);
            chown(&path, Some(4321), None).unwrap();
            assert!(open().unwrap_err().to_string().contains("not the owner"));
        }
    }

    #[test]
    fn a_socket_is_shared_and_not_what_a_link_leads_to() {
        let dir = tempfile::tempdir().unwrap();
        let (path, secret) = (dir.path().join("s"), dir.path().join("secret"));
        fs::write(&secret, "text").unwrap();
        fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
        symlink(&secret, &path).unwrap();
        share_socket(&path, 0o666).unwrap_err();
        assert_eq!(fs::metadata(&secret).unwrap().mode() & 0o777, 0o600);
        fs::remove_file(&path).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let is = share_socket(&path, 0o640).unwrap();
        let there = fs::metadata(&path).unwrap();
        assert_eq!((there.mode() & 0o777, is), (0o640, (there.dev(), there.ino())));
    }
}
