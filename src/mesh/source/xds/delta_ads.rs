//! Delta ADS as a state machine: what was received goes in, what is to be sent and what changes in
//! the mesh come out. Here is no socket and no clock; [`super::driver`] has both.

use std::{sync::Arc, time::Instant};

use super::{
    demands::{Answers, Ask, Demands},
    message::{Answer, Delta, LeftOut, LongNonce, MAX_NAME, MAX_NONCE},
    nack::{RejectedResource, error_detail},
    node::NodeIdentity,
    subscription::{Subscription, Taken, TypeStatus},
    type_url::TypeUrl,
};
use crate::rpc::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};

/// The longest list of held versions that is sent: istiod takes 4 MiB, with the rest of the
/// request.
const MAX_VERSIONS: usize = 7 << 19;

/// The protocol, from one stream to the next.
#[derive(Debug)]
pub struct DeltaAds {
    node: Node,
    on_demand: bool,
    types: [Subscription; 2],
    demands: Demands,
    connected: bool,
    /// The last stream ended because a request was too long.
    refused: bool,
}

/// What a new stream begins with.
#[derive(Debug)]
pub struct Opening {
    /// To be sent in this order.
    pub requests: Vec<DeltaDiscoveryRequest>,
    /// Set where held versions should have been told and are not.
    pub left_out: Option<LeftOut>,
}

/// What a response is.
#[derive(Debug)]
pub enum Received {
    /// Of a type that nobody asked for: acknowledged, and that is all.
    Unknown(DeltaDiscoveryRequest),
    /// What it changes, which [`DeltaAds::applied`] waits to hear of.
    Delta(Delta, Pending),
}

/// A response that is neither acknowledged nor refused yet.
#[derive(Debug)]
pub struct Pending {
    nonce: String,
    type_url: TypeUrl,
    taken: Taken,
    answers: Answers,
}

/// What follows from a response, once it is applied.
#[derive(Debug)]
pub struct Applied {
    /// The acknowledgement, or the refusal of a part of it.
    pub request: DeltaDiscoveryRequest,
    /// All that was not taken.
    pub faults: Vec<RejectedResource>,
    /// Keys that are waited for no more.
    pub answered: Vec<(Arc<str>, Answer)>,
}

/// Too many keys are asked for at once, or the key is too long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TooMuch;

impl DeltaAds {
    /// Before the first stream.
    #[must_use]
    pub fn new(node: &NodeIdentity, on_demand: bool) -> Self {
        Self {
            node: node.message(),
            on_demand,
            types: TypeUrl::ALL.map(Subscription::new),
            demands: Demands::default(),
            connected: false,
            refused: false,
        }
    }

    /// A stream begins.
    pub fn connected(&mut self) -> Opening {
        self.connected = true;
        let mut opening = Opening { requests: Vec::new(), left_out: None };
        for type_url in TypeUrl::ALL {
            let (versions, left_out) = self.versions(type_url);
            let subscription = self.subscription(type_url);
            subscription.answered = false;
            subscription.next_is_whole = versions.is_empty();
            opening.left_out = opening.left_out.or(left_out);
            let mut request = DeltaDiscoveryRequest {
                node: Some(self.node.clone()),
                type_url: type_url.as_str().into(),
                initial_resource_versions: versions,
                ..DeltaDiscoveryRequest::default()
            };
            if type_url == TypeUrl::Address && self.on_demand {
                // Both at once: subscribed to nothing.
                request.resource_names_subscribe = vec!["*".into()];
                request.resource_names_unsubscribe = vec!["*".into()];
            }
            opening.requests.push(request);
        }
        let waiting = self.demands.restart();
        if !waiting.is_empty() {
            opening.requests.push(asking(Ask { subscribe: waiting, unsubscribe: Vec::new() }));
        }
        self.refused = false;
        opening
    }

