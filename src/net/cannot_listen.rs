//! Why nothing can listen on an address, in people's words.

use std::{fmt::Display, io};

/// Why adit cannot listen on an address, and what to do; `key` is what asked for the address, or
/// nothing where whoever passes the message on names it.
#[must_use]
pub fn cannot_listen(address: impl Display, key: &str, error: &io::Error) -> String {
    let another = match key {
        "" => "choose another address".to_owned(),
        key => format!("choose another address with {key}"),
    };
    let address = address.to_string();
    let why = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("another process is listening there; stop it, or {another}")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("this machine does not have this address; {another}")
        }
        io::ErrorKind::PermissionDenied if !address.contains('/') => format!(
            "permission denied; a port below 1024 needs CAP_NET_BIND_SERVICE or socket activation, \
             or {another}"
        ),
        _ => error.to_string(),
    };
    format!("cannot listen on {address}: {why}")
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn an_address_that_cannot_be_had_is_told_with_what_asked_for_it_and_what_to_do() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let held = TcpListener::bind(taken).unwrap();
        let error = TcpListener::bind(taken).unwrap_err();
        assert_eq!(
            cannot_listen(taken, "`metrics`", &error),
            format!(
                "cannot listen on {taken}: another process is listening there; stop it, or choose \
                 another address with `metrics`"
            )
        );
        drop(held);
        let error = TcpListener::bind("192.0.2.1:80").unwrap_err();
        let told = cannot_listen("192.0.2.1:80", "", &error);
        assert!(told.ends_with("does not have this address; choose another address"), "{told}");
        assert!(!told.contains("os error"), "{told}");
    }
}
