//! One key on one token, with the sessions that sign with it.

use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::{
    error::{Error, RvError},
    mechanism::{Mechanism, MechanismType},
    object::{Attribute, KeyType, ObjectClass, ObjectHandle},
    session::Session,
    slot::{Slot, TokenInfo},
};

use super::module::{Module, told};
use crate::tls::pkcs11::TokenConfig;

/// How many private keys of one type are tried.
const MOST_KEYS: usize = 64;

/// A token that we are logged into.
pub(super) struct Token {
    module: Arc<Module>,
    config: TokenConfig,
    slot: Slot,
    info: TokenInfo,
    /// As many as have ever signed at once. One stays open, or the login would end.
    idle: Mutex<Vec<Session>>,
}

impl Token {
    pub(super) fn open(config: TokenConfig) -> Result<Self, String> {
        let module = Module::load(&config.module)?;
        let (slot, info) = module.token(config.label.as_deref())?;
        let first = module.session(slot, &info, &config)?;
        Ok(Self { module, config, slot, info, idle: Mutex::new(vec![first]) })
    }

    /// As messages call it.
    pub(super) fn label(&self) -> &str {
        self.info.label().trim_end()
    }

    pub(super) fn config(&self) -> &TokenConfig {
        &self.config
    }

    /// Whether it can sign so.
    pub(super) fn can(&self, mechanism: MechanismType) -> bool {
        let all = self.module.context.get_mechanism_list(self.slot);
        all.is_ok_and(|all| all.contains(&mechanism))
    }

    /// Its private keys of this type.
    pub(super) fn private_keys(&self, of: KeyType) -> Result<Vec<ObjectHandle>, String> {
        let template = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::KeyType(of)];
        let session = self.session()?;
        let found = session.find_objects(&template);
        self.give_back(session);
        let mut found = found.map_err(|e| format!("token {:?}: {}", self.label(), told(&e)))?;
        found.truncate(MOST_KEYS);
        Ok(found)
    }

    /// Signs `data` as `mechanism` says.
    pub(super) fn sign(
        &self,
        key: ObjectHandle,
        mechanism: &Mechanism<'_>,
        data: &[u8],
    ) -> Result<Vec<u8>, SigningFailure> {
        let session = self.session().map_err(|why| SigningFailure { why, lost: true })?;
        match session.sign(mechanism, key, data) {
            Ok(signature) => {
                self.give_back(session);
                Ok(signature)
            }
            Err(error) => {
                let refusal = SigningFailure { why: told(&error), lost: lost(&error) };
                if !refusal.lost {
                    self.give_back(session);
                }
                Err(refusal)
            }
        }
    }

    fn session(&self) -> Result<Session, String> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match idle {
            Some(session) => Ok(session),
            None => self.module.session(self.slot, &self.info, &self.config),
        }
    }

    fn give_back(&self, session: Session) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(session);
    }
}

/// A signature that there is not.
pub(super) struct SigningFailure {
    pub(super) why: String,
    /// The token has lost us, and may be found again.
    pub(super) lost: bool,
}

fn lost(error: &Error) -> bool {
    use RvError as R;
    let Error::Pkcs11(rv, _) = error else { return false };
    matches!(
        rv,
        R::SessionHandleInvalid
            | R::SessionClosed
            | R::DeviceRemoved
            | R::DeviceError
            | R::TokenNotPresent
            | R::UserNotLoggedIn
            | R::KeyHandleInvalid
            | R::ObjectHandleInvalid
            | R::GeneralError
    )
}
