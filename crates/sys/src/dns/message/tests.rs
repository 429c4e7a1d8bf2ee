use std::str::FromStr as _;

use domain::base::name::Name;
use domain::rdata::{Cname, Mx, Txt};
use proptest::prelude::*;

mod malformed;

use super::super::rules::tests::rules;
use super::*;

type Owned = Name<Vec<u8>>;

fn name(text: &str) -> Owned {
    Owned::from_str(text).unwrap()
}

fn query(text: &str, rtype: Rtype) -> Query {
    Query { id: 7, recursive: true, name: name(text), rtype, size: Some(4096) }
}

/// A client's question, as bytes.
fn question(text: &str, class: Class, edns: Option<(u16, u8)>) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(77);
    builder.header_mut().set_rd(true);
    let mut question = builder.question();
    question.push((name(text), Rtype::A, class)).unwrap();
    let mut additional = question.additional();
    if let Some((size, version)) = edns {
        let header = |opt: &mut domain::base::message_builder::OptBuilder<'_, Vec<u8>>| {
            opt.set_udp_payload_size(size);
            opt.set_version(version);
            Ok(())
        };
        additional.opt(header).unwrap();
    }
    additional.finish()
}

/// A resolver's answer to `query`, asked with the identifier 9.
fn answer(query: &Query, fill: impl FnOnce(&mut AnswerBuilder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(9);
    builder.header_mut().set_qr(true);
    builder.header_mut().set_ra(true);
    let mut question = builder.question();
    question.push((&query.name, query.rtype)).unwrap();
    let mut answer = question.answer();
    fill(&mut answer);
    answer.finish()
}

fn a(text: &str) -> A {
    A::new(text.parse().unwrap())
}

fn ready(answer: Answer) -> (Message<Vec<u8>>, Vec<String>, Vec<String>) {
    let Answer::Ready { reply, addresses, dropped } = answer else { panic!("{answer:?}") };
    let words = |list: Vec<IpAddr>| list.iter().map(ToString::to_string).collect();
    (Message::from_octets(reply).unwrap(), words(addresses), words(dropped))
}

fn refused(bytes: &[u8]) -> Message<Vec<u8>> {
    let Received::Refused(reply) = receive(bytes) else { panic!("{:?}", receive(bytes)) };
    Message::from_octets(reply).unwrap()
}

#[test]
fn a_question_is_read() {
    let Received::Query(query) = receive(&question("Example.org", Class::IN, Some((1400, 0))))
    else {
        panic!()
    };
    assert_eq!((query.id, query.recursive, query.size), (77, true, Some(1400)));
    assert_eq!(query.name.to_string(), "Example.org");
    let asked = query.ask(9, true).unwrap();
    let asked = Message::from_octets(asked).unwrap();
    let echo = asked.sole_question().unwrap();
    assert_eq!(echo.qname().to_string(), "example.org", "the case of letters goes nowhere");
    assert_eq!(asked.header().id(), 9);
    assert_eq!(asked.opt().unwrap().udp_payload_size(), UDP_SIZE);
    assert_eq!(asked.as_slice().len(), 12 + 17 + 11, "and no option of the client's");
}

#[test]
fn what_is_no_question_is_refused_or_gets_no_answer() {
    let good = question("example.org", Class::IN, None);
    assert!(matches!(receive(&good), Received::Query(_)));
    assert!(matches!(receive(&good[..11]), Received::Nothing));
    let with = |place: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[place] |= value;
        bytes
    };
    assert!(matches!(receive(&with(2, 0x80)), Received::Nothing), "an answer");
    assert_eq!(refused(&with(2, 0x28)).header().rcode(), Rcode::NOTIMP, "an update");
    assert_eq!(refused(&with(2, 0x02)).header().rcode(), Rcode::FORMERR, "truncated");
    for count in [5, 7, 9] {
        assert_eq!(refused(&with(count, 2)).header().rcode(), Rcode::FORMERR, "{count}");
    }
    assert_eq!(refused(&with(11, 1)).header().rcode(), Rcode::FORMERR, "no such record");
    assert_eq!(refused(&good[..20]).header().rcode(), Rcode::FORMERR, "cut");
    let mut pointer = good[..12].to_vec();
    pointer.extend_from_slice(&[0xc0, 4, 0, 1, 0, 1]);
    assert_eq!(refused(&pointer).header().rcode(), Rcode::FORMERR, "a pointer");
    let chaos = question("version.bind", Class::CH, None);
    assert_eq!(refused(&chaos).header().rcode(), Rcode::REFUSED);
    assert_eq!(refused(&chaos).header_counts().qdcount(), 0, "not the question in another class");
    let version = refused(&question("example.org", Class::IN, Some((1400, 1))));
    assert_eq!(version.opt_rcode(), OptRcode::BADVERS);
    let mut twice = question("example.org", Class::IN, Some((1400, 0)));
    let opt = twice[twice.len() - 11..].to_vec();
    twice.extend_from_slice(&opt);
    twice[11] = 2;
    assert_eq!(refused(&twice).header().rcode(), Rcode::FORMERR, "two EDNS records");
}

