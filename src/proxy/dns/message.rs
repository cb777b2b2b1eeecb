//! Queries as they arrive and replies as they leave (RFC 1035, RFC 6891), without a socket.

use std::net::IpAddr;

use hickory_proto::{
    ProtoError,
    op::{Edns, Message, OpCode, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata},
};

/// How long a client may keep what we answer from the mesh, in seconds.
const TTL: u32 = 30;
/// What a client without EDNS takes in one datagram, and the least that one with it does.
const DATAGRAM: u16 = 512;
const HEADER: usize = 12;
// In the third byte of a header.
const RESPONSE: u8 = 0x80;
const AUTHORITATIVE: u8 = 0x04;
const TRUNCATED: u8 = 0x02;
/// In the fourth.
const RECURSION_AVAILABLE: u8 = 0x80;
/// A query has an OPT record, perhaps a signature; more is nobody's query.
const MOST_RECORDS: u16 = 8;

/// What a client has sent.
#[derive(Debug)]
pub enum Received {
    /// One question.
    Question(Box<Question>),
    /// Something that is refused: the reply.
    Refused(Vec<u8>),
    /// Nothing that may be answered: too short, or itself an answer, which could go round for ever.
    Nothing,
}

/// One question of a client.
#[derive(Debug)]
pub struct Question {
    message: Message,
    name: String,
}

/// Reads what a client has sent.
#[must_use]
pub fn read(bytes: &[u8]) -> Received {
    let Some(header) = bytes.get(..HEADER) else { return Received::Nothing };
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    if header[2] & RESPONSE != 0 {
        return Received::Nothing;
    }
    if header[2] >> 3 & 0x0f != 0 {
        return Received::Refused(refused(header, ResponseCode::NotImp));
    }
    // Before room for as many as it says is made.
    let records = [6, 8, 10].into_iter().fold(0_u16, |all, at| all.saturating_add(count(at)));
    let read = (count(4) == 1 && records <= MOST_RECORDS).then(|| Message::from_vec(bytes));
    let Some(Ok(message)) = read else {
        return Received::Refused(refused(header, ResponseCode::FormErr));
    };
    let Some(query) = message.queries.first() else { return Received::Nothing };
    let name = query.name().to_lowercase().to_ascii();
    let name = name.strip_suffix('.').unwrap_or(&name).to_owned();
    let question = Question { message, name };
    if question.message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Received::Refused(question.failed(ResponseCode::BADVERS, usize::from(DATAGRAM)));
    }
    Received::Question(Box::new(question))
}

/// A header alone, for a message that cannot be read or written.
fn bare(id: [u8; 2], flags: [u8; 2]) -> Vec<u8> {
    let mut reply = [id, flags].concat();
    reply.resize(HEADER, 0);
    reply
}

/// That a query which was not read is refused; its operation and whether recursion is asked for are
/// the query's.
fn refused(header: &[u8], code: ResponseCode) -> Vec<u8> {
    bare([header[0], header[1]], [RESPONSE | header[2] & 0x79, code.low()])
}

impl Question {
    /// The name in lower case, without the last dot.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kind of record that is asked for.
    #[must_use]
    pub fn kind(&self) -> RecordType {
        self.message.queries.first().map_or(RecordType::ZERO, |query| query.query_type())
    }

    /// Whether IPv6 addresses are asked for; `None` if no addresses are.
    #[must_use]
    pub fn wants_ipv6(&self) -> Option<bool> {
        let query = self.message.queries.first()?;
        match (query.query_class(), query.query_type()) {
            (DNSClass::IN, RecordType::A) => Some(false),
            (DNSClass::IN, RecordType::AAAA) => Some(true),
            _ => None,
        }
    }

    /// How many bytes the client takes in one datagram.
    #[must_use]
    pub fn datagram(&self) -> usize {
        let said = self.message.edns.as_ref().map_or(DATAGRAM, |edns| edns.max_payload());
        usize::from(said.max(DATAGRAM))
    }

