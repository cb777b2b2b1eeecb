//! Open connections under new policies: who is denied now, or was admitted by a rule that is no
//! more, is closed. Other changes of a service make another service of it, and the old drains.

use std::sync::Arc;

use super::Service;
use crate::{
    observe::conn::{Direction, LiveConn},
    policy::{
        Rules,
        admission::{AccessRules, Asked, Protection, Request, decide},
    },
};

impl Service {
    /// From now on these policies; closes whom they do not admit and returns how many. Nothing to
    /// do for a service without policies.
    pub fn replace_policies(&self, rules: Arc<Rules>) -> usize {
        let Some(policies) = self.access.policies() else { return 0 };
        policies.replace(rules);
        let live = self.telemetry.live.all();
        live.iter().filter(|conn| self.is_ours(conn) && self.judge_again(conn)).count()
    }

    fn is_ours(&self, conn: &LiveConn) -> bool {
        let ours = |names: &Arc<_>| Arc::ptr_eq(names, &self.names);
        conn.direction == Direction::Inbound
            && conn.metadata(|f| f.dst.names.as_ref().is_some_and(ours))
    }

    /// Whether it had to be closed. One that is being admitted meanwhile asks this itself.
    pub(super) fn judge_again(&self, conn: &LiveConn) -> bool {
        let Some(policies) = self.access.policies() else { return false };
        let (Some(flow), Some(by)) = (conn.flow(), conn.metadata(|f| f.policy.clone())) else {
            return false;
        };
        let rules = policies.rules();
        let request = Request {
            flow: &flow,
            as_shown: &[],
            proven: true,
            // Rules of policies are `namespace/name rule N`, those of names are words.
            access: match by.contains('/') {
                true => AccessRules::NoMatch(&"the rule that admitted it is gone"),
                false => AccessRules::Admit(&by),
            },
        };
        let protection = Protection { rules: Some(&rules), strict: false };
        let decision = decide(protection, &request).decision(Asked::WhileOpen);
        let Some((reason, _)) = &decision.refused else { return false };
        conn.metadata(|f| decision.record(f, Asked::WhileOpen));
        conn.cut(*reason);
        true
    }
}