#[test]
fn an_answer_of_somebody_else_is_not_ours() {
    let rules = rules(true, &[]);
    let ours = query("example.org", Rtype::A);
    let good = answer(&ours, |answer| {
        answer.push((name("EXAMPLE.org"), 60, a("192.0.2.1"))).unwrap();
    });
    let (reply, addresses, dropped) = ready(ours.answer(9, &good, &rules));
    assert_eq!((addresses, dropped), (vec!["192.0.2.1".to_owned()], vec![]));
    assert_eq!(reply.header().id(), 7);
    assert!(reply.header().qr() && reply.header().ra() && !reply.header().ad());

    assert!(matches!(ours.answer(10, &good, &rules), Answer::NotOurs), "another id");
    for other in [query("example.net", Rtype::A), query("example.org", Rtype::AAAA)] {
        assert!(matches!(other.answer(9, &good, &rules), Answer::NotOurs), "another question");
    }
    let with = |place: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[place] ^= value;
        bytes
    };
    assert!(matches!(ours.answer(9, &with(2, 0x80), &rules), Answer::NotOurs), "a question");
    assert!(matches!(ours.answer(9, &with(5, 1), &rules), Answer::NotOurs), "no question");
    assert!(matches!(ours.answer(9, &with(2, 2), &rules), Answer::Truncated));
    assert!(matches!(ours.answer(9, &with(3, 2), &rules), Answer::Failed(Rcode::SERVFAIL)));
    assert!(matches!(ours.answer(9, &good[..good.len() - 1], &rules), Answer::Failed(_)), "cut");
}

#[test]
fn only_records_that_belong_to_the_question_are_passed_on() {
    let ours = query("www.example.org", Rtype::A);
    let bytes = answer(&ours, |answer| {
        // Out of order, with a circle, and with what nobody asked for.
        answer.push((name("c.example.net"), 60, a("192.0.2.1"))).unwrap();
        answer.push((name("b.example.org"), 60, Cname::new(name("c.example.net")))).unwrap();
        answer.push((name("www.example.org"), 60, Cname::new(name("b.example.org")))).unwrap();
        answer.push((name("c.example.net"), 60, Cname::new(name("www.example.org")))).unwrap();
        answer.push((name("bank.example"), 60, a("192.0.2.66"))).unwrap();
        let txt = Txt::<Vec<u8>>::build_from_slice(b"x").unwrap();
        answer.push((name("www.example.org"), 60, txt)).unwrap();
        answer.push((name("www.example.org"), Class::CH, 60, a("192.0.2.67"))).unwrap();
    });
    let (reply, addresses, _) = ready(ours.answer(9, &bytes, &rules(true, &[])));
    assert_eq!(addresses, ["192.0.2.1"]);
    assert_eq!(reply.header_counts().ancount(), 4);
    assert_eq!(reply.header_counts().nscount(), 0);
    assert_eq!(reply.header_counts().arcount(), 1, "EDNS of our own");
}

