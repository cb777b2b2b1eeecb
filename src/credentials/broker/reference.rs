//! What the provider knows a pod by (Broker API §3.1.3).

use prost::Message;
use prost_types::Any;

use crate::{
    credentials::AttachedAs,
    rpc::broker::{
        KubernetesObjectKey, KubernetesObjectReference, KubernetesObjectType, WorkloadPidReference,
        WorkloadReference,
    },
    sys::peer::Process,
};

/// The one reference of a pod.
#[derive(Debug)]
pub(super) struct Reference {
    wire: WorkloadReference,
    /// Of one by process ID: the process, whose ID may be another's once it has ended.
    process: Option<(u32, Process)>,
}

impl Reference {
    /// By the pod's UID if that is known, else by a process of it.
    ///
    /// # Errors
    /// What is missing, and where to write it.
    pub(super) fn of(pod: &AttachedAs, remote: bool) -> Result<Self, String> {
        if let Some(uid) = &pod.pod_uid {
            let object = KubernetesObjectReference {
                r#type: Some(KubernetesObjectType { plural: "pods".into(), group: "core".into() }),
                key: Some(KubernetesObjectKey {
                    namespace: pod.namespace.to_string(),
                    name: pod.name.to_string(),
                }),
                uid: uid.to_string(),
            };
            let wire = packed("KubernetesObjectReference", &object);
            return Ok(Self { wire, process: None });
        }
        let named =
            pod.pid.and_then(|pid| Some((pid, i32::try_from(pid).ok().filter(|p| *p > 0)?)));
        let (pid, wire) = named.ok_or(
            "the pod cannot be identified: write the pod's `uid` in its workload, or name one of \
             its processes, as in `netns: pid:4711`",
        )?;
        if remote {
            return Err(format!(
                "process {pid} cannot identify a pod, because the Broker API is reached over TCP \
                 (Broker API §3.1.2): write the pod's `uid` in its workload"
            ));
        }
        let process = Process::open(pid).ok_or_else(|| format!("there is no process {pid}"))?;
        let wire = packed("WorkloadPIDReference", &WorkloadPidReference { pid: wire });
        Ok(Self { wire, process: Some((pid, process)) })
    }

    pub(super) fn wire(&self) -> WorkloadReference {
        self.wire.clone()
    }

    /// The process that it is about, if that has ended.
    pub(super) fn ended(&self) -> Option<u32> {
        self.process.as_ref().filter(|(_, process)| !process.alive()).map(|(pid, _)| *pid)
    }
}

fn packed(name: &str, message: &impl Message) -> WorkloadReference {
    let type_url = format!("type.googleapis.com/spiffe.broker.{name}");
    WorkloadReference { reference: Some(Any { type_url, value: message.encode_to_vec() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(pod_uid: Option<&str>, pid: Option<u32>) -> AttachedAs {
        AttachedAs {
            uid: "shop/web-1".into(),
            namespace: "shop".into(),
            name: "web-1".into(),
            pod_uid: pod_uid.map(Into::into),
            pid,
        }
    }

    #[test]
    fn references_have_the_bytes_of_the_specification() {
        let uid = "a1b2c3d4-e5f6-7890-abcd-ef1234567890";
        let any = Reference::of(&pod(Some(uid), Some(1)), true).unwrap().wire().reference.unwrap();
        assert_eq!(any.type_url, "type.googleapis.com/spiffe.broker.KubernetesObjectReference");
        // type { 1: plural, 2: group }, key { 1: namespace, 2: name }, 3: uid
        let mut bytes =
            b"\x0a\x0c\x0a\x04pods\x12\x04core\x12\x0d\x0a\x04shop\x12\x05web-1".to_vec();
        bytes.extend_from_slice(b"\x1a\x24");
        bytes.extend_from_slice(uid.as_bytes());
        assert_eq!(any.value, bytes);

        let own = std::process::id();
        let by_pid = Reference::of(&pod(None, Some(own)), false).unwrap();
        assert_eq!(by_pid.ended(), None);
        let any = by_pid.wire().reference.unwrap();
        assert_eq!(any.type_url, "type.googleapis.com/spiffe.broker.WorkloadPIDReference");
        assert_eq!(any.value[0], 8);
    }

    #[test]
    fn what_cannot_be_referred_to_says_what_is_missing() {
        for (pid, remote, says) in [
            (None, false, "write the pod's `uid`"),
            (Some(0), false, "write the pod's `uid`"),
            (Some(1), true, "reached over TCP"),
            (Some(i32::MAX as u32), false, "there is no process"),
        ] {
            let why = Reference::of(&pod(None, pid), remote).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
    }

    #[test]
    fn a_process_that_has_ended_is_known_to_have() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let reference = Reference::of(&pod(None, Some(child.id())), false).unwrap();
        assert_eq!(reference.ended(), None);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(reference.ended(), Some(child.id()));
    }
}
