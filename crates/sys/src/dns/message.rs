//! Messages: what is read of them, and those that are made here.
//!
//! No byte of a message is passed on. A question is taken apart and asked anew, in lower case, with
//! another id and no options; an answer is made of the records that belong to the question.

use std::net::IpAddr;

use domain::base::iana::{Class, Opcode, OptRcode, Rcode};
use domain::base::message_builder::{AnswerBuilder, StaticCompressor};
use domain::base::name::{Name, ParsedName, ToName as _};
use domain::base::{Message, MessageBuilder, Record, Rtype, Ttl};
use domain::rdata::{A, Aaaa, AllRecordData};

use super::rules::Rules;

/// The largest message over UDP, here and from a resolver: it fits into every path's MTU.
pub(super) const UDP_SIZE: u16 = 1232;
/// The largest answer that is taken from a resolver, or given to a client.
pub(super) const MAX_ANSWER: usize = 16 * 1024;
/// The header in front of the question.
const HEADER: usize = 12;
/// The longest chain of aliases that is followed.
const MAX_CHAIN: usize = 16;
/// The most records that are looked at.
const MAX_RECORDS: u16 = 1000;

type Target = StaticCompressor<Vec<u8>>;

/// One question with what its answer must have.
#[derive(Clone, Debug)]
pub(super) struct Query {
    pub(super) id: u16,
    pub(super) recursive: bool,
    /// As it was typed.
    pub(super) name: Name<Vec<u8>>,
    pub(super) rtype: Rtype,
    /// What the client takes over UDP, if it speaks EDNS.
    pub(super) size: Option<u16>,
}

/// What a client sent.
#[derive(Debug)]
pub(super) enum Received {
    /// Something that gets no answer.
    Nothing,
    /// Something that is answered at once.
    Refused(Vec<u8>),
    Query(Query),
}

/// Reads what a client sent.
pub(super) fn receive(bytes: &[u8]) -> Received {
    let Ok(message) = Message::from_slice(bytes) else { return Received::Nothing };
    let header = message.header();
    // An answer to an answer could go on for ever.
    if header.qr() {
        return Received::Nothing;
    }
    let refuse = |rcode| bare(header.id(), rcode).map_or(Received::Nothing, Received::Refused);
    if header.opcode() != Opcode::QUERY {
        return refuse(Rcode::NOTIMP);
    }
    let counts = message.header_counts();
    if header.tc() || counts.qdcount() != 1 || counts.ancount() != 0 || counts.nscount() != 0 {
        return refuse(Rcode::FORMERR);
    }
    let Ok(question) = message.sole_question() else { return refuse(Rcode::FORMERR) };
    let name: Name<Vec<u8>> = question.qname().to_vec();
    // In front of the first name is nothing that it could point to but the header.
    let (_, body) = bytes.split_at_checked(HEADER).unwrap_or_default();
    if !body.starts_with(name.as_slice()) {
        return refuse(Rcode::FORMERR);
    }
    let Ok(edns) = edns(message) else { return refuse(Rcode::FORMERR) };
    let query = Query {
        id: header.id(),
        recursive: header.rd(),
        name,
        rtype: question.qtype(),
        size: edns.as_ref().map(|edns| edns.size),
    };
    if edns.is_some_and(|edns| edns.version != 0) {
        let reply = query.reply(OptRcode::BADVERS, |_| Some(()));
        return reply.map_or(Received::Nothing, Received::Refused);
    }
    if question.qclass() != Class::IN {
        // With a question of class IN, as our answers have it, the client would go on waiting.
        return refuse(Rcode::REFUSED);
    }
    Received::Query(query)
}

struct Edns {
    size: u16,
    version: u8,
}

/// What the client says of itself; more than a few further records say nothing that is meant well.
fn edns(message: &Message<[u8]>) -> Result<Option<Edns>, ()> {
    if message.header_counts().arcount() > 4 {
        return Err(());
    }
    let mut found = None;
    for record in message.additional().map_err(drop)? {
        let record = record.map_err(drop)?;
        if record.rtype() != Rtype::OPT {
            continue;
        }
        let [_, version, _, _] = record.ttl().as_secs().to_be_bytes();
        let edns = Edns { size: record.class().to_int(), version };
        if found.replace(edns).is_some() {
            return Err(());
        }
    }
    Ok(found)
}