#[test]
fn addresses_that_the_policy_could_never_allow_are_taken_out() {
    let rules = rules(true, &[]);
    let ours = query("evil.example", Rtype::A);
    let mixed = answer(&ours, |answer| {
        answer.push((&ours.name, 60, a("192.0.2.1"))).unwrap();
        answer.push((&ours.name, 60, a("10.0.0.1"))).unwrap();
    });
    let (reply, addresses, dropped) = ready(ours.answer(9, &mixed, &rules));
    assert_eq!(reply.header_counts().ancount(), 1);
    assert_eq!((addresses, dropped), (vec!["192.0.2.1".into()], vec!["10.0.0.1".to_owned()]));

    let ours = query("evil.example", Rtype::AAAA);
    let all = answer(&ours, |answer| {
        answer.push((&ours.name, 60, Cname::new(name("b.example")))).unwrap();
        for address in ["::1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "fe80::1", "fd00::1"] {
            let aaaa = Aaaa::new(address.parse().unwrap());
            answer.push((name("b.example"), 60, aaaa)).unwrap();
        }
    });
    let (reply, addresses, dropped) = ready(ours.answer(9, &all, &rules));
    assert_eq!((reply.header_counts().ancount(), addresses.len(), dropped.len()), (0, 0, 5));
    assert_eq!(reply.header().rcode(), Rcode::NOERROR);

    // Where the policy allows 10.0.0.1 alone, its mapped form means the same.
    let mut one = super::super::rules::tests::rules(true, &[]);
    one.permits = Box::new(|address| address == "10.0.0.1".parse::<IpAddr>().unwrap());
    let (_, addresses, _) = ready(ours.answer(9, &all, &one));
    assert_eq!(addresses, ["::ffff:10.0.0.1"]);
}

#[test]
fn other_types_are_rebuilt_and_stay_what_they_are() {
    let ours = query("example.org", Rtype::MX);
    let bytes = answer(&ours, |answer| {
        answer.push((&ours.name, 60, Mx::new(10, name("mail.example.org")))).unwrap();
    });
    let (reply, ..) = ready(ours.answer(9, &bytes, &rules(true, &[])));
    let record = reply.answer().unwrap().next().unwrap().unwrap();
    let record: Record<_, Mx<ParsedName<_>>> = record.into_record().unwrap().unwrap();
    assert_eq!(record.data().exchange().to_string(), "mail.example.org");
}

#[test]
fn a_long_answer_says_that_tcp_would_bring_it() {
    let mut ours = query("example.org", Rtype::A);
    let bytes = answer(&ours, |answer| {
        for last in 0..100 {
            answer.push((&ours.name, 60, A::from_octets(192, 0, 2, last))).unwrap();
        }
    });
    for (size, most) in [(None, 512), (Some(100), 512), (Some(800), 800), (Some(65535), 1232)] {
        ours.size = size;
        let Answer::Ready { reply, .. } = ours.answer(9, &bytes, &rules(true, &[])) else {
            panic!()
        };
        assert!(reply.len() > most);
        let short = ours.for_datagram(reply).unwrap();
        assert!(short.len() <= most);
        let short = Message::from_octets(short).unwrap();
        assert!(short.header().tc() && short.header().qr());
        assert_eq!(short.header_counts().ancount(), 0);
        assert_eq!(short.header_counts().qdcount(), 1);
    }
}

#[test]
fn a_short_message_that_unfolds_into_a_long_one_is_bounded() {
    let long = format!("{0}.{0}.{0}.example", "a".repeat(63));
    let ours = query(&long, Rtype::MX);
    let mut target = MessageBuilder::from_target(StaticCompressor::new(Vec::new())).unwrap();
    target.header_mut().set_id(9);
    target.header_mut().set_qr(true);
    let mut question = target.question();
    question.push((&ours.name, ours.rtype)).unwrap();
    let mut records = question.answer();
    for number in 0..900 {
        records.push((&ours.name, 60, Mx::new(number, &ours.name))).unwrap();
    }
    let bytes = records.finish().into_target();
    match ours.answer(9, &bytes, &rules(true, &[])) {
        Answer::Ready { reply, .. } => assert!(reply.len() <= MAX_ANSWER),
        Answer::Failed(_) => {}
        other => panic!("{other:?}"),
    }
}

