//! Open connections under new policies: who is denied now, or was admitted by a rule that is no
//! more, is closed. Other changes of a service make another service of it, and the old drains.

use std::sync::Arc;

use super::Service;
use crate::{
    observe::conn::{CloseReason, Direction, LiveConn},
    policy::{self, Rules},
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
        let verdict = policy::authorize(&rules, &flow);
        let denied = !verdict.allowed() && verdict.policy().is_some();
        // Rules of policies are `namespace/name rule N`, those of names are words.
        let by_policy = by.contains('/');
        let allowed = verdict.allowed() && verdict.policy().is_some();
        if !denied && (allowed || !by_policy) {
            return false;
        }
        conn.metadata(|f| {
            f.error = Some(format!("closed due to policy change: {verdict}").into());
        });
        conn.cut(CloseReason::PolicyChanged);
        true
    }
}