/// An answer without a question, to what could not be read.
fn bare(id: u16, rcode: Rcode) -> Option<Vec<u8>> {
    let mut builder = MessageBuilder::from_target(Target::new(Vec::new())).ok()?;
    let header = builder.header_mut();
    header.set_id(id);
    header.set_qr(true);
    header.set_rcode(rcode);
    Some(builder.finish().into_target())
}

impl Query {
    /// An answer without records.
    pub(super) fn empty(&self, rcode: Rcode) -> Option<Vec<u8>> {
        self.reply(rcode.into(), |_| Some(()))
    }

    /// An answer with addresses of our own.
    pub(super) fn addresses(&self, addresses: &[IpAddr]) -> Option<Vec<u8>> {
        self.reply(OptRcode::NOERROR, |answer| {
            for address in addresses {
                let ttl = Ttl::from_secs(60);
                match address {
                    IpAddr::V4(v4) => answer.push((&self.name, ttl, A::new(*v4))).ok()?,
                    IpAddr::V6(v6) => answer.push((&self.name, ttl, Aaaa::new(*v6))).ok()?,
                }
            }
            Some(())
        })
    }

    /// The answer for a client over UDP: `full`, or what says that TCP would bring it.
    pub(super) fn for_datagram(&self, full: Vec<u8>) -> Option<Vec<u8>> {
        let limit = self.size.unwrap_or(512).clamp(512, UDP_SIZE);
        if full.len() <= usize::from(limit) {
            return Some(full);
        }
        let mut reply = self.empty(Rcode::NOERROR)?;
        Message::from_octets(&mut reply[..]).ok()?.header_mut().set_tc(true);
        Some(reply)
    }

    fn reply(
        &self,
        rcode: OptRcode,
        fill: impl FnOnce(&mut AnswerBuilder<Target>) -> Option<()>,
    ) -> Option<Vec<u8>> {
        let mut builder = MessageBuilder::from_target(Target::new(Vec::new())).ok()?;
        builder.set_push_limit(MAX_ANSWER);
        let header = builder.header_mut();
        header.set_id(self.id);
        header.set_qr(true);
        header.set_rd(self.recursive);
        header.set_ra(true);
        header.set_rcode(rcode.rcode());
        let mut question = builder.question();
        question.push((&self.name, self.rtype)).ok()?;
        let mut answer = question.answer();
        fill(&mut answer)?;
        if self.size.is_none() {
            return Some(answer.finish().into_target());
        }
        let mut additional = answer.additional();
        let described = additional.opt(|opt| {
            opt.set_udp_payload_size(UDP_SIZE);
            opt.set_rcode(rcode);
            Ok(())
        });
        described.ok()?;
        Some(additional.finish().into_target())
    }

    /// The question for a resolver: nothing of the client's but the name and the type.
    ///
    /// In lower case, because the case of letters is a way to tell somebody something.
    pub(super) fn ask(&self, id: u16, edns: bool) -> Option<Vec<u8>> {
        let mut builder = MessageBuilder::from_target(Vec::new()).ok()?;
        let header = builder.header_mut();
        header.set_id(id);
        header.set_rd(true);
        let mut question = builder.question();
        let name: Name<Vec<u8>> = self.name.to_canonical_name();
        question.push((&name, self.rtype)).ok()?;
        if !edns {
            return Some(question.finish());
        }
        let mut additional = question.additional();
        let described = additional.opt(|opt| {
            opt.set_udp_payload_size(UDP_SIZE);
            Ok(())
        });
        described.ok()?;
        Some(additional.finish())
    }