/// Bytes that are mostly a message: a good one with some places changed.
fn nearly(good: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let length = good.len();
    let changes = prop::collection::vec((0..length, any::<u8>()), 0..12);
    (changes, 0..=length, prop::collection::vec(any::<u8>(), 0..40)).prop_map(
        move |(changes, cut, tail)| {
            let mut bytes = good.clone();
            for (place, value) in changes {
                bytes[place] = value;
            }
            if cut % 3 == 0 {
                bytes.truncate(cut);
            }
            bytes.extend(tail);
            bytes
        },
    )
}

fn rich() -> Vec<u8> {
    let ours = query("www.example.org", Rtype::A);
    answer(&ours, |answer| {
        answer.push((&ours.name, 60, Cname::new(name("b.example.org")))).unwrap();
        answer.push((name("b.example.org"), 60, a("192.0.2.1"))).unwrap();
        answer.push((name("b.example.org"), 60, Mx::new(1, name("a.b")))).unwrap();
        let txt = Txt::<Vec<u8>>::build_from_slice(b"hello").unwrap();
        answer.push((name("b.example.org"), 60, txt)).unwrap();
    })
}

/// Whatever is answered can be read again, and is ours.
fn check_client(bytes: &[u8]) {
    let reply = match receive(bytes) {
        Received::Nothing => return,
        Received::Refused(reply) => reply,
        Received::Query(query) => {
            super::super::rules::judge(&rules(true, &["a.b"]), &query.name, query.rtype);
            let text = super::super::rules::text(&query.name);
            assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
            let asked = query.ask(1, true).unwrap();
            assert_eq!(Message::from_octets(asked).unwrap().header_counts().qdcount(), 1);
            query.empty(Rcode::SERVFAIL).unwrap()
        }
    };
    let reply = Message::from_octets(reply).unwrap();
    assert!(reply.header().qr());
    assert_eq!(reply.header().id().to_be_bytes(), bytes[..2]);
}

fn check_resolver(bytes: &[u8], rtype: Rtype) {
    let ours = query("www.example.org", rtype);
    if let Answer::Ready { reply, addresses, .. } = ours.answer(9, bytes, &rules(true, &[])) {
        assert!(reply.len() <= MAX_ANSWER);
        let reply = Message::from_octets(reply).unwrap();
        assert!(reply.sole_question().unwrap().qname().name_eq(&ours.name));
        let rules = rules(true, &[]);
        assert!(addresses.iter().all(|address| rules.permits(*address)));
        let mut records = 0;
        for record in reply.answer().unwrap() {
            record.unwrap().into_any_record::<AllRecordData<_, ParsedName<_>>>().unwrap();
            records += 1;
        }
        assert_eq!(records, reply.header_counts().ancount());
        ours.for_datagram(reply.into_octets()).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_of_a_client_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        check_client(&bytes);
    }

    #[test]
    fn nearly_a_question_does_no_harm(bytes in nearly(question("a.Example.org", Class::IN, Some((1400, 0))))) {
        check_client(&bytes);
    }

    #[test]
    fn any_bytes_of_a_resolver_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        check_resolver(&bytes, Rtype::A);
    }

    #[test]
    fn nearly_an_answer_does_no_harm(bytes in nearly(rich())) {
        check_resolver(&bytes, Rtype::A);
    }

    #[test]
    fn any_record_of_any_type_does_no_harm(
        rtype in prop_oneof![0_u16..70, 99..110_u16, 250..270_u16, any::<u16>()],
        data in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let rtype = Rtype::from_int(rtype);
        let ours = query("www.example.org", rtype);
        let data = domain::base::rdata::UnknownRecordData::from_octets(rtype, data).unwrap();
        let bytes = answer(&ours, |answer| answer.push((&ours.name, 60, data)).unwrap());
        check_resolver(&bytes, rtype);
    }
}
