//! What an ambient node does before it is ready, under the names that operators of Istio know.

use std::{collections::BTreeMap, fmt};

use crate::config::environment::Environment;

/// The longest text of what a task waits for, in characters.
const LONGEST: usize = 300;

/// One of them, in the order of their names.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum StartTask {
    /// Names are answered for pods.
    DnsProxy,
    /// Connections of pods can be carried.
    Proxy,
    /// The mesh is known.
    StateManager,
    /// The CNI agent's pods are known.
    WorkloadProxyManager,
}

impl StartTask {
    /// As readiness names it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DnsProxy => "dns proxy",
            Self::Proxy => "proxy",
            Self::StateManager => "state manager",
            Self::WorkloadProxyManager => "workload proxy manager",
        }
    }
}

/// Those that are not done, each with what it waits for if that was said.
#[derive(Debug, Default)]
pub(super) struct StartTasks(BTreeMap<StartTask, String>);

impl StartTasks {
    /// What a process with this environment does.
    pub(super) fn of(environment: &Environment) -> Self {
        let Environment { proxy, dns_proxy, xds, .. } = environment;
        let tasks = [
            (StartTask::StateManager, xds.is_some()),
            (StartTask::Proxy, *proxy),
            (StartTask::DnsProxy, *proxy && *dns_proxy),
            (StartTask::WorkloadProxyManager, *proxy),
        ];
        let wanted = tasks.into_iter().filter(|(_, wanted)| *wanted);
        Self(wanted.map(|(task, _)| (task, String::new())).collect())
    }

    pub(super) fn waits(&mut self, task: StartTask, why: &str) {
        if let Some(told) = self.0.get_mut(&task) {
            // A peer may be quoted: one line.
            let printable = |c: char| if c.is_control() { ' ' } else { c };
            *told = why.chars().take(LONGEST).map(printable).collect();
        }
    }

    pub(super) fn done(&mut self, task: StartTask) {
        self.0.remove(&task);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for StartTasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (task, why)) in self.0.iter().enumerate() {
            f.write_str(if n == 0 { "" } else { ", " })?;
            f.write_str(task.as_str())?;
            if !why.is_empty() {
                write!(f, " ({why})")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_says_which_task_waits_for_whom() {
        let all = ["dns proxy", "proxy", "state manager", "workload proxy manager"];
        let mut tasks = StartTasks(
            [
                StartTask::StateManager,
                StartTask::Proxy,
                StartTask::DnsProxy,
                StartTask::WorkloadProxyManager,
            ]
            .map(|task| (task, String::new()))
            .into(),
        );
        assert_eq!(tasks.to_string(), all.join(", "));
        tasks.waits(StartTask::StateManager, "istiod at a:15012: refused\r\nready");
        tasks.done(StartTask::DnsProxy);
        tasks.done(StartTask::Proxy);
        let waits = "state manager (istiod at a:15012: refused  ready), workload proxy manager";
        assert_eq!(tasks.to_string(), waits);
        tasks.done(StartTask::StateManager);
        tasks.waits(StartTask::StateManager, "istiod has gone");
        tasks.done(StartTask::WorkloadProxyManager);
        assert!(tasks.is_empty(), "what was done stays done: {tasks}");
    }
}
