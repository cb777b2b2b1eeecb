//! Modules, each loaded and initialised once, and the tokens that they have.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    session::{Session, UserType},
    slot::{Slot, TokenInfo},
    types::AuthPin,
};

use crate::{
    identity::{key_files::at, shown},
    tls::pkcs11::TokenConfig,
};

/// A module in use; never unloaded, as sessions may live anywhere.
pub(super) struct Module {
    pub(super) context: Pkcs11,
    path: PathBuf,
    /// Serial numbers of tokens with the PIN that they have refused. Held through a login: two at
    /// once would be two tries.
    refused: Mutex<Vec<(String, zeroize::Zeroizing<String>)>>,
}

static MODULES: LazyLock<Mutex<HashMap<PathBuf, Arc<Module>>>> = LazyLock::new(Mutex::default);

impl Module {
    pub(super) fn load(path: &Path) -> Result<Arc<Self>, String> {
        let path = path.canonicalize().map_err(|e| at(path, e))?;
        let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(&path) {
            return Ok(Arc::clone(module));
        }
        let context = Pkcs11::new(&path)
            .map_err(|e| at(&path, format!("cannot be loaded as a PKCS#11 module: {e}")))?;
        let threads = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
        match context.initialize(threads) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(e) => return Err(at(&path, told(&e))),
        }
        let module = Arc::new(Self { context, path: path.clone(), refused: Mutex::default() });
        modules.insert(path, Arc::clone(&module));
        Ok(module)
    }

    /// The token of this label, or the only one.
    pub(super) fn token(&self, label: Option<&str>) -> Result<(Slot, TokenInfo), String> {
        let failed = |e| at(&self.path, told(&e));
        let slots = self.context.get_slots_with_initialized_token().map_err(failed)?;
        let info = |slot: &Slot| Some((*slot, self.context.get_token_info(*slot).ok()?));
        let all: Vec<_> = slots.iter().filter_map(info).collect();
        let mut seen: Vec<_> =
            all.iter().map(|(_, t)| format!("{:?}", t.label().trim_end())).collect();
        seen.sort();
        let seen = match seen.is_empty() {
            true => "it has no initialised token".to_owned(),
            false => format!("it has {}", seen.join(", ")),
        };
        let mut fitting =
            all.into_iter().filter(|(_, t)| label.is_none_or(|l| t.label().trim_end() == l));
        match (fitting.next(), fitting.next(), label) {
            (Some(one), None, _) => Ok(one),
            (None, _, Some(label)) => Err(at(&self.path, format!("no token {label:?}; {seen}"))),
            (None, _, None) => Err(at(&self.path, seen)),
            (Some(_), Some(_), _) => {
                Err(at(&self.path, format!("name the token by its label; {seen}")))
            }
        }
    }

    /// A session that may sign.
    pub(super) fn session(
        &self,
        slot: Slot,
        token: &TokenInfo,
        config: &TokenConfig,
    ) -> Result<Session, String> {
        let label = token.label().trim_end();
        let named = |why: String| format!("{}: token {label:?}: {why}", shown(&self.path));
        let session = self.context.open_ro_session(slot);
        let session = session.map_err(|e| named(told(&e)))?;
        if !token.login_required() {
            return Ok(session);
        }
        if config.pin.is_none() && !token.protected_authentication_path() {
            return Err(named("needs a PIN, and none is given".into()));
        }
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let serial = token.serial_number().to_owned();
        if let Some(pin) = &config.pin
            && refused.contains(&(serial.clone(), pin.clone()))
        {
            return Err(named(
                "this PIN was refused before; it is not tried again, so that the token does not \
                 lock"
                    .into(),
            ));
        }
        let pin = config.pin.as_ref().map(|pin| AuthPin::from(pin.as_str().to_owned()));
        match session.login(UserType::User, pin.as_ref()) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(Error::Pkcs11(RvError::PinIncorrect, _)) => {
                refused.extend(config.pin.clone().map(|pin| (serial, pin)));
                Err(named("the PIN is wrong".into()))
            }
            Err(Error::Pkcs11(RvError::PinLocked, _)) => {
                Err(named("is locked after too many wrong PINs".into()))
            }
            Err(e) => Err(named(told(&e))),
        }
    }
}

/// The function and its return value; their whole definitions are for those who write modules.
pub(super) fn told(error: &Error) -> String {
    match error {
        Error::Pkcs11(value, function) => {
            let function = function.to_string();
            format!("C_{}: {}", function.trim_start_matches("Function::"), standard_name(*value))
        }
        other => other.to_string(),
    }
}

/// A return value as PKCS#11 and the manuals of modules name it: `CKR_PIN_INCORRECT`.
fn standard_name(value: RvError) -> String {
    match value {
        RvError::VendorDefined(code) | RvError::UnknownErrorCode(code) => format!("{code:#x}"),
        named => {
            let mut name = String::from("CKR");
            for c in format!("{named:?}").chars() {
                if c.is_uppercase() {
                    name.push('_');
                }
                name.extend(c.to_uppercase());
            }
            name
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn return_values_are_named_as_in_pkcs11() {
        assert_eq!(standard_name(RvError::PinIncorrect), "CKR_PIN_INCORRECT");
        assert_eq!(standard_name(RvError::DeviceRemoved), "CKR_DEVICE_REMOVED");
        assert_eq!(standard_name(RvError::VendorDefined(0x8000_0001)), "0x80000001");
    }
}