    /// Reads what came where a resolver's answer to this question, asked with `id`, is awaited.
    pub(super) fn answer(&self, id: u16, bytes: &[u8], rules: &Rules) -> Answer {
        let Ok(message) = Message::from_slice(bytes) else { return Answer::NotOurs };
        let header = message.header();
        if header.id() != id || !header.qr() || header.opcode() != Opcode::QUERY {
            return Answer::NotOurs;
        }
        let rcode = header.rcode();
        let failed = !matches!(rcode, Rcode::NOERROR | Rcode::NXDOMAIN);
        match message.header_counts().qdcount() {
            // Some say without the question that they did not understand it.
            0 if failed => return Answer::Failed(rcode),
            1 => {}
            _ => return Answer::NotOurs,
        }
        let echo = message.sole_question().is_ok_and(|question| {
            question.qclass() == Class::IN
                && question.qtype() == self.rtype
                && question.qname().name_eq(&self.name)
        });
        if !echo {
            return Answer::NotOurs;
        }
        if failed {
            return Answer::Failed(rcode);
        }
        if header.tc() {
            return Answer::Truncated;
        }
        self.rebuild(message, rcode, rules).unwrap_or(Answer::Failed(Rcode::FORMERR))
    }

    /// Makes the client's answer of the records that belong to the question.
    fn rebuild(&self, message: &Message<[u8]>, rcode: Rcode, rules: &Rules) -> Option<Answer> {
        if message.header_counts().ancount() > MAX_RECORDS {
            return None;
        }
        let chain = self.chain(message)?;
        let mut kept = Vec::new();
        let (mut addresses, mut dropped) = (Vec::new(), Vec::new());
        for record in message.answer().ok()? {
            let record = record.ok()?;
            let wanted = record.rtype() == self.rtype || record.rtype() == Rtype::CNAME;
            let owner = record.owner();
            if !wanted
                || record.class() != Class::IN
                || !chain.iter().any(|name| name.name_eq(&owner))
            {
                continue;
            }
            let record: Parsed<'_> = record.into_any_record().ok()?;
            let address = match record.data() {
                AllRecordData::A(a) => Some(IpAddr::V4(a.addr())),
                AllRecordData::Aaaa(aaaa) => Some(IpAddr::V6(aaaa.addr())),
                _ => None,
            };
            match address {
                Some(address) if !rules.permits(address) => dropped.push(address),
                Some(address) => {
                    addresses.push(address);
                    kept.push(record);
                }
                None => kept.push(record),
            }
        }
        if addresses.is_empty() && !dropped.is_empty() {
            // The aliases alone would say no more than that there was something.
            kept.clear();
        }
        let fill = |answer: &mut AnswerBuilder<Target>| {
            for record in &kept {
                answer.push_ref(record).ok()?;
            }
            Some(())
        };
        let reply = self.reply(rcode.into(), fill)?;
        Some(Answer::Ready { reply, addresses, dropped })
    }

    /// The name and the aliases that lead on from it.
    fn chain(&self, message: &Message<[u8]>) -> Option<Vec<Name<Vec<u8>>>> {
        let mut chain = vec![self.name.clone()];
        while let Some(last) = chain.last().filter(|_| chain.len() <= MAX_CHAIN) {
            let mut next = None;
            for record in message.answer().ok()? {
                let record = record.ok()?;
                if record.rtype() == Rtype::CNAME
                    && record.class() == Class::IN
                    && record.owner().name_eq(last)
                    && let AllRecordData::Cname(alias) =
                        record.to_any_record::<Data<'_>>().ok()?.data()
                {
                    next = Some(alias.cname().to_vec());
                    break;
                }
            }
            match next {
                // A circle ends where it began.
                Some(next) if !chain.contains(&next) => chain.push(next),
                _ => break,
            }
        }
        Some(chain)
    }
}

type Data<'a> = AllRecordData<&'a [u8], ParsedName<&'a [u8]>>;
type Parsed<'a> = Record<ParsedName<&'a [u8]>, Data<'a>>;

/// What came where a resolver's answer is awaited.
#[derive(Debug)]
pub(super) enum Answer {
    /// Another id, another question, or no answer at all: somebody else's.
    NotOurs,
    /// To be asked for over TCP.
    Truncated,
    /// The resolver failed.
    Failed(Rcode),
    Ready {
        /// For the client.
        reply: Vec<u8>,
        /// The addresses in it.
        addresses: Vec<IpAddr>,
        /// The addresses that the policy could never allow.
        dropped: Vec<IpAddr>,
    },
}

#[cfg(test)]
mod tests;