    /// The same question with another number, for an upstream.
    ///
    /// # Errors
    /// If it cannot be written as it was read.
    pub fn with_id(&self, id: u16) -> Result<Vec<u8>, ProtoError> {
        let mut bytes = self.message.to_vec()?;
        bytes[..2].copy_from_slice(&id.to_be_bytes());
        Ok(bytes)
    }

    /// The addresses of a service of the mesh; under the first `alias` labels of the name if they
    /// are known under those.
    #[must_use]
    pub fn answered(&self, addresses: &[IpAddr], alias: Option<usize>, limit: usize) -> Vec<u8> {
        let mut reply = self.reply();
        reply.metadata.authoritative = true;
        reply.metadata.recursion_available = true;
        let asked = self.message.queries.first().map_or_else(Name::root, |q| q.name().clone());
        let stripped = alias.and_then(|labels| Name::from_labels(asked.iter().take(labels)).ok());
        let owner = match stripped {
            Some(target) => {
                let cname = RData::CNAME(rdata::CNAME(target.clone()));
                reply.add_answer(Record::from_rdata(asked, TTL, cname));
                target
            }
            None => asked,
        };
        reply.add_answers(addresses.iter().map(|ip| {
            let data = match ip {
                IpAddr::V4(ip) => RData::A((*ip).into()),
                IpAddr::V6(ip) => RData::AAAA((*ip).into()),
            };
            Record::from_rdata(owner.clone(), TTL, data)
        }));
        written(reply, limit)
    }

    /// That the question cannot be answered.
    #[must_use]
    pub fn failed(&self, code: ResponseCode, limit: usize) -> Vec<u8> {
        let mut reply = self.reply();
        reply.metadata.response_code = code;
        written(reply, limit)
    }

    /// What an upstream has answered, whole but for its number and what it says of itself.
    #[must_use]
    pub fn forwarded(&self, mut answer: Vec<u8>, limit: usize) -> Vec<u8> {
        if answer.len() < HEADER {
            return self.failed(ResponseCode::ServFail, limit);
        }
        let cut_short = answer[2] & TRUNCATED != 0;
        answer[..2].copy_from_slice(&self.message.metadata.id.to_be_bytes());
        answer[2] &= !AUTHORITATIVE;
        answer[3] |= RECURSION_AVAILABLE;
        if answer.len() <= limit {
            return answer;
        }
        let mut reply = Message::from_vec(&answer).unwrap_or_else(|_| self.reply());
        reply.metadata.truncation |= cut_short;
        written(reply, limit)
    }

    fn reply(&self) -> Message {
        let asked = &self.message.metadata;
        let mut reply = Message::response(asked.id, OpCode::Query);
        reply.metadata.recursion_desired = asked.recursion_desired;
        reply.metadata.checking_disabled = asked.checking_disabled;
        reply.queries.clone_from(&self.message.queries);
        if let Some(theirs) = &self.message.edns {
            let mut ours = Edns::new();
            ours.set_max_payload(theirs.max_payload().max(DATAGRAM));
            ours.set_version(0);
            ours.set_dnssec_ok(theirs.flags().dnssec_ok);
            reply.edns = Some(ours);
        }
        reply
    }
}

/// As many answers as fit into `limit` bytes; what is left out is said.
fn written(mut message: Message, limit: usize) -> Vec<u8> {
    let id = message.metadata.id.to_be_bytes();
    loop {
        match message.to_vec() {
            Ok(bytes) if bytes.len() <= limit => return bytes,
            Ok(_) if message.all_sections().next().is_none() => break,
            Ok(_) => {}
            // As of an upstream's record that was read and cannot be written.
            Err(_) => return bare(id, [RESPONSE, ResponseCode::ServFail.low()]),
        }
        message.metadata.truncation = true;
        message.additionals.clear();
        message.authorities.clear();
        message.signature = None;
        message.answers.truncate(message.answers.len() / 2);
    }
    // A name has 255 bytes at most: what is too long are options of EDNS.
    bare(id, [RESPONSE | TRUNCATED, message.metadata.response_code.low()])
}

#[cfg(test)]
mod tests;