    /// What a new stream is told of what is in force. Authorization has no versions: it comes
    /// whole.
    fn versions(
        &self,
        type_url: TypeUrl,
    ) -> (std::collections::HashMap<String, String>, Option<LeftOut>) {
        let subscription = &self.types[type_url as usize];
        let held = &subscription.held;
        let (resources, bytes) = (held.len(), subscription.told_bytes());
        let left_out = match type_url {
            TypeUrl::Authorization => return Default::default(),
            TypeUrl::Address if !held.has_versions() => return Default::default(),
            TypeUrl::Address if self.refused => LeftOut::Refused,
            TypeUrl::Address if bytes > MAX_VERSIONS => LeftOut::TooLong { resources, bytes },
            TypeUrl::Address => return (subscription.told(), None),
        };
        (Default::default(), Some(left_out))
    }

    /// The stream has ended; `refused` if by `ResourceExhausted`. What is in force stays.
    pub fn disconnected(&mut self, refused: bool) {
        (self.connected, self.refused) = (false, refused);
    }

    /// Somebody waits for a key of an Address. Returns what is to be sent now.
    ///
    /// # Errors
    /// If too many wait.
    pub fn demand(&mut self, key: &Arc<str>) -> Result<Option<DeltaDiscoveryRequest>, TooMuch> {
        if key.len() > MAX_NAME {
            return Err(TooMuch);
        }
        let ask = self.demands.add(key).ok_or(TooMuch)?;
        if !self.connected {
            return Ok(None);
        }
        if ask.subscribe.is_empty() {
            return Ok(None);
        }
        Ok(Some(asking(ask)))
    }

    /// Nobody waits for the key any more.
    pub fn forget(&mut self, key: &str) {
        self.demands.forget(key);
    }

    /// A response has come.
    ///
    /// # Errors
    /// If it cannot be acknowledged: the stream must end.
    pub fn received(&mut self, response: DeltaDiscoveryResponse) -> Result<Received, LongNonce> {
        let length = response.nonce.len();
        if length > MAX_NONCE {
            return Err(LongNonce(length));
        }
        let Some(type_url) = TypeUrl::of(&response.type_url) else {
            let ack = DeltaDiscoveryRequest {
                type_url: response.type_url.chars().take(MAX_NAME).collect(),
                response_nonce: response.nonce,
                ..DeltaDiscoveryRequest::default()
            };
            return Ok(Received::Unknown(ack));
        };
        let answers = match type_url {
            TypeUrl::Address => self.demands.heard(&response),
            TypeUrl::Authorization => Answers::default(),
        };
        let nonce = response.nonce.clone();
        let (delta, taken) = self.subscription(type_url).take(response);
        Ok(Received::Delta(delta, Pending { nonce, type_url, taken, answers }))
    }

    /// What the response changes is in force, but for resources with faults.
    pub fn applied(
        &mut self,
        pending: Pending,
        faults: Vec<RejectedResource>,
        now: Instant,
    ) -> Applied {
        let Pending { nonce, type_url, taken, answers } = pending;
        let faults = self.subscription(type_url).applied(taken, faults, now);
        let held = &self.types[type_url as usize].held;
        let answered = self.demands.answered(answers, |name| held.name(name).is_some());
        let request = DeltaDiscoveryRequest {
            type_url: type_url.as_str().into(),
            response_nonce: nonce,
            error_detail: error_detail(&faults),
            ..DeltaDiscoveryRequest::default()
        };
        Applied { request, faults, answered }
    }

    /// Whether this stream has answered all that it must: on demand, an Address comes only when
    /// there is one.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        let [address, authorization] = &self.types;
        (address.answered || self.on_demand) && authorization.answered
    }

    /// What is known of a type.
    #[must_use]
    pub fn status(&self, type_url: TypeUrl) -> TypeStatus {
        self.types[type_url as usize].status()
    }

    fn subscription(&mut self, type_url: TypeUrl) -> &mut Subscription {
        &mut self.types[type_url as usize]
    }
}

fn asking(ask: Ask) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: TypeUrl::Address.as_str().into(),
        resource_names_subscribe: ask.subscribe,
        resource_names_unsubscribe: ask.unsubscribe,
        ..DeltaDiscoveryRequest::default()
    }
}

#[cfg(test)]
mod tests;
